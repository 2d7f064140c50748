// In the place of csrc/cuda/stream.h where kernels run on the machine that simt/machine.h describes.
#pragma once

#include <cuda_runtime.h>

#include "common/abi.h"

#define PST_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m)

namespace pst::cuda {

constexpr int kThreads = 256;

class Launch {
 public:
  explicit Launch(const Tensor&) {}

  template <typename... P>
  auto run(void (*kernel)(P...), unsigned blocks, int threads = kThreads, size_t shared = 0) const {
    return [=](P... arguments) {
      simt::run(blocks, static_cast<unsigned>(threads), shared, [&] { kernel(arguments...); });
    };
  }
};

template <typename T>
T* shared_memory() {
  return static_cast<T*>(simt::shared_memory());
}

}  // namespace pst::cuda
