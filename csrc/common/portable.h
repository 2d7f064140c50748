// What lets one piece of arithmetic compile for the host, for each of its vector units, and for CUDA.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define PST_INLINE static __host__ __device__ __forceinline__
#define PST_INLINE_MEMBER __host__ __device__ __forceinline__
#else
// Internal linkage and always inlined: these functions are compiled several times with different
// instruction sets, and the linker must never take one copy for all.
#define PST_INLINE static inline __attribute__((always_inline))
#define PST_INLINE_MEMBER inline __attribute__((always_inline))
#endif

namespace pst {

// Storage types. Kept apart from c10's, whose inline functions would be shared between instruction sets.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

PST_INLINE float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

PST_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

PST_INLINE float widen(float value) {
  return value;
}

PST_INLINE float widen(BFloat16 value) {
  return bits_to_float(static_cast<uint32_t>(value.bits) << 16);
}

PST_INLINE float widen(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  // The exponent is rebased by a multiplication, which also normalises subnormals; no branch, so that the
  // compiler vectorises it with or without F16C.
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const float scaled = bits_to_float(magnitude) * bits_to_float(0x77800000);  // 2^112
  const uint32_t finite = float_to_bits(scaled);
  const uint32_t special = magnitude | 0x7f800000;  // infinity and NaN
  return bits_to_float((magnitude >= 0x0f800000 ? special : finite) | sign);
#endif
}

PST_INLINE void narrow(float value, float* to) {
  *to = value;
}

PST_INLINE void narrow(float value, BFloat16* to) {
#ifdef __CUDA_ARCH__
  to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
#endif
}

PST_INLINE void narrow(float value, Half* to) {
#ifdef __CUDA_ARCH__
  to->bits = __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  // Subnormal results: adding 1/2 puts the bits that survive at the bottom, rounded by the addition.
  const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
  const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  const uint32_t result = magnitude >= 0x477ff000 ? special : finite;
  to->bits = static_cast<uint16_t>(result | ((bits >> 16) & 0x8000));
#endif
}

// NaN stays NaN.
PST_INLINE float clamp(float value, float low, float high) {
#ifdef __CUDA_ARCH__
  float raised, held;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(raised) : "f"(value), "f"(low));
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(held) : "f"(raised), "f"(high));
  return held;
#else
  const float raised = low > value ? low : value;
  return high < raised ? high : raised;
#endif
}

// Of numbers: which one a NaN gives is open.
PST_INLINE float lesser(float a, float b) {
#ifdef __CUDA_ARCH__
  return fminf(a, b);
#else
  return a < b ? a : b;
#endif
}

PST_INLINE float greater(float a, float b) {
#ifdef __CUDA_ARCH__
  return fmaxf(a, b);
#else
  return a > b ? a : b;
#endif
}

// 1 / value, on a GPU but for the last bit.
PST_INLINE float reciprocal(float value) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.0f, value);
#else
  return 1.0f / value;
#endif
}

PST_INLINE float clamp01(float value) {
  return clamp(value, 0.0f, 1.0f);
}

}  // namespace pst
