// JPEG round trips: eight threads share a block of 8 x 8 values, a row each. Chroma first, as luma's kernel
// joins the two.
#pragma once

#include "cuda/views.h"

namespace pst::cuda {

constexpr int kBlocks = kThreads / kSide;  // of 8 x 8 values, for a thread block

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

static __global__ void __launch_bounds__(kThreads)
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
  for (int first = blockIdx.x % parts * kBlocks; first < count; first += parts * kBlocks) {
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
    code_block(cb, lane, tiles[tile], work.step[1]);
    store_bytes(cb, chroma_plane(job, work, 0) + y * pitch + left);
    code_block(cr, lane, tiles[tile], work.step[1]);
    store_bytes(cr, chroma_plane(job, work, 1) + y * pitch + left);
  }
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
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int column = max(0, min(columns - 1, left / 2 + i - 1));
    near[i] = near_row[column];
    far[i] = far_row[column];
  }
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
  for (int first = blockIdx.x % parts * kBlocks; first < across * down; first += parts * kBlocks) {
    const int place = min(first + tile, across * down - 1);  // the last is done again
    const int y = place / across * kSide + lane, left = place % across * kSide;
    Colour colours[kSide];
    load_colours(job, work, min(y, job.height - 1), left, colours);
    int32_t luma[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) luma[i] = jpeg_luma(colours[i].red, colours[i].green, colours[i].blue);
    code_block(luma, lane, tiles[tile], work.step[0]);
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
