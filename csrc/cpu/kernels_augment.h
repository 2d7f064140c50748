// Inner loops of the augmentation: tiles of a few rows, one array a channel. Included by kernels.cpp alone.
#pragma once

#include "common/colour.h"
#include "cpu/kernels.h"
#include "cpu/kernels_plain.h"

namespace pst::cpu {

struct Tile {
  float *red, *green, *blue;
  int64_t count;
  PST_INLINE_MEMBER Pixel at(int64_t i) const { return {red[i], green[i], blue[i]}; }
};

// Source pixels [0, count) to channels; mirrored, the last source pixel comes first.
template <bool kMirror>
static void split_bytes(const uint8_t* __restrict from, int64_t count, float* __restrict red,
                        float* __restrict green, float* __restrict blue) {
  constexpr float kUnit = 1.0f / 255.0f;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t to = kMirror ? count - 1 - i : i;
    red[to] = static_cast<float>(from[3 * i]) * kUnit;
    green[to] = static_cast<float>(from[3 * i + 1]) * kUnit;
    blue[to] = static_cast<float>(from[3 * i + 2]) * kUnit;
  }
}

template <bool kMirror, typename D>
static void add_delta(const D* __restrict from, float unit, int64_t count, float* __restrict red,
                      float* __restrict green, float* __restrict blue) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t to = kMirror ? count - 1 - i : i;
    red[to] = clamp01(red[to] + static_cast<float>(from[3 * i]) * unit);
    green[to] = clamp01(green[to] + static_cast<float>(from[3 * i + 1]) * unit);
    blue[to] = clamp01(blue[to] + static_cast<float>(from[3 * i + 2]) * unit);
  }
}

template <bool kMirror>
static void load_run(const AugmentJob& job, int64_t first_pixel, int64_t count, const Tile& tile,
                     int64_t to) {
  float *red = tile.red + to, *green = tile.green + to, *blue = tile.blue + to;
  split_bytes<kMirror>(job.images + 3 * first_pixel, count, red, green, blue);
  constexpr float kUnit = 1.0f / 255.0f;
  if (job.delta_kind == kFloatDelta) {
    add_delta<kMirror>(static_cast<const float*>(job.delta) + 3 * first_pixel, 1.0f, count, red, green, blue);
  } else if (job.delta_kind == kInt8Delta) {
    add_delta<kMirror>(static_cast<const int8_t*>(job.delta) + 3 * first_pixel, kUnit, count, red, green,
                       blue);
  } else if (job.delta_kind == kInt16Delta) {
    add_delta<kMirror>(static_cast<const int16_t*>(job.delta) + 3 * first_pixel, kUnit, count, red, green,
                       blue);
  }
}

// Rows [begin, begin + rows) of the window on sample `row`.
static void load_tile(const AugmentJob& job, const AugmentDraws& draws, int64_t row, int64_t begin,
                      int64_t rows, Tile* tile) {
  const int64_t width = job.width;
  const Window window(job, draws);
  tile->count = rows * width;
  for (int64_t y = 0; y < rows; ++y) {
    const int64_t to = y * width, pixels = window.right - window.left;
    const bool inside = window.inside(begin + y);
    if (!inside || pixels < width) {
      for (int64_t x = to; x < to + width; ++x) tile->red[x] = tile->green[x] = tile->blue[x] = 0;
    }
    if (!inside) continue;
    const int64_t first = window.first_pixel(row, begin + y);
    if (draws.flip) {
      load_run<true>(job, first, pixels, *tile, to + width - window.right);
    } else {
      load_run<false>(job, first, pixels, *tile, to + window.left);
    }
  }
}

template <typename F>
PST_INLINE void map_tile(const Tile& tile, F&& adjust) {
  float* __restrict red = tile.red, * __restrict green = tile.green, * __restrict blue = tile.blue;
  for (int64_t i = 0; i < tile.count; ++i) {
    const Pixel p = adjust(Pixel{red[i], green[i], blue[i]});
    red[i] = p.red;
    green[i] = p.green;
    blue[i] = p.blue;
  }
}

