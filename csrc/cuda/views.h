// What all views of `degrade` share: a thread block's sample, its view, and its pixels.
#pragma once

#include "common/jpeg.h"
#include "common/views.h"
#include "cuda/launch.h"

namespace pst::cuda {

constexpr int kSide = 8;  // of a JPEG's blocks

struct ViewJob {
  Views views;
  const uint8_t* images;
  const int64_t* index;
  int64_t index_stride, rows;
  int height, width;
  bool is_read_wide, is_written_wide;  // whether eight pixels of a row can be had as three words of 8 bytes
  uint8_t *chroma, *out;               // chroma: [B, 2, height, width], rounded up to whole tiles
};

// What a thread block works on.
struct ViewWork {
  View view;
  ViewDraw draw;
  const uint8_t* image;
  int64_t sample;
  int32_t step[2][kSide * kSide];   // of a JPEG: luma, chroma
  float inverse[2][kSide * kSide];  // 1 / (8 step)
};

struct Colour {
  int32_t red, green, blue;
};

// `parts`: thread blocks for each sample.
static __device__ void start_view(const ViewJob& job, int parts, ViewWork* work) {
  if (threadIdx.x == 0) {
    work->sample = blockIdx.x / parts;
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
  for (int i = threadIdx.x; i < 2 * kSide * kSide; i += blockDim.x) {
    const int is_chroma = i / (kSide * kSide), at = i % (kSide * kSide);
    const int32_t step = jpeg_step(is_chroma, at, work->view.a);
    work->step[is_chroma][at] = step;
    work->inverse[is_chroma][at] = 1.0f / static_cast<float>(8 * step);
  }
  __syncthreads();
}

__device__ __forceinline__ Colour shown(const ViewWork& work, Colour colour) {
  if (!work.view.grey) return colour;
  const int32_t luma = jpeg_luma(colour.red, colour.green, colour.blue);
  return {luma, luma, luma};
}

__device__ __forceinline__ Colour load_colour(const ViewJob& job, const ViewWork& work, int y, int x) {
  const uint8_t* at = work.image + 3 * (y * job.width + x);
  return shown(work, {__ldg(at), __ldg(at + 1), __ldg(at + 2)});
}

// Eight pixels of a row, from a multiple of eight on; beyond the border its pixel again.
__device__ __forceinline__ void load_colours(const ViewJob& job, const ViewWork& work, int y, int left,
                                             Colour (&colours)[kSide]) {
  if (job.is_read_wide && left < job.width) {
    const auto* at = reinterpret_cast<const uint2*>(work.image + 3 * (y * job.width + left));
    const uint2 first = __ldg(at), second = __ldg(at + 1), third = __ldg(at + 2);
    const uint32_t words[6] = {first.x, first.y, second.x, second.y, third.x, third.y};
    const auto byte = [&](int i) { return static_cast<int32_t>(words[i / 4] >> (8 * (i % 4)) & 255); };
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      colours[i] = shown(work, {byte(3 * i), byte(3 * i + 1), byte(3 * i + 2)});
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSide; ++i) colours[i] = load_colour(job, work, y, min(left + i, job.width - 1));
  }
}

}  // namespace pst::cuda
