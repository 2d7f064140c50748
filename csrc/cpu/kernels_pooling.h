// Inner loops of grid_pool and class_channel_stats. Included by kernels.cpp alone.
#pragma once

#include "common/cells.h"
#include "cpu/kernels.h"
#include "cpu/lanes.h"

namespace pst::cpu {

template <typename T>
static float sum_run(const T* from, int64_t count) {
  constexpr int64_t kBlock = 8192;
  if (count > kBlock) {  // sums of sums, for the sake of rounding
    float sum = 0;
    for (; count > 0; from += kBlock, count -= kBlock) sum += sum_run(from, count < kBlock ? count : kBlock);
    return sum;
  }
  Lanes a = {}, b = {}, c = {}, d = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    a += load_lanes(from + i);
    b += load_lanes(from + i + kLanes);
    c += load_lanes(from + i + 2 * kLanes);
    d += load_lanes(from + i + 3 * kLanes);
  }
  for (; i + kLanes <= count; i += kLanes) a += load_lanes(from + i);
  float sum = sum_lanes((a + b) + (c + d));
  for (; i < count; ++i) sum += widen(from[i]);
  return sum;
}

// Sums of kVectors * kLanes columns over `rows` rows: vertical, so that narrow cells are vectorised too.
template <int kVectors, typename T>
PST_INLINE void add_columns(const T* from, int64_t width, int64_t rows, float* sums) {
  Lanes sum[kVectors] = {};
  for (int64_t row = 0; row < rows; ++row, from += width) {
#pragma GCC unroll 8
    for (int k = 0; k < kVectors; ++k) sum[k] += load_lanes(from + k * kLanes);
  }
#pragma GCC unroll 8
  for (int k = 0; k < kVectors; ++k) store_lanes(sum[k], sums + k * kLanes);
}

// The same of as many vectors as are said, at most kMost, in one pass; the columns that those are.
template <int kMost, typename T>
PST_INLINE int64_t add_vectors(const T* from, int64_t width, int64_t rows, int64_t vectors, float* sums) {
  if constexpr (kMost > 0) {
    if (vectors < kMost) return add_vectors<kMost - 1>(from, width, rows, vectors, sums);
    add_columns<kMost>(from, width, rows, sums);
  }
  return kMost * kLanes;
}

// Sums of columns [begin, end) over rows.
template <typename T>
static void sum_columns(const T* plane, int64_t width, int64_t row_begin, int64_t row_end, int64_t begin,
                        int64_t end, float* sums) {
  const T* from = plane + row_begin * width;
  const int64_t rows = row_end - row_begin;
  int64_t column = begin;
  for (; column + 8 * kLanes <= end; column += 8 * kLanes) {
    add_columns<8>(from + column, width, rows, sums + column - begin);
  }
  column += add_vectors<7>(from + column, width, rows, (end - column) / kLanes, sums + column - begin);
  for (; column < end; ++column) {
    float sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += widen(from[row * width + column]);
    sums[column - begin] = sum;
  }
}

template <typename T>
static void pool_plane(const PoolJob& job, const T* plane, float* cells) {
  constexpr int64_t kSpan = 512, kWide = 64;
  const int64_t width = job.width, grid = job.grid;
  float sums[kSpan];
  for (int64_t i = 0; i < grid; ++i) {
    const int64_t top = job.top(i), bottom = job.bottom(i);
    int64_t j = 0;
    while (j < grid) {
      const int64_t left = job.left(j), cell_width = job.right(j) - left;
      if (cell_width > kWide) {
        float sum = 0;
        for (int64_t row = top; row < bottom; ++row) sum += sum_run(plane + row * width + left, cell_width);
        cells[i * grid + j] = sum / static_cast<float>((bottom - top) * cell_width);
        ++j;
        continue;
      }
      int64_t stop = j + 1;
      while (stop < grid && job.right(stop) - left <= kSpan) ++stop;
      sum_columns(plane, width, top, bottom, left, job.right(stop - 1), sums);
      for (; j < stop; ++j) {
        float sum = 0;
        for (int64_t column = job.left(j); column < job.right(j); ++column) sum += sums[column - left];
        cells[i * grid + j] = sum / static_cast<float>((bottom - top) * (job.right(j) - job.left(j)));
      }
    }
  }
}

