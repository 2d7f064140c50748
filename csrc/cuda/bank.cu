// Banks of perturbations as int8 codes, on CUDA.
#include "common/checks.h"
#include "common/code.h"
#include "cuda/launch.h"

namespace pst::cuda {

struct BankJob {
  const int64_t* index;  // null: row i of the batch is row i of the bank
  int64_t index_stride, rows;
  int64_t size, tiles;  // elements of an image, and blocks for one
  BallCode code;

  // The bank's row of the block's sample.
  __device__ __forceinline__ int64_t row(int64_t sample) const {
    const int64_t at = index == nullptr ? sample : index[sample * index_stride];
    if (at < 0 || at >= rows) {
      if (threadIdx.x == 0) {
        printf("pst_fast: index must be in [0, %lld), got %lld\n", static_cast<long long>(rows),
               static_cast<long long>(at));
      }
      __trap();
    }
    return at;
  }
};

template <int kPack>
__global__ void __launch_bounds__(kThreads) encode_dense(BankJob job, const float* delta, int8_t* bank) {
  const int64_t sample = blockIdx.x / job.tiles, row = job.row(sample);
  const int64_t first = (blockIdx.x % job.tiles * kThreads + threadIdx.x) * kPack;
  if (first >= job.size) return;
  const auto from = *reinterpret_cast<const Pack<float, kPack>*>(delta + sample * job.size + first);
  Pack<int8_t, kPack> to;
#pragma unroll
  for (int e = 0; e < kPack; ++e) to.value[e] = job.code.encode(from.value[e]);
  *reinterpret_cast<Pack<int8_t, kPack>*>(bank + row * job.size + first) = to;
}

struct DeltaStrides {
  int64_t sample, channel, row, column;
  int64_t channels, width;
};

// Any layout of delta, one element a thread.
__global__ void __launch_bounds__(kThreads)
    encode_strided(BankJob job, const float* delta, DeltaStrides strides, int8_t* bank) {
  const int64_t sample = blockIdx.x / job.tiles, row = job.row(sample);
  const int64_t first = blockIdx.x % job.tiles * kThreads + threadIdx.x;
  if (first >= job.size) return;
  const uint32_t i = static_cast<uint32_t>(first), channels = static_cast<uint32_t>(strides.channels),
                 width = static_cast<uint32_t>(strides.width);
  const uint32_t pixel = i / channels, c = i - pixel * channels, h = pixel / width, w = pixel - h * width;
  const int64_t at = sample * strides.sample + c * strides.channel + h * strides.row + w * strides.column;
  bank[row * job.size + first] = job.code.encode(delta[at]);
}

template <int kPack>
__global__ void __launch_bounds__(kThreads) decode_dense(BankJob job, const int8_t* bank, float* delta) {
  const int64_t sample = blockIdx.x / job.tiles, row = job.row(sample);
  const int64_t first = (blockIdx.x % job.tiles * kThreads + threadIdx.x) * kPack;
  if (first >= job.size) return;
  const auto from = *reinterpret_cast<const Pack<int8_t, kPack>*>(bank + row * job.size + first);
  Pack<float, kPack> to;
#pragma unroll
  for (int e = 0; e < kPack; ++e) to.value[e] = job.code.decode(from.value[e]);
  *reinterpret_cast<Pack<float, kPack>*>(delta + sample * job.size + first) = to;
}

static BankJob bank_job(const Tensor& bank, const MaybeTensor& index, double epsilon, int64_t each) {
  const int64_t size = bank.size(1) * bank.size(2) * bank.size(3);
  STD_TORCH_CHECK(size <= 0x7fffffff, "an image of the bank must have less than 2**31 values");
  return {index ? index->const_data_ptr<int64_t>() : nullptr,
          index ? index->stride(0) : 0,
          bank.size(0),
          size,
          (size + each - 1) / each,
          BallCode(epsilon)};
}

// Four values at once: 16 bytes of delta.
static bool is_packed(const Tensor& bank, const Tensor& delta) {
  return bank.size(1) * bank.size(2) * bank.size(3) % 4 == 0 && is_aligned(bank.const_data_ptr(), 4) &&
         is_aligned(delta.const_data_ptr(), 16);
}

static void quantize_bank_(const Tensor& bank, const MaybeTensor& index, const Tensor& delta,
                           double epsilon) {
  check_bank(bank, index, epsilon);
  const int64_t batch = index ? index->size(0) : bank.size(0);
  check_bank_delta(bank, batch, delta);
  if (delta.numel() == 0) return;
  const Launch launch(bank);
  const bool is_dense = fits(delta, Layout::kChannelsLast), is_wide = is_dense && is_packed(bank, delta);
  const BankJob job = bank_job(bank, index, epsilon, kThreads * (is_wide ? 4 : 1));
  const unsigned blocks = blocks_for(job.tiles * batch, 1);
  const float* from = delta.const_data_ptr<float>();
  int8_t* to = bank.mutable_data_ptr<int8_t>();
  if (is_wide) {
    encode_dense<4><<<blocks, kThreads, 0, launch.stream()>>>(job, from, to);
  } else if (is_dense) {
    encode_dense<1><<<blocks, kThreads, 0, launch.stream()>>>(job, from, to);
  } else {
    const DeltaStrides strides{delta.stride(0), delta.stride(1), delta.stride(2),
                               delta.stride(3), delta.size(1),   delta.size(3)};
    encode_strided<<<blocks, kThreads, 0, launch.stream()>>>(job, from, strides, to);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

static Tensor gather_bank(const Tensor& bank, const MaybeTensor& index, double epsilon) {
  check_bank(bank, index, epsilon);
  const int64_t batch = index ? index->size(0) : bank.size(0);
  const Launch launch(bank);
  Tensor delta = new_empty(bank, {batch, bank.size(3), bank.size(1), bank.size(2)}, ScalarType::Float,
                           MemoryFormat::ChannelsLast);
  if (delta.numel() == 0) return delta;
  const bool is_wide = is_packed(bank, delta);
  const BankJob job = bank_job(bank, index, epsilon, kThreads * (is_wide ? 4 : 1));
  const unsigned blocks = blocks_for(job.tiles * batch, 1);
  const int8_t* from = bank.const_data_ptr<int8_t>();
  float* to = delta.mutable_data_ptr<float>();
  if (is_wide) {
    decode_dense<4><<<blocks, kThreads, 0, launch.stream()>>>(job, from, to);
  } else {
    decode_dense<1><<<blocks, kThreads, 0, launch.stream()>>>(job, from, to);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return delta;
}

}  // namespace pst::cuda

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CUDA, m) {
  m.impl("quantize_bank_", TORCH_BOX(&pst::cuda::quantize_bank_));
  m.impl("gather_bank", TORCH_BOX(&pst::cuda::gather_bank));
}
