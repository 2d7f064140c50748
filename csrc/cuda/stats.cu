// class_channel_stats on CUDA: pooled features, and then their moments by class. No atomics: every sum has
// one order.
#include <algorithm>

#include "common/checks.h"
#include "cuda/classes.h"
#include "cuda/launch.h"
#include "cuda/pooling.h"

namespace pst::cuda {

// Of values, how many, their mean and the sum of squares about it; `origin` is taken off them before, so that
// a large offset costs no digits.
struct Moments {
  float origin, count, mean, square;

  __device__ __forceinline__ void merge(const Moments& other) {
    if (other.count == 0) return;
    if (count == 0) {
      *this = other;
      return;
    }
    const float merged = count + other.count, share = other.count / merged;
    const float gap = other.origin - origin + (other.mean - mean);
    mean += gap * share;
    square += other.square + gap * gap * (count * share);
    count = merged;
  }
};

// One class's 32 columns: each warp has its share of the samples, eight at a time; then Chan's merges.
constexpr int kMomentWarps = 16;

__global__ void __launch_bounds__(32 * kMomentWarps)
    class_moments(const float* __restrict__ pooled, Labels labels, int64_t columns, int64_t tiles,
                  int64_t* __restrict__ counts, float* __restrict__ means, float* __restrict__ m2) {
  constexpr int kFlight = 8;
  __shared__ ClassList<kMomentWarps> list;
  __shared__ Moments parts[kMomentWarps][32];
  if (blockIdx.x == 0) check_range(labels, 0, 1);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t k = blockIdx.x / tiles, column = (blockIdx.x % tiles) * 32 + lane;
  const bool is_live = column < columns;
  Moments own{};
  int64_t total = 0;
  for (int64_t start = 0; start < labels.count; start += list.kChunk) {
    const int found = list.find(labels, k, start, labels.count);
    total += found;
    for (int i = warp; i < found; i += kMomentWarps * kFlight) {
      float value[kFlight] = {};
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        const int at = i + u * kMomentWarps;
        if (at < found && is_live) value[u] = pooled[(start + list.place[at]) * columns + column];
      }
      const float count = static_cast<float>(min(kFlight, (found - i + kMomentWarps - 1) / kMomentWarps));
      Moments some{own.count == 0 ? value[0] : own.origin, count, 0, 0};
#pragma unroll
      for (int u = 0; u < kFlight; ++u) some.mean += u < count ? value[u] - some.origin : 0.0f;
      some.mean /= count;
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        const float away = value[u] - some.origin - some.mean;
        some.square += u < count ? away * away : 0.0f;
      }
      own.merge(some);
    }
  }
  parts[warp][lane] = own;
  __syncthreads();
  if (warp != 0) return;
  Moments all{};
  for (int w = 0; w < kMomentWarps; ++w) all.merge(parts[w][lane]);
  if (is_live) {
    means[k * columns + column] = all.origin + all.mean;
    m2[k * columns + column] = all.square;
  }
  if (lane == 0 && blockIdx.x % tiles == 0) counts[k] = total;
}

// A block for each sample.
__global__ void __launch_bounds__(kThreads)
    moments_backward(const float* __restrict__ pooled, const int64_t* __restrict__ labels,
                     int64_t label_stride, const int64_t* __restrict__ counts,
                     const float* __restrict__ means, const float* __restrict__ grad_means,
                     const float* __restrict__ grad_m2, int64_t columns, int64_t num_classes,
                     float* __restrict__ grad) {
  const int64_t sample = blockIdx.x, k = labels[sample * label_stride];
  if (k < 0 || k >= num_classes) __trap();
  const float inverse = 1.0f / static_cast<float>(counts[k]);
  for (int64_t column = threadIdx.x; column < columns; column += kThreads) {
    const int64_t at = sample * columns + column, of = k * columns + column;
    grad[at] = grad_means[of] * inverse + 2.0f * (pooled[at] - means[of]) * grad_m2[of];
  }
}

static std::tuple<Tensor, Tensor, Tensor> class_channel_stats(const Tensor& features, const Tensor& labels,
                                                              int64_t num_classes, int64_t grid) {
  const PoolShape shape = pool_shape(features, grid);
  check_labels(labels, features, num_classes);
  const Launch launch(features);
  const int64_t columns = shape.columns();
  Tensor means = new_empty(features, {num_classes, columns}, ScalarType::Float);
  Tensor m2 = new_empty(features, {num_classes, columns}, ScalarType::Float);
  Tensor counts = new_empty(features, {num_classes}, ScalarType::Long);
  const Tensor pooled = grid_pool(features, grid);
  const int64_t tiles = std::max<int64_t>(1, (columns + 31) / 32);  // one for the counts, at least
  const unsigned blocks = blocks_for(tiles * num_classes, 1);
  launch.run(class_moments, blocks, 32 * kMomentWarps)(
      pooled.const_data_ptr<float>(), labels_of(labels, num_classes), columns, tiles,
      counts.mutable_data_ptr<int64_t>(), means.mutable_data_ptr<float>(), m2.mutable_data_ptr<float>());
  return {counts, means, m2};
}

static Tensor class_channel_stats_backward(const Tensor& grad_means, const Tensor& grad_m2,
                                           const Tensor& pooled, const Tensor& labels, const Tensor& counts,
                                           const Tensor& means) {
  check_stats_backward(grad_means, grad_m2, pooled, labels, counts, means);
  const Launch launch(pooled);
  Tensor grad = new_empty(pooled, {pooled.size(0), pooled.size(1)}, ScalarType::Float);
  if (grad.numel() == 0) return grad;
  launch.run(moments_backward, blocks_for(pooled.size(0), 1))(
      pooled.const_data_ptr<float>(), labels.const_data_ptr<int64_t>(), labels.stride(0),
      counts.const_data_ptr<int64_t>(), means.const_data_ptr<float>(), grad_means.const_data_ptr<float>(),
      grad_m2.const_data_ptr<float>(), pooled.size(1), means.size(0), grad.mutable_data_ptr<float>());
  return grad;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("class_channel_stats", TORCH_BOX(&pst::cuda::class_channel_stats));
  m.impl("class_channel_stats_backward", TORCH_BOX(&pst::cuda::class_channel_stats_backward));
}
