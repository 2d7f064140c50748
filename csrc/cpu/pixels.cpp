// class_pixel_sums on the CPU.
#include "common/checks.h"
#include "cpu/groups.h"
#include "cpu/kernels.h"
#include "cpu/storage.h"

namespace pst::cpu {

static std::tuple<Tensor, Tensor, Tensor> class_pixel_sums(const Tensor& images, const Tensor& labels,
                                                           int64_t num_classes) {
  check_class_images(images, labels, num_classes);
  const Groups groups = group(labels, num_classes);
  const Tensor dense = torch::stable::contiguous(images);
  const int64_t height = images.size(1), width = images.size(2), pixels = height * width;
  Tensor counts = new_empty(images, {num_classes}, ScalarType::Long);
  Tensor sums = new_empty(images, {num_classes, height, width, 3}, ScalarType::Long);
  Tensor products = new_empty(images, {num_classes, height, width, 6}, ScalarType::Long);
  const uint8_t* from = dense.const_data_ptr<uint8_t>();
  int64_t *count = counts.mutable_data_ptr<int64_t>(), *sum = sums.mutable_data_ptr<int64_t>(),
          *product = products.mutable_data_ptr<int64_t>();
  for (int64_t k = 0; k < num_classes; ++k) count[k] = groups.count(k);
  // A task is one class's block of pixels, over all of its samples.
  constexpr int64_t kGrain = 65536;
  const int64_t blocks = (pixels + kSumPixels - 1) / kSumPixels, tasks = num_classes * blocks;
  torch::stable::parallel_for(
      0, tasks, grain_size(kGrain, images.numel() + tasks, tasks), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t k = task / blocks, first = task % blocks * kSumPixels, at = k * pixels + first;
          kernels().pixel_sums(from + 3 * first, 3 * pixels, std::min(kSumPixels, pixels - first),
                               groups.begin(k), count[k], sum + 3 * at, product + 6 * at);
        }
      });
  return {counts, sums, products};
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("class_pixel_sums", TORCH_BOX(&pst::cpu::class_pixel_sums));
}
