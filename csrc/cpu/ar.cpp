// ar_perturbation on the CPU.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "common/checks.h"
#include "cpu/kernels.h"
#include "cpu/storage.h"

namespace pst::cpu {

static Tensor ar_perturbation(const Tensor& coefficients, const Tensor& labels, const MaybeTensor& index,
                              int64_t height, int64_t width, double epsilon, int64_t seed, int64_t crop) {
  check_ar(coefficients, labels, index, height, width, epsilon, crop);
  const Tensor dense = torch::stable::contiguous(coefficients);
  const int64_t samples = labels.size(0), num_classes = dense.size(0), channels = dense.size(1);
  Tensor out = new_empty(dense, {samples, height, width, channels}, ScalarType::Float);
  const int64_t *label = labels.const_data_ptr<int64_t>(),
                *number = index ? index->const_data_ptr<int64_t>() : nullptr;
  const int64_t label_stride = labels.stride(0), number_stride = index ? index->stride(0) : 0;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t k = label[i * label_stride];
    STD_TORCH_CHECK(k >= 0 && k < num_classes, "ar_perturbation: labels must be in [0, ", num_classes,
                    "), got ", k);
  }
  if (out.numel() == 0) return out;

  ArJob job{};
  job.seed = static_cast<uint64_t>(seed);
  job.height = height;
  job.width = width;
  job.crop = crop;
  job.channels = channels;
  const float* taps = dense.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t values = height * width * channels;
  std::atomic<int64_t> failed{samples};  // the first sample whose pattern has no norm
  // A task is as many samples as there are lanes: their planes fill `channels` vectors.
  const int64_t tasks = (samples + kArPlanes - 1) / kArPlanes;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(job.scratch_floats()));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kArPlanes, last = std::min(first + kArPlanes, samples);
      const int64_t stop = last * channels;
      for (int64_t plane = first * channels; plane < stop; plane += kArPlanes) {
        ArPlane planes[kArPlanes];
        const int64_t count = std::min(kArPlanes, stop - plane);
        for (int64_t p = 0; p < count; ++p) {
          const int64_t i = (plane + p) / channels, c = (plane + p) % channels;
          planes[p].taps = taps + 9 * (label[i * label_stride] * channels + c);
          planes[p].sample = static_cast<uint64_t>(number == nullptr ? i : number[i * number_stride]);
          planes[p].channel = static_cast<uint32_t>(c);
          planes[p].out = to + i * values + c;
        }
        kernels().ar_planes(job, planes, count, scratch.data());
      }
      for (int64_t i = first; i < last; ++i) {
        const double norm = std::sqrt(kernels().square_sum(to + i * values, values));
        if (norm > 0 && std::isfinite(norm)) {
          kernels().scale_by(to + i * values, values, epsilon / norm);
          continue;
        }
        int64_t earliest = failed.load();
        while (i < earliest && !failed.compare_exchange_weak(earliest, i)) {
        }
      }
    }
  });
  if (failed < samples) {
    STD_TORCH_CHECK(false, "ar_perturbation: the process of class ", label[failed * label_stride],
                    " diverges or dies out on ", height, "x", width, " pixels");
  }
  return out;
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("ar_perturbation", TORCH_BOX(&pst::cpu::ar_perturbation));
}
