// The views of `degrade` on CUDA: a launch for the JPEGs' chroma, one for their luma, one for all other
// views.
//
// All threads of a block work on one sample, and so on one view; a launch leaves the others' samples alone.
// Of a JPEG eight threads share a block of 8 x 8 values, a row each.
#include <algorithm>

#include "common/cells.h"
#include "common/checks.h"
#include "common/jpeg.h"
#include "cuda/launch.h"

namespace pst::cuda {

constexpr int kSide = 8;
constexpr int kTiles = kThreads / kSide;  // of a thread block

struct ViewJob {
  Views views;
  const uint8_t* images;
  const int64_t* index;
  int64_t index_stride, rows;
  int height, width, parts;  // parts: thread blocks for each sample
  bool is_packed;            // whether eight pixels of a row can be written as three words of 8 bytes
  uint8_t *chroma, *out;     // chroma: [B, 2, height, width], rounded up to whole tiles
};

// What a thread block works on.
struct ViewWork {
  View view;
  ViewDraw draw;
  const uint8_t* image;
  int64_t sample;
  int32_t step[2][kSide * kSide];  // of a JPEG: luma, chroma
};

struct Colour {
  int32_t red, green, blue;
};

__device__ void start_view(const ViewJob& job, ViewWork* work) {
  if (threadIdx.x == 0) {
    work->sample = blockIdx.x / job.parts;
    work->draw = draw_view(job.views, static_cast<uint32_t>(work->sample), job.height, job.width);
    work->view = job.views.view[work->draw.view];
    const int64_t row = job.index == nullptr ? work->sample : job.index[work->sample * job.index_stride];
    if (row < 0 || row >= job.rows) {
      printf("pst_fast::degrade: index must be in [0, %lld), got %lld\n", static_cast<long long>(job.rows),
             static_cast<long long>(row));
      __trap();
    }
    work->image = job.images + 3 * row * job.height * job.width;
  }
  __syncthreads();
  if (work->view.kind != kJpeg) return;
  if (threadIdx.x < 2 * kSide * kSide) {
    const int is_chroma = threadIdx.x / (kSide * kSide), at = threadIdx.x % (kSide * kSide);
    work->step[is_chroma][at] = jpeg_step(is_chroma, at, work->view.a);
  }
  __syncthreads();
}

__device__ __forceinline__ Colour load_colour(const ViewJob& job, const ViewWork& work, int y, int x) {
  const uint8_t* at = work.image + 3 * (y * job.width + x);
  const Colour colour{__ldg(at), __ldg(at + 1), __ldg(at + 2)};
  if (!work.view.grey) return colour;
  const int32_t luma = jpeg_luma(colour.red, colour.green, colour.blue);
  return {luma, luma, luma};
}

// An 8 x 8 block through the quantised transform: each of eight threads holds a row, before and after. The
// whole warp takes part.
__device__ __forceinline__ void code_block(int32_t (&v)[kSide], int lane, int32_t (*tile)[kSide + 1],
                                           const int32_t* step) {
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] -= 128;
  jpeg_forward<false>(v);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSide; ++i) tile[lane][i] = v[i];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] = tile[i][lane];
  jpeg_forward<true>(v);
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int32_t q = step[kSide * i + lane], magnitude = (v[i] < 0 ? -v[i] : v[i]) + 4 * q;
    // Exact: the half keeps the quotient further from a whole number than the division's rounding.
    const int32_t level =
        static_cast<int32_t>(__fdividef(static_cast<float>(magnitude) + 0.5f, static_cast<float>(8 * q)));
    v[i] = (v[i] < 0 ? -level : level) * q;
  }
  jpeg_inverse<false>(v);
#pragma unroll
  for (int i = 0; i < kSide; ++i) tile[i][lane] = v[i];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] = tile[lane][i];
  jpeg_inverse<true>(v);
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] = jpeg_byte(v[i] + 128);
}

__device__ __forceinline__ int32_t chroma_of(const ViewJob& job, const ViewWork& work, int channel, int y,
                                             int x) {
  const Colour p = load_colour(job, work, y, x);
  return channel == 0 ? jpeg_cb(p.red, p.green, p.blue) : jpeg_cr(p.red, p.green, p.blue);
}

