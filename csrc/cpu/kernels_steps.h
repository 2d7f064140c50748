// Inner loops of the L-infinity and L2 steps. Included by kernels.cpp alone.
#pragma once

#include "cpu/kernels.h"
#include "cpu/lanes.h"

namespace pst::cpu {

enum Output { kNone, kPlain, kNormalised, kNormalisedAlike };

template <typename Move, typename G, typename O, Output kOutput>
static void step_run(const StepRow& row, Move move) {
  const float *delta = row.delta, *x = row.x, *mean = row.mean, *inverse_std = row.inverse_std;
  const G* grad = static_cast<const G*>(row.grad);
  float* new_delta = row.new_delta;
  O* out = static_cast<O*>(row.out);
  const float shift = kOutput == kNormalisedAlike ? *mean : 0,
              scale = kOutput == kNormalisedAlike ? *inverse_std : 1;
  // delta and new_delta may be the same array: element i depends on element i alone.
#pragma GCC ivdep
  for (int64_t i = 0; i < row.count; ++i) {
    const float clean = x[i];
    const float perturbed = clamp01(clean + move(delta[i], widen(grad[i])));
    new_delta[i] = perturbed - clean;
    if constexpr (kOutput == kPlain) narrow(perturbed, out + i);
    if constexpr (kOutput == kNormalised) narrow((perturbed - mean[i]) * inverse_std[i], out + i);
    if constexpr (kOutput == kNormalisedAlike) narrow((perturbed - shift) * scale, out + i);
  }
}

template <typename Move, typename G, typename O>
static void step_strided(const StepRow& row, Move move) {
  const G* grad = static_cast<const G*>(row.grad);
  O* out = static_cast<O*>(row.out);
  for (int64_t i = 0; i < row.count; ++i) {
    const float clean = row.x[i * row.x_stride];
    const float moved = move(row.delta[i * row.delta_stride], widen(grad[i * row.grad_stride]));
    const float perturbed = clamp01(clean + moved);
    row.new_delta[i * row.new_delta_stride] = perturbed - clean;
    if (out == nullptr) continue;
    const int64_t k = row.is_constant ? 0 : i;
    const float value = row.mean == nullptr ? perturbed : (perturbed - row.mean[k]) * row.inverse_std[k];
    narrow(value, out + i * row.out_stride);
  }
}

static bool is_dense(const StepRow& row) {
  return row.delta_stride == 1 && row.grad_stride == 1 && row.x_stride == 1 && row.new_delta_stride == 1 &&
         (row.out == nullptr || row.out_stride == 1);
}

template <typename Move, typename G, typename O>
static void step_row(const StepRow& row, Move move) {
  if (!is_dense(row)) {
    step_strided<Move, G, O>(row, move);
  } else if (row.out == nullptr) {
    step_run<Move, G, O, kNone>(row, move);
  } else if (row.mean == nullptr) {
    step_run<Move, G, O, kPlain>(row, move);
  } else if (row.is_constant) {
    step_run<Move, G, O, kNormalisedAlike>(row, move);
  } else {
    step_run<Move, G, O, kNormalised>(row, move);
  }
}

template <typename G>
static void l2_sums_exact(const StepRow& row, L2Sums* sums) {
  const G* grad = static_cast<const G*>(row.grad);
  for (int64_t i = 0; i < row.count; ++i) {
    const double d = row.delta[i * row.delta_stride], g = widen(grad[i * row.grad_stride]);
    sums->dd += d * d;
    sums->dg += d * g;
    sums->gg += g * g;
  }
}

// Single precision within a block, double across blocks.
template <typename G>
static void l2_sums(const StepRow& row, L2Sums* sums) {
  if (row.delta_stride != 1 || row.grad_stride != 1) return l2_sums_exact<G>(row, sums);
  constexpr int64_t kBlock = 1024;
  const float* delta = row.delta;
  const G* grad = static_cast<const G*>(row.grad);
  for (int64_t begin = 0; begin < row.count; begin += kBlock) {
    const int64_t end = begin + kBlock < row.count ? begin + kBlock : row.count;
    Lanes dd[2] = {}, dg[2] = {}, gg[2] = {};
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      for (int k = 0; k < 2; ++k) {
        const Lanes d = load_lanes(delta + i + k * kLanes), g = load_lanes(grad + i + k * kLanes);
        dd[k] += d * d;
        dg[k] += d * g;
        gg[k] += g * g;
      }
    }
    float tail_dd = 0, tail_dg = 0, tail_gg = 0;
    for (; i < end; ++i) {
      const float d = delta[i], g = widen(grad[i]);
      tail_dd += d * d;
      tail_dg += d * g;
      tail_gg += g * g;
    }
    sums->dd += sum_lanes(dd[0] + dd[1]) + tail_dd;
    sums->dg += sum_lanes(dg[0] + dg[1]) + tail_dg;
    sums->gg += sum_lanes(gg[0] + gg[1]) + tail_gg;
  }
}

}  // namespace pst::cpu
