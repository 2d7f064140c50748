// Eight floats or sixteen bytes at once, for the loops that GCC does not vectorise by itself: reductions, and
// what puts elements in another order.
#pragma once

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "common/portable.h"

namespace pst::cpu {

typedef float Lanes __attribute__((vector_size(32)));
typedef uint32_t LanesBits __attribute__((vector_size(32)));
typedef int32_t LanesIndex __attribute__((vector_size(32)));
typedef uint16_t LanesNarrow __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
constexpr int64_t kLanes = 8;

PST_INLINE Bytes load_bytes(const uint8_t* from) {
  Bytes bytes;
  memcpy(&bytes, from, sizeof bytes);
  return bytes;
}

PST_INLINE void store_bytes(Bytes bytes, uint8_t* to) {
  memcpy(to, &bytes, sizeof bytes);
}

PST_INLINE Lanes load_lanes(const float* from) {
  Lanes lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

PST_INLINE LanesBits load_bits(const void* from) {
#ifdef __AVX2__  // one instruction, where GCC converts the halves one after the other
  const __m128i lanes = _mm_loadu_si128(static_cast<const __m128i*>(from));
  return reinterpret_cast<LanesBits>(_mm256_cvtepu16_epi32(lanes));
#else
  LanesNarrow lanes;
  memcpy(&lanes, from, sizeof lanes);
  return __builtin_convertvector(lanes, LanesBits);
#endif
}

PST_INLINE Lanes load_lanes(const BFloat16* from) {
  return reinterpret_cast<Lanes>(load_bits(from) << 16);
}

PST_INLINE Lanes load_lanes(const Half* from) {
  const LanesBits bits = load_bits(from);
  const LanesBits magnitude = (bits & 0x7fff) << 13;
  const Lanes scaled = reinterpret_cast<Lanes>(magnitude) * bits_to_float(0x77800000);  // as in widen()
  const LanesBits is_special = reinterpret_cast<LanesBits>(magnitude >= 0x0f800000);
  const LanesBits value =
      (is_special & (magnitude | 0x7f800000)) | (~is_special & reinterpret_cast<LanesBits>(scaled));
  return reinterpret_cast<Lanes>(value | ((bits & 0x8000) << 16));
}

PST_INLINE void store_lanes(Lanes lanes, float* to) {
  memcpy(to, &lanes, sizeof lanes);
}

PST_INLINE float sum_lanes(Lanes lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// The transpose of an 8 x 8 block: pairs of rows are interleaved by ones, by twos, then by halves.
PST_INLINE void transpose_lanes(Lanes* v) {
  Lanes t[8], u[8];
  for (int k = 0; k < 8; k += 2) {
    t[k] = __builtin_shuffle(v[k], v[k + 1], LanesIndex{0, 8, 1, 9, 4, 12, 5, 13});
    t[k + 1] = __builtin_shuffle(v[k], v[k + 1], LanesIndex{2, 10, 3, 11, 6, 14, 7, 15});
  }
  for (int k = 0; k < 8; k += 4) {
    for (int half = 0; half < 2; ++half) {
      u[k + 2 * half] = __builtin_shuffle(t[k + half], t[k + half + 2], LanesIndex{0, 1, 8, 9, 4, 5, 12, 13});
      u[k + 2 * half + 1] =
          __builtin_shuffle(t[k + half], t[k + half + 2], LanesIndex{2, 3, 10, 11, 6, 7, 14, 15});
    }
  }
  for (int k = 0; k < 4; ++k) {
    v[k] = __builtin_shuffle(u[k], u[k + 4], LanesIndex{0, 1, 2, 3, 8, 9, 10, 11});
    v[k + 4] = __builtin_shuffle(u[k], u[k + 4], LanesIndex{4, 5, 6, 7, 12, 13, 14, 15});
  }
}

}  // namespace pst::cpu