__device__ __forceinline__ uint8_t* chroma_plane(const ViewJob& job, const ViewWork& work, int channel) {
  return job.chroma + (2 * work.sample + channel) * whole_blocks(job.height) * whole_blocks(job.width);
}

__global__ void __launch_bounds__(kThreads) code_chroma(const __grid_constant__ ViewJob job) {
  __shared__ ViewWork work;
  __shared__ int32_t tiles[kTiles][kSide][kSide + 1];
  start_view(job, &work);
  if (work.view.kind != kJpeg) return;
  const bool is_full = work.view.b != 0;
  const int rows = is_full ? job.height : (job.height + 1) / 2;
  const int columns = is_full ? job.width : (job.width + 1) / 2;
  const int across = (columns + kSide - 1) / kSide, down = (rows + kSide - 1) / kSide;
  const int count = 2 * across * down, pitch = static_cast<int>(whole_blocks(job.width));
  const int tile = threadIdx.x / kSide, lane = threadIdx.x % kSide;
  for (int first = blockIdx.x % job.parts * kTiles; first < count; first += job.parts * kTiles) {
    const int block = first + tile < count ? first + tile : count - 1;  // the last is done again
    const int channel = block / (across * down), place = block % (across * down);
    const int y = place / across * kSide + lane, left = place % across * kSide;
    const int held_y = min(y, rows - 1);
    int32_t v[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const int x = left + i;
      if (is_full) {
        v[i] = chroma_of(job, work, channel, held_y, min(x, columns - 1));
      } else {
        const int top = 2 * held_y, bottom = min(top + 1, job.height - 1);
        const int west = min(2 * x, job.width - 1), east = min(2 * x + 1, job.width - 1);
        const int32_t sum =
            chroma_of(job, work, channel, top, west) + chroma_of(job, work, channel, top, east) +
            chroma_of(job, work, channel, bottom, west) + chroma_of(job, work, channel, bottom, east);
        v[i] = (sum + 1 + (x & 1)) >> 2;
      }
    }
    code_block(v, lane, tiles[tile], work.step[1]);
    uint2 packed{0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      packed.x |= static_cast<uint32_t>(v[i]) << (8 * i);
      packed.y |= static_cast<uint32_t>(v[i + 4]) << (8 * i);
    }
    *reinterpret_cast<uint2*>(chroma_plane(job, work, channel) + y * pitch + left) = packed;
  }
}

// Chroma at a pixel, doubled where it was halved.
__device__ __forceinline__ int32_t load_chroma(const ViewJob& job, const ViewWork& work, int channel, int y,
                                               int x) {
  const uint8_t* plane = chroma_plane(job, work, channel);
  const int pitch = static_cast<int>(whole_blocks(job.width));
  if (work.view.b != 0) return plane[y * pitch + x];
  const int rows = (job.height + 1) / 2, columns = (job.width + 1) / 2;
  const uint8_t* near = plane + y / 2 * pitch;
  const int column = x / 2;
  if (columns <= 2) return near[column];
  const uint8_t* far = plane + max(0, min(rows - 1, y / 2 + (y % 2 == 0 ? -1 : 1))) * pitch;
  const int side = max(0, min(columns - 1, column + (x % 2 == 0 ? -1 : 1)));
  return jpeg_triangle(near[column], far[column], near[side], far[side], x % 2 != 0);
}

__device__ __forceinline__ Colour median_at(const ViewJob& job, const ViewWork& work, int y, int x) {
  int32_t red[9], green[9], blue[9];
#pragma unroll
  for (int i = 0; i < 9; ++i) {
    const Colour p =
        load_colour(job, work, mirror(y + i / 3 - 1, job.height), mirror(x + i % 3 - 1, job.width));
    red[i] = p.red;
    green[i] = p.green;
    blue[i] = p.blue;
  }
  return {median_of_nine(red), median_of_nine(green), median_of_nine(blue)};
}

