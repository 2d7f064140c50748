// class_mean_step_ on the CPU.
#include "common/checks.h"
#include "cpu/groups.h"
#include "cpu/kernels.h"
#include "cpu/operands.h"
#include "cpu/storage.h"

namespace pst::cpu {

constexpr int64_t kGrain = 16384;

struct ImageShape {
  int64_t channels, height, width;
  int64_t pixels() const { return height * width; }
  int64_t size() const { return channels * pixels(); }
};

// Where in delta, of the other dense layout, each element lies as grad's order numbers them.
static std::vector<int64_t> other_order(const ImageShape& shape, bool is_grad_last) {
  std::vector<int64_t> where(static_cast<size_t>(shape.size()));
  int64_t* to = where.data();
  if (is_grad_last) {
    for (int64_t p = 0; p < shape.pixels(); ++p) {
      for (int64_t c = 0; c < shape.channels; ++c) *to++ = c * shape.pixels() + p;
    }
  } else {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int64_t p = 0; p < shape.pixels(); ++p) *to++ = p * shape.channels + c;
    }
  }
  return where;
}

// A task is one class's block of elements, over all of its samples: whole, so that threads change nothing in
// the order of sums.
static void step_classes(const Tensor& delta, const Tensor& grad, const Groups& groups, LinfMove move) {
  const ImageShape shape{delta.size(1), delta.size(2), delta.size(3)};
  const int64_t num_classes = delta.size(0), size = shape.size();
  if (size == 0) return;
  const Layout layout = layout_of(grad);
  const bool is_dense = layout != Layout::kOther, is_last = layout == Layout::kChannelsLast;
  const bool is_same = fits(delta, is_dense ? layout : Layout::kContiguous);
  const std::vector<int64_t> where = is_same ? std::vector<int64_t>{} : other_order(shape, is_last);
  const Operand from = Operand::of(grad, false);
  float* to = delta.mutable_data_ptr<float>();
  const auto add = kernels().class_sums[storage_of(grad.scalar_type())];
  // Blocks of a run: all elements of dense gradients; of others, a row of one channel.
  const int64_t run = is_dense ? size : shape.width;
  const int64_t cuts = (run + kSumElements - 1) / kSumElements, blocks = size / run * cuts;
  const int64_t tasks = num_classes * blocks;
  torch::stable::parallel_for(
      0, tasks, grain_size(kGrain, grad.numel() + tasks, tasks), [&](int64_t begin, int64_t end) {
        float sums[kSumElements];
        for (int64_t task = begin; task < end; ++task) {
          const int64_t k = task / blocks, row = task % blocks / cuts, cut = task % cuts * kSumElements;
          if (groups.count(k) == 0) continue;
          const int64_t first = row * run + cut, count = std::min(kSumElements, run - cut);
          const int64_t offset =
              is_dense ? first
                       : from.offset(0, row / shape.height, row % shape.height) + cut * from.stride[3];
          add({from.at(offset), from.stride[0], is_dense ? 1 : from.stride[3], groups.begin(k),
               groups.count(k), count},
              sums);
          kernels().class_move(sums, is_same ? nullptr : where.data() + first, count, move,
                               to + k * size + (is_same ? first : 0));
        }
      });
}

struct Inputs {
  Operand delta, x, out;
  ImageShape shape;
  Layout layout;  // of all three, or kOther where they differ
  Normalisation normalisation;
  void (*run)(const InputRow&);

  InputRow dense(int64_t k, int64_t n, int64_t first, int64_t count) const {
    const int64_t at = n * shape.size() + first;
    return {reinterpret_cast<const float*>(delta.at(k * shape.size() + first)),
            reinterpret_cast<const float*>(x.at(at)),
            out.at(at),
            nullptr,
            nullptr,
            true,
            count,
            1,
            1,
            1};
  }

  InputRow strided(int64_t k, int64_t n, int64_t c, int64_t h) const {
    return {reinterpret_cast<const float*>(delta.at(delta.offset(k, c, h))),
            reinterpret_cast<const float*>(x.at(x.offset(n, c, h))),
            out.at(out.offset(n, c, h)),
            nullptr,
            nullptr,
            true,
            shape.width,
            delta.stride[3],
            x.stride[3],
            out.stride[3]};
  }

  void constant(InputRow row, int64_t c) const {
    row.mean = normalisation.mean.data() + c;
    row.inverse_std = normalisation.inverse_std.data() + c;
    run(row);
  }

  // `mean` and `scale` repeat over the channels, as far as one row goes.
  void sample(int64_t k, int64_t n, const std::vector<float>& mean, const std::vector<float>& scale) const {
    if (layout == Layout::kChannelsLast) {
      const auto most = static_cast<int64_t>(mean.size());
      for (int64_t i = 0; i < shape.size(); i += most) {
        InputRow row = dense(k, n, i, std::min(most, shape.size() - i));
        row.is_constant = false;
        row.mean = mean.data();
        row.inverse_std = scale.data();
        run(row);
      }
      return;
    }
    for (int64_t c = 0; c < shape.channels; ++c) {
      if (layout == Layout::kContiguous) {
        constant(dense(k, n, c * shape.pixels(), shape.pixels()), c);
      } else {
        for (int64_t h = 0; h < shape.height; ++h) constant(strided(k, n, c, h), c);
      }
    }
  }
};

static void write_inputs(const Tensor& delta, const Tensor& labels, const Tensor& x, const MaybeTensor& mean,
                         const MaybeTensor& std, const Tensor& out) {
  if (out.numel() == 0) return;
  Layout layout = layout_of(delta);
  if (!fits(x, layout) || !fits(out, layout)) layout = Layout::kOther;
  const Inputs inputs{Operand::of(delta, false),
                      Operand::of(x, false),
                      Operand::of(out, true),
                      {delta.size(1), delta.size(2), delta.size(3)},
                      layout,
                      Normalisation(mean, std, delta.size(1)),
                      kernels().input_row[storage_of(out.scalar_type())]};
  const auto repeat = [&](const std::vector<float>& values) {
    std::vector<float> row;
    const size_t times = std::max<size_t>(1, 1024 / values.size());
    for (size_t i = 0; i < times; ++i) row.insert(row.end(), values.begin(), values.end());
    return row;
  };
  const std::vector<float> means = repeat(inputs.normalisation.mean),
                           scales = repeat(inputs.normalisation.inverse_std);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const int64_t samples = x.size(0), stride = labels.stride(0);
  torch::stable::parallel_for(0, samples, grain_size(kGrain, x.numel(), samples),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t n = begin; n < end; ++n) {
                                  inputs.sample(label[n * stride], n, means, scales);
                                }
                              });
}

static void class_mean_step_(const Tensor& delta, const Tensor& grad, const Tensor& labels, double step_size,
                             double epsilon, bool ascend, const MaybeTensor& x, const MaybeTensor& mean,
                             const MaybeTensor& std, const MaybeTensor& out) {
  check_class_mean_step(delta, grad, labels, x, mean, std, out);
  const Groups groups = group(labels, delta.size(0));
  const LinfMove move{static_cast<float>(ascend ? step_size : -step_size), static_cast<float>(epsilon)};
  step_classes(delta, grad, groups, move);
  if (out) write_inputs(delta, labels, *x, mean, std, *out);
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("class_mean_step_", TORCH_BOX(&pst::cpu::class_mean_step_));
}
