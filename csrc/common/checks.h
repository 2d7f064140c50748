// What the ops demand of their arguments, on either device. pst_fast/ops checks first and says more;
// this stands between torch.ops.pst_fast and the memory.
#pragma once

#include "common/abi.h"
#include "common/draws.h"
#include "common/views.h"
#include "common/windows.h"

namespace pst {

struct PoolShape {
  int64_t samples, channels, height, width, grid;
  int64_t columns() const { return channels * grid * grid; }
};

inline PoolShape pool_shape(const Tensor& features, int64_t grid) {
  STD_TORCH_CHECK(is_reduced(features.scalar_type()), "features must be float32, bfloat16 or float16");
  STD_TORCH_CHECK(features.dim() == 2 || features.dim() == 4, "features must be [N, C] or [N, C, H, W]");
  STD_TORCH_CHECK(grid >= 1 && (features.dim() == 4 || grid == 1),
                  "grid must be 1 for [N, C], and at least 1");
  const bool is_map = features.dim() == 4;
  const PoolShape shape{features.size(0), features.size(1), is_map ? features.size(2) : 1,
                        is_map ? features.size(3) : 1, grid};
  STD_TORCH_CHECK(shape.height > 0 && shape.width > 0, "features must have at least one pixel");
  return shape;
}

inline Windows windows_of(int64_t height, int64_t width, int64_t kernel_size, int64_t stride,
                          int64_t padding) {
  STD_TORCH_CHECK(kernel_size >= 1 && kernel_size <= 16 && stride >= 1 && stride <= (1 << 20),
                  "kernel_size must be between 1 and 16, stride between 1 and 2**20");
  STD_TORCH_CHECK(padding >= 0 && 2 * padding <= kernel_size, "padding must be at most half of kernel_size");
  STD_TORCH_CHECK(height <= (1 << 20) && width <= (1 << 20) && height + 2 * padding >= kernel_size &&
                      width + 2 * padding >= kernel_size,
                  "a side must have at least kernel_size pixels, padding included, and at most 2**20");
  return {static_cast<int32_t>(height), static_cast<int32_t>(width), static_cast<int32_t>(kernel_size),
          static_cast<int32_t>(stride), static_cast<int32_t>(padding)};
}

inline Windows check_max_pool(const Tensor& features, int64_t kernel_size, int64_t stride, int64_t padding) {
  STD_TORCH_CHECK(is_reduced(features.scalar_type()) && features.dim() == 4,
                  "features must be float32, bfloat16 or float16 [N, C, H, W]");
  return windows_of(features.size(2), features.size(3), kernel_size, stride, padding);
}

inline Windows check_max_pool_backward(const Tensor& grad, const Tensor& places, int64_t height,
                                       int64_t width, int64_t kernel_size, int64_t stride, int64_t padding) {
  const Windows windows = windows_of(height, width, kernel_size, stride, padding);
  STD_TORCH_CHECK(is_reduced(grad.scalar_type()) && grad.dim() == 4 && grad.size(2) == windows.out_height() &&
                      grad.size(3) == windows.out_width(),
                  "grad must be float32, bfloat16 or float16 [N, C, h, w], with a value for each window");
  STD_TORCH_CHECK(
      places.scalar_type() == ScalarType::Byte && same_shape(places, grad) && same_device(places, grad),
      "places must be uint8, of grad's shape, on its device");
  return windows;
}

// For the maxima and their places.
inline std::tuple<Tensor, Tensor> new_maxima(const Tensor& features, const Windows& windows) {
  const auto make = [&](ScalarType dtype) {
    return new_empty(features,
                     {features.size(0), features.size(1), windows.out_height(), windows.out_width()}, dtype,
                     MemoryFormat::ChannelsLast);
  };
  return {make(features.scalar_type()), make(ScalarType::Byte)};
}

inline PoolShape unpool_shape(const Tensor& grad, int64_t height, int64_t width, int64_t grid) {
  STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Float && grad.dim() == 2 && grad.is_contiguous(),
                  "grad must be float32 [N, C*grid*grid], contiguous");
  STD_TORCH_CHECK(grid >= 1 && height >= 1 && width >= 1 && grad.size(1) % (grid * grid) == 0,
                  "grad's columns must be a multiple of grid*grid");
  return {grad.size(0), grad.size(1) / (grid * grid), height, width, grid};
}

