// Inner loop of class_pixel_sums. Included by kernels.cpp alone.
#pragma once

#include "cpu/kernels.h"

namespace pst::cpu {

// Exact: 32-bit sums of so many products of two bytes cannot overflow; then they are added up in 64 bits.
static void pixel_sums(const uint8_t* images, int64_t stride, int64_t pixels, const int64_t* rows,
                       int64_t count, int64_t* sums, int64_t* products) {
  constexpr int64_t kSamples = 65536, kBytes = 3 * kSumPixels;
  const int64_t bytes = 3 * pixels;
  for (int64_t i = 0; i < 3 * pixels; ++i) sums[i] = 0;
  for (int64_t i = 0; i < 6 * pixels; ++i) products[i] = 0;
  uint8_t line[kBytes + 2] = {};  // two more, so that the last byte has neighbours too
  for (int64_t start = 0; start < count; start += kSamples) {
    const int64_t stop = start + kSamples < count ? start + kSamples : count;
    // Each byte by itself, squared, times the next and times the one after it: of the latter two a pixel
    // needs red by green, green by blue and red by blue. The others are waste that costs less than sorting.
    uint32_t one[kBytes] = {}, square[kBytes] = {}, next[kBytes] = {}, second[kBytes] = {};
    for (int64_t k = start; k < stop; ++k) {
      memcpy(line, images + rows[k] * stride, static_cast<size_t>(bytes));
      if (k + 1 < stop) {
        const uint8_t* ahead = images + rows[k + 1] * stride;
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(ahead + i);
      }
      for (int64_t i = 0; i < bytes; ++i) {
        const uint32_t x = line[i];
        one[i] += x;
        square[i] += x * x;
        next[i] += x * line[i + 1];
        second[i] += x * line[i + 2];
      }
    }
    for (int64_t i = 0; i < bytes; ++i) sums[i] += one[i];
    for (int64_t p = 0; p < pixels; ++p) {
      int64_t* to = products + 6 * p;
      const int64_t red = 3 * p, green = red + 1, blue = red + 2;
      to[0] += square[red];
      to[1] += next[red];
      to[2] += second[red];
      to[3] += square[green];
      to[4] += next[green];
      to[5] += square[blue];
    }
  }
}

}  // namespace pst::cpu
