// class_pixel_sums on CUDA. Its sums are whole numbers: atomics give the same ones in any order.
#include <algorithm>

#include "common/checks.h"
#include "cuda/groups.h"
#include "cuda/launch.h"

namespace pst::cuda {

struct ClassImages {
  const uint8_t* images;
  const int64_t *rows, *starts;
  int64_t pixels, tiles, parts;  // a tile is a block's pixels, a part some of a class's samples
  unsigned long long *sums, *products;
};

// kPixels pixels of one sample: three words for four of them, three bytes for one.
template <int kPixels>
__device__ __forceinline__ void load_pixels(const uint8_t* from, uint32_t (&value)[3 * kPixels]) {
  if constexpr (kPixels == 4) {
#pragma unroll
    for (int w = 0; w < 3; ++w) {
      const uint32_t word = __ldg(reinterpret_cast<const uint32_t*>(from) + w);
#pragma unroll
      for (int b = 0; b < 4; ++b) value[4 * w + b] = word >> (8 * b) & 255;
    }
  } else {
#pragma unroll
    for (int b = 0; b < 3 * kPixels; ++b) value[b] = from[b];
  }
}

// Each thread has its pixels and walks over one part of the class's samples.
template <int kPixels>
__global__ void __launch_bounds__(kThreads) pixel_sums(ClassImages job) {
  constexpr int64_t kSamples = 65536;  // so many products of two bytes fit 32 bits
  const int64_t block = blockIdx.x, tile = block % job.tiles, part = block / job.tiles % job.parts;
  const int64_t k = block / job.tiles / job.parts;
  const int64_t pixel = (tile * kThreads + threadIdx.x) * kPixels;
  if (pixel >= job.pixels) return;
  const int64_t begin = job.starts[k], count = job.starts[k + 1] - begin;
  const int64_t first = begin + count * part / job.parts, last = begin + count * (part + 1) / job.parts;
  const uint8_t* at = job.images + 3 * pixel;
  for (int64_t start = first; start < last; start += kSamples) {
    const int64_t stop = start + kSamples < last ? start + kSamples : last;
    uint32_t sums[3 * kPixels] = {}, products[6 * kPixels] = {};
#pragma unroll 4
    for (int64_t i = start; i < stop; ++i) {
      uint32_t value[3 * kPixels];
      load_pixels<kPixels>(at + 3 * job.pixels * job.rows[i], value);
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        int product = 6 * p;
#pragma unroll
        for (int a = 0; a < 3; ++a) {
          sums[3 * p + a] += value[3 * p + a];
#pragma unroll
          for (int b = a; b < 3; ++b) products[product++] += value[3 * p + a] * value[3 * p + b];
        }
      }
    }
    const int64_t out = k * job.pixels + pixel;
#pragma unroll
    for (int i = 0; i < 3 * kPixels; ++i) atomicAdd(job.sums + 3 * out + i, sums[i]);
#pragma unroll
    for (int i = 0; i < 6 * kPixels; ++i) atomicAdd(job.products + 6 * out + i, products[i]);
  }
}

static std::tuple<Tensor, Tensor, Tensor> class_pixel_sums(const Tensor& images, const Tensor& labels,
                                                           int64_t num_classes) {
  check_class_images(images, labels, num_classes);
  const Launch launch(images);
  const Tensor dense = torch::stable::contiguous(images);
  const int64_t samples = images.size(0), height = images.size(1), width = images.size(2);
  const Groups groups(launch, labels, num_classes);
  Tensor sums = new_empty(images, {num_classes, height, width, 3}, ScalarType::Long);
  Tensor products = new_empty(images, {num_classes, height, width, 6}, ScalarType::Long);
  torch::stable::zero_(sums);
  torch::stable::zero_(products);
  if (images.numel() == 0) return {groups.counts, sums, products};

  ClassImages job{};
  job.images = dense.const_data_ptr<uint8_t>();
  job.rows = groups.rows.const_data_ptr<int64_t>();
  job.starts = groups.starts.const_data_ptr<int64_t>();
  job.pixels = height * width;
  job.sums = reinterpret_cast<unsigned long long*>(sums.mutable_data_ptr<int64_t>());
  job.products = reinterpret_cast<unsigned long long*>(products.mutable_data_ptr<int64_t>());
  const bool is_packed = job.pixels % 4 == 0 && is_aligned(job.images, 4);
  const int64_t each = kThreads * (is_packed ? 4 : 1);
  job.tiles = (job.pixels + each - 1) / each;
  // Parts of some 128 samples: enough blocks for any device, few atomics for each product.
  job.parts = std::max<int64_t>(1, samples / num_classes / 128);
  const unsigned blocks = blocks_for(job.tiles * job.parts * num_classes, 1);
  if (is_packed) {
    pixel_sums<4><<<blocks, kThreads, 0, launch.stream()>>>(job);
  } else {
    pixel_sums<1><<<blocks, kThreads, 0, launch.stream()>>>(job);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {groups.counts, sums, products};
}

}  // namespace pst::cuda

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CUDA, m) {
  m.impl("class_pixel_sums", TORCH_BOX(&pst::cuda::class_pixel_sums));
}
