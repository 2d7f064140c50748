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
        __trap();
      }
      __syncthreads();  // the others end here
    }
    return at;
  }
};

__device__ __forceinline__ void recode(const BallCode& code, float from, int8_t* to) {
  *to = code.encode(from);
}

__device__ __forceinline__ void recode(const BallCode& code, int8_t from, float* to) {
  *to = code.decode(from);
}

// Packs that a thread has on the way at a time.
constexpr int kRuns = 4;

// From channels_last delta to the bank, or from the bank to such delta.
template <int kPack, typename From, typename To>
__global__ void __launch_bounds__(kThreads) recode_dense(BankJob job, const From* from, To* to) {
  constexpr bool kEncodes = std::is_same_v<To, int8_t>;
  const int64_t sample = blockIdx.x / job.tiles, row = job.row(sample);
  from += (kEncodes ? sample : row) * job.size;
  to += (kEncodes ? row : sample) * job.size;
  const auto first = [&](int run) {
    return ((blockIdx.x % job.tiles * kRuns + run) * kThreads + threadIdx.x) * kPack;
  };
  Pack<From, kPack> value[kRuns] = {};
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    if (first(r) < job.size) value[r] = *reinterpret_cast<const Pack<From, kPack>*>(from + first(r));
  }
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    if (first(r) >= job.size) break;
    Pack<To, kPack> recoded;
#pragma unroll
    for (int e = 0; e < kPack; ++e) recode(job.code, value[r].value[e], &recoded.value[e]);
    *reinterpret_cast<Pack<To, kPack>*>(to + first(r)) = recoded;
  }
}

// Of contiguous delta with three channels: four pixels a thread, three planes to read and three words to
// write.
__global__ void __launch_bounds__(kThreads) encode_planes(BankJob job, const float* delta, int8_t* bank) {
  constexpr int kPack = 4;
  const int64_t sample = blockIdx.x / job.tiles, row = job.row(sample), pixels = job.size / 3;
  const int64_t first = (blockIdx.x % job.tiles * kThreads + threadIdx.x) * kPack;
  if (first >= pixels) return;
  Pack<float, kPack> plane[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    plane[c] = *reinterpret_cast<const Pack<float, kPack>*>(delta + sample * job.size + c * pixels + first);
  }
  Pack<int8_t, kPack> to[3];
#pragma unroll
  for (int e = 0; e < 3 * kPack; ++e)
    to[e / kPack].value[e % kPack] = job.code.encode(plane[e % 3].value[e / 3]);
#pragma unroll
  for (int w = 0; w < 3; ++w) {
    reinterpret_cast<Pack<int8_t, kPack>*>(bank + row * job.size + 3 * first)[w] = to[w];
  }
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

// `each`: elements of a sample for each block.
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
  const float* from = delta.const_data_ptr<float>();
  int8_t* to = bank.mutable_data_ptr<int8_t>();
  const auto run = [&](auto kernel, int64_t each, const auto&... more) {
    const BankJob job = bank_job(bank, index, epsilon, each);
    launch.run(kernel, blocks_for(job.tiles * batch, 1))(job, from, more..., to);
  };
  const int64_t pixels = bank.size(1) * bank.size(2);
  const bool is_wide = is_packed(bank, delta);
  if (fits(delta, Layout::kChannelsLast)) {
    if (is_wide) {
      run(recode_dense<4, float, int8_t>, 4 * kRuns * kThreads);
    } else {
      run(recode_dense<1, float, int8_t>, kRuns * kThreads);
    }
  } else if (is_wide && delta.is_contiguous() && bank.size(3) == 3 && pixels % 4 == 0) {
    run(encode_planes, 3 * 4 * kThreads);
  } else {
    run(encode_strided, kThreads,
        DeltaStrides{delta.stride(0), delta.stride(1), delta.stride(2), delta.stride(3), delta.size(1),
                     delta.size(3)});
  }
}

static Tensor gather_bank(const Tensor& bank, const MaybeTensor& index, double epsilon) {
  check_bank(bank, index, epsilon);
  const int64_t batch = index ? index->size(0) : bank.size(0);
  const Launch launch(bank);
  Tensor delta = new_empty(bank, {batch, bank.size(3), bank.size(1), bank.size(2)}, ScalarType::Float,
                           MemoryFormat::ChannelsLast);
  if (delta.numel() == 0) return delta;
  const bool is_wide = is_packed(bank, delta);
  const BankJob job = bank_job(bank, index, epsilon, kRuns * kThreads * (is_wide ? 4 : 1));
  const unsigned blocks = blocks_for(job.tiles * batch, 1);
  const int8_t* from = bank.const_data_ptr<int8_t>();
  float* to = delta.mutable_data_ptr<float>();
  if (is_wide) {
    launch.run(recode_dense<4, int8_t, float>, blocks)(job, from, to);
  } else {
    launch.run(recode_dense<1, int8_t, float>, blocks)(job, from, to);
  }
  return delta;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("quantize_bank_", TORCH_BOX(&pst::cuda::quantize_bank_));
  m.impl("gather_bank", TORCH_BOX(&pst::cuda::gather_bank));
}
