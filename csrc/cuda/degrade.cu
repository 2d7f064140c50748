// The views of `degrade` on CUDA: a launch for the JPEGs' chroma, one for their luma, one for all other
// views. All threads of a block work on one sample, and so on one view; a launch leaves the others' samples
// alone.
#include <algorithm>

#include "common/checks.h"
#include "cuda/views_jpeg.h"
#include "cuda/views_tiles.h"

namespace pst::cuda {

static Tensor degrade(const Tensor& images, const MaybeTensor& index, const Tensor& views, int64_t seed,
                      int64_t offset) {
  check_degrade(images, index);
  STD_TORCH_CHECK(images.size(1) * images.size(2) < (int64_t{1} << 29), "images are too large");
  const Launch launch(images);
  const Tensor dense = torch::stable::contiguous(images);
  ViewJob job{};
  job.views = read_views(views, images, seed, offset);
  job.images = dense.const_data_ptr<uint8_t>();
  job.index = index ? index->const_data_ptr<int64_t>() : nullptr;
  job.index_stride = index ? index->stride(0) : 0;
  job.rows = images.size(0);
  job.height = static_cast<int>(images.size(1));
  job.width = static_cast<int>(images.size(2));
  const int64_t batch = index ? index->size(0) : job.rows;
  Tensor out = new_empty(images, {batch, job.height, job.width, 3}, ScalarType::Byte);
  if (out.numel() == 0) return out;
  job.out = out.mutable_data_ptr<uint8_t>();
  job.is_read_wide = job.width % kSide == 0 && is_aligned(job.images, 8);
  job.is_written_wide = job.width % kSide == 0 && is_aligned(job.out, 8);
  int32_t jpegs = 0;
  bool is_any_full = false;
  size_t shared = 0;
  for (int32_t i = 0; i < job.views.count; ++i) {
    const View& view = job.views.view[i];
    jpegs += view.kind == kJpeg;
    is_any_full |= view.kind == kJpeg && view.b != 0;
    shared = std::max(shared, tile_bytes(view));
  }
  // Lives until the end of this call: the allocator hands it on in the stream's order.
  Tensor chroma =
      new_empty(images, {jpegs > 0 ? 2 * batch * whole_blocks(job.height) * whole_blocks(job.width) : 0},
                ScalarType::Byte);
  if (jpegs > 0) {
    job.chroma = chroma.mutable_data_ptr<uint8_t>();
    const auto run = [&](auto kernel, int64_t height, int64_t width) {
      const int64_t count = whole_blocks(height) / kSide * (whole_blocks(width) / kSide);
      const int threads = threads_for(count);
      const int64_t parts = std::min<int64_t>((count * kSide + threads - 1) / threads, 4096);
      launch.run(kernel, blocks_for(batch * parts, 1), threads)(job, static_cast<int>(parts));
    };
    if (is_any_full) {
      run(code_chroma, job.height, job.width);
    } else {
      run(code_chroma, (job.height + 1) / 2, (job.width + 1) / 2);
    }
    run(show_jpegs, job.height, job.width);
  }
  if (jpegs < job.views.count) {
    const int tiles = (job.height + kTile - 1) / kTile * ((job.width + kTile - 1) / kTile);
    launch.run(show_others, blocks_for(batch * tiles, 1), kThreads, shared)(job, tiles);
  }
  return out;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("degrade", TORCH_BOX(&pst::cuda::degrade));
}
