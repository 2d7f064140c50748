// From tensors to the kernel table's indices and tasks.
#pragma once

#include <algorithm>

#include "common/abi.h"
#include "cpu/kernels.h"

namespace pst::cpu {

inline int storage_of(ScalarType dtype) {
  int storage = -1;
  dispatch_reduced(dtype, [&](auto type) {
    using T = decltype(type);
    storage = std::is_same_v<T, float> ? kFloat : std::is_same_v<T, BFloat16> ? kBFloat16 : kHalf;
  });
  return storage;
}

inline int64_t storage_bytes(int storage) {
  return storage == kFloat ? 4 : 2;
}

// Tasks for one thread at least, for each to work on `elements` of `total`.
inline int64_t grain_size(int64_t elements, int64_t total, int64_t tasks) {
  const int64_t each = tasks > 0 ? std::max<int64_t>(total / tasks, 1) : 1;
  return std::max<int64_t>(elements / each, 1);
}

}  // namespace pst::cpu
