// The fused augmentation on the CPU.
#include <vector>

#include "common/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/storage.h"

namespace pst::cpu {

static DeltaKind delta_kind(const MaybeTensor& delta) {
  if (!delta) return kNoDelta;
  if (delta->scalar_type() == ScalarType::Float) return kFloatDelta;
  return delta->scalar_type() == ScalarType::Char ? kInt8Delta : kInt16Delta;
}

static Tensor augment(const Tensor& images, const MaybeTensor& index, const MaybeTensor& delta, int64_t seed,
                      int64_t offset, int64_t padding, bool flip, double brightness, double contrast,
                      double saturation, double hue, double jitter_probability, double grey_probability,
                      const MaybeTensor& mean, const MaybeTensor& std, ScalarType dtype) {
  check_augment(images, index, delta, mean, std, dtype);
  const Tensor dense_images = torch::stable::contiguous(images);
  const Tensor dense_delta = delta ? torch::stable::contiguous(*delta) : dense_images;
  const int64_t rows = images.size(0), height = images.size(1), width = images.size(2);
  const Rows taken("augment", index, rows);
  const int64_t batch = taken.count;
  Tensor out = new_empty(images, {batch, 3, height, width}, dtype, MemoryFormat::ChannelsLast);
  if (out.numel() == 0) return out;

  AugmentJob job{};
  job.settings = augment_settings(seed, offset, padding, flip, brightness, contrast, saturation, hue,
                                  jitter_probability, grey_probability);
  job.images = dense_images.const_data_ptr<uint8_t>();
  job.delta = dense_delta.const_data_ptr();
  job.delta_kind = delta_kind(delta);
  job.height = height;
  job.width = width;
  for (int64_t c = 0; c < 3; ++c) {
    job.mean[c] = mean ? mean->const_data_ptr<float>()[c * mean->stride(0)] : 0.0f;
    job.inverse_std[c] = std ? 1.0f / std->const_data_ptr<float>()[c * std->stride(0)] : 1.0f;
  }
  const int storage = storage_of(dtype);
  const auto run = kernels().augment[storage];
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t sample_bytes = 3 * height * width * storage_bytes(storage);
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(job.scratch_floats()));
    for (int64_t i = begin; i < end; ++i) {
      const AugmentDraws draws = draw(job.settings, static_cast<uint32_t>(i));
      run(job, draws, taken[i], to + i * sample_bytes, scratch.data());
    }
  });
  return out;
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("augment", TORCH_BOX(&pst::cpu::augment));
}
