// The start noise of an autoregressive perturbation: the same on every device, and in reference_ar.py.
#pragma once

#include "common/philox.h"

namespace pst {

struct Normals {
  float top[2];   // column k of the first two rows
  float left[2];  // row k of the first two columns, from the third row on
};

// log(u) for u = (word / 256 + 1) / 2^24, in (0, 1]; the polynomial is that of the Cephes library. No branch,
// so that the compiler vectorises it.
PST_INLINE float log_uniform(uint32_t word) {
  const uint32_t bits = float_to_bits(static_cast<float>((word >> 8) + 1));
  // The mantissa in [sqrt(1/2), sqrt(2)).
  const uint32_t shifted = bits - 0x3f3504f3;
  const int32_t exponent = static_cast<int32_t>(shifted) >> 23;
  const float x = bits_to_float((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const float square = x * x, e = static_cast<float>(exponent - 24);
  return (x + (p * x * square - 0.5f * square - e * 2.12194440e-4f)) + e * 0.693359375f;
}

// Two standard normal numbers (Box and Muller).
PST_INLINE void box_muller(uint32_t radius_word, uint32_t angle_word, float* out) {
  const float radius = sqrtf(-2.0f * log_uniform(radius_word));
  // The angle is whole quarter turns and a rest of at most an eighth of one turn.
  const uint32_t quarter = (angle_word + 0x20000000u) >> 30;
  const float x = static_cast<float>(static_cast<int32_t>(angle_word - (quarter << 30))) * 1.4629180793e-9f;
  const float z = x * x;
  const float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * x + x;
  const float cosine =
      ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z +
      1.0f;
  const bool is_odd = quarter & 1;
  const uint32_t flip_cosine = ((quarter + 1) & 2) << 30, flip_sine = (quarter & 2) << 30;
  const float first = radius * (is_odd ? sine : cosine), second = radius * (is_odd ? cosine : sine);
  out[0] = bits_to_float(float_to_bits(first) ^ flip_cosine);
  out[1] = bits_to_float(float_to_bits(second) ^ flip_sine);
}

PST_INLINE Normals start_noise(uint64_t seed, uint64_t sample, uint32_t k, uint32_t channel) {
  const Words words = philox(seed, sample, k, channel);
  Normals normals;
  box_muller(words.word[0], words.word[1], normals.top);
  box_muller(words.word[2], words.word[3], normals.left);
  return normals;
}

}  // namespace pst
