// The fused augmentation on CUDA: one launch, or two where contrast needs the mean of a large image first.
#include "common/checks.h"
#include "common/colour.h"
#include "common/draws.h"
#include "cuda/launch.h"

namespace pst::cuda {

constexpr int kRun = 4;                                // pixels of a thread at a time
constexpr int64_t kBlockPixels = 8 * kRun * kThreads;  // pixels of a block

enum DeltaKind { kNoDelta, kFloatDelta, kInt8Delta, kInt16Delta };

struct Job {
  AugmentSettings settings;
  const uint8_t* images;
  const void* delta;
  DeltaKind delta_kind;
  const int64_t* index;
  int64_t index_stride, rows;
  int height, width, parts;  // parts: blocks for each sample
  bool is_packed, needs_mean;
  const float *mean, *std;
  int64_t mean_stride, std_stride;
  double* sums;  // [blocks], of grey, where parts > 1

  __device__ __forceinline__ int64_t pixels() const { return static_cast<int64_t>(height) * width; }
};

// What a block works on: part of one sample.
struct Work {
  AugmentDraws draws;
  int64_t row;
};

// Run by one thread; the others read the result from shared memory.
__device__ void start_work(const Job& job, Work* work) {
  const int64_t sample = blockIdx.x / job.parts;
  work->draws = draw(job.settings, static_cast<uint32_t>(sample));
  work->row = job.index == nullptr ? sample : job.index[sample * job.index_stride];
  if (work->row < 0 || work->row >= job.rows) {
    printf("pst_fast::augment: index must be in [0, %lld), got %lld\n", static_cast<long long>(job.rows),
           static_cast<long long>(work->row));
    __trap();
  }
}

// Twelve bytes from anywhere, as three words; no word is read that has none of them.
__device__ __forceinline__ void load_bytes(const void* from, uint32_t (&words)[3]) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(from);
  const auto* aligned = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
  const uint32_t shift = 8 * static_cast<uint32_t>(address & 3);
  uint32_t low = __ldg(aligned);
#pragma unroll
  for (int w = 0; w < 3; ++w) {
    const uint32_t high = w < 2 || shift != 0 ? __ldg(aligned + w + 1) : 0;
    words[w] = __funnelshift_r(low, high, shift);
    low = high;
  }
}

constexpr float kUnit = 1.0f / 255.0f;

__device__ __forceinline__ float perturbed(const Job& job, float clean, int64_t at) {
  switch (job.delta_kind) {
    case kNoDelta:
      return clean;
    case kFloatDelta:
      return clamp01(clean + static_cast<const float*>(job.delta)[at]);
    case kInt8Delta:
      return clamp01(clean + static_cast<float>(static_cast<const int8_t*>(job.delta)[at]) * kUnit);
    default:
      return clamp01(clean + static_cast<float>(static_cast<const int16_t*>(job.delta)[at]) * kUnit);
  }
}

// A pixel of the window, perturbed; black outside the image.
__device__ __forceinline__ Pixel load_pixel(const Job& job, const Work& work, int at) {
  const int y = at / job.width, x = at - y * job.width;
  const int row = y + work.draws.top;
  const int column = (work.draws.flip ? job.width - 1 - x : x) + work.draws.left;
  if (row < 0 || row >= job.height || column < 0 || column >= job.width) return {0, 0, 0};
  const int64_t first = 3 * ((work.row * job.height + row) * job.width + column);
  const auto value = [&](int c) {
    return perturbed(job, static_cast<float>(job.images[first + c]) * kUnit, first + c);
  };
  return {value(0), value(1), value(2)};
}

