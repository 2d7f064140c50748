// Every op's schema. The public, checked and documented entry points are in pst_fast/ops.
#include "common/abi.h"

STABLE_TORCH_LIBRARY(pst_fast, m) {
  m.def("grid_pool(Tensor features, int grid) -> Tensor");
  m.def(
      "grid_pool_backward(Tensor grad, SymInt height, SymInt width, int grid, ScalarType dtype, "
      "bool channels_last) -> Tensor");
  m.def(
      "class_channel_stats(Tensor features, Tensor labels, int num_classes, int grid) "
      "-> (Tensor counts, Tensor means, Tensor m2)");
  m.def(
      "class_channel_stats_backward(Tensor grad_means, Tensor grad_m2, Tensor pooled, Tensor labels, "
      "Tensor counts, Tensor means) -> Tensor");
  m.def(
      "max_pool(Tensor features, int kernel_size, int stride, int padding) -> (Tensor maxima, Tensor "
      "places)");
  m.def(
      "max_pool_backward(Tensor grad, Tensor places, SymInt height, SymInt width, int kernel_size, "
      "int stride, int padding) -> Tensor");
  m.def(
      "class_pixel_sums(Tensor images, Tensor labels, int num_classes) "
      "-> (Tensor counts, Tensor sums, Tensor products)");
  m.def(
      "ar_perturbation(Tensor coefficients, Tensor labels, Tensor? index, SymInt height, SymInt width, "
      "float epsilon, SymInt seed, SymInt crop) -> Tensor");
  // A step that both returns a tensor and may write to one that may be None does not get through Inductor
  // (2.15): hence two ops, one without `out` and one with.
  m.def(
      "linf_step_(Tensor(a!) delta, Tensor grad, Tensor x, float step_size, float epsilon, bool ascend, "
      "Tensor? mean, Tensor? std, Tensor(b!)? out) -> ()");
  m.def(
      "linf_step(Tensor delta, Tensor grad, Tensor x, float step_size, float epsilon, bool ascend) -> "
      "Tensor");
  m.def(
      "linf_step_out(Tensor delta, Tensor grad, Tensor x, float step_size, float epsilon, bool ascend, "
      "Tensor? mean, Tensor? std, Tensor(a!) out) -> Tensor");
  m.def(
      "l2_step_(Tensor(a!) delta, Tensor grad, Tensor x, float step_size, float epsilon, bool ascend, "
      "Tensor? mean, Tensor? std, Tensor(b!)? out) -> ()");
  m.def(
      "l2_step(Tensor delta, Tensor grad, Tensor x, float step_size, float epsilon, bool ascend) -> Tensor");
  m.def(
      "l2_step_out(Tensor delta, Tensor grad, Tensor x, float step_size, float epsilon, bool ascend, "
      "Tensor? mean, Tensor? std, Tensor(a!) out) -> Tensor");
  m.def(
      "class_mean_step_(Tensor(a!) delta, Tensor grad, Tensor labels, float step_size, float epsilon, "
      "bool ascend, Tensor? x, Tensor? mean, Tensor? std, Tensor(b!)? out) -> ()");
  m.def(
      "augment(Tensor images, Tensor? index, Tensor? delta, SymInt seed, SymInt offset, int padding, "
      "bool flip, float brightness, float contrast, float saturation, float hue, float jitter_probability, "
      "float grey_probability, Tensor? mean, Tensor? std, ScalarType dtype) -> Tensor");
  m.def("quantize_bank_(Tensor(a!) bank, Tensor? index, Tensor delta, float epsilon) -> ()");
  m.def("gather_bank(Tensor bank, Tensor? index, float epsilon) -> Tensor");
  m.def("degrade(Tensor images, Tensor? index, Tensor views, SymInt seed, SymInt offset) -> Tensor");
}