// Sums of kLanes runs of kCount values, a power of two: neighbours are added until each run is one value.
template <int kCount>
PST_INLINE Lanes add_runs(const float* from) {
  if constexpr (kCount == 1) {
    return load_lanes(from);
  } else {
    const Lanes a = add_runs<kCount / 2>(from), b = add_runs<kCount / 2>(from + kCount / 2 * kLanes);
    return __builtin_shuffle(a, b, LanesIndex{0, 2, 4, 6, 8, 10, 12, 14}) +
           __builtin_shuffle(a, b, LanesIndex{1, 3, 5, 7, 9, 11, 13, 15});
  }
}

constexpr int64_t kEvenSpan = 1024;

// Cells of kCell columns exactly, whole vectors in a row, at most kEvenSpan columns in all rows of cells.
// With kGrid the cells are square, kGrid in a row, and every loop has a length that the compiler knows.
template <int kCell, int kGrid, typename T>
static void pool_even_plane(const PoolJob& job, const T* __restrict plane, float* __restrict cells) {
  const int64_t grid = kGrid > 0 ? kGrid : job.grid, rows = kGrid > 0 ? kCell : job.height / grid;
  const int64_t width = kCell * grid, count = grid * grid, packed = count / kLanes * kLanes;
  const float inverse = 1.0f / static_cast<float>(rows * kCell);
  float sums[kEvenSpan];
  for (int64_t i = 0; i < grid; ++i) {
    for (int64_t column = 0; column < width; column += kLanes) {
      add_columns<1>(plane + i * rows * width + column, width, rows, sums + i * width + column);
    }
  }
  for (int64_t cell = 0; cell < packed; cell += kLanes) {
    store_lanes(add_runs<kCell>(sums + kCell * cell) * inverse, cells + cell);
  }
  for (int64_t cell = packed; cell < count; ++cell) {
    float sum = sums[kCell * cell];
    for (int k = 1; k < kCell; ++k) sum += sums[kCell * cell + k];
    cells[cell] = sum * inverse;
  }
}

template <int kCell, typename T>
static void pool_even_planes(const PoolJob& job, const T* features, float* pooled, int64_t begin,
                             int64_t end) {
  const int64_t pixels = job.height * job.width, cells = job.grid * job.grid;
  const bool is_usual = job.grid == 4 && job.height == job.width;
  for (int64_t plane = begin; plane < end; ++plane) {
    if (is_usual) {
      pool_even_plane<kCell, 4>(job, features + plane * pixels, pooled + plane * cells);
    } else {
      pool_even_plane<kCell, 0>(job, features + plane * pixels, pooled + plane * cells);
    }
  }
}

template <typename T>
static void pool_planes(PoolJob job, const void* features, float* pooled, int64_t begin, int64_t end) {
  const int64_t pixels = job.height * job.width, cells = job.grid * job.grid;
  const T* from = static_cast<const T*>(features);
  const bool even = job.height % job.grid == 0 && job.width % job.grid == 0;
  const bool is_short = even && job.width % kLanes == 0 && job.grid * job.width <= kEvenSpan;
  const int64_t cell_width = is_short ? job.width / job.grid : 0;
  if (pixels == cells && even) {
    for (int64_t i = begin * cells; i < end * cells; ++i) pooled[i] = widen(from[i]);
    return;
  }
  if (cell_width == 2) return pool_even_planes<2>(job, from, pooled, begin, end);
  if (cell_width == 4) return pool_even_planes<4>(job, from, pooled, begin, end);
  if (cell_width == 8) return pool_even_planes<8>(job, from, pooled, begin, end);
  for (int64_t plane = begin; plane < end; ++plane) {
    const T* at = from + plane * pixels;
    float* to = pooled + plane * cells;
    if (job.grid == 1) {
      *to = sum_run(at, pixels) / static_cast<float>(pixels);
    } else {
      pool_plane(job, at, to);
    }
  }
}

// Adds kVectors * kLanes channels of one row of a cell, and scales.
template <int kVectors, typename T>
PST_INLINE void add_pixels(const T* pixel, int64_t columns, int64_t channels, bool is_first, float scale,
                           float* to) {
  Lanes sums[kVectors] = {};
  for (int64_t column = 0; column < columns; ++column, pixel += channels) {
#pragma GCC unroll 8
    for (int k = 0; k < kVectors; ++k) sums[k] += load_lanes(pixel + k * kLanes);
  }
#pragma GCC unroll 8
  for (int k = 0; k < kVectors; ++k) {
    if (!is_first) sums[k] += load_lanes(to + k * kLanes);
    store_lanes(sums[k] * scale, to + k * kLanes);
  }
}

