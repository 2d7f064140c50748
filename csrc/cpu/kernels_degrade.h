// Inner loops of `degrade`, a sample at a time. Included by kernels.cpp alone.
#pragma once

#include "common/jpeg.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"

namespace pst::cpu {

typedef int32_t LanesInt __attribute__((vector_size(32)));
typedef int16_t LanesShort __attribute__((vector_size(16)));

// A plane of whole 8x8 blocks.
struct Plane {
  int16_t* data;
  int64_t width, height;
  PST_INLINE_MEMBER int16_t* row(int64_t y) const { return data + y * width; }
};

struct JpegTable {
  int32_t step[64];
  float inverse[64];  // of eight times the step: the transform's scale

  PST_INLINE_MEMBER JpegTable(int is_chroma, int quality) {
    for (int i = 0; i < 64; ++i) {
      step[i] = jpeg_step(is_chroma, i, quality);
      inverse[i] = 0.125f / static_cast<float>(step[i]);
    }
  }
};

PST_INLINE void transpose_ints(LanesInt* v) {
  Lanes lanes[8];  // by value: one array read as both types would be undefined
  for (int i = 0; i < 8; ++i) lanes[i] = reinterpret_cast<Lanes>(v[i]);
  transpose_lanes(lanes);
  for (int i = 0; i < 8; ++i) v[i] = reinterpret_cast<LanesInt>(lanes[i]);
}

// |c| / (8 step), rounded half up, with c's sign, times the step. The quotient is exact: a half is added
// to a whole number, and so it stays further from the next whole number than the product's rounding.
PST_INLINE LanesInt requantise(LanesInt c, const int32_t* step, const float* inverse) {
  LanesInt q;
  Lanes by;
  memcpy(&q, step, sizeof q);
  memcpy(&by, inverse, sizeof by);
  const LanesInt sign = c >> 31;
  const LanesInt magnitude = ((c ^ sign) - sign) + 4 * q;
  const LanesInt level =
      __builtin_convertvector((__builtin_convertvector(magnitude, Lanes) + 0.5f) * by, LanesInt);
  return ((level ^ sign) - sign) * q;
}

static void code_plane(const Plane& plane, const JpegTable& table) {
  for (int64_t y = 0; y < plane.height; y += 8) {
    for (int64_t x = 0; x < plane.width; x += 8) {
      LanesInt v[8];
      for (int i = 0; i < 8; ++i) {
        LanesShort row;
        memcpy(&row, plane.row(y + i) + x, sizeof row);
        v[i] = __builtin_convertvector(row, LanesInt) - 128;
      }
      transpose_ints(v);
      jpeg_forward<false>(v);
      transpose_ints(v);
      jpeg_forward<true>(v);
      for (int i = 0; i < 8; ++i) v[i] = requantise(v[i], table.step + 8 * i, table.inverse + 8 * i);
      jpeg_inverse<false>(v);
      transpose_ints(v);
      jpeg_inverse<true>(v);
      transpose_ints(v);
      for (int i = 0; i < 8; ++i) {
        LanesInt level = v[i] + 128;
        level &= ~(level >> 31);
        const LanesInt over = level > 255;
        level = (over & 255) | (~over & level);
        const LanesShort row = __builtin_convertvector(level, LanesShort);
        memcpy(plane.row(y + i) + x, &row, sizeof row);
      }
    }
  }
}

// Repeats a row's last value up to `width`.
PST_INLINE void extend_row(int16_t* row, int64_t from, int64_t width) {
  for (int64_t x = from; x < width; ++x) row[x] = row[from - 1];
}

static void extend_rows(const Plane& plane, int64_t from) {
  for (int64_t y = from; y < plane.height; ++y) {
    memcpy(plane.row(y), plane.row(from - 1), static_cast<size_t>(plane.width) * sizeof(int16_t));
  }
}

static void split_row(const uint8_t* __restrict from, int64_t width, int16_t* __restrict luma,
                      int16_t* __restrict cb, int16_t* __restrict cr) {
  for (int64_t x = 0; x < width; ++x) {
    const int32_t red = from[3 * x], green = from[3 * x + 1], blue = from[3 * x + 2];
    luma[x] = static_cast<int16_t>(jpeg_luma(red, green, blue));
    cb[x] = static_cast<int16_t>(jpeg_cb(red, green, blue));
    cr[x] = static_cast<int16_t>(jpeg_cr(red, green, blue));
  }
}

// Means of 2x2 values, the halves rounded down in even columns and up in odd ones.
static void halve_row(const int16_t* __restrict top, const int16_t* __restrict bottom, int64_t width,
                      int16_t* __restrict to) {
  for (int64_t x = 0; x < width; ++x) {
    const int32_t sum = top[2 * x] + top[2 * x + 1] + bottom[2 * x] + bottom[2 * x + 1];
    to[x] = static_cast<int16_t>((sum + 1 + static_cast<int32_t>(x & 1)) >> 2);
  }
}

// `width` values, to twice as many.
static void double_row(const int16_t* __restrict near, const int16_t* __restrict far, int64_t width,
                       int16_t* __restrict to) {
  if (width <= 2) {  // as libjpeg: repeated, in both directions
    for (int64_t x = 0; x < width; ++x) to[2 * x] = to[2 * x + 1] = near[x];
    return;
  }
  const int64_t last = width - 1;
  for (int64_t x = 1; x < last; ++x) {
    to[2 * x] = static_cast<int16_t>(jpeg_triangle(near[x], far[x], near[x - 1], far[x - 1], false));
    to[2 * x + 1] = static_cast<int16_t>(jpeg_triangle(near[x], far[x], near[x + 1], far[x + 1], true));
  }
  to[0] = static_cast<int16_t>(jpeg_triangle(near[0], far[0], near[0], far[0], false));
  to[1] = static_cast<int16_t>(jpeg_triangle(near[0], far[0], near[1], far[1], true));
  to[2 * last] =
      static_cast<int16_t>(jpeg_triangle(near[last], far[last], near[last - 1], far[last - 1], false));
  to[2 * last + 1] = static_cast<int16_t>(jpeg_triangle(near[last], far[last], near[last], far[last], true));
}

static void join_row(const int16_t* __restrict luma, const int16_t* __restrict cb,
                     const int16_t* __restrict cr, int64_t width, uint8_t* __restrict to) {
  for (int64_t x = 0; x < width; ++x) jpeg_rgb(luma[x], cb[x], cr[x], to + 3 * x);
}

static void view_jpeg(const DegradeJob& job, const View& view, const uint8_t* from, uint8_t* to,
                      char* scratch) {
  const int64_t height = job.height, width = job.width;
  const bool is_full = view.b != 0;
  const int64_t rows = whole_blocks(height), columns = whole_blocks(width);
  const int64_t half_height = (height + 1) / 2, half_width = (width + 1) / 2;
  const Plane luma{reinterpret_cast<int16_t*>(scratch), columns, rows};
  Plane chroma[2];
  const int64_t chroma_width = is_full ? columns : whole_blocks(half_width);
  const int64_t chroma_height = is_full ? rows : whole_blocks(half_height);
  chroma[0] = {luma.data + rows * columns, chroma_width, chroma_height};
  chroma[1] = {chroma[0].data + chroma_width * chroma_height, chroma_width, chroma_height};
  // Two rows of each chroma channel, as wide as the blocks of half the width need.
  const int64_t line = 2 * whole_blocks(half_width);
  int16_t* lines = chroma[1].data + chroma_width * chroma_height;
  const auto line_of = [=](int64_t channel, int64_t y)
                           __attribute__((always_inline)) { return lines + (2 * channel + (y & 1)) * line; };

  for (int64_t y = 0; y < height; ++y) {
    int16_t* cb = is_full ? chroma[0].row(y) : line_of(0, y);
    int16_t* cr = is_full ? chroma[1].row(y) : line_of(1, y);
    split_row(from + 3 * y * width, width, luma.row(y), cb, cr);
    extend_row(luma.row(y), width, columns);
    extend_row(cb, width, is_full ? columns : line);
    extend_row(cr, width, is_full ? columns : line);
    if (is_full || (y % 2 == 0 && y + 1 < height)) continue;
    for (int64_t c = 0; c < 2; ++c) {
      halve_row(line_of(c, y & ~int64_t{1}), line_of(c, y), chroma_width, chroma[c].row(y / 2));
    }
  }
  extend_rows(luma, height);
  code_plane(luma, JpegTable(0, view.a));
  const JpegTable table(1, view.a);
  for (const Plane& plane : chroma) {
    extend_rows(plane, is_full ? height : half_height);
    code_plane(plane, table);
  }

  for (int64_t y = 0; y < height; ++y) {
    const int16_t* values[2];
    for (int64_t c = 0; c < 2; ++c) {
      values[c] = chroma[c].row(is_full ? y : y / 2);
      if (is_full) continue;
      const int64_t far = y % 2 == 0 ? y / 2 - 1 : y / 2 + 1;
      const int64_t held = far < 0 ? 0 : (far < half_height ? far : half_height - 1);
      double_row(values[c], chroma[c].row(held), half_width, line_of(c, 0));
      values[c] = line_of(c, 0);
    }
    join_row(luma.row(y), values[0], values[1], width, to + 3 * y * width);
  }
}

// The image with `radius` mirrored pixels on each side.
static void pad_mirrored(const DegradeJob& job, const uint8_t* from, int64_t radius, uint8_t* to) {
  const int64_t width = job.width, stride = 3 * (width + 2 * radius);
  int64_t before[kMaxRadius], after[kMaxRadius];  // where the columns beyond the edges are, found once
  for (int64_t x = 0; x < radius; ++x) {
    before[x] = 3 * mirror(x - radius, width);
    after[x] = 3 * mirror(width + x, width);
  }
  for (int64_t y = -radius; y < job.height + radius; ++y, to += stride) {
    const uint8_t* row = from + 3 * width * mirror(y, job.height);
    memcpy(to + 3 * radius, row, static_cast<size_t>(3 * width));
    for (int64_t x = 0; x < radius; ++x) {
      memcpy(to + 3 * x, row + before[x], 3);
      memcpy(to + 3 * (radius + width + x), row + after[x], 3);
    }
  }
}

static void view_median(const DegradeJob& job, const uint8_t* from, uint8_t* to, char* scratch) {
  uint8_t* padded = reinterpret_cast<uint8_t*>(scratch);
  pad_mirrored(job, from, 1, padded);
  const int64_t count = 3 * job.width, stride = count + 6;
  for (int64_t y = 0; y < job.height; ++y) {
    const uint8_t* __restrict row = padded + y * stride;
    uint8_t* __restrict out = to + y * count;
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t *middle = row + stride, *last = middle + stride;
      uint8_t p[9] = {row[i],        row[i + 3], row[i + 6],  middle[i],  middle[i + 3],
                      middle[i + 6], last[i],    last[i + 3], last[i + 6]};
      out[i] = median_of_nine(p);
    }
  }
}

