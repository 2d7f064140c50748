// What the kernels share: how work is cut into blocks, packs of elements, sums over a block.
#pragma once

#include <cuda_runtime.h>
#include <stdio.h>

#include "common/abi.h"
#include "cuda/stream.h"

namespace pst::cuda {

inline unsigned blocks_for(int64_t work, int64_t each) {
  const int64_t blocks = (work + each - 1) / each;
  STD_TORCH_CHECK(blocks <= 0x7fffffff, "the tensor is too large for one launch");
  return static_cast<unsigned>(blocks);
}

// Whether `pack` elements at once can be read from `data`.
inline bool is_aligned(const void* data, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T value[kCount];
};

// Sum over the threads of a block, in an order that is always the same; valid in thread 0.
template <int kBlock>
__device__ double block_sum(double value) {
  __shared__ double parts[kBlock / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();  // parts may still be read from the sum before
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x != 0) return 0;
  double sum = 0;
  for (int warp = 0; warp < kBlock / 32; ++warp) sum += parts[warp];
  return sum;
}

}  // namespace pst::cuda
