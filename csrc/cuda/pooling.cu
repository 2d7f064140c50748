// grid_pool on CUDA. No atomics: every sum has one order.
#include <algorithm>

#include "common/cells.h"
#include "common/checks.h"
#include "cuda/divisor.h"
#include "cuda/launch.h"
#include "cuda/pooling.h"

namespace pst::cuda {

struct Map {
  int channels, height, width, grid;
  Divisor by_grid;

  // Of adaptive pooling, as in common/cells.h.
  __device__ __forceinline__ int start(int cell, int size) const {
    return static_cast<int>(by_grid.divide(static_cast<uint32_t>(cell * size)));
  }
  __device__ __forceinline__ int end(int cell, int size) const {
    return static_cast<int>(by_grid.divide(static_cast<uint32_t>((cell + 1) * size + grid - 1)));
  }
};

// number / by of numbers below 2^16; exact: the half keeps the quotient further from a whole number than its
// rounding.
__device__ __forceinline__ int small_quotient(int number, int by) {
  return static_cast<int>(__fdividef(static_cast<float>(number) + 0.5f, static_cast<float>(by)));
}

// What a block adds up in shared memory: 48 KiB is what every device has.
constexpr int kMostSums = 48 * 1024 / sizeof(float);

// How a block of pool_planes shares its work. A band is a plane's rows of one line of cells; `bands` of them
// are a block's. Threads have columns of 16 bytes where possible (`packs` a row), and every `lanes`-th row.
struct Bands {
  uint32_t count, bands;
  int packs, lanes;
  Divisor by_packs, by_lanes;
};

// Contiguous planes. First each thread adds up its rows, column by column; then those sums are added up by
// cell. Memory is read in its order, whatever the cells' widths.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    pool_planes(Map map, Bands job, const T* __restrict__ features, float* __restrict__ pooled) {
  float* sums = shared_memory<float>();  // [bands, lanes, packs * kPack]
  const uint32_t first = blockIdx.x * job.bands;
  const int bands = static_cast<int>(min(job.count - first, job.bands));
  const int items = bands * job.lanes * job.packs;
  const int stride = job.packs * kPack;
  const int64_t plane_size = static_cast<int64_t>(map.height) * map.width;
  for (int start = 0; start < map.width; start += stride) {  // once, but for very wide maps
    for (int item = threadIdx.x; item < items; item += kThreads) {
      const int row_of = static_cast<int>(job.by_packs.divide(item)), pack = item - row_of * job.packs;
      const int band_of = static_cast<int>(job.by_lanes.divide(row_of)), lane = row_of - band_of * job.lanes;
      const uint32_t band = first + band_of, plane = map.by_grid.divide(band);
      const int i = static_cast<int>(map.by_grid.rest(band, plane));
      const int top = map.start(i, map.height), bottom = map.end(i, map.height);
      const int column = start + pack * kPack;
      const T* from = features + plane * plane_size + column;
      Pack<float, kPack> sum{};
      if (column < map.width) {
#pragma unroll 4
        for (int row = top + lane; row < bottom; row += job.lanes) {
          const auto value = *reinterpret_cast<const Pack<T, kPack>*>(from + row * map.width);
#pragma unroll
          for (int e = 0; e < kPack; ++e) sum.value[e] += widen(value.value[e]);
        }
      }
      *reinterpret_cast<Pack<float, kPack>*>(sums + item * kPack) = sum;
    }
    __syncthreads();
    for (int cell = threadIdx.x; cell < bands * map.grid; cell += kThreads) {
      const int band_of = static_cast<int>(map.by_grid.divide(cell)), j = cell - band_of * map.grid;
      const int i = static_cast<int>(map.by_grid.modulo(first + band_of));
      const int rows = map.end(i, map.height) - map.start(i, map.height);
      const int left = map.start(j, map.width), right = map.end(j, map.width);
      const int begin = max(left, start) - start, end = min(right - start, stride);
      float sum = 0;
      for (int lane = 0; lane < job.lanes; ++lane) {
        const float* line = sums + (band_of * job.lanes + lane) * stride;
        for (int column = begin; column < end; ++column) sum += line[column];
      }
      float* to = pooled + static_cast<int64_t>(first) * map.grid + cell;
      sum *= reciprocal(static_cast<float>(rows * (right - left)));
      *to = start == 0 ? sum : *to + sum;
    }
    __syncthreads();
  }
}

// How a block of pool_pixels shares its work: `cells` cells of one sample by `packs` packs of channels, and
// `split` threads for each pack of a cell. `groups` and `tiles` of those make a sample.
struct Tiles {
  int cells, packs, split, groups, tiles;
  Divisor by_work, by_tiles, by_packs, by_split, by_cells;
};

