// ar_perturbation on CUDA: a block for each sample, a warp for each channel's plane, a lane for each row. A
// value needs those above it up to its own column, so that a lane follows one column behind the lane above,
// and takes from it what it has just made: the window stays in registers.
#include "common/ar.h"
#include "common/checks.h"
#include "cuda/launch.h"

namespace pst::cuda {

constexpr int kWarps = 3;  // one for each of red, green and blue
constexpr int kBlock = 32 * kWarps;
constexpr unsigned kAll = 0xffffffffu;

struct Job {
  const float* coefficients;
  const int64_t *labels, *index;
  uint64_t seed;
  int64_t num_classes;
  int height, width, crop, channels;
  double epsilon;
};

// Writes one plane of the cropped pattern, and returns this lane's sum of squares. `above`: two rows of the
// canvas in shared memory, the last that the lanes before have made.
__device__ __forceinline__ double run_plane(const Job& job, uint64_t sample, int channel,
                                            const float* __restrict__ taps, float* above,
                                            float* __restrict__ out) {
  const int lane = threadIdx.x % 32;
  const int height = job.height + job.crop, width = job.width + job.crop;
  float tap[8];
#pragma unroll
  for (int t = 0; t < 8; ++t) tap[t] = taps[t];
  for (int k = lane; k < width; k += 32) {
    const Normals drawn = start_noise(job.seed, sample, static_cast<uint32_t>(k), channel);
    above[k] = drawn.top[0];
    above[width + k] = drawn.top[1];
  }
  __syncwarp();
  double sum = 0;
  for (int band = 0; band < height; band += 32) {
    const int y = band + lane;
    const Normals drawn = start_noise(job.seed, sample, static_cast<uint32_t>(y), channel);
    float up2[3] = {}, up1[3] = {}, before2 = 0, before = 0;
    const int rows = height - band < 32 ? height - band : 32;
    for (int step = 0; step < width + rows - 1; ++step) {
      float above2 = __shfl_up_sync(kAll, up1[2], 1), above1 = __shfl_up_sync(kAll, before, 1);
      const int x = step - lane;
      const bool is_inside = x >= 0 && x < width && y < height;
      if (is_inside) {
        if (lane == 0) {
          above2 = above[x];
          above1 = above[width + x];
        }
        up2[0] = up2[1];
        up2[1] = up2[2];
        up2[2] = above2;
        up1[0] = up1[1];
        up1[1] = up1[2];
        up1[2] = above1;
        float value = tap[0] * up2[0] + tap[1] * up2[1] + tap[2] * up2[2];
        value += tap[3] * up1[0] + tap[4] * up1[1] + tap[5] * up1[2];
        value += tap[6] * before2;
        value += tap[7] * before;
        if (x < 2) value = x == 0 ? drawn.left[0] : drawn.left[1];
        if (y < 2) value = above[y * width + x];
        before2 = before;
        before = value;
        if (x >= job.crop && y >= job.crop) {
          out[(static_cast<int64_t>(y - job.crop) * job.width + (x - job.crop)) * job.channels] = value;
          sum += static_cast<double>(value) * static_cast<double>(value);
        }
      }
      __syncwarp();
      // The first lane has read this column long before.
      if (is_inside && lane >= 30) above[(lane - 30) * width + x] = before;
    }
    __syncwarp();
  }
  return sum;
}

__global__ void __launch_bounds__(kBlock) ar_samples(Job job, float* __restrict__ out) {
  float* rows = shared_memory<float>();  // [kWarps, 2, width + crop]
  __shared__ double factor;
  const int64_t i = blockIdx.x, label = job.labels[i];
  if (label < 0 || label >= job.num_classes) {
    if (threadIdx.x == 0) {
      printf("pst_fast::ar_perturbation: labels must be in [0, %lld), got %lld\n",
             static_cast<long long>(job.num_classes), static_cast<long long>(label));
      __trap();
    }
    return;
  }
  const uint64_t sample = static_cast<uint64_t>(job.index == nullptr ? i : job.index[i]);
  const int warp = threadIdx.x / 32;
  const int64_t values = static_cast<int64_t>(job.height) * job.width * job.channels;
  float* to = out + i * values;
  double sum = 0;
  for (int c = warp; c < job.channels; c += kWarps) {
    sum += run_plane(job, sample, c, job.coefficients + 9 * (label * job.channels + c),
                     rows + 2 * warp * (job.width + job.crop), to + c);
  }
  sum = block_sum<kBlock>(sum);
  if (threadIdx.x == 0) {
    const double norm = sqrt(sum);
    factor = norm > 0 && isfinite(norm) ? job.epsilon / norm : nan("");
  }
  __syncthreads();
  for (int64_t at = threadIdx.x; at < values; at += kBlock) to[at] = static_cast<float>(to[at] * factor);
}

static Tensor ar_perturbation(const Tensor& coefficients, const Tensor& labels, const MaybeTensor& index,
                              int64_t height, int64_t width, double epsilon, int64_t seed, int64_t crop) {
  check_ar(coefficients, labels, index, height, width, epsilon, crop);
  const Launch launch(coefficients);
  const Tensor dense = torch::stable::contiguous(coefficients);
  const Tensor dense_labels = torch::stable::contiguous(labels);
  const Tensor dense_index = index ? torch::stable::contiguous(*index) : dense_labels;
  const int64_t samples = labels.size(0), channels = dense.size(1);
  // Two rows for each warp, and what block_sum needs, fit the 48 KiB of shared memory that any device has.
  constexpr int64_t kMostColumns = 49152 / (2 * kWarps * sizeof(float)) - 8;
  STD_TORCH_CHECK(width + crop <= kMostColumns, "ar_perturbation: width + crop must be at most ",
                  kMostColumns, " on CUDA, got ", width + crop);
  Tensor out = new_empty(dense, {samples, height, width, channels}, ScalarType::Float);
  if (out.numel() == 0) return out;

  Job job{};
  job.coefficients = dense.const_data_ptr<float>();
  job.labels = dense_labels.const_data_ptr<int64_t>();
  job.index = index ? dense_index.const_data_ptr<int64_t>() : nullptr;
  job.seed = static_cast<uint64_t>(seed);
  job.num_classes = dense.size(0);
  job.height = static_cast<int>(height);
  job.width = static_cast<int>(width);
  job.crop = static_cast<int>(crop);
  job.channels = static_cast<int>(channels);
  job.epsilon = epsilon;
  const size_t shared = 2 * kWarps * sizeof(float) * static_cast<size_t>(width + crop);
  launch.run(ar_samples, blocks_for(samples, 1), kBlock, shared)(job, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("ar_perturbation", TORCH_BOX(&pst::cuda::ar_perturbation));
}