// kRun pixels from `at` on; those beyond `end` are black. A run that lies in a row of the image is twelve
// bytes.
__device__ __forceinline__ void load_run(const Job& job, const Work& work, int at, int end,
                                         Pixel (&pixels)[kRun]) {
  static_assert(kRun == 4, "twelve bytes");
  const int y = at / job.width, x = at - y * job.width;
  const int row = y + work.draws.top;
  const int column = (work.draws.flip ? job.width - kRun - x : x) + work.draws.left;
  const bool is_inside = row >= 0 && row < job.height && column >= 0 && column + kRun <= job.width;
  if (!is_inside || x + kRun > job.width) {
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      pixels[k] = at + k < end ? load_pixel(job, work, at + k) : Pixel{0, 0, 0};
    }
    return;
  }
  const int64_t first = 3 * ((work.row * job.height + row) * job.width + column);
  uint32_t words[3];
  load_bytes(job.images + first, words);
  Pixel found[kRun];
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    const auto value = [&](int c) {
      const int i = 3 * k + c;
      return perturbed(job, static_cast<float>(words[i / 4] >> (8 * (i % 4)) & 255) * kUnit, first + i);
    };
    found[k] = {value(0), value(1), value(2)};
  }
#pragma unroll
  for (int k = 0; k < kRun; ++k) pixels[k] = work.draws.flip ? found[kRun - 1 - k] : found[k];
}

__device__ __forceinline__ Pixel adjust(Pixel pixel, int kind, float factor, float mean) {
  switch (kind) {
    case kBrightness:
      return brightness(pixel, factor);
    case kContrast:
      return blend(pixel, factor, mean);
    case kSaturation:
      return blend(pixel, factor, grey(pixel));
    default:
      return turn_hue(pixel, factor);
  }
}

// Makes the adjustments in the sample's order, up to contrast if `before_contrast`.
__device__ __forceinline__ Pixel jitter(const Job& job, const Work& work, Pixel pixel, float mean,
                                        bool before_contrast) {
  if (!work.draws.jitter) return pixel;
  for (int slot = 0; slot < 4; ++slot) {
    const int kind = work.draws.order[slot];
    if (before_contrast && kind == kContrast) break;
    if (job.settings.enabled[kind]) pixel = adjust(pixel, kind, work.draws.factor[kind], mean);
  }
  return pixel;
}

// The block's pixels.
struct Span {
  int64_t begin, end;
  __device__ __forceinline__ explicit Span(const Job& job)
      : begin(blockIdx.x % job.parts * kBlockPixels), end(min(begin + kBlockPixels, job.pixels())) {}
};

// Of the grey image just before contrast, over the block's pixels; valid in thread 0.
__device__ __forceinline__ double sum_grey(const Job& job, const Work& work) {
  const Span span(job);
  float sum = 0;
#pragma unroll 1
  for (int64_t first = span.begin + kRun * threadIdx.x; first < span.end; first += kRun * kThreads) {
    Pixel loaded[kRun];
    load_run(job, work, static_cast<int>(first), static_cast<int>(span.end), loaded);
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (first + k < span.end) sum += grey(jitter(job, work, loaded[k], 0, true));
    }
  }
  return block_sum<kThreads>(sum);
}

// The first of two launches where an image has several blocks and contrast needs its mean.
__global__ void __launch_bounds__(kThreads) write_sums(Job job) {
  __shared__ Work work;
  if (threadIdx.x == 0) start_work(job, &work);
  __syncthreads();
  if (!work.draws.jitter) return;
  const double sum = sum_grey(job, work);
  if (threadIdx.x == 0) job.sums[blockIdx.x] = sum;
}

