// JPEG round trips: eight threads share a block of 8 x 8 values, a row each. Chroma first, as luma's kernel
// joins the two.
#pragma once

#include <algorithm>

#include "cuda/views.h"

namespace pst::cuda {

constexpr int kBlocks = kThreads / kSide;  // of 8 x 8 values, for a thread block at most

// Threads for a plane of `count` blocks: whole warps, and no more than there is work for.
static int threads_for(int64_t count) {
  return static_cast<int>(std::min<int64_t>(kThreads, (count * kSide + 31) / 32 * 32));
}

// A whole number from 0 to 2^23 as a float, and the whole part of a small positive float that is none: by the
// bits of a sum whose last bit is worth one, because conversions take longer.
__device__ __forceinline__ float whole_to_float(int32_t value) {
  constexpr float kOnes = 8388608.0f;  // 2^23
  return bits_to_float(float_to_bits(kOnes) | static_cast<uint32_t>(value)) - kOnes;
}

__device__ __forceinline__ int32_t whole_part(float value) {
  constexpr float kOnes = 12582912.0f;  // 3 * 2^22
  return static_cast<int32_t>(float_to_bits((value - 0.5f) + kOnes) - float_to_bits(kOnes));
}

// An 8 x 8 block through the quantised transform: each of eight threads holds a row, before and after. The
// whole warp takes part.
__device__ __forceinline__ void code_block(int32_t (&v)[kSide], int lane, int32_t (*tile)[kSide + 1],
                                           const ViewWork& work, int is_chroma) {
  const int32_t* step = work.step[is_chroma];
  const float* inverse = work.inverse[is_chroma];
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
    // Exact: the half keeps the quotient further from a whole number than its rounding.
    const int32_t level = whole_part((whole_to_float(magnitude) + 0.5f) * inverse[kSide * i + lane]);
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

__device__ __forceinline__ uint8_t* chroma_plane(const ViewJob& job, const ViewWork& work, int channel) {
  return job.chroma + (2 * work.sample + channel) * whole_blocks(job.height) * whole_blocks(job.width);
}

__device__ __forceinline__ void store_bytes(const int32_t (&v)[kSide], uint8_t* to) {
  uint2 packed{0, 0};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    packed.x |= static_cast<uint32_t>(v[i]) << (8 * i);
    packed.y |= static_cast<uint32_t>(v[i + 4]) << (8 * i);
  }
  *reinterpret_cast<uint2*>(to) = packed;
}

static __global__ void __launch_bounds__(kThreads, 4)
    code_chroma(const __grid_constant__ ViewJob job, int parts) {
  __shared__ ViewWork work;
  __shared__ int32_t tiles[kBlocks][kSide][kSide + 1];
  start_view(job, parts, &work);
  if (work.view.kind != kJpeg) return;
  const bool is_full = work.view.b != 0;
  const int rows = is_full ? job.height : (job.height + 1) / 2;
  const int columns = is_full ? job.width : (job.width + 1) / 2;
  const int across = (columns + kSide - 1) / kSide, down = (rows + kSide - 1) / kSide;
  const int count = across * down, pitch = static_cast<int>(whole_blocks(job.width));
  const int tile = threadIdx.x / kSide, lane = threadIdx.x % kSide;
  const int blocks = blockDim.x / kSide;  // four of them for each warp, which ends when it has none
  for (int first = blockIdx.x % parts * blocks; first + tile / 4 * 4 < count; first += parts * blocks) {
    const int place = min(first + tile, count - 1);  // the last is done again
    const int y = place / across * kSide + lane, left = place % across * kSide;
    const int held_y = min(y, rows - 1);
    int32_t cb[kSide] = {}, cr[kSide] = {};
    Colour colours[kSide];
    if (is_full) {
      load_colours(job, work, held_y, left, colours);
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        cb[i] = jpeg_cb(colours[i].red, colours[i].green, colours[i].blue);
        cr[i] = jpeg_cr(colours[i].red, colours[i].green, colours[i].blue);
      }
    } else {
#pragma unroll
      for (int part = 0; part < 4; ++part) {  // upper left, upper right, lower left, lower right
        const int half = part % 2;
        load_colours(job, work, min(2 * held_y + part / 2, job.height - 1), 2 * left + half * kSide, colours);
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
          cb[half * 4 + i / 2] += jpeg_cb(colours[i].red, colours[i].green, colours[i].blue);
          cr[half * 4 + i / 2] += jpeg_cr(colours[i].red, colours[i].green, colours[i].blue);
        }
      }
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        cb[i] = (cb[i] + 1 + i % 2) >> 2;
        cr[i] = (cr[i] + 1 + i % 2) >> 2;
      }
    }
    code_block(cb, lane, tiles[tile], work, 1);
    store_bytes(cb, chroma_plane(job, work, 0) + y * pitch + left);
    code_block(cr, lane, tiles[tile], work, 1);
    store_bytes(cr, chroma_plane(job, work, 1) + y * pitch + left);
  }
}