static void adjust_tile(const Tile& tile, int kind, float factor, float mean) {
  if (kind == kBrightness) {
    map_tile(tile, [=](Pixel p) __attribute__((always_inline)) { return brightness(p, factor); });
  } else if (kind == kContrast) {
    map_tile(tile, [=](Pixel p) __attribute__((always_inline)) { return blend(p, factor, mean); });
  } else if (kind == kSaturation) {
    map_tile(tile, [=](Pixel p) __attribute__((always_inline)) { return blend(p, factor, grey(p)); });
  } else {
    map_tile(tile, [=](Pixel p) __attribute__((always_inline)) { return turn_hue(p, factor); });
  }
}

static double sum_grey(const Tile& tile) {
  constexpr int kParts = 16;
  float parts[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= tile.count; i += kParts) {
    for (int k = 0; k < kParts; ++k) parts[k] += grey(tile.at(i + k));
  }
  for (; i < tile.count; ++i) parts[0] += grey(tile.at(i));
  double sum = 0;
  for (int k = 0; k < kParts; ++k) sum += parts[k];
  return sum;
}

template <typename T>
static void store_tile(const AugmentJob& job, const Tile& tile, T* __restrict out) {
  const float* __restrict red = tile.red, * __restrict green = tile.green, * __restrict blue = tile.blue;
  const float mean[3] = {job.mean[0], job.mean[1], job.mean[2]};
  const float scale[3] = {job.inverse_std[0], job.inverse_std[1], job.inverse_std[2]};
  for (int64_t i = 0; i < tile.count; ++i) {
    narrow((red[i] - mean[0]) * scale[0], out + 3 * i);
    narrow((green[i] - mean[1]) * scale[1], out + 3 * i + 1);
    narrow((blue[i] - mean[2]) * scale[2], out + 3 * i + 2);
  }
}

template <typename T>
static void augment_sample(const AugmentJob& job, const AugmentDraws& draws, int64_t row, void* out,
                           float* scratch) {
  const int64_t tile_rows = job.tile_rows(), stride = tile_rows * job.width;
  Tile tile{scratch, scratch + stride, scratch + 2 * stride, 0};
  int kinds[4], count = 0, before_contrast = -1;
  for (int slot = 0; slot < 4 && draws.jitter; ++slot) {
    const int kind = draws.order[slot];
    if (!job.settings.enabled[kind]) continue;
    if (kind == kContrast) before_contrast = count;
    kinds[count++] = kind;
  }
  if (count == 0 && !draws.grey) return plain_sample(job, draws, row, static_cast<T*>(out));
  // Contrast needs the image's mean as it is just before: known at once where one tile holds the image,
  // from a pass of its own otherwise.
  const bool whole = tile_rows == job.height;
  const double pixels = static_cast<double>(job.height * job.width);
  float mean = 0;
  if (before_contrast >= 0 && !whole) {
    double sum = 0;
    for (int64_t y = 0; y < job.height; y += tile_rows) {
      const int64_t rows = y + tile_rows < job.height ? tile_rows : job.height - y;
      load_tile(job, draws, row, y, rows, &tile);
      for (int k = 0; k < before_contrast; ++k) adjust_tile(tile, kinds[k], draws.factor[kinds[k]], 0);
      sum += sum_grey(tile);
    }
    mean = static_cast<float>(sum / pixels);
  }
  for (int64_t y = 0; y < job.height; y += tile_rows) {
    const int64_t rows = y + tile_rows < job.height ? tile_rows : job.height - y;
    load_tile(job, draws, row, y, rows, &tile);
    for (int k = 0; k < count; ++k) {
      if (whole && k == before_contrast) mean = static_cast<float>(sum_grey(tile) / pixels);
      adjust_tile(tile, kinds[k], draws.factor[kinds[k]], mean);
    }
    if (draws.grey) {
      map_tile(tile, [](Pixel p) __attribute__((always_inline)) {
        const float value = grey(p);
        return Pixel{value, value, value};
      });
    }
    store_tile(job, tile, static_cast<T*>(out) + 3 * y * job.width);
  }
}

}  // namespace pst::cpu