// Five blocks a multiprocessor: for more, registers would be spilled.
template <typename T>
__global__ void __launch_bounds__(kThreads, 5) write_augmented(Job job, T* __restrict__ out) {
  __shared__ Work work;
  __shared__ float mean;
  const int64_t sample = blockIdx.x / job.parts;
  if (threadIdx.x == 0) start_work(job, &work);
  __syncthreads();
  double sum = 0;
  if (job.needs_mean && work.draws.jitter) {
    if (job.parts == 1) {
      sum = sum_grey(job, work);
    } else if (threadIdx.x == 0) {
      for (int part = 0; part < job.parts; ++part) sum += job.sums[sample * job.parts + part];
    }
  }
  if (threadIdx.x == 0) mean = static_cast<float>(sum / static_cast<double>(job.pixels()));
  __syncthreads();
  float channel_mean[3], inverse_std[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    channel_mean[c] = job.mean == nullptr ? 0.0f : job.mean[c * job.mean_stride];
    inverse_std[c] = job.std == nullptr ? 1.0f : 1.0f / job.std[c * job.std_stride];
  }
  const Span span(job);
#pragma unroll 1
  for (int64_t first = span.begin + kRun * threadIdx.x; first < span.end; first += kRun * kThreads) {
    Pack<T, kRun> packs[3];  // kRun pixels are three packs of channels
    T* run = &packs[0].value[0];
    Pixel loaded[kRun];
    load_run(job, work, static_cast<int>(first), static_cast<int>(span.end), loaded);
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      Pixel pixel = jitter(job, work, loaded[k], mean, false);
      if (work.draws.grey) {
        const float value = grey(pixel);
        pixel = {value, value, value};
      }
      narrow((pixel.red - channel_mean[0]) * inverse_std[0], run + 3 * k);
      narrow((pixel.green - channel_mean[1]) * inverse_std[1], run + 3 * k + 1);
      narrow((pixel.blue - channel_mean[2]) * inverse_std[2], run + 3 * k + 2);
    }
    T* to = out + 3 * (sample * job.pixels() + first);
    if (job.is_packed) {
#pragma unroll
      for (int c = 0; c < 3; ++c) reinterpret_cast<Pack<T, kRun>*>(to)[c] = packs[c];
    } else {
#pragma unroll
      for (int e = 0; e < 3 * kRun; ++e) {
        if (first + e / 3 < span.end) to[e] = run[e];
      }
    }
  }
}

static Tensor augment(const Tensor& images, const MaybeTensor& index, const MaybeTensor& delta, int64_t seed,
                      int64_t offset, int64_t padding, bool flip, double brightness, double contrast,
                      double saturation, double hue, double jitter_probability, double grey_probability,
                      const MaybeTensor& mean, const MaybeTensor& std, ScalarType dtype) {
  check_augment(images, index, delta, mean, std, dtype);
  const Launch launch(images);
  const Tensor dense_images = torch::stable::contiguous(images);
  const Tensor dense_delta = delta ? torch::stable::contiguous(*delta) : dense_images;
  const int64_t rows = images.size(0), height = images.size(1), width = images.size(2);
  const int64_t batch = index ? index->size(0) : rows, pixels = height * width;
  STD_TORCH_CHECK(pixels <= 0x3fffffff, "images must have less than 2**30 pixels");
  Tensor out = new_empty(images, {batch, 3, height, width}, dtype, MemoryFormat::ChannelsLast);
  if (out.numel() == 0) return out;

  Job job{};
  job.settings = augment_settings(seed, offset, padding, flip, brightness, contrast, saturation, hue,
                                  jitter_probability, grey_probability);
  job.images = dense_images.const_data_ptr<uint8_t>();
  if (delta) {
    job.delta = dense_delta.const_data_ptr();
    job.delta_kind = delta->scalar_type() == ScalarType::Float  ? kFloatDelta
                     : delta->scalar_type() == ScalarType::Char ? kInt8Delta
                                                                : kInt16Delta;
  }
  if (index) {
    job.index = index->const_data_ptr<int64_t>();
    job.index_stride = index->stride(0);
  }
  job.rows = rows;
  job.height = static_cast<int>(height);
  job.width = static_cast<int>(width);
  job.parts = static_cast<int>((pixels + kBlockPixels - 1) / kBlockPixels);
  if (mean) {
    job.mean = mean->const_data_ptr<float>();
    job.mean_stride = mean->stride(0);
  }
  if (std) {
    job.std = std->const_data_ptr<float>();
    job.std_stride = std->stride(0);
  }
  const unsigned blocks = blocks_for(batch * job.parts, 1);
  job.is_packed = pixels % kRun == 0;
  job.needs_mean = job.settings.needs_mean();
  const bool is_first = job.needs_mean && job.parts > 1;
  const Tensor sums = new_empty(images, {is_first ? static_cast<int64_t>(blocks) : 0}, ScalarType::Double);
  if (is_first) {
    job.sums = sums.mutable_data_ptr<double>();
    launch.run(write_sums, blocks)(job);
  }
  dispatch_reduced(dtype, [&](auto type) {
    using T = decltype(type);
    launch.run(write_augmented<T>, blocks)(job, static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("augment", TORCH_BOX(&pst::cuda::augment));
}
