// Inner loops of ar_perturbation. Included by kernels.cpp alone.
#pragma once

#include "cpu/kernels.h"
#include "cpu/lanes.h"

namespace pst::cpu {

// Eight planes side by side: within one, every value waits for the one before.
static void ar_planes(const ArJob& job, const ArPlane* planes, int64_t count, float* scratch) {
  constexpr int64_t n = kLanes;
  const int64_t height = job.height + job.crop, width = job.width + job.crop;
  float* left = scratch;  // [height, 2, 8]
  float* above2 = left + 2 * n * height;
  float* above1 = above2 + n * width;
  float* row = above1 + n * width;  // [width, 8] each

  uint64_t samples[n];
  uint32_t channels[n];
  for (int64_t l = 0; l < n; ++l) {
    samples[l] = planes[l < count ? l : 0].sample;
    channels[l] = planes[l < count ? l : 0].channel;
  }
  for (int64_t k = 0; k < (height > width ? height : width); ++k) {
    float normals[4][n];
    for (int64_t l = 0; l < n; ++l) {
      const Normals drawn = start_noise(job.seed, samples[l], static_cast<uint32_t>(k), channels[l]);
      normals[0][l] = drawn.top[0];
      normals[1][l] = drawn.top[1];
      normals[2][l] = drawn.left[0];
      normals[3][l] = drawn.left[1];
    }
    if (k < width) {
      memcpy(above2 + n * k, normals[0], sizeof normals[0]);
      memcpy(above1 + n * k, normals[1], sizeof normals[1]);
    }
    if (k < height) memcpy(left + 2 * n * k, normals[2], 2 * sizeof normals[2]);
  }

  Lanes taps[8];
  for (int t = 0; t < 8; ++t) {
    for (int64_t l = 0; l < n; ++l) taps[t][l] = planes[l < count ? l : 0].taps[t];
  }
  for (int64_t y = 0; y < height; ++y) {
    const float* done = y == 0 ? above2 : above1;
    if (y >= 2) {
      for (int64_t x = 0; x < 2 && x < width; ++x) {
        memcpy(row + n * x, left + n * (2 * y + x), n * sizeof(float));
      }
      Lanes before2 = load_lanes(row), before = width > 1 ? load_lanes(row + n) : before2;
      for (int64_t x = 2; x < width; ++x) {
        const float *up2 = above2 + n * (x - 2), *up1 = above1 + n * (x - 2);
        // What waits for the values just made comes last.
        Lanes sum = taps[0] * load_lanes(up2) + taps[1] * load_lanes(up2 + n);
        sum += taps[2] * load_lanes(up2 + 2 * n);
        sum += taps[3] * load_lanes(up1);
        sum += taps[4] * load_lanes(up1 + n);
        sum += taps[5] * load_lanes(up1 + 2 * n);
        sum += taps[6] * before2;
        before2 = before;
        before = sum + taps[7] * before;
        store_lanes(before, row + n * x);
      }
      float* oldest = above2;
      above2 = above1;
      above1 = row;
      row = oldest;
      done = above1;
    }
    if (y < job.crop) continue;
    for (int64_t l = 0; l < count; ++l) {
      float* to = planes[l].out + (y - job.crop) * job.width * job.channels;
      const float* from = done + n * job.crop + l;
      for (int64_t x = 0; x < job.width; ++x) to[x * job.channels] = from[x * n];
    }
  }
}

// Sums in double, where the square of no float overflows.
static double square_sum(const float* values, int64_t count) {
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const double value = values[i + l];
      sums[l] += value * value;
    }
  }
  for (; i < count; ++i) sums[i % kLanes] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  double sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += sums[l];
  return sum;
}

static void scale_by(float* values, int64_t count, double factor) {
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(values[i] * factor);
}

}  // namespace pst::cpu
