// The views of `degrade` on the CPU: a sample a task.
#include <memory>

#include "common/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"

namespace pst::cpu {

static Tensor degrade(const Tensor& images, const MaybeTensor& index, const Tensor& views, int64_t seed,
                      int64_t offset) {
  check_degrade(images, index);
  const Tensor dense = torch::stable::contiguous(images);
  DegradeJob job{};
  job.views = read_views(views, images, seed, offset);
  job.images = dense.const_data_ptr<uint8_t>();
  job.height = images.size(1);
  job.width = images.size(2);
  const Rows taken("degrade", index, images.size(0));
  const int64_t batch = taken.count;
  Tensor out = new_empty(images, {batch, job.height, job.width, 3}, ScalarType::Byte);
  if (out.numel() == 0) return out;
  uint8_t* to = out.mutable_data_ptr<uint8_t>();
  const auto run = kernels().degrade;
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<char[]> scratch(new char[static_cast<size_t>(job.scratch_bytes())]);
    for (int64_t i = begin; i < end; ++i) {
      const ViewDraw draw = draw_view(job.views, static_cast<uint32_t>(i), job.height, job.width);
      run(job, draw, taken[i], to + 3 * i * job.height * job.width, scratch.get());
    }
  });
  return out;
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("degrade", TORCH_BOX(&pst::cpu::degrade));
}