__device__ __forceinline__ Colour blur_at(const ViewJob& job, const ViewWork& work, int y, int x) {
  const int radius = work.view.radius;
  float red = 0, green = 0, blue = 0;
  for (int dy = -radius; dy <= radius; ++dy) {
    const int row = mirror(y + dy, job.height);
    float r = 0, g = 0, b = 0;
    for (int dx = -radius; dx <= radius; ++dx) {
      const Colour p = load_colour(job, work, row, mirror(x + dx, job.width));
      const float tap = work.view.taps[abs(dx)];
      r += tap * static_cast<float>(p.red);
      g += tap * static_cast<float>(p.green);
      b += tap * static_cast<float>(p.blue);
    }
    const float tap = work.view.taps[abs(dy)];
    red += tap * r;
    green += tap * g;
    blue += tap * b;
  }
  return {round_byte(red), round_byte(green), round_byte(blue)};
}

struct Mean {
  float red, green, blue;
};

__device__ __forceinline__ Mean mean_of(const ViewJob& job, const ViewWork& work, int64_t i, int64_t j,
                                        int64_t rows, int64_t columns) {
  const int top = static_cast<int>(cell_start(i, rows, job.height));
  const int bottom = static_cast<int>(cell_end(i, rows, job.height));
  const int left = static_cast<int>(cell_start(j, columns, job.width));
  const int right = static_cast<int>(cell_end(j, columns, job.width));
  Colour sum{0, 0, 0};
  for (int y = top; y < bottom; ++y) {
    for (int x = left; x < right; ++x) {
      const Colour p = load_colour(job, work, y, x);
      sum.red += p.red;
      sum.green += p.green;
      sum.blue += p.blue;
    }
  }
  const float inverse = 1.0f / static_cast<float>((bottom - top) * (right - left));
  return {static_cast<float>(sum.red) * inverse, static_cast<float>(sum.green) * inverse,
          static_cast<float>(sum.blue) * inverse};
}

__device__ __forceinline__ Mean between_means(Mean a, Mean b, float share) {
  return {between(a.red, b.red, share), between(a.green, b.green, share), between(a.blue, b.blue, share)};
}

__device__ __forceinline__ Colour down_up_at(const ViewJob& job, const ViewWork& work, int y, int x) {
  const int64_t rows = down_cells(job.height, work.view.a), columns = down_cells(job.width, work.view.a);
  const Between row = between_cells(y, job.height, rows), column = between_cells(x, job.width, columns);
  const Mean left = between_means(mean_of(job, work, row.first, column.first, rows, columns),
                                  mean_of(job, work, row.second, column.first, rows, columns), row.share);
  const Mean right = between_means(mean_of(job, work, row.first, column.second, rows, columns),
                                   mean_of(job, work, row.second, column.second, rows, columns), row.share);
  const Mean mean = between_means(left, right, column.share);
  return {round_byte(mean.red), round_byte(mean.green), round_byte(mean.blue)};
}

__device__ __forceinline__ Colour view_at(const ViewJob& job, const ViewWork& work, int y, int x) {
  switch (work.view.kind) {
    case kMedian:
      return median_at(job, work, y, x);
    case kBlur:
      return blur_at(job, work, y, x);
    case kDownUp:
      return down_up_at(job, work, y, x);
    default:
      break;
  }
  Colour p = load_colour(job, work, y, x);
  if (work.view.kind == kBits) {
    p = {quantise(static_cast<uint8_t>(p.red), work.view.a),
         quantise(static_cast<uint8_t>(p.green), work.view.a),
         quantise(static_cast<uint8_t>(p.blue), work.view.a)};
  } else if (work.view.kind == kErase && y >= work.draw.top && y < work.draw.top + work.draw.side &&
             x >= work.draw.left && x < work.draw.left + work.draw.side) {
    p = {128, 128, 128};
  }
  return p;
}

