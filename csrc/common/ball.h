// The step on a perturbation: move, project to the ball, keep the image in [0, 1].
#pragma once

#include "common/portable.h"

namespace pst {

// Sign step and projection to the L-infinity ball. `signed_step` is negative for descent.
struct LinfMove {
  float signed_step, epsilon;
  PST_INLINE_MEMBER float operator()(float delta, float gradient) const {
    const float sign = static_cast<float>(gradient > 0.0f) - static_cast<float>(gradient < 0.0f);
    return clamp(delta + signed_step * sign, -epsilon, epsilon);
  }
};

// Step along the sample's gradient and projection to the L2 ball, both as factors known by now.
struct L2Move {
  float gradient_factor, length_factor;
  PST_INLINE_MEMBER float operator()(float delta, float gradient) const {
    return (delta + gradient_factor * gradient) * length_factor;
  }
};

// Both factors, from the sample's <delta, delta>, <delta, gradient> and <gradient, gradient>.
PST_INLINE L2Move l2_move(double dd, double dg, double gg, double signed_step, double epsilon) {
  const double a = gg > 0 ? signed_step / sqrt(gg) : 0.0;
  const double square = dd + 2 * a * dg + a * a * gg;
  const double length = sqrt(square > 0 ? square : 0.0);
  return {static_cast<float>(a), length > epsilon ? static_cast<float>(epsilon / length) : 1.0f};
}

// Whether fp32 sums of squares cannot be trusted (underflow, overflow), and double must be used.
PST_INLINE bool is_extreme(float gg) {
  return !(gg > 1e-28f && gg < 1e36f);
}

}  // namespace pst
