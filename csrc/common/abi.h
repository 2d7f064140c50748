// LibTorch's stable ABI under short names, and what it lacks.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "common/portable.h"

namespace pst {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The stable ABI's is_contiguous knows no memory format.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4) return false;
  int64_t expected = 1;
  for (int d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

inline Tensor as_channels_last(const Tensor& t) {
  return is_channels_last(t) ? t : torch::stable::contiguous(t, MemoryFormat::ChannelsLast);
}

enum class Layout { kContiguous, kChannelsLast, kOther };

// A tensor that is both (one channel, or one pixel) counts as contiguous.
inline Layout layout_of(const Tensor& t) {
  if (t.is_contiguous()) return Layout::kContiguous;
  return is_channels_last(t) ? Layout::kChannelsLast : Layout::kOther;
}

inline bool fits(const Tensor& t, Layout layout) {
  return layout == Layout::kContiguous ? t.is_contiguous() : is_channels_last(t);
}

inline Tensor new_empty(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType dtype,
                        MemoryFormat format = MemoryFormat::Contiguous) {
  return torch::stable::empty(size, dtype, std::nullopt, like.device(), std::nullopt, format);
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
  }
  return true;
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline bool is_reduced(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half;
}

// Calls `run` with a value of the storage type of `dtype` (one of the three).
template <typename F>
void dispatch_reduced(ScalarType dtype, F&& run) {
  switch (dtype) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    case ScalarType::Half:
      return run(Half{});
    default:
      STD_TORCH_CHECK(false, "expected float32, bfloat16 or float16");
  }
}

}  // namespace pst
