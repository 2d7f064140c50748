// The L-infinity and L2 steps on the CPU.
#include <vector>

#include "common/checks.h"
#include "cpu/kernels.h"
#include "cpu/operands.h"
#include "cpu/storage.h"

namespace pst::cpu {

constexpr int64_t kGrain = 8192;

struct Step {
  Operand delta, grad, x, new_delta, out;
  int64_t samples, channels, height, width;
  int grad_storage, out_storage;
  Layout layout;  // of all tensors, or kOther where they differ
  Normalisation normalisation;
};

static Step prepare(const Tensor& delta, const Tensor& grad, const Tensor& x, const MaybeTensor& mean,
                    const MaybeTensor& std, const MaybeTensor& out, const Tensor& new_delta) {
  check_step(delta, grad, x, mean, std, out);
  Layout layout = layout_of(delta);
  for (const Tensor* t : {&grad, &x, &new_delta}) {
    if (layout != Layout::kOther && !fits(*t, layout)) layout = Layout::kOther;
  }
  if (out && layout != Layout::kOther && !fits(*out, layout)) layout = Layout::kOther;
  return {Operand::of(delta, false),
          Operand::of(grad, false),
          Operand::of(x, false),
          Operand::of(new_delta, true),
          out ? Operand::of(*out, true) : Operand{},
          delta.size(0),
          delta.size(1),
          delta.size(2),
          delta.size(3),
          storage_of(grad.scalar_type()),
          out ? storage_of(out->scalar_type()) : kFloat,
          layout,
          Normalisation(out ? mean : std::nullopt, out ? std : std::nullopt, delta.size(1))};
}

// Elements [begin, begin + count) of tensors that share one dense layout.
static StepRow dense_row(const Step& step, int64_t begin, int64_t count) {
  return {reinterpret_cast<const float*>(step.delta.at(begin)),
          step.grad.at(begin),
          reinterpret_cast<const float*>(step.x.at(begin)),
          reinterpret_cast<float*>(step.new_delta.at(begin)),
          step.out.at(begin),
          nullptr,
          nullptr,
          false,
          count,
          1,
          1,
          1,
          1,
          1};
}

// One row of one channel, each tensor with its own strides.
static StepRow strided_row(const Step& step, int64_t n, int64_t c, int64_t h) {
  return {reinterpret_cast<const float*>(step.delta.at(step.delta.offset(n, c, h))),
          step.grad.at(step.grad.offset(n, c, h)),
          reinterpret_cast<const float*>(step.x.at(step.x.offset(n, c, h))),
          reinterpret_cast<float*>(step.new_delta.at(step.new_delta.offset(n, c, h))),
          step.out.at(step.out.offset(n, c, h)),
          nullptr,
          nullptr,
          false,
          step.width,
          step.delta.stride[3],
          step.grad.stride[3],
          step.x.stride[3],
          step.new_delta.stride[3],
          step.out.stride[3]};
}

// Cuts samples into rows for the kernels; where normalisation is wanted, with mean and 1/std: of a row's
// channel, or, where the channels of a pixel lie side by side, of each element.
class Rows {
 public:
  Rows(const Step& step, bool normalise) : step_(step), normalise_(normalise) {
    if (!normalise || step.layout != Layout::kChannelsLast) return;
    const int64_t channels = step.channels;
    run_ = std::max<int64_t>(1, 1024 / channels) * channels;
    mean_.resize(static_cast<size_t>(run_));
    scale_.resize(mean_.size());
    for (size_t i = 0; i < mean_.size(); ++i) {
      mean_[i] = step.normalisation.mean[i % static_cast<size_t>(channels)];
      scale_[i] = step.normalisation.inverse_std[i % static_cast<size_t>(channels)];
    }
  }

  template <typename F>
  void each(int64_t sample, F&& run) {
    const int64_t pixels = step_.height * step_.width, size = step_.channels * pixels, base = sample * size;
    if (step_.layout == Layout::kOther) {
      for (int64_t c = 0; c < step_.channels; ++c) {
        for (int64_t h = 0; h < step_.height; ++h) run(of_channel(strided_row(step_, sample, c, h), c));
      }
    } else if (!normalise_) {
      run(dense_row(step_, base, size));
    } else if (step_.layout == Layout::kChannelsLast) {
      for (int64_t i = 0; i < size; i += run_) {
        StepRow row = dense_row(step_, base + i, std::min(run_, size - i));
        row.mean = mean_.data();
        row.inverse_std = scale_.data();
        run(row);
      }
    } else {
      for (int64_t c = 0; c < step_.channels; ++c) {
        run(of_channel(dense_row(step_, base + c * pixels, pixels), c));
      }
    }
  }