// Sums of one row of a cell over its columns, all channels; the last row's are scaled to means. Sums of sums:
// rounding grows with the sides, not with the area.
template <typename T>
PST_INLINE void add_cell_row(const T* pixel, int64_t columns, int64_t channels, bool is_first, float scale,
                             float* to) {
  int64_t channel = 0;
  for (; channel + 8 * kLanes <= channels; channel += 8 * kLanes) {
    add_pixels<8>(pixel + channel, columns, channels, is_first, scale, to + channel);
  }
  for (; channel + kLanes <= channels; channel += kLanes) {
    add_pixels<1>(pixel + channel, columns, channels, is_first, scale, to + channel);
  }
  for (; channel < channels; ++channel) {
    float sum = 0;
    for (int64_t column = 0; column < columns; ++column) sum += widen(pixel[column * channels + channel]);
    to[channel] = (is_first ? sum : to[channel] + sum) * scale;
  }
}

// [rows, columns] to [columns, rows].
static void transpose(const float* __restrict from, int64_t rows, int64_t columns, float* __restrict to) {
  int64_t row = 0;
  for (; row + kLanes <= rows; row += kLanes) {
    int64_t column = 0;
    for (; column + kLanes <= columns; column += kLanes) {
      Lanes lanes[kLanes];
#pragma GCC unroll 8
      for (int k = 0; k < kLanes; ++k) lanes[k] = load_lanes(from + (row + k) * columns + column);
      transpose_lanes(lanes);
#pragma GCC unroll 8
      for (int k = 0; k < kLanes; ++k) store_lanes(lanes[k], to + (column + k) * rows + row);
    }
    for (; column < columns; ++column) {
      for (int k = 0; k < kLanes; ++k) to[column * rows + row + k] = from[(row + k) * columns + column];
    }
  }
  for (; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column)
      to[column * rows + row] = from[row * columns + column];
  }
}

template <typename T>
static void pool_pixels(PoolJob job, const void* features, float* pooled, float* scratch, int64_t begin,
                        int64_t end) {
  const int64_t channels = job.channels, grid = job.grid, cells = grid * grid;
  const int64_t row_stride = job.width * channels;
  for (int64_t sample = begin; sample < end; ++sample) {
    const T* image = static_cast<const T*>(features) + sample * job.height * row_stride;
    float* out = pooled + sample * channels * cells;
    float* by_cell = grid == 1 ? out : scratch;  // [cells, channels]
    for (int64_t i = 0; i < grid; ++i) {         // row by row, so that memory is read in its order
      const int64_t rows = job.bottom(i) - job.top(i);
      for (int64_t row = 0; row < rows; ++row) {
        const T* pixels = image + (job.top(i) + row) * row_stride;
        for (int64_t j = 0; j < grid; ++j) {
          const int64_t columns = job.right(j) - job.left(j);
          const float scale = row + 1 < rows ? 1.0f : 1.0f / static_cast<float>(rows * columns);
          add_cell_row(pixels + job.left(j) * channels, columns, channels, row == 0, scale,
                       by_cell + (i * grid + j) * channels);
        }
      }
    }
    if (grid != 1) transpose(scratch, cells, channels, out);
  }
}

template <typename T>
static void unpool_planes(PoolJob job, const float* grad, void* features, int64_t begin, int64_t end) {
  constexpr int64_t kSpan = 512;
  const int64_t width = job.width, grid = job.grid;
  float row_grad[kSpan];
  for (int64_t plane = begin; plane < end; ++plane) {
    const float* cells = grad + plane * grid * grid;
    T* to = static_cast<T*>(features) + plane * job.height * width;
    int64_t previous_first = -1, previous_last = -1;
    for (int64_t row = 0; row < job.height; ++row) {
      const int64_t first = first_cell(row, grid, job.height), last = last_cell(row, grid, job.height);
      const bool same = first == previous_first && last == previous_last && width <= kSpan;
      for (int64_t base = 0; base < width; base += kSpan) {
        const int64_t stop = base + kSpan < width ? base + kSpan : width;
        if (!same) {
          for (int64_t k = 0; k < stop - base; ++k) row_grad[k] = 0;
          for (int64_t i = first; i <= last; ++i) {
            const int64_t rows = job.bottom(i) - job.top(i);
            for (int64_t j = first_cell(base, grid, width); j <= last_cell(stop - 1, grid, width); ++j) {
              const int64_t left = job.left(j), right = job.right(j);
              const float share = cells[i * grid + j] / static_cast<float>(rows * (right - left));
              const int64_t from = left > base ? left : base, until = right < stop ? right : stop;
              for (int64_t column = from; column < until; ++column) row_grad[column - base] += share;
            }
          }
        }
        T* at = to + row * width + base;
        for (int64_t k = 0; k < stop - base; ++k) narrow(row_grad[k], at + k);
      }
      previous_first = first;
      previous_last = last;
    }
  }
}