inline void check_labels(const Tensor& labels, const Tensor& features, int64_t num_classes) {
  STD_TORCH_CHECK(
      labels.scalar_type() == ScalarType::Long && labels.dim() == 1 && labels.size(0) == features.size(0),
      "labels must be int64 [N]");
  STD_TORCH_CHECK(same_device(labels, features), "labels must be on the samples' device");
  STD_TORCH_CHECK(num_classes >= 1, "num_classes must be at least 1");
}

inline void check_stats_backward(const Tensor& grad_means, const Tensor& grad_m2, const Tensor& pooled,
                                 const Tensor& labels, const Tensor& counts, const Tensor& means) {
  STD_TORCH_CHECK(pooled.dim() == 2 && means.dim() == 2 && pooled.size(1) == means.size(1) &&
                      same_shape(grad_means, means) && same_shape(grad_m2, means) && counts.dim() == 1 &&
                      counts.size(0) == means.size(0),
                  "pooled must be [N, D]; grad_means, grad_m2 and means [K, D]; counts [K]");
  for (const Tensor* t : {&grad_means, &grad_m2, &pooled, &means}) {
    STD_TORCH_CHECK(t->scalar_type() == ScalarType::Float && t->is_contiguous() && same_device(*t, pooled),
                    "gradients, pooled and means must be float32, contiguous, on one device");
  }
  STD_TORCH_CHECK(
      counts.scalar_type() == ScalarType::Long && counts.is_contiguous() && same_device(counts, pooled),
      "counts must be int64");
  check_labels(labels, pooled, means.size(0));
}

inline void check_class_images(const Tensor& images, const Tensor& labels, int64_t num_classes) {
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.dim() == 4 && images.size(3) == 3,
                  "images must be uint8 [N, H, W, 3]");
  check_labels(labels, images, num_classes);
}

inline void check_ar(const Tensor& coefficients, const Tensor& labels, const MaybeTensor& index,
                     int64_t height, int64_t width, double epsilon, int64_t crop) {
  STD_TORCH_CHECK(coefficients.scalar_type() == ScalarType::Float && coefficients.dim() == 4 &&
                      coefficients.size(1) >= 1 && coefficients.size(2) == 3 && coefficients.size(3) == 3,
                  "coefficients must be float32 [K, C, 3, 3]");
  STD_TORCH_CHECK(
      labels.scalar_type() == ScalarType::Long && labels.dim() == 1 && same_device(labels, coefficients),
      "labels must be int64 [N] on coefficients' device");
  if (index) {
    STD_TORCH_CHECK(
        index->scalar_type() == ScalarType::Long && same_shape(*index, labels) && same_device(*index, labels),
        "index must be int64 [N] on coefficients' device");
  }
  constexpr int64_t kMost = 1 << 14;
  STD_TORCH_CHECK(
      height >= 1 && height <= kMost && width >= 1 && width <= kMost && crop >= 0 && crop <= kMost,
      "height and width must be between 1 and 2**14, crop between 0 and 2**14");
  STD_TORCH_CHECK(epsilon > 0 && epsilon <= 3e38, "epsilon must be more than 0, and finite");
}

inline void check_step(const Tensor& delta, const Tensor& grad, const Tensor& x, const MaybeTensor& mean,
                       const MaybeTensor& std, const MaybeTensor& out) {
  STD_TORCH_CHECK(delta.scalar_type() == ScalarType::Float && delta.dim() == 4,
                  "delta must be float32 [N, C, H, W]");
  STD_TORCH_CHECK(is_reduced(grad.scalar_type()), "grad must be float32, bfloat16 or float16");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "x must be float32");
  STD_TORCH_CHECK(same_shape(grad, delta) && same_shape(x, delta), "grad and x must have delta's shape");
  STD_TORCH_CHECK(same_device(grad, delta) && same_device(x, delta), "grad and x must be on delta's device");
  if (out) {
    STD_TORCH_CHECK(is_reduced(out->scalar_type()) && same_shape(*out, delta) && same_device(*out, delta),
                    "out must be float32, bfloat16 or float16, of delta's shape, on its device");
  }
  for (const MaybeTensor* channel : {&mean, &std}) {
    if (!*channel) continue;
    const Tensor& t = **channel;
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.dim() == 1 && t.size(0) == delta.size(1) &&
                        same_device(t, delta),
                    "mean and std must be float32 [C] on delta's device");
  }
}

