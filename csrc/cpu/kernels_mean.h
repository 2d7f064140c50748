// Inner loops of class_mean_step_. Included by kernels.cpp alone.
#pragma once

#include "cpu/kernels.h"

namespace pst::cpu {

// Four samples a pass over the sums, so that these are loaded and stored less often; still one after the
// other, so that the result does not depend on it.
template <typename G>
static void class_sums(const ClassRow& job, float* sums) {
  const G* grad = static_cast<const G*>(job.grad);
  const int64_t count = job.count, stride = job.stride;
  const auto sample = [&](int64_t k) { return grad + job.rows[k] * job.sample_stride; };
  for (int64_t i = 0; i < count; ++i) sums[i] = 0;
  int64_t k = 0;
  if (stride == 1) {
    for (; k + 4 <= job.samples; k += 4) {
      const G *a = sample(k), *b = sample(k + 1), *c = sample(k + 2), *d = sample(k + 3);
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = (((sums[i] + widen(a[i])) + widen(b[i])) + widen(c[i])) + widen(d[i]);
      }
    }
  }
  for (; k < job.samples; ++k) {
    const G* a = sample(k);
    if (stride == 1) {
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) sums[i] += widen(a[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) sums[i] += widen(a[i * stride]);
    }
  }
}

static void class_move(const float* sums, const int64_t* where, int64_t count, LinfMove move, float* delta) {
  if (where != nullptr) {
    for (int64_t i = 0; i < count; ++i) delta[where[i]] = move(delta[where[i]], sums[i]);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) delta[i] = move(delta[i], sums[i]);
  }
}

template <typename O>
static void input_row(const InputRow& row) {
  const float *delta = row.delta, *x = row.x, *mean = row.mean, *inverse_std = row.inverse_std;
  O* out = static_cast<O*>(row.out);
  const float shift = mean[0], scale = inverse_std[0];
  if (row.delta_stride != 1 || row.x_stride != 1 || row.out_stride != 1) {
    for (int64_t i = 0; i < row.count; ++i) {
      const float value = clamp01(x[i * row.x_stride] + delta[i * row.delta_stride]);
      const int64_t k = row.is_constant ? 0 : i;
      narrow((value - mean[k]) * inverse_std[k], out + i * row.out_stride);
    }
  } else if (row.is_constant) {
#pragma GCC ivdep
    for (int64_t i = 0; i < row.count; ++i) narrow((clamp01(x[i] + delta[i]) - shift) * scale, out + i);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < row.count; ++i) {
      narrow((clamp01(x[i] + delta[i]) - mean[i]) * inverse_std[i], out + i);
    }
  }
}

}  // namespace pst::cpu