// The JPEGs: luma, joined with the chroma that is there already.
__global__ void __launch_bounds__(kThreads) show_jpegs(const __grid_constant__ ViewJob job) {
  __shared__ ViewWork work;
  __shared__ int32_t tiles[kTiles][kSide][kSide + 1];
  start_view(job, &work);
  if (work.view.kind != kJpeg) return;
  const int across = (job.width + kSide - 1) / kSide, down = (job.height + kSide - 1) / kSide;
  const int tile = threadIdx.x / kSide, lane = threadIdx.x % kSide;
  uint8_t* image = job.out + 3 * work.sample * job.height * job.width;
  for (int first = blockIdx.x % job.parts * kTiles; first < across * down; first += job.parts * kTiles) {
    const int place = min(first + tile, across * down - 1);  // the last is done again
    const int y = place / across * kSide + lane, left = place % across * kSide;
    int32_t luma[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const Colour p = load_colour(job, work, min(y, job.height - 1), min(left + i, job.width - 1));
      luma[i] = jpeg_luma(p.red, p.green, p.blue);
    }
    code_block(luma, lane, tiles[tile], work.step[0]);
    if (y >= job.height) continue;
    uint8_t* to = image + 3 * (y * job.width + left);
    uint32_t words[6] = {};
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const int x = left + i;
      if (x >= job.width) break;
      uint8_t bytes[3];
      jpeg_rgb(luma[i], load_chroma(job, work, 0, y, x), load_chroma(job, work, 1, y, x), bytes);
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const int at = 3 * i + c;
        if (job.is_packed) {
          words[at / 4] |= static_cast<uint32_t>(bytes[c]) << (8 * (at % 4));
        } else {
          to[at] = bytes[c];
        }
      }
    }
    if (job.is_packed) {
#pragma unroll
      for (int w = 0; w < 3; ++w) reinterpret_cast<uint2*>(to)[w] = {words[2 * w], words[2 * w + 1]};
    }
  }
}

// All other views, a pixel a thread.
__global__ void __launch_bounds__(kThreads) show_others(const __grid_constant__ ViewJob job) {
  __shared__ ViewWork work;
  start_view(job, &work);
  if (work.view.kind == kJpeg) return;
  const int pixels = job.height * job.width;
  uint8_t* image = job.out + 3 * work.sample * pixels;
  for (int at = blockIdx.x % job.parts * kThreads + threadIdx.x; at < pixels; at += job.parts * kThreads) {
    const Colour p = view_at(job, work, at / job.width, at % job.width);
    image[3 * at] = static_cast<uint8_t>(p.red);
    image[3 * at + 1] = static_cast<uint8_t>(p.green);
    image[3 * at + 2] = static_cast<uint8_t>(p.blue);
  }
}

static Tensor degrade(const Tensor& images, const MaybeTensor& index, const Tensor& views, int64_t seed,
                      int64_t offset) {
  check_degrade(images, index);
  STD_TORCH_CHECK(images.size(1) * images.size(2) < (int64_t{1} << 29), "images are too large");
  const Launch launch(images);
  const Tensor dense = torch::stable::contiguous(images);
  ViewJob job{};
  job.views = read_views(views, images, seed, offset);
  job.images = dense.const_data_ptr<uint8_t>();
  job.index = index ? index->const_data_ptr<int64_t>() : nullptr;
  job.index_stride = index ? index->stride(0) : 0;
  job.rows = images.size(0);
  job.height = static_cast<int>(images.size(1));
  job.width = static_cast<int>(images.size(2));
  const int64_t batch = index ? index->size(0) : job.rows;
  Tensor out = new_empty(images, {batch, job.height, job.width, 3}, ScalarType::Byte);
  if (out.numel() == 0) return out;
  job.out = out.mutable_data_ptr<uint8_t>();
  job.is_packed = job.width % kSide == 0 && is_aligned(job.out, 8);
  const int64_t tiles = whole_blocks(job.height) / kSide * (whole_blocks(job.width) / kSide);
  job.parts = static_cast<int>(std::min<int64_t>((tiles + kTiles - 1) / kTiles, 4096));
  const unsigned blocks = blocks_for(batch * job.parts, 1);
  int32_t jpegs = 0;
  for (int32_t i = 0; i < job.views.count; ++i) jpegs += job.views.view[i].kind == kJpeg;
  // Lives until the end of this call: the allocator hands it on in the stream's order.
  Tensor chroma =
      new_empty(images, {jpegs > 0 ? 2 * batch * whole_blocks(job.height) * whole_blocks(job.width) : 0},
                ScalarType::Byte);
  if (jpegs > 0) {
    job.chroma = chroma.mutable_data_ptr<uint8_t>();
    code_chroma<<<blocks, kThreads, 0, launch.stream()>>>(job);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    show_jpegs<<<blocks, kThreads, 0, launch.stream()>>>(job);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  if (jpegs < job.views.count) {
    show_others<<<blocks, kThreads, 0, launch.stream()>>>(job);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return out;
}

}  // namespace pst::cuda

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CUDA, m) {
  m.impl("degrade", TORCH_BOX(&pst::cuda::degrade));
}