// Four values of a row, from a multiple of four on, and one on either side of them; beyond the border its
// value again.
__device__ __forceinline__ void load_columns(const uint8_t* row, int first, int columns,
                                             int32_t (&values)[kSide / 2 + 2]) {
  const uint32_t word = *reinterpret_cast<const uint32_t*>(row + first);
  values[0] = row[max(0, first - 1)];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t value = static_cast<int32_t>(word >> (8 * i) & 255);
    values[1 + i] = i == 0 || first + i < columns ? value : values[i];
  }
  values[5] = first + 4 < columns ? row[first + 4] : values[4];
}

// Chroma at eight pixels of a row, doubled where it was halved.
__device__ __forceinline__ void load_chroma(const ViewJob& job, const ViewWork& work, int channel, int y,
                                            int left, int32_t (&chroma)[kSide]) {
  const uint8_t* plane = chroma_plane(job, work, channel);
  const int pitch = static_cast<int>(whole_blocks(job.width));
  if (work.view.b != 0) {
    const uint2 packed = *reinterpret_cast<const uint2*>(plane + y * pitch + left);
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      chroma[i] = static_cast<int32_t>((i < 4 ? packed.x : packed.y) >> (8 * (i % 4)) & 255);
    }
    return;
  }
  // The columns that the eight pixels lie in, and one on either side of them.
  constexpr int kColumns = kSide / 2 + 2;
  const int rows = (job.height + 1) / 2, columns = (job.width + 1) / 2;
  const uint8_t* near_row = plane + y / 2 * pitch;
  const uint8_t* far_row = plane + max(0, min(rows - 1, y / 2 + (y % 2 == 0 ? -1 : 1))) * pitch;
  int32_t near[kColumns], far[kColumns];
  load_columns(near_row, left / 2, columns, near);
  load_columns(far_row, left / 2, columns, far);
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int at = 1 + i / 2, side = i % 2 == 0 ? at - 1 : at + 1;
    chroma[i] = columns <= 2 ? near[at] : jpeg_triangle(near[at], far[at], near[side], far[side], i % 2 != 0);
  }
}

// The JPEGs: luma, joined with the chroma that is there already.
static __global__ void __launch_bounds__(kThreads)
    show_jpegs(const __grid_constant__ ViewJob job, int parts) {
  __shared__ ViewWork work;
  __shared__ int32_t tiles[kBlocks][kSide][kSide + 1];
  start_view(job, parts, &work);
  if (work.view.kind != kJpeg) return;
  const int across = (job.width + kSide - 1) / kSide, down = (job.height + kSide - 1) / kSide;
  const int tile = threadIdx.x / kSide, lane = threadIdx.x % kSide;
  uint8_t* image = job.out + 3 * work.sample * job.height * job.width;
  const int blocks = blockDim.x / kSide;
  const int count = across * down;
  for (int first = blockIdx.x % parts * blocks; first + tile / 4 * 4 < count; first += parts * blocks) {
    const int place = min(first + tile, count - 1);  // the last is done again
    const int y = place / across * kSide + lane, left = place % across * kSide;
    Colour colours[kSide];
    load_colours(job, work, min(y, job.height - 1), left, colours);
    int32_t luma[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) luma[i] = jpeg_luma(colours[i].red, colours[i].green, colours[i].blue);
    code_block(luma, lane, tiles[tile], work, 0);
    if (y >= job.height) continue;
    int32_t cb[kSide], cr[kSide];
    load_chroma(job, work, 0, y, left, cb);
    load_chroma(job, work, 1, y, left, cr);
    uint8_t* to = image + 3 * (y * job.width + left);
    uint32_t words[6] = {};
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      if (left + i >= job.width) break;
      uint8_t bytes[3];
      jpeg_rgb(luma[i], cb[i], cr[i], bytes);
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const int at = 3 * i + c;
        if (job.is_written_wide) {
          words[at / 4] |= static_cast<uint32_t>(bytes[c]) << (8 * (at % 4));
        } else {
          to[at] = bytes[c];
        }
      }
    }
    if (job.is_written_wide) {
#pragma unroll
      for (int w = 0; w < 3; ++w) reinterpret_cast<uint2*>(to)[w] = {words[2 * w], words[2 * w + 1]};
    }
  }
}

}  // namespace pst::cuda
