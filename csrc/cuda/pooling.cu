// grid_pool and class_channel_stats on CUDA. No atomics: every sum has one order.
#include "common/cells.h"
#include "common/checks.h"
#include "cuda/groups.h"
#include "cuda/launch.h"

namespace pst::cuda {

struct Map {
  int channels, height, width, grid;
};

// Contiguous planes: a group of `lanes` threads (a power of two, at most a warp) for each cell.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    pool_planes(Map map, const T* __restrict__ features, float* __restrict__ pooled, int64_t count,
                int lanes) {
  const int64_t cell = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  float sum = 0;
  int area = 1;
  if (cell < count) {
    const int cells = map.grid * map.grid;
    const int64_t plane = cell / cells;
    const int within = static_cast<int>(cell - plane * cells);
    const int i = within / map.grid, j = within - i * map.grid;
    const int top = static_cast<int>(cell_start(i, map.grid, map.height));
    const int left = static_cast<int>(cell_start(j, map.grid, map.width));
    const int rows = static_cast<int>(cell_end(i, map.grid, map.height)) - top;
    const int columns = static_cast<int>(cell_end(j, map.grid, map.width)) - left;
    area = rows * columns;
    const int packs = columns / kPack;  // whole: the host chose kPack so
    const T* from = features + (plane * map.height + top) * map.width + left;
    for (int k = lane; k < rows * packs; k += lanes) {
      const int row = k / packs, column = (k - row * packs) * kPack;
      const auto pack =
          *reinterpret_cast<const Pack<T, kPack>*>(from + static_cast<int64_t>(row) * map.width + column);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum += widen(pack.value[e]);
    }
  }
  for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (cell < count && lane == 0) pooled[cell] = sum / static_cast<float>(area);
}

// channels_last: a warp takes 32 packs of channels; the block's eight warps take eight cells (kSplit 1) or
// share the pixels of one (kSplit 8).
template <typename T, int kPack, int kSplit>
__global__ void __launch_bounds__(kThreads)
    pool_pixels(Map map, const T* __restrict__ features, float* __restrict__ pooled, int64_t count,
                int tiles) {
  constexpr int kWarps = kThreads / 32, kCells = kWarps / kSplit;
  __shared__ float parts[kSplit > 1 ? kSplit : 1][32 * kPack + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t block = blockIdx.x / tiles;
  const int channel = (static_cast<int>(blockIdx.x % tiles) * 32 + lane) * kPack;
  const int64_t cell = block * kCells + warp / kSplit;  // over all samples
  float sums[kPack] = {};
  const int cells = map.grid * map.grid;
  const int64_t sample = cell / cells;
  const int within = static_cast<int>(cell - sample * cells);
  const int i = within / map.grid, j = within - i * map.grid;
  const int top = static_cast<int>(cell_start(i, map.grid, map.height));
  const int left = static_cast<int>(cell_start(j, map.grid, map.width));
  const int rows = static_cast<int>(cell_end(i, map.grid, map.height)) - top;
  const int columns = static_cast<int>(cell_end(j, map.grid, map.width)) - left;
  const bool is_live = cell < count && channel < map.channels;
  if (is_live) {
    const T* from = features + ((sample * map.height + top) * map.width + left) * map.channels + channel;
    for (int k = warp % kSplit; k < rows * columns; k += kSplit) {
      const int row = k / columns, column = k - row * columns;
      const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(
          from + (static_cast<int64_t>(row) * map.width + column) * map.channels);
#pragma unroll
      for (int e = 0; e < kPack; ++e) sums[e] += widen(pack.value[e]);
    }
  }
  if constexpr (kSplit > 1) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) parts[warp][lane * kPack + e] = sums[e];
    __syncthreads();
    if (warp != 0) return;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      sums[e] = 0;
      for (int w = 0; w < kSplit; ++w) sums[e] += parts[w][lane * kPack + e];
    }
  }
  if (!is_live) return;
  float* to = pooled + (sample * map.channels + channel) * cells + within;
  const float inverse = 1.0f / static_cast<float>(rows * columns);