template <typename T>
static void unpool_pixels(PoolJob job, const float* grad, void* features, float* scratch, int64_t begin,
                          int64_t end) {
  const int64_t channels = job.channels, grid = job.grid, cells = grid * grid;
  float* pixel_grad = scratch + channels * cells;
  for (int64_t sample = begin; sample < end; ++sample) {
    transpose(grad + sample * channels * cells, channels, cells, scratch);  // [cells, channels]
    for (int64_t cell = 0; cell < cells; ++cell) {
      const int64_t i = cell / grid, j = cell % grid;
      const float area = static_cast<float>((job.bottom(i) - job.top(i)) * (job.right(j) - job.left(j)));
      float* to = scratch + cell * channels;
      for (int64_t channel = 0; channel < channels; ++channel) to[channel] /= area;
    }
    T* to = static_cast<T*>(features) + sample * job.height * job.width * channels;
    for (int64_t row = 0; row < job.height; ++row) {
      const int64_t top = first_cell(row, grid, job.height), bottom = last_cell(row, grid, job.height);
      for (int64_t column = 0; column < job.width; ++column, to += channels) {
        const int64_t left = first_cell(column, grid, job.width), right = last_cell(column, grid, job.width);
        const float* from = scratch + (top * grid + left) * channels;
        if (top == bottom && left == right) {
          for (int64_t channel = 0; channel < channels; ++channel) narrow(from[channel], to + channel);
          continue;
        }
        for (int64_t channel = 0; channel < channels; ++channel) pixel_grad[channel] = 0;
        for (int64_t i = top; i <= bottom; ++i) {
          for (int64_t j = left; j <= right; ++j) {
            const float* cell = scratch + (i * grid + j) * channels;
            for (int64_t channel = 0; channel < channels; ++channel) pixel_grad[channel] += cell[channel];
          }
        }
        for (int64_t channel = 0; channel < channels; ++channel) narrow(pixel_grad[channel], to + channel);
      }
    }
  }
}

// Welford's recurrence on what exceeds the first sample (so that a large offset costs no digits), one row of
// samples after the other: the order is the rows', whatever the threads.
static void moments(const float* pooled, int64_t stride, int64_t columns, const int64_t* rows, int64_t count,
                    float* mean_out, float* m2_out) {
  float origin[kMomentColumns] = {}, mean[kMomentColumns] = {}, m2[kMomentColumns] = {};
  for (int64_t column = 0; column < columns && count > 0; ++column) {
    origin[column] = pooled[rows[0] * stride + column];
  }
  for (int64_t k = 1; k < count; ++k) {
    const float* __restrict x = pooled + rows[k] * stride;
    const float inverse = 1.0f / static_cast<float>(k + 1);
    if (k + 1 < count) {  // rows of a class lie apart, where no processor looks ahead by itself
      const float* next = pooled + rows[k + 1] * stride;
      for (int64_t column = 0; column < columns; column += 16) __builtin_prefetch(next + column);
    }
    for (int64_t column = 0; column < columns; ++column) {
      const float shifted = x[column] - origin[column];
      const float before = shifted - mean[column];
      const float updated = mean[column] + before * inverse;
      mean[column] = updated;
      m2[column] += before * (shifted - updated);
    }
  }
  for (int64_t column = 0; column < columns; ++column) {
    mean_out[column] = origin[column] + mean[column];
    m2_out[column] = m2[column];
  }
}

static void moments_backward(const float* pooled, const float* mean, const float* grad_mean,
                             const float* grad_m2, float inverse_count, int64_t columns,
                             float* __restrict grad) {
  for (int64_t column = 0; column < columns; ++column) {
    grad[column] =
        grad_mean[column] * inverse_count + 2.0f * (pooled[column] - mean[column]) * grad_m2[column];
  }
}

}  // namespace pst::cpu