// channels_last: threads add up every `split`-th pixel of a cell, and then their sums are added up.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    pool_pixels(Map map, Tiles job, const T* __restrict__ features, float* __restrict__ pooled) {
  __shared__ float sums[kThreads * (kPack + 1)];  // [slots, packs * kPack + 1]: no two cells in one bank
  const int64_t sample = job.by_work.divide(blockIdx.x);
  const int work = static_cast<int>(job.by_work.modulo(blockIdx.x));
  const int group = static_cast<int>(job.by_tiles.divide(work)), tile = work - group * job.tiles;
  const int stride = job.packs * kPack + 1;
  const int slot = static_cast<int>(job.by_packs.divide(threadIdx.x)), pack = threadIdx.x - slot * job.packs;
  const int first_channel = tile * job.packs * kPack, channel = first_channel + pack * kPack;
  const int all_cells = map.grid * map.grid, first = group * job.cells;
  const int cells = min(job.cells, all_cells - first);
  if (slot < cells * job.split) {
    float sum[kPack] = {};
    if (channel < map.channels) {
      const int of = static_cast<int>(job.by_split.divide(slot)), lane = slot - of * job.split;
      const int i = static_cast<int>(map.by_grid.divide(first + of)), j = first + of - i * map.grid;
      const int top = map.start(i, map.height), left = map.start(j, map.width);
      const int columns = map.end(j, map.width) - left;
      const int pixels = (map.end(i, map.height) - top) * columns;
      const T* from = features +
                      ((sample * map.height + top) * map.width + left) * static_cast<int64_t>(map.channels) +
                      channel;
      // A step goes so many rows down and columns to the right, and on to the next row where those end.
      const int down = small_quotient(job.split, columns), right = job.split - down * columns;
      const int64_t pixel = map.channels;
      const int64_t step = (static_cast<int64_t>(down) * map.width + right) * pixel;
      const int64_t wrap = (map.width - columns) * pixel;
      const int row = small_quotient(lane, columns);
      int column = lane - row * columns;
      from += (static_cast<int64_t>(row) * map.width + column) * pixel;
#pragma unroll 4
      for (int k = lane; k < pixels; k += job.split) {
        const auto value = *reinterpret_cast<const Pack<T, kPack>*>(from);
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] += widen(value.value[e]);
        column += right;
        const bool wraps = column >= columns;
        column -= wraps ? columns : 0;
        from += step + (wraps ? wrap : 0);
      }
    }
#pragma unroll
    for (int e = 0; e < kPack; ++e) sums[slot * stride + pack * kPack + e] = sum[e];
  }
  __syncthreads();
  const int channels = min(job.packs * kPack, map.channels - first_channel);
  const bool is_whole = cells == job.cells;
  for (int at = threadIdx.x; at < channels * cells; at += blockDim.x) {
    const int c = is_whole ? static_cast<int>(job.by_cells.divide(at)) : at / cells, cell = at - c * cells;
    const int i = static_cast<int>(map.by_grid.divide(first + cell)), j = first + cell - i * map.grid;
    const int rows = map.end(i, map.height) - map.start(i, map.height);
    const int columns = map.end(j, map.width) - map.start(j, map.width);
    float sum = 0;
    for (int lane = 0; lane < job.split; ++lane) sum += sums[(cell * job.split + lane) * stride + c];
    pooled[(sample * map.channels + first_channel + c) * all_cells + first + cell] =
        sum * reciprocal(static_cast<float>(rows * columns));
  }
}