#pragma unroll
  for (int e = 0; e < kPack; ++e) to[static_cast<int64_t>(e) * cells] = sums[e] * inverse;
}

// What a pixel gets from the cells that hold it; grad points to the channel's cells.
__device__ __forceinline__ float pixel_grad(const Map& map, const float* grad, int row, int column) {
  const int top = static_cast<int>(first_cell(row, map.grid, map.height));
  const int bottom = static_cast<int>(last_cell(row, map.grid, map.height));
  const int left = static_cast<int>(first_cell(column, map.grid, map.width));
  const int right = static_cast<int>(last_cell(column, map.grid, map.width));
  float sum = 0;
  for (int i = top; i <= bottom; ++i) {
    const int64_t rows = cell_end(i, map.grid, map.height) - cell_start(i, map.grid, map.height);
    for (int j = left; j <= right; ++j) {
      const int64_t columns = cell_end(j, map.grid, map.width) - cell_start(j, map.grid, map.width);
      sum += grad[i * map.grid + j] / static_cast<float>(rows * columns);
    }
  }
  return sum;
}

// A warp for each plane.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    unpool_planes(Map map, const float* __restrict__ grad, T* __restrict__ features, int64_t planes) {
  const int64_t plane = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (plane >= planes) return;
  const int pixels = map.height * map.width;
  const float* cells = grad + plane * map.grid * map.grid;
  for (int pixel = threadIdx.x % 32; pixel < pixels; pixel += 32) {
    const int row = pixel / map.width;
    narrow(pixel_grad(map, cells, row, pixel - row * map.width), features + plane * pixels + pixel);
  }
}

// A warp for each pixel.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    unpool_pixels(Map map, const float* __restrict__ grad, T* __restrict__ features, int64_t count) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (at >= count) return;
  const int pixels = map.height * map.width, cells = map.grid * map.grid;
  const int64_t sample = at / pixels;
  const int pixel = static_cast<int>(at - sample * pixels), row = pixel / map.width;
  const float* from = grad + sample * map.channels * cells;
  for (int channel = threadIdx.x % 32; channel < map.channels; channel += 32) {
    const float value =
        pixel_grad(map, from + static_cast<int64_t>(channel) * cells, row, pixel - row * map.width);
    narrow(value, features + at * map.channels + channel);
  }
}

// One class's 32 columns: eight warps run Welford's recurrence on every eighth sample, then Chan's merge. All
// work on what exceeds the class's first sample, so that a large offset costs no digits.
__global__ void __launch_bounds__(kThreads)
    class_moments(const float* __restrict__ pooled, const int64_t* __restrict__ order,
                  const int64_t* __restrict__ starts, int64_t columns, int64_t tiles,
                  float* __restrict__ means, float* __restrict__ m2) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float part_mean[kWarps][32], part_m2[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t k = blockIdx.x / tiles, column = (blockIdx.x % tiles) * 32 + lane;
  const int64_t begin = starts[k], end = starts[k + 1];
  float mean = 0, square = 0, origin = 0;
  if (column < columns && begin < end) {
    origin = pooled[order[begin] * columns + column];
    float seen = 0;
    for (int64_t at = begin + warp; at < end; at += kWarps) {
      const float x = pooled[order[at] * columns + column] - origin;
      seen += 1;
      const float before = x - mean;
      mean += before / seen;
      square += before * (x - mean);
    }
  }
  part_mean[warp][lane] = mean;
  part_m2[warp][lane] = square;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  const int64_t total = end - begin;
  const auto share = [&](int w) { return static_cast<float>((total - w + kWarps - 1) / kWarps); };
  float count = total > 0 ? share(0) : 0;
  for (int w = 1; w < kWarps && w < total; ++w) {
    const float other = share(w), merged = count + other;
    const float gap = part_mean[w][lane] - mean;
    mean += gap * (other / merged);
    square += part_m2[w][lane] + gap * gap * (count * other / merged);
    count = merged;
  }
  means[k * columns + column] = origin + mean;
  m2[k * columns + column] = square;
}