inline void check_class_mean_step(const Tensor& delta, const Tensor& grad, const Tensor& labels,
                                  const MaybeTensor& x, const MaybeTensor& mean, const MaybeTensor& std,
                                  const MaybeTensor& out) {
  STD_TORCH_CHECK(
      delta.scalar_type() == ScalarType::Float && delta.dim() == 4 && layout_of(delta) != Layout::kOther,
      "delta must be float32 [K, C, H, W], contiguous or channels_last");
  const auto is_batch = [&](const Tensor& t) {
    return t.dim() == 4 && t.size(0) == grad.size(0) && t.size(1) == delta.size(1) &&
           t.size(2) == delta.size(2) && t.size(3) == delta.size(3) && same_device(t, delta);
  };
  STD_TORCH_CHECK(is_reduced(grad.scalar_type()) && grad.dim() == 4 && is_batch(grad),
                  "grad must be float32, bfloat16 or float16 [B, C, H, W] on delta's device");
  check_labels(labels, grad, delta.size(0));
  STD_TORCH_CHECK(x.has_value() == out.has_value(), "x and out must be given together");
  if (out) {
    STD_TORCH_CHECK(x->scalar_type() == ScalarType::Float && is_batch(*x),
                    "x must be float32, of grad's shape, on its device");
    STD_TORCH_CHECK(is_reduced(out->scalar_type()) && is_batch(*out),
                    "out must be float32, bfloat16 or float16, of grad's shape, on its device");
  }
  for (const MaybeTensor* channel : {&mean, &std}) {
    if (!*channel) continue;
    const Tensor& t = **channel;
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.dim() == 1 && t.size(0) == delta.size(1) &&
                        same_device(t, delta),
                    "mean and std must be float32 [C] on delta's device");
  }
}

inline void check_bank(const Tensor& bank, const MaybeTensor& index, double epsilon) {
  STD_TORCH_CHECK(bank.scalar_type() == ScalarType::Char && bank.dim() == 4 && bank.is_contiguous(),
                  "bank must be int8 [N, H, W, C], contiguous");
  if (index) {
    STD_TORCH_CHECK(
        index->scalar_type() == ScalarType::Long && index->dim() == 1 && same_device(*index, bank),
        "index must be int64 [B] on bank's device");
  }
  STD_TORCH_CHECK(epsilon > 0 && epsilon <= 3e38, "epsilon must be more than 0, and finite");
}

inline void check_bank_delta(const Tensor& bank, int64_t batch, const Tensor& delta) {
  STD_TORCH_CHECK(delta.scalar_type() == ScalarType::Float && delta.dim() == 4 && delta.size(0) == batch &&
                      delta.size(1) == bank.size(3) && delta.size(2) == bank.size(1) &&
                      delta.size(3) == bank.size(2) && same_device(delta, bank),
                  "delta must be float32 [B, C, H, W] on bank's device");
}

inline void check_augment(const Tensor& images, const MaybeTensor& index, const MaybeTensor& delta,
                          const MaybeTensor& mean, const MaybeTensor& std, ScalarType dtype) {
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.dim() == 4 && images.size(3) == 3,
                  "images must be uint8 [M, H, W, 3]");
  STD_TORCH_CHECK(is_reduced(dtype), "dtype must be float32, bfloat16 or float16");
  if (index) {
    STD_TORCH_CHECK(
        index->scalar_type() == ScalarType::Long && index->dim() == 1 && same_device(*index, images),
        "index must be int64 [B] on images' device");
  }
  if (delta) {
    const ScalarType type = delta->scalar_type();
    STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Char || type == ScalarType::Short,
                    "delta must be float32, int8 or int16");
    STD_TORCH_CHECK(same_shape(*delta, images) && same_device(*delta, images),
                    "delta must have images' shape and device");
  }
  for (const MaybeTensor* channel : {&mean, &std}) {
    if (!*channel) continue;
    const Tensor& t = **channel;
    STD_TORCH_CHECK(
        t.scalar_type() == ScalarType::Float && t.dim() == 1 && t.size(0) == 3 && same_device(t, images),
        "mean and std must be float32 [3] on images' device");
  }
}

