// A class's samples, found in the labels by a block's threads: no sort, no atomics, and the same order every
// time.
#pragma once

#include "common/abi.h"
#include "cuda/launch.h"

namespace pst::cuda {

struct Labels {
  const int64_t* data;
  int64_t count, stride, num_classes;
  __device__ __forceinline__ int64_t operator[](int64_t i) const { return data[i * stride]; }
};

static Labels labels_of(const Tensor& labels, int64_t num_classes) {
  return {labels.const_data_ptr<int64_t>(), labels.size(0), labels.stride(0), num_classes};
}

// A block's work on one of `parts` parts, before anything else: inside a loop over the samples it would cost
// registers.
__device__ __forceinline__ void check_range(const Labels& labels, int64_t part, int64_t parts) {
  const int64_t end = labels.count * (part + 1) / parts;
  for (int64_t i = labels.count * part / parts + threadIdx.x; i < end; i += blockDim.x) {
    const int64_t label = labels[i];
    if (label >= 0 && label < labels.num_classes) continue;
    printf("pst_fast: labels must be in [0, %lld), got %lld\n", static_cast<long long>(labels.num_classes),
           static_cast<long long>(label));
    __trap();
  }
}

// In shared memory: where a class's samples lie in a chunk of the labels, for a block of so many warps.
template <int kWarps>
struct ClassList {
  static constexpr int kEach = 8;  // labels of a thread
  static constexpr int kChunk = 32 * kWarps * kEach;
  static_assert(kChunk <= 65536, "a place has 16 bits");

  uint16_t place[kChunk];  // from the chunk's start on
  int counts[kWarps];

  // Finds those of class k in the chunk at `start`, in an order that is always the same, and returns how
  // many. All threads take part; none may find before the others have done with what was found last.
  __device__ __forceinline__ int find(const Labels& labels, int64_t k, int64_t start, int64_t end) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const auto at = [&](int u) { return (u * kWarps + warp) * 32 + lane; };
    int64_t label[kEach];
#pragma unroll
    for (int u = 0; u < kEach; ++u) label[u] = start + at(u) < end ? labels[start + at(u)] : -1;
    unsigned masks[kEach];
    int own = 0;
#pragma unroll
    for (int u = 0; u < kEach; ++u) {
      masks[u] = __ballot_sync(0xffffffffu, label[u] == k);
      own += __popc(masks[u]);
    }
    if (lane == 0) counts[warp] = own;
    __syncthreads();
    int before = 0, total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      before += w < warp ? counts[w] : 0;
      total += counts[w];
    }
#pragma unroll
    for (int u = 0; u < kEach; ++u) {
      if (masks[u] >> lane & 1) {
        place[before + __popc(masks[u] & ((1u << lane) - 1))] = static_cast<uint16_t>(at(u));
      }
      before += __popc(masks[u]);
    }
    __syncthreads();
    return total;
  }
};

}  // namespace pst::cuda
