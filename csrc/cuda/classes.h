// A class's samples, found in the labels by warps that each have a part of them: no sort, no atomics, and
// the same order every time.
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

// A warp's walk over one of `parts` parts of the labels: calls visit(samples, count) for those of class k, at
// most kFlight at a time, so that as many loads can be in flight. Returns how many there are.
template <int kFlight, typename Visit>
__device__ __forceinline__ int64_t visit_class(const Labels& labels, int64_t k, int64_t part, int64_t parts,
                                               Visit&& visit) {
  const int lane = threadIdx.x % 32;
  const int64_t begin = labels.count * part / parts, end = labels.count * (part + 1) / parts;
  int64_t found = 0;
  int64_t next = begin + lane < end ? labels[begin + lane] : -1;
  for (int64_t base = begin; base < end; base += 32) {
    const int64_t label = next, ahead = base + 32 + lane;
    next = ahead < end ? labels[ahead] : -1;
    unsigned mask = __ballot_sync(0xffffffffu, label == k);
    found += __popc(mask);
    while (mask != 0) {
      int64_t samples[kFlight];
      int count = 0;
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        samples[u] = base + __ffs(static_cast<int>(mask)) - 1;
        count += mask != 0;
        mask &= mask - 1;
      }
      visit(samples, count);
    }
  }
  return found;
}

// With so many labels a block's warps are more, as each of them walks over its part.
constexpr int64_t kManyLabels = 2048;

}  // namespace pst::cuda