// The window's weighted sums of some vectors: `step` floats lie between what two neighbouring taps weigh.
template <int kVectors>
PST_INLINE void weigh(const View& view, const float* from, int64_t step, float* to) {
  Lanes sums[kVectors] = {};
  for (int64_t k = -view.radius; k <= view.radius; ++k, from += step) {
    const float tap = view.taps[k < 0 ? -k : k];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] += tap * load_lanes(from + v * kLanes);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store_lanes(sums[v], to + v * kLanes);
}

static void weigh_row(const View& view, const float* from, int64_t step, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) weigh<4>(view, from + i, step, to + i);
  for (; i + kLanes <= count; i += kLanes) weigh<1>(view, from + i, step, to + i);
  for (; i < count; ++i) {
    float sum = 0;
    for (int64_t k = -view.radius; k <= view.radius; ++k) {
      sum += view.taps[k < 0 ? -k : k] * from[i + (k + view.radius) * step];
    }
    to[i] = sum;
  }
}

static void view_blur(const DegradeJob& job, const View& view, const uint8_t* from, uint8_t* to,
                      char* scratch) {
  const int64_t count = 3 * job.width, radius = view.radius, stride = count + 6 * radius;
  const int64_t rows = job.height + 2 * radius;
  float *sums = reinterpret_cast<float*>(scratch), *line = sums + rows * count;
  uint8_t* padded = reinterpret_cast<uint8_t*>(line + stride);
  pad_mirrored(job, from, radius, padded);
  for (int64_t y = 0; y < rows; ++y) {
    for (int64_t i = 0; i < stride; ++i) line[i] = static_cast<float>(padded[y * stride + i]);
    weigh_row(view, line, 3, count, sums + y * count);
  }
  for (int64_t y = 0; y < job.height; ++y) {
    weigh_row(view, sums + y * count, count, count, line);
    for (int64_t i = 0; i < count; ++i) to[y * count + i] = round_byte(line[i]);
  }
}

