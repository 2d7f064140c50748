// The device and stream that a tensor's kernels run on, and how they are launched.
#pragma once

#include <cuda_runtime.h>

#include "common/abi.h"

// Where a file says which ops its kernels are for.
#define PST_CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(pst_fast, CUDA, m)

namespace pst::cuda {

constexpr int kThreads = 256;

// Makes the tensor's device current; runs kernels in its current stream.
class Launch {
 public:
  explicit Launch(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    // getCurrentStream(...).id() is no cudaStream_t; this shim gives the real one.
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  // launch.run(kernel, blocks)(arguments...); `shared`: bytes of shared_memory for each block.
  template <typename... P>
  auto run(void (*kernel)(P...), unsigned blocks, int threads = kThreads, size_t shared = 0) const {
    return [=, stream = stream_](P... arguments) {
      kernel<<<blocks, threads, shared, stream>>>(arguments...);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Shared memory whose size the launch says.
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(32) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

}  // namespace pst::cuda