// A block for each sample.
__global__ void __launch_bounds__(kThreads)
    moments_backward(const float* __restrict__ pooled, const int64_t* __restrict__ labels,
                     int64_t label_stride, const int64_t* __restrict__ counts,
                     const float* __restrict__ means, const float* __restrict__ grad_means,
                     const float* __restrict__ grad_m2, int64_t columns, int64_t num_classes,
                     float* __restrict__ grad) {
  const int64_t sample = blockIdx.x, k = labels[sample * label_stride];
  if (k < 0 || k >= num_classes) __trap();
  const float inverse = 1.0f / static_cast<float>(counts[k]);
  for (int64_t column = threadIdx.x; column < columns; column += kThreads) {
    const int64_t at = sample * columns + column, of = k * columns + column;
    grad[at] = grad_means[of] * inverse + 2.0f * (pooled[at] - means[of]) * grad_m2[of];
  }
}

static Map map_of(const PoolShape& s) {
  STD_TORCH_CHECK(s.height * s.width <= 0x7fffffff && s.channels <= 0x7fffffff && s.grid <= 32768,
                  "feature maps must have less than 2**31 pixels and channels, grid at most 32768");
  return {static_cast<int>(s.channels), static_cast<int>(s.height), static_cast<int>(s.width),
          static_cast<int>(s.grid)};
}

// Calls `run` with the largest of the packs 16, 8, 4 (, 2) bytes that divides `run_length` elements.
template <typename T, typename F>
static void with_pack(const void* data, int64_t run_length, F&& run) {
  constexpr int kWidest = 16 / sizeof(T);
  if (run_length % kWidest == 0 && is_aligned(data, 16)) return run(std::integral_constant<int, kWidest>{});
  if (run_length % 2 == 0 && is_aligned(data, 2 * sizeof(T))) return run(std::integral_constant<int, 2>{});
  run(std::integral_constant<int, 1>{});
}

static int lanes_for(int64_t packs) {
  int lanes = 1;
  while (lanes < 32 && packs >= 8 * lanes) lanes *= 2;
  return lanes;
}