// Means of the cells, `rows` x `columns` of three channels; sums has room for three channels of a row of
// pixels.
static void mean_cells(const DegradeJob& job, const uint8_t* from, int64_t rows, int64_t columns,
                       int32_t* __restrict bounds, int32_t* __restrict sums, float* __restrict cells) {
  const int64_t height = job.height, width = job.width;
  for (int64_t j = 0; j < columns; ++j) {
    bounds[2 * j] = static_cast<int32_t>(3 * cell_start(j, columns, width));
    bounds[2 * j + 1] = static_cast<int32_t>(3 * cell_end(j, columns, width));
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t top = cell_start(i, rows, height), bottom = cell_end(i, rows, height);
    for (int64_t x = 0; x < 3 * width; ++x) sums[x] = 0;
    for (int64_t y = top; y < bottom; ++y) {
      const uint8_t* __restrict row = from + 3 * y * width;
      for (int64_t x = 0; x < 3 * width; ++x) sums[x] += row[x];
    }
    for (int64_t j = 0; j < columns; ++j, cells += 3) {
      const int32_t left = bounds[2 * j], right = bounds[2 * j + 1];
      const float inverse = 1.0f / static_cast<float>((bottom - top) * ((right - left) / 3));
      int32_t sum[3] = {};
      for (int32_t x = left; x < right; x += 3) {
        for (int64_t c = 0; c < 3; ++c) sum[c] += sums[x + c];
      }
      for (int64_t c = 0; c < 3; ++c) cells[c] = static_cast<float>(sum[c]) * inverse;
    }
  }
}

