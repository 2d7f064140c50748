// Samples by class.
#pragma once

#include "common/abi.h"
#include "cuda/launch.h"

namespace pst::cuda {

// First position of each class in the sorted labels; the last entry is the number of samples.
static __global__ void __launch_bounds__(kThreads)
    class_starts(const int64_t* __restrict__ sorted, int64_t samples, int64_t num_classes,
                 int64_t* __restrict__ starts, int64_t* __restrict__ counts) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k == 0 && samples > 0 && (sorted[0] < 0 || sorted[samples - 1] >= num_classes)) {
    printf("pst_fast: labels must be in [0, %lld), got %lld\n", static_cast<long long>(num_classes),
           static_cast<long long>(sorted[0] < 0 ? sorted[0] : sorted[samples - 1]));
    __trap();
  }
  if (k > num_classes) return;
  const auto lower_bound = [&](int64_t value) {
    int64_t low = 0, high = samples;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sorted[middle] < value) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  };
  starts[k] = lower_bound(k);
  if (k < num_classes) counts[k] = lower_bound(k + 1) - starts[k];
}

// Samples grouped by class, in their order within each: rows[starts[k]..starts[k+1]) belong to class k.
struct Groups {
  Tensor rows, starts, counts;

  Groups(const Launch& launch, const Tensor& labels, int64_t num_classes)
      : starts(new_empty(labels, {num_classes + 1}, ScalarType::Long)),
        counts(new_empty(labels, {num_classes}, ScalarType::Long)) {
    const auto [sorted, order] = stable_sort(labels);
    rows = order;
    class_starts<<<blocks_for(num_classes + 1, kThreads), kThreads, 0, launch.stream()>>>(
        sorted.const_data_ptr<int64_t>(), labels.size(0), num_classes, starts.mutable_data_ptr<int64_t>(),
        counts.mutable_data_ptr<int64_t>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

}  // namespace pst::cuda