// What a pixel gets from the cells that hold it; grad points to the channel's cells.
__device__ __forceinline__ float pixel_grad(const Map& map, const float* grad, int row, int column) {
  const int top = first_cell(row, map.grid, map.height), bottom = last_cell(row, map.grid, map.height);
  const int left = first_cell(column, map.grid, map.width), right = last_cell(column, map.grid, map.width);
  float sum = 0;
#pragma unroll 1  // nearly always once
  for (int i = top; i <= bottom; ++i) {
    const int rows = cell_end(i, map.grid, map.height) - cell_start(i, map.grid, map.height);
#pragma unroll 1
    for (int j = left; j <= right; ++j) {
      const int columns = cell_end(j, map.grid, map.width) - cell_start(j, map.grid, map.width);
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

static Map map_of(const PoolShape& s) {
  // Positions within a map, and cells times pixels of a side, have 32 bits.
  STD_TORCH_CHECK(
      s.height * s.width <= 0x7fffffff && s.channels <= 0x7fffffff && s.grid <= 32768 &&
          (s.grid + 1) * std::max(s.height, s.width) <= 0x7fffffff - s.grid,
      "feature maps must have less than 2**31 pixels and channels, grid at most 32768, and a side "
      "less than 2**31 / (grid + 1) pixels");
  return {static_cast<int>(s.channels), static_cast<int>(s.height), static_cast<int>(s.width),
          static_cast<int>(s.grid), Divisor(s.grid)};
}

// Calls `run` with the largest of the packs 16, 8, 4 (, 2) bytes that divides `run_length` elements.
template <typename T, typename F>
static void with_pack(const void* data, int64_t run_length, F&& run) {
  constexpr int kWidest = 16 / sizeof(T);
  if (run_length % kWidest == 0 && is_aligned(data, 16)) return run(std::integral_constant<int, kWidest>{});
  if (run_length % 2 == 0 && is_aligned(data, 2 * sizeof(T))) return run(std::integral_constant<int, 2>{});
  run(std::integral_constant<int, 1>{});
}

static int divide_up(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

template <typename T>
static void launch_planes(const Launch& launch, const PoolShape& shape, const Map& map, const T* from,
                          float* to) {
  with_pack<T>(from, shape.width, [&](auto pack) {
    const int rows =
        static_cast<int>(cell_end<int64_t>(0, shape.grid, shape.height)) + (shape.height % shape.grid != 0);
    Bands job{};
    const int64_t count = shape.samples * shape.channels * shape.grid;
    STD_TORCH_CHECK(count < 0x7ffffff0, "the tensor is too large for one launch");
    job.count = static_cast<uint32_t>(count);
    job.packs = static_cast<int>(std::min<int64_t>(shape.width / pack(), kMostSums / pack()));
    // Four rows a thread, but 32 bytes of memory in one go: less is not read.
    job.lanes = std::max(divide_up(rows, 4), std::min(rows, divide_up(32, job.packs * pack() * sizeof(T))));
    job.lanes = std::min(job.lanes, std::max(1, kMostSums / (job.packs * pack())));
    job.bands = static_cast<uint32_t>(std::max(1, kThreads / (job.lanes * job.packs)));
    job.by_packs = Divisor(job.packs);
    job.by_lanes = Divisor(job.lanes);
    const size_t bytes = sizeof(float) * job.bands * job.lanes * job.packs * pack();
    launch.run(pool_planes<T, pack()>, blocks_for(job.count, job.bands), kThreads, bytes)(map, job, from, to);
  });
}

template <typename T>
static void launch_pixels(const Launch& launch, const PoolShape& shape, const Map& map, const T* from,
                          float* to) {
  with_pack<T>(from, shape.channels, [&](auto pack) {
    const int64_t cells = shape.grid * shape.grid;
    const int64_t pixels =
        cell_end<int64_t>(0, shape.grid, shape.height) * cell_end<int64_t>(0, shape.grid, shape.width);
    const int64_t packs = shape.channels / pack();
    Tiles job{};
    job.packs = static_cast<int>(std::min<int64_t>(packs, 128 / (pack() * sizeof(T))));
    const int slots = kThreads / job.packs;
    // As many cells as give each thread some eight loads, and no more threads than that.
    job.cells = static_cast<int>(
        std::clamp<int64_t>(8 * kThreads / (pixels * job.packs), 1, std::min<int64_t>(cells, slots)));
    job.split = static_cast<int>(std::clamp<int64_t>(pixels / 8, 1, slots / job.cells));
    const int threads = 32 * divide_up(job.packs * job.cells * job.split, 32);
    job.groups = divide_up(cells, job.cells);
    job.tiles = divide_up(packs, job.packs);
    const int64_t work = static_cast<int64_t>(job.groups) * job.tiles;
    job.by_work = Divisor(work);
    job.by_tiles = Divisor(job.tiles);
    job.by_packs = Divisor(job.packs);
    job.by_split = Divisor(job.split);
    job.by_cells = Divisor(job.cells);
    launch.run(pool_pixels<T, pack()>, blocks_for(shape.samples * work, 1), threads)(map, job, from, to);
  });
}

template <typename T>
static void launch_pool(const Launch& launch, const PoolShape& shape, const T* from, bool is_planes,
                        float* to) {
  const Map map = map_of(shape);
  if (is_planes) {
    launch_planes<T>(launch, shape, map, from, to);
  } else {
    launch_pixels<T>(launch, shape, map, from, to);
  }
}

Tensor grid_pool(const Tensor& features, int64_t grid) {
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
      launch.run(unpool_pixels<T>, blocks_for(32 * warps, kThreads))(map, from, to, warps);
    } else {
      launch.run(unpool_planes<T>, blocks_for(32 * warps, kThreads))(map, from, to, warps);
    }
  });
  return features;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("grid_pool", TORCH_BOX(&pst::cuda::grid_pool));
  m.impl("grid_pool_backward", TORCH_BOX(&pst::cuda::grid_pool_backward));
}