static void view_down_up(const DegradeJob& job, const View& view, const uint8_t* from, uint8_t* to,
                         char* scratch) {
  const int64_t height = job.height, width = job.width, count = 3 * width;
  const int64_t rows = down_cells(height, view.a), columns = down_cells(width, view.a);
  // A pixel's neighbours are copied in four floats, of which the last is the next pixel's: hence one more.
  float* cells = reinterpret_cast<float*>(scratch);
  float *line = cells + 3 * rows * columns, *left = line + 3 * columns + 1, *right = left + count + 1;
  float* share = right + count + 1;
  int32_t *place = reinterpret_cast<int32_t*>(share + count), *bounds = place + 2 * width;
  mean_cells(job, from, rows, columns, bounds, bounds + 2 * columns, cells);
  for (int64_t x = 0; x < width; ++x) {
    const Between column = between_cells(x, width, columns);
    place[2 * x] = static_cast<int32_t>(3 * column.first);
    place[2 * x + 1] = static_cast<int32_t>(3 * column.second);
    for (int64_t c = 0; c < 3; ++c) share[3 * x + c] = column.share;
  }
  line[3 * columns] = 0;
  for (int64_t y = 0; y < height; ++y) {
    const Between row = between_cells(y, height, rows);
    const float *top = cells + 3 * row.first * columns, *bottom = cells + 3 * row.second * columns;
    for (int64_t j = 0; j < 3 * columns; ++j) line[j] = between(top[j], bottom[j], row.share);
    for (int64_t x = 0; x < width; ++x) {
      memcpy(left + 3 * x, line + place[2 * x], 4 * sizeof(float));
      memcpy(right + 3 * x, line + place[2 * x + 1], 4 * sizeof(float));
    }
    uint8_t* __restrict out = to + y * count;
    for (int64_t i = 0; i < count; ++i) out[i] = round_byte(between(left[i], right[i], share[i]));
  }
}

static void view_bits(const View& view, const uint8_t* __restrict from, int64_t count,
                      uint8_t* __restrict to) {
  const int32_t levels = view.a;
  for (int64_t i = 0; i < count; ++i) to[i] = quantise(from[i], levels);
}

static void view_erase(const DegradeJob& job, const ViewDraw& draw, uint8_t* to) {
  for (int64_t y = draw.top; y < draw.top + draw.side; ++y) {
    memset(to + 3 * (y * job.width + draw.left), 128, static_cast<size_t>(3 * draw.side));
  }
}

static void grey_pixels(const uint8_t* __restrict from, int64_t pixels, uint8_t* __restrict to) {
  for (int64_t i = 0; i < pixels; ++i) {
    const int32_t red = from[3 * i], green = from[3 * i + 1], blue = from[3 * i + 2];
    to[3 * i] = to[3 * i + 1] = to[3 * i + 2] = static_cast<uint8_t>(jpeg_luma(red, green, blue));
  }
}

static void degrade_sample(const DegradeJob& job, const ViewDraw& draw, int64_t row, uint8_t* to,
                           char* scratch) {
  const int64_t pixels = job.height * job.width;
  const View& view = job.views.view[draw.view];
  const uint8_t* from = job.images + 3 * pixels * row;
  const bool is_local = view.kind == kRaw || view.kind == kErase;
  if (view.grey) {
    uint8_t* greyed = is_local ? to : reinterpret_cast<uint8_t*>(scratch + job.scratch_bytes() - 3 * pixels);
    grey_pixels(from, pixels, greyed);
    from = greyed;
  } else if (is_local) {
    memcpy(to, from, static_cast<size_t>(3 * pixels));
  }
  switch (view.kind) {
    case kJpeg:
      return view_jpeg(job, view, from, to, scratch);
    case kBlur:
      return view_blur(job, view, from, to, scratch);
    case kMedian:
      return view_median(job, from, to, scratch);
    case kDownUp:
      return view_down_up(job, view, from, to, scratch);
    case kBits:
      return view_bits(view, from, 3 * pixels, to);
    case kErase:
      return view_erase(job, draw, to);
    default:
      return;
  }
}

}  // namespace pst::cpu
