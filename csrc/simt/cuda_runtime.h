// What the kernels use of CUDA's language, in terms of simt/machine.h. Found before CUDA's own header where
// they are compiled for the host.
#pragma once

#include <math.h>
#include <string.h>

#include <cmath>
#include <type_traits>

#include "simt/machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // blocks come one after another
#define printf simt::print
#define __trap simt::trap
#define threadIdx (simt::Index{simt::thread})
#define blockIdx (simt::Index{simt::block})
#define blockDim (simt::Index{simt::threads})

using std::isfinite;

namespace simt {

struct Index {
  unsigned x;
};

template <typename T>
uint64_t to_word(T value) {
  static_assert(sizeof value <= sizeof(uint64_t), "an exchange is of at most 8 bytes");
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  return word;
}

template <typename T>
T from_word(uint64_t word) {
  T value;
  memcpy(&value, &word, sizeof value);
  return value;
}

}  // namespace simt

struct alignas(8) uint2 {
  uint32_t x, y;
};

template <typename A, typename B>
constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}

template <typename A, typename B>
constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

inline void __syncthreads() {
  simt::block_barrier(false);
}

inline int __syncthreads_or(int vote) {
  return simt::block_barrier(vote != 0);
}

inline void __syncwarp() {
  simt::warp_exchange(0xffffffffu, 0, "__syncwarp");
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
  const uint64_t* votes = simt::warp_exchange(mask, vote != 0, "__ballot_sync");
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < simt::kWarp; ++lane) ballot |= static_cast<unsigned>(votes[lane]) << lane;
  return ballot;
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  const uint64_t* words = simt::warp_exchange(mask, simt::to_word(value), "__shfl_xor_sync");
  return simt::from_word<T>(words[(simt::thread ^ static_cast<unsigned>(lanes)) % simt::kWarp]);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  const uint64_t* words = simt::warp_exchange(mask, simt::to_word(value), "__shfl_up_sync");
  const unsigned lane = simt::thread % simt::kWarp;
  return lane < lanes ? value : simt::from_word<T>(words[lane - lanes]);
}

inline int __popc(unsigned value) {
  return __builtin_popcount(value);
}

inline int __ffs(int value) {
  return __builtin_ffs(value);
}

inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}

// Byte k of the result is the one of a's four and b's that the k-th four bits of `selector` name.
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int k = 0; k < 4; ++k) {
    result |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * k) & 7)) & 255) << (8 * k);
  }
  return result;
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}

inline float __fdividef(float a, float b) {
  return a / b;
}

template <typename T, typename V>
T atomicAdd(T* to, V value) {
  const T before = *to;
  *to += value;
  return before;
}
