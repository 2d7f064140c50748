// A perturbation's value as one of 255 levels of its L-infinity ball, and back.
#pragma once

#include "common/portable.h"

namespace pst {

struct BallCode {
  float epsilon, per_level, levels;  // per_level: epsilon / 127; levels: 127 / epsilon
  float last = 127;  // as a constant, GCC would choose between two integers where a minimum does

  PST_INLINE_MEMBER explicit BallCode(double radius)
      : epsilon(static_cast<float>(radius)),
        per_level(static_cast<float>(radius / 127)),
        levels(static_cast<float>(127 / radius)) {}

  // To nearest, ties to even: the sum has no bits left for a fraction, and its lowest ones are the integer.
  // What is outside the ball goes to its surface, NaN to its centre.
  PST_INLINE_MEMBER int8_t encode(float delta) const {
    constexpr float kInteger = 12582912.0f;  // 1.5 * 2^23
    const float level = clamp((delta == delta ? delta : 0.0f) * levels, -last, last);
    return static_cast<int8_t>(float_to_bits(level + kInteger));
  }

  PST_INLINE_MEMBER float decode(int8_t code) const {
    return clamp(static_cast<float>(code) * per_level, -epsilon, epsilon);
  }
};

}  // namespace pst