inline AugmentSettings augment_settings(int64_t seed, int64_t offset, int64_t padding, bool flip,
                                        double brightness, double contrast, double saturation, double hue,
                                        double jitter_probability, double grey_probability) {
  STD_TORCH_CHECK(padding >= 0 && padding <= (1 << 20), "padding must be between 0 and 2**20");
  STD_TORCH_CHECK(brightness >= 0 && contrast >= 0 && saturation >= 0 && hue >= 0 && hue <= 0.5,
                  "brightness, contrast, saturation must be at least 0, hue between 0 and 0.5");
  AugmentSettings settings{};
  settings.seed = static_cast<uint64_t>(seed);
  settings.offset = static_cast<uint64_t>(offset);
  settings.padding = static_cast<uint32_t>(padding);
  settings.flip = flip;
  const double strengths[4] = {brightness, contrast, saturation, hue};
  bool adjusts = false;
  for (int kind = 0; kind < 4; ++kind) {
    const double strength = strengths[kind];
    settings.enabled[kind] = strength > 0;
    adjusts |= settings.enabled[kind];
    settings.low[kind] = static_cast<float>(kind == kHue ? -strength : (strength < 1 ? 1 - strength : 0.0));
    settings.high[kind] = static_cast<float>(kind == kHue ? strength : 1 + strength);
  }
  settings.jitter_probability = adjusts ? jitter_probability : 0.0;  // no sample passes for one that changes
  settings.grey_probability = grey_probability;
  return settings;
}

inline void check_degrade(const Tensor& images, const MaybeTensor& index) {
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.dim() == 4 && images.size(3) == 3,
                  "images must be uint8 [M, H, W, 3]");
  if (index) {
    STD_TORCH_CHECK(
        index->scalar_type() == ScalarType::Long && index->dim() == 1 && same_device(*index, images),
        "index must be int64 [B] on images' device");
  }
}

// From the table that pst_fast/ops/degradation.py makes: a row a view, of (until, kind, grey, a, b) and taps.
inline Views read_views(const Tensor& table, const Tensor& images, int64_t seed, int64_t offset) {
  constexpr int64_t kColumns = 5 + kMaxRadius + 1;
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Double && table.dim() == 2 && !table.is_cuda() &&
                      table.is_contiguous() && table.size(0) >= 1 && table.size(0) <= kMaxViews &&
                      table.size(1) == kColumns,
                  "views must be float64 [1 to ", kMaxViews, ", ", kColumns, "] on the CPU");
  const int64_t height = images.size(1), width = images.size(2), shorter = height < width ? height : width;
  Views views{};
  views.seed = static_cast<uint64_t>(seed);
  views.offset = static_cast<uint64_t>(offset);
  views.count = static_cast<int32_t>(table.size(0));
  for (int32_t i = 0; i < views.count; ++i) {
    const double* row = table.const_data_ptr<double>() + i * kColumns;
    View& view = views.view[i];
    view.until = row[0];
    const int kind = static_cast<int>(row[1]);
    STD_TORCH_CHECK(kind >= 0 && kind < kViewKinds, "views: unknown kind ", kind);
    view.kind = static_cast<ViewKind>(kind);
    view.grey = row[2] != 0;
    double a = row[3], b = row[4];
    if (view.kind == kErase) {
      STD_TORCH_CHECK(0 <= a && a <= b && b <= 1, "views: sides to erase must be shares in [0, 1]");
      a = static_cast<double>(static_cast<int64_t>(a * static_cast<double>(shorter)));
      b = static_cast<double>(static_cast<int64_t>(b * static_cast<double>(shorter)));
    } else if (view.kind == kBlur) {
      STD_TORCH_CHECK(0 <= a && a <= kMaxRadius, "views: a blur's radius must be at most ", kMaxRadius);
      view.radius = static_cast<int32_t>(a);
      for (int32_t k = 0; k <= view.radius; ++k) view.taps[k] = static_cast<float>(row[5 + k]);
    } else if (view.kind == kJpeg) {
      STD_TORCH_CHECK(1 <= a && a <= 100, "views: a JPEG's quality must be between 1 and 100");
    } else if (view.kind == kDownUp || view.kind == kBits) {
      STD_TORCH_CHECK(1 <= a && a <= 65536, "views: a factor or number of levels must be at least 1");
    }
    view.a = static_cast<int32_t>(a);
    view.b = static_cast<int32_t>(b);
  }
  return views;
}

}  // namespace pst
