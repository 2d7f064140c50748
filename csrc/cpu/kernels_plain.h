// Augmentation of samples whose colours stay as they are: values keep their order, channel after channel.
// Included by kernels_augment.h alone.
#pragma once

#include "cpu/kernels.h"
#include "cpu/lanes.h"

namespace pst::cpu {

// Where the window that a draw crops lies on the image: its columns [left, right) are inside.
struct Window {
  const AugmentJob& job;
  const AugmentDraws& draws;
  int64_t left, right;

  Window(const AugmentJob& job, const AugmentDraws& draws)
      : job(job),
        draws(draws),
        left(draws.left < 0 ? -draws.left : 0),
        right(draws.left > 0 ? job.width - draws.left : job.width) {}

  PST_INLINE_MEMBER bool inside(int64_t y) const {
    return y + draws.top >= 0 && y + draws.top < job.height && right > left;
  }
  // Of row y of the window on sample `row`, in the set's images.
  PST_INLINE_MEMBER int64_t first_pixel(int64_t row, int64_t y) const {
    return (row * job.height + y + draws.top) * job.width + left + draws.left;
  }
};

// Blocks of pixels, in which vectors of any size come out even.
constexpr int64_t kBlock = 16, kBlockValues = 3 * kBlock;

// A block's values, the last pixel first.
template <typename D>
PST_INLINE void reverse_block(const D* from, D* to) {
  for (int64_t i = 0; i < kBlock; ++i) memcpy(to + 3 * i, from + 3 * (kBlock - 1 - i), 3 * sizeof(D));
}

// Sixteen at once: those are within two loads.
PST_INLINE void reverse_block(const uint8_t* from, uint8_t* to) {
  store_bytes(__builtin_shuffle(load_bytes(from + 30), load_bytes(from + 32),
                                Bytes{15, 30, 31, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0}),
              to);
  store_bytes(__builtin_shuffle(load_bytes(from + 15), load_bytes(from + 17),
                                Bytes{30, 31, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1}),
              to + 16);
  store_bytes(__builtin_shuffle(load_bytes(from), load_bytes(from + 2),
                                Bytes{31, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2}),
              to + 32);
}

PST_INLINE void reverse_block(const int8_t* from, int8_t* to) {
  reverse_block(reinterpret_cast<const uint8_t*>(from), reinterpret_cast<uint8_t*>(to));
}

// The channels' constants, as they repeat over a block.
struct Constants {
  float mean[kBlockValues], scale[kBlockValues];

  explicit Constants(const AugmentJob& job) {
    for (int64_t i = 0; i < kBlockValues; ++i) {
      mean[i] = job.mean[i % 3];
      scale[i] = job.inverse_std[i % 3];
    }
  }
};

template <bool kHasDelta, typename D, typename T>
PST_INLINE void plain_block(const Constants& constants, const uint8_t* __restrict bytes,
                            const D* __restrict delta, float unit, T* __restrict out) {
  constexpr float kUnit = 1.0f / 255.0f;
  for (int64_t k = 0; k < kBlockValues; ++k) {
    float value = static_cast<float>(bytes[k]) * kUnit;
    if (kHasDelta) value = clamp01(value + static_cast<float>(delta[k]) * unit);
    narrow((value - constants.mean[k]) * constants.scale[k], out + k);
  }
}

// `pixels` of a row; the last block of them overlaps the one before, and less than a block is padded to one.
template <bool kMirror, bool kHasDelta, typename D, typename T>
static void plain_run(const Constants& constants, const uint8_t* bytes, const D* delta, float unit,
                      int64_t pixels, T* out) {
  if (pixels < kBlock) {
    uint8_t padded_bytes[kBlockValues] = {};
    D padded_delta[kBlockValues] = {};
    T padded_out[kBlockValues];
    const int64_t skipped = kMirror ? kBlockValues - 3 * pixels : 0;
    memcpy(padded_bytes + skipped, bytes, static_cast<size_t>(3 * pixels));
    if (kHasDelta) memcpy(padded_delta + skipped, delta, static_cast<size_t>(3 * pixels) * sizeof(D));
    plain_run<kMirror, kHasDelta>(constants, padded_bytes, padded_delta, unit, kBlock, padded_out);
    memcpy(out, padded_out, static_cast<size_t>(3 * pixels) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < pixels; i += kBlock) {
    const int64_t first = i + kBlock <= pixels ? i : pixels - kBlock;
    const int64_t from = 3 * (kMirror ? pixels - kBlock - first : first);
    if (kMirror) {
      uint8_t reversed_bytes[kBlockValues];
      D reversed_delta[kBlockValues];
      reverse_block(bytes + from, reversed_bytes);
      if (kHasDelta) reverse_block(delta + from, reversed_delta);
      plain_block<kHasDelta>(constants, reversed_bytes, reversed_delta, unit, out + 3 * first);
    } else {
      plain_block<kHasDelta>(constants, bytes + from, delta + (kHasDelta ? from : 0), unit, out + 3 * first);
    }
  }
}

template <bool kHasDelta, typename D, typename T>
static void plain_rows(const AugmentJob& job, const AugmentDraws& draws, int64_t row, float unit, T* out) {
  const Constants constants(job);
  const Window window(job, draws);
  const D* delta = static_cast<const D*>(job.delta);
  const int64_t left = draws.flip ? job.width - window.right : window.left,
                pixels = window.right - window.left;
  for (int64_t y = 0; y < job.height; ++y, out += 3 * job.width) {
    const int64_t inside = window.inside(y) ? pixels : 0, begin = inside ? left : job.width;
    const auto blank = [&](int64_t from, int64_t to) {
      for (int64_t x = from; x < to; ++x) {
        for (int64_t c = 0; c < 3; ++c) narrow((0.0f - job.mean[c]) * job.inverse_std[c], out + 3 * x + c);
      }
    };
    blank(0, begin);
    if (!inside) continue;
    blank(left + pixels, job.width);
    const int64_t first = 3 * window.first_pixel(row, y);
    const uint8_t* bytes = job.images + first;
    const D* change = kHasDelta ? delta + first : nullptr;
    if (draws.flip) {
      plain_run<true, kHasDelta>(constants, bytes, change, unit, pixels, out + 3 * left);
    } else {
      plain_run<false, kHasDelta>(constants, bytes, change, unit, pixels, out + 3 * left);
    }
  }
}

template <typename T>
static void plain_sample(const AugmentJob& job, const AugmentDraws& draws, int64_t row, T* out) {
  constexpr float kUnit = 1.0f / 255.0f;
  if (job.delta_kind == kFloatDelta) return plain_rows<true, float>(job, draws, row, 1.0f, out);
  if (job.delta_kind == kInt8Delta) return plain_rows<true, int8_t>(job, draws, row, kUnit, out);
  if (job.delta_kind == kInt16Delta) return plain_rows<true, int16_t>(job, draws, row, kUnit, out);
  plain_rows<false, int8_t>(job, draws, row, kUnit, out);
}

}  // namespace pst::cpu
