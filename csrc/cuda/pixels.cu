// class_pixel_sums on CUDA. Its sums are whole numbers: atomics give the same ones in any order.
#include <algorithm>

#include "common/checks.h"
#include "cuda/classes.h"
#include "cuda/launch.h"

namespace pst::cuda {

struct ClassImages {
  const uint8_t* images;
  Labels labels;
  int64_t pixels, tiles, parts;  // a tile is a block's pixels, a part its share of the labels
  unsigned long long *counts, *sums, *products;

  // Where there is one part, nothing else is to be added.
  __device__ __forceinline__ void add(unsigned long long* to, unsigned long long value) const {
    if (parts > 1) {
      atomicAdd(to, value);
    } else {
      *to = value;
    }
  }
};

constexpr int64_t kMostSamples = 65536;  // of a part: so many products of two bytes fit 32 bits

// Bytes of four pixels as three words, or of one as a word.
template <int kPixels>
struct PixelWords {
  static constexpr int kWords = (3 * kPixels + 3) / 4;
  uint32_t word[kWords];

  __device__ __forceinline__ void load(const uint8_t* from) {
    if constexpr (kPixels == 4) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) word[w] = __ldg(reinterpret_cast<const uint32_t*>(from) + w);
    } else {
      word[0] = from[0] | static_cast<uint32_t>(from[1]) << 8 | static_cast<uint32_t>(from[2]) << 16;
    }
  }
  __device__ __forceinline__ uint32_t operator[](int i) const { return word[i / 4] >> (8 * (i % 4)) & 255; }
};

constexpr int kWarps = kThreads / 32;

// A block has one class's share of the labels in a part, and a tile of pixels, some for each lane of a warp.
// Its warps take turns with the class's samples, and then their sums come together.
template <int kPixels>
__global__ void __launch_bounds__(kThreads) pixel_sums(ClassImages job) {
  constexpr int kSums = 3 * kPixels, kProducts = 6 * kPixels, kValues = kSums + kProducts;
  __shared__ ClassList<kWarps> list;
  __shared__ uint32_t partial[kWarps][32][kValues + 1];  // an odd number of words: lanes in different banks
  const int64_t block = blockIdx.x, tile = block % job.tiles, part = block / job.tiles % job.parts;
  const int64_t k = block / job.tiles / job.parts;
  if (k == 0 && tile == 0) check_range(job.labels, part, job.parts);
  const int64_t begin = job.labels.count * part / job.parts, end = job.labels.count * (part + 1) / job.parts;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = tile * 32 * kPixels, pixel = first + lane * kPixels;
  const bool is_inside = pixel < job.pixels;
  const uint8_t* at = job.images + 3 * pixel;
  int64_t total = 0;
  uint32_t sums[kSums] = {}, products[kProducts] = {};
  for (int64_t start = begin; start < end; start += list.kChunk) {
    const int count = list.find(job.labels, k, start, end);
    total += count;
#pragma unroll 4
    for (int i = warp; i < (is_inside ? count : 0); i += kWarps) {
      PixelWords<kPixels> value;
      value.load(at + 3 * job.pixels * (start + list.place[i]));
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
  }
  if (tile == 0 && threadIdx.x == 0) job.add(job.counts + k, static_cast<unsigned long long>(total));
  if (total == 0 && job.parts > 1) return;
  uint32_t* own = partial[warp][lane];
#pragma unroll
  for (int v = 0; v < kSums; ++v) own[v] = sums[v];
#pragma unroll
  for (int v = 0; v < kProducts; ++v) own[kSums + v] = products[v];
  __syncthreads();
  // Outputs in memory's order: `each` of a lane, from value `start` on.
  const auto write = [&](int start, int each, unsigned long long* to) {
    const int64_t count = min(static_cast<int64_t>(32 * kPixels), job.pixels - first) * (each / kPixels);
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const int of = i / each, v = start + i - of * each;
      uint32_t sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += partial[w][of][v];
      job.add(to + i, sum);
    }
  };
  write(0, kSums, job.sums + 3 * (k * job.pixels + first));
  write(kSums, kProducts, job.products + 6 * (k * job.pixels + first));
}

static std::tuple<Tensor, Tensor, Tensor> class_pixel_sums(const Tensor& images, const Tensor& labels,
                                                           int64_t num_classes) {
  check_class_images(images, labels, num_classes);
  const Launch launch(images);
  const Tensor dense = torch::stable::contiguous(images);
  const int64_t samples = images.size(0), height = images.size(1), width = images.size(2);
  Tensor counts = new_empty(images, {num_classes}, ScalarType::Long);
  Tensor sums = new_empty(images, {num_classes, height, width, 3}, ScalarType::Long);
  Tensor products = new_empty(images, {num_classes, height, width, 6}, ScalarType::Long);
  ClassImages job{};
  job.images = dense.const_data_ptr<uint8_t>();
  job.labels = labels_of(labels, num_classes);
  job.pixels = height * width;
  job.counts = reinterpret_cast<unsigned long long*>(counts.mutable_data_ptr<int64_t>());
  job.sums = reinterpret_cast<unsigned long long*>(sums.mutable_data_ptr<int64_t>());
  job.products = reinterpret_cast<unsigned long long*>(products.mutable_data_ptr<int64_t>());
  const bool is_packed = job.pixels % 4 == 0 && is_aligned(job.images, 4);
  const int64_t each = 32 * (is_packed ? 4 : 1);
  job.tiles = std::max<int64_t>(1, (job.pixels + each - 1) / each);  // one for the counts, at least
  // As many parts as fill any device, but with some 64 samples of a class: each has atomics of its own.
  const int64_t wanted = std::min(1024 / (job.tiles * num_classes), samples / num_classes / 64);
  job.parts = std::max({int64_t{1}, wanted, (samples + kMostSamples - 1) / kMostSamples});
  if (job.parts > 1 || samples == 0) {
    torch::stable::zero_(counts);
    torch::stable::zero_(sums);
    torch::stable::zero_(products);
  }
  if (samples == 0) return {counts, sums, products};
  const unsigned blocks = blocks_for(job.tiles * job.parts * num_classes, 1);
  if (is_packed) {
    launch.run(pixel_sums<4>, blocks)(job);
  } else {
    launch.run(pixel_sums<1>, blocks)(job);
  }
  return {counts, sums, products};
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("class_pixel_sums", TORCH_BOX(&pst::cuda::class_pixel_sums));
}
