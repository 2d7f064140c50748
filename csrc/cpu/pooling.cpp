// grid_pool and class_channel_stats on the CPU.
#include <vector>

#include "common/cells.h"
#include "common/checks.h"
#include "cpu/groups.h"
#include "cpu/kernels.h"
#include "cpu/storage.h"

namespace pst::cpu {

// Features that one task should hold at least, so that small inputs stay on one thread.
constexpr int64_t kGrain = 16384;

// Divisions for the cells' bounds are made here, once, and not for every plane.
class Plan {
 public:
  explicit Plan(const PoolShape& shape) {
    for (const int64_t size : {shape.height, shape.width}) {
      for (int64_t i = 0; i < shape.grid; ++i) bounds_.push_back(cell_start(i, shape.grid, size));
      for (int64_t i = 0; i < shape.grid; ++i) bounds_.push_back(cell_end(i, shape.grid, size));
    }
    job_ = {shape.channels, shape.height, shape.width, shape.grid, bounds_.data()};
  }
  Plan(const Plan&) = delete;
  const PoolJob& job() const { return job_; }

 private:
  std::vector<int64_t> bounds_;
  PoolJob job_;
};

static void pool_into(const Tensor& features, const PoolShape& shape, float* pooled) {
  const Layout layout = layout_of(features);
  if (layout == Layout::kOther) return pool_into(torch::stable::contiguous(features), shape, pooled);
  const Plan plan(shape);
  const int storage = storage_of(features.scalar_type());
  const void* from = features.const_data_ptr();
  const bool is_planes = layout == Layout::kContiguous;
  const int64_t tasks = shape.samples * (is_planes ? shape.channels : 1);
  torch::stable::parallel_for(
      0, tasks, grain_size(kGrain, features.numel(), tasks), [&](int64_t begin, int64_t end) {
        if (is_planes) {
          kernels().pool_planes[storage](plan.job(), from, pooled, begin, end);
        } else {
          std::vector<float> scratch(static_cast<size_t>(shape.columns()));
          kernels().pool_pixels[storage](plan.job(), from, pooled, scratch.data(), begin, end);
        }
      });
}

static Tensor grid_pool(const Tensor& features, int64_t grid) {
  const PoolShape shape = pool_shape(features, grid);
  Tensor pooled = new_empty(features, {shape.samples, shape.columns()}, ScalarType::Float);
  pool_into(features, shape, pooled.mutable_data_ptr<float>());
  return pooled;
}

static Tensor grid_pool_backward(const Tensor& grad, int64_t height, int64_t width, int64_t grid,
                                 ScalarType dtype, bool channels_last) {
  const PoolShape shape = unpool_shape(grad, height, width, grid);
  Tensor features = new_empty(grad, {shape.samples, shape.channels, height, width}, dtype,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  const Plan plan(shape);
  const int storage = storage_of(dtype);
  const float* from = grad.const_data_ptr<float>();
  void* to = features.mutable_data_ptr();
  const int64_t tasks = shape.samples * (channels_last ? 1 : shape.channels);
  torch::stable::parallel_for(
      0, tasks, grain_size(kGrain, features.numel(), tasks), [&](int64_t begin, int64_t end) {
        if (channels_last) {
          std::vector<float> scratch(static_cast<size_t>(shape.columns() + shape.channels));
          kernels().unpool_pixels[storage](plan.job(), from, to, scratch.data(), begin, end);
        } else {
          kernels().unpool_planes[storage](plan.job(), from, to, begin, end);
        }
      });
  return features;
}

static std::tuple<Tensor, Tensor, Tensor> class_channel_stats(const Tensor& features, const Tensor& labels,
                                                              int64_t num_classes, int64_t grid) {
  const PoolShape shape = pool_shape(features, grid);
  check_labels(labels, features, num_classes);
  const Groups groups = group(labels, num_classes);
  const bool is_pooled = features.is_contiguous() && features.scalar_type() == ScalarType::Float &&
                         shape.height == grid && shape.width == grid;
  const Tensor pooled = is_pooled ? features : grid_pool(features, grid);
  const int64_t columns = shape.columns();
  Tensor counts = new_empty(features, {num_classes}, ScalarType::Long);
  Tensor means = new_empty(features, {num_classes, columns}, ScalarType::Float);
  Tensor m2 = new_empty(features, {num_classes, columns}, ScalarType::Float);
  const float* from = pooled.const_data_ptr<float>();
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  float *mean = means.mutable_data_ptr<float>(), *square = m2.mutable_data_ptr<float>();
  const int64_t blocks = (columns + kMomentColumns - 1) / kMomentColumns;
  for (int64_t k = 0; k < num_classes; ++k) count[k] = groups.count(k);
  // A task is one class's block of columns: whole, so that threads change nothing in the order of sums.
  const int64_t tasks = num_classes * blocks;
  const int64_t work = shape.samples * columns + num_classes * columns;
  torch::stable::parallel_for(0, tasks, grain_size(kGrain, work, tasks), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t k = task / blocks, column = task % blocks * kMomentColumns;
      const int64_t width = columns - column < kMomentColumns ? columns - column : kMomentColumns;
      kernels().moments(from + column, columns, width, groups.begin(k), count[k], mean + k * columns + column,
                        square + k * columns + column);
    }
  });
  return {counts, means, m2};
}

static Tensor class_channel_stats_backward(const Tensor& grad_means, const Tensor& grad_m2,
                                           const Tensor& pooled, const Tensor& labels, const Tensor& counts,
                                           const Tensor& means) {
  check_stats_backward(grad_means, grad_m2, pooled, labels, counts, means);
  const int64_t samples = pooled.size(0), columns = pooled.size(1), num_classes = means.size(0);
  Tensor grad = new_empty(pooled, {samples, columns}, ScalarType::Float);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const int64_t* count = counts.const_data_ptr<int64_t>();
  const int64_t stride = labels.stride(0);
  const float *x = pooled.const_data_ptr<float>(), *mean = means.const_data_ptr<float>();
  const float *on_mean = grad_means.const_data_ptr<float>(), *on_m2 = grad_m2.const_data_ptr<float>();
  float* to = grad.mutable_data_ptr<float>();
  for (int64_t i = 0; i < samples; ++i) {
    STD_TORCH_CHECK(label[i * stride] >= 0 && label[i * stride] < num_classes, "labels must be in [0, ",
                    num_classes, "), got ", label[i * stride]);
  }
  torch::stable::parallel_for(
      0, samples, grain_size(kGrain, samples * columns, samples), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t k = label[i * stride];
          kernels().moments_backward(x + i * columns, mean + k * columns, on_mean + k * columns,
                                     on_m2 + k * columns, 1.0f / static_cast<float>(count[k]), columns,
                                     to + i * columns);
        }
      });
  return grad;
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("grid_pool", TORCH_BOX(&pst::cpu::grid_pool));
  m.impl("grid_pool_backward", TORCH_BOX(&pst::cpu::grid_pool_backward));
  m.impl("class_channel_stats", TORCH_BOX(&pst::cpu::class_channel_stats));
  m.impl("class_channel_stats_backward", TORCH_BOX(&pst::cpu::class_channel_stats_backward));
}