template <typename T>
static void launch_pool(const Launch& launch, const PoolShape& shape, const T* from, bool is_planes,
                        float* to) {
  const Map map = map_of(shape);
  const int64_t height = cell_end(0, shape.grid, shape.height), width = cell_end(0, shape.grid, shape.width);
  if (is_planes) {
    const int64_t count = shape.samples * shape.columns();
    // Every cell's first column and width must be whole packs.
    const int64_t run_length = shape.width % shape.grid == 0 ? shape.width / shape.grid : 1;
    with_pack<T>(from, run_length, [&](auto pack) {
      const int lanes = lanes_for(height * width / pack());
      pool_planes<T, pack()><<<blocks_for(count * lanes, kThreads), kThreads, 0, launch.stream()>>>(
          map, from, to, count, lanes);
    });
  } else {
    const int64_t count = shape.samples * shape.grid * shape.grid;
    with_pack<T>(from, shape.channels, [&](auto pack) {
      const int64_t tiles = (shape.channels + 32 * pack() - 1) / (32 * pack());
      if (height * width >= 32) {
        pool_pixels<T, pack(), 8><<<blocks_for(count * tiles, 1), kThreads, 0, launch.stream()>>>(
            map, from, to, count, static_cast<int>(tiles));
      } else {
        pool_pixels<T, pack(), 1><<<blocks_for((count + 7) / 8 * tiles, 1), kThreads, 0, launch.stream()>>>(
            map, from, to, count, static_cast<int>(tiles));
      }
    });
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

static Tensor grid_pool(const Tensor& features, int64_t grid) {
  const PoolShape shape = pool_shape(features, grid);
  const Layout layout = layout_of(features);
  if (layout == Layout::kOther) return grid_pool(torch::stable::contiguous(features), grid);
  const Launch launch(features);
  Tensor pooled = new_empty(features, {shape.samples, shape.columns()}, ScalarType::Float);
  if (pooled.numel() == 0) return pooled;
  dispatch_reduced(features.scalar_type(), [&](auto type) {
    using T = decltype(type);
    launch_pool<T>(launch, shape, static_cast<const T*>(features.const_data_ptr()),
                   layout == Layout::kContiguous, pooled.mutable_data_ptr<float>());
  });
  return pooled;
}

static Tensor grid_pool_backward(const Tensor& grad, int64_t height, int64_t width, int64_t grid,
                                 ScalarType dtype, bool channels_last) {
  const PoolShape shape = unpool_shape(grad, height, width, grid);
  const Launch launch(grad);
  Tensor features = new_empty(grad, {shape.samples, shape.channels, height, width}, dtype,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (features.numel() == 0) return features;
  const Map map = map_of(shape);
  dispatch_reduced(dtype, [&](auto type) {
    using T = decltype(type);
    T* to = static_cast<T*>(features.mutable_data_ptr());
    const float* from = grad.const_data_ptr<float>();
    const int64_t warps = shape.samples * (channels_last ? height * width : shape.channels);
    if (channels_last) {
      unpool_pixels<T>
          <<<blocks_for(32 * warps, kThreads), kThreads, 0, launch.stream()>>>(map, from, to, warps);
    } else {
      unpool_planes<T>
          <<<blocks_for(32 * warps, kThreads), kThreads, 0, launch.stream()>>>(map, from, to, warps);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return features;
}

static std::tuple<Tensor, Tensor, Tensor> class_channel_stats(const Tensor& features, const Tensor& labels,
                                                              int64_t num_classes, int64_t grid) {
  const PoolShape shape = pool_shape(features, grid);
  check_labels(labels, features, num_classes);
  const Launch launch(features);
  const int64_t columns = shape.columns();
  Tensor means = new_empty(features, {num_classes, columns}, ScalarType::Float);
  Tensor m2 = new_empty(features, {num_classes, columns}, ScalarType::Float);
  const Groups groups(launch, labels, num_classes);
  if (columns == 0) return {groups.counts, means, m2};
  const Tensor pooled = grid_pool(features, grid);
  const int64_t tiles = (columns + 31) / 32;
  class_moments<<<blocks_for(tiles * num_classes, 1), kThreads, 0, launch.stream()>>>(
      pooled.const_data_ptr<float>(), groups.rows.const_data_ptr<int64_t>(),
      groups.starts.const_data_ptr<int64_t>(), columns, tiles, means.mutable_data_ptr<float>(),
      m2.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {groups.counts, means, m2};
}

static Tensor class_channel_stats_backward(const Tensor& grad_means, const Tensor& grad_m2,
                                           const Tensor& pooled, const Tensor& labels, const Tensor& counts,
                                           const Tensor& means) {
  check_stats_backward(grad_means, grad_m2, pooled, labels, counts, means);
  const Launch launch(pooled);
  Tensor grad = new_empty(pooled, {pooled.size(0), pooled.size(1)}, ScalarType::Float);
  if (grad.numel() == 0) return grad;
  moments_backward<<<blocks_for(pooled.size(0), 1), kThreads, 0, launch.stream()>>>(
      pooled.const_data_ptr<float>(), labels.const_data_ptr<int64_t>(), labels.stride(0),
      counts.const_data_ptr<int64_t>(), means.const_data_ptr<float>(), grad_means.const_data_ptr<float>(),
      grad_m2.const_data_ptr<float>(), pooled.size(1), means.size(0), grad.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad;
}

}  // namespace pst::cuda

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CUDA, m) {
  m.impl("grid_pool", TORCH_BOX(&pst::cuda::grid_pool));
  m.impl("grid_pool_backward", TORCH_BOX(&pst::cuda::grid_pool_backward));
  m.impl("class_channel_stats", TORCH_BOX(&pst::cuda::class_channel_stats));
  m.impl("class_channel_stats_backward", TORCH_BOX(&pst::cuda::class_channel_stats_backward));
}