 private:
  StepRow of_channel(StepRow row, int64_t channel) const {
    if (!normalise_) return row;
    row.mean = &step_.normalisation.mean[static_cast<size_t>(channel)];
    row.inverse_std = &step_.normalisation.inverse_std[static_cast<size_t>(channel)];
    row.is_constant = true;
    return row;
  }

  const Step& step_;
  bool normalise_;
  int64_t run_ = 0;
  std::vector<float> mean_, scale_;  // of channels_last pixels
};

static int64_t sample_grain(const Step& step) {
  return grain_size(kGrain, step.samples * step.channels * step.height * step.width, step.samples);
}

static void run_linf(const Step& step, double step_size, double epsilon, bool ascend) {
  const LinfMove move{static_cast<float>(ascend ? step_size : -step_size), static_cast<float>(epsilon)};
  const auto run = kernels().linf_row[step.grad_storage][step.out_storage];
  torch::stable::parallel_for(0, step.samples, sample_grain(step), [&](int64_t begin, int64_t end) {
    Rows rows(step, step.normalisation.wanted);
    for (int64_t n = begin; n < end; ++n) rows.each(n, [&](const StepRow& row) { run(row, move); });
  });
}

static void run_l2(const Step& step, double step_size, double epsilon, bool ascend) {
  const auto run = kernels().l2_row[step.grad_storage][step.out_storage];
  const auto add = kernels().l2_sums[step.grad_storage],
             add_exactly = kernels().l2_sums_exact[step.grad_storage];
  torch::stable::parallel_for(0, step.samples, sample_grain(step), [&](int64_t begin, int64_t end) {
    Rows rows(step, step.normalisation.wanted);
    Rows plain(step, false);  // the sums are the same whether or not there is an output to normalise
    for (int64_t n = begin; n < end; ++n) {
      L2Sums sums{};
      plain.each(n, [&](const StepRow& row) { add(row, &sums); });
      if (is_extreme(static_cast<float>(sums.gg))) {
        sums = {};
        plain.each(n, [&](const StepRow& row) { add_exactly(row, &sums); });
      }
      const L2Move move = l2_move(sums.dd, sums.dg, sums.gg, ascend ? step_size : -step_size, epsilon);
      rows.each(n, [&](const StepRow& row) { run(row, move); });
    }
  });
}

static void linf_step_(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                       double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                       const MaybeTensor& out) {
  run_linf(prepare(delta, grad, x, mean, std, out, delta), step_size, epsilon, ascend);
}

static Tensor linf_step_out(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                            double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                            const Tensor& out) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_linf(prepare(delta, grad, x, mean, std, out, new_delta), step_size, epsilon, ascend);
  return new_delta;
}

static Tensor linf_step(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                        double epsilon, bool ascend) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_linf(prepare(delta, grad, x, std::nullopt, std::nullopt, std::nullopt, new_delta), step_size, epsilon,
           ascend);
  return new_delta;
}

static void l2_step_(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                     double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                     const MaybeTensor& out) {
  run_l2(prepare(delta, grad, x, mean, std, out, delta), step_size, epsilon, ascend);
}

static Tensor l2_step_out(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                          double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                          const Tensor& out) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_l2(prepare(delta, grad, x, mean, std, out, new_delta), step_size, epsilon, ascend);
  return new_delta;
}

static Tensor l2_step(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                      double epsilon, bool ascend) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_l2(prepare(delta, grad, x, std::nullopt, std::nullopt, std::nullopt, new_delta), step_size, epsilon,
         ascend);
  return new_delta;
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("linf_step_", TORCH_BOX(&pst::cpu::linf_step_));
  m.impl("linf_step", TORCH_BOX(&pst::cpu::linf_step));
  m.impl("linf_step_out", TORCH_BOX(&pst::cpu::linf_step_out));
  m.impl("l2_step_", TORCH_BOX(&pst::cpu::l2_step_));
  m.impl("l2_step", TORCH_BOX(&pst::cpu::l2_step));
  m.impl("l2_step_out", TORCH_BOX(&pst::cpu::l2_step_out));
}
