// The fused augmentation on CUDA: one launch, or two where contrast needs the image's mean first.
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
  const float *mean, *std;
  int64_t mean_stride, std_stride;
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

// A pixel of the window, perturbed; black outside the image.
__device__ __forceinline__ Pixel load_pixel(const Job& job, const Work& work, int at) {
  const int y = at / job.width, x = at - y * job.width;
  const int row = y + work.draws.top;
  const int column = (work.draws.flip ? job.width - 1 - x : x) + work.draws.left;
  if (row < 0 || row >= job.height || column < 0 || column >= job.width) return {0, 0, 0};
  const int64_t first = 3 * ((work.row * job.height + row) * job.width + column);
  constexpr float kUnit = 1.0f / 255.0f;
  const uint8_t* bytes = job.images + first;
  float value[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) value[c] = static_cast<float>(bytes[c]) * kUnit;
  if (job.delta_kind != kNoDelta) {
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      float shift;
      if (job.delta_kind == kFloatDelta) {
        shift = static_cast<const float*>(job.delta)[first + c];
      } else if (job.delta_kind == kInt8Delta) {
        shift = static_cast<float>(static_cast<const int8_t*>(job.delta)[first + c]) * kUnit;
      } else {
        shift = static_cast<float>(static_cast<const int16_t*>(job.delta)[first + c]) * kUnit;
      }
      value[c] = clamp01(value[c] + shift);
    }
  }
  return {value[0], value[1], value[2]};
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

// Sum of the grey image just before contrast, by block.
__global__ void __launch_bounds__(kThreads) sum_grey(Job job, double* __restrict__ partial) {
  __shared__ Work work;
  if (threadIdx.x == 0) start_work(job, &work);
  __syncthreads();
  if (!work.draws.jitter) return;
  const int64_t pixels = static_cast<int64_t>(job.height) * job.width;
  const int64_t begin = (blockIdx.x % job.parts) * kBlockPixels;
  const int64_t end = begin + kBlockPixels < pixels ? begin + kBlockPixels : pixels;
  float sum = 0;
  for (int64_t at = begin + threadIdx.x; at < end; at += kThreads) {
    sum += grey(jitter(job, work, load_pixel(job, work, static_cast<int>(at)), 0, true));
  }
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    write_augmented(Job job, const double* __restrict__ partial, T* __restrict__ out, bool is_packed) {
  __shared__ Work work;
  __shared__ float mean;
  const int64_t pixels = static_cast<int64_t>(job.height) * job.width;
  const int64_t sample = blockIdx.x / job.parts;
  if (threadIdx.x == 0) {
    start_work(job, &work);
    mean = 0;
    if (partial != nullptr && work.draws.jitter) {
      double sum = 0;
      for (int part = 0; part < job.parts; ++part) sum += partial[sample * job.parts + part];
      mean = static_cast<float>(sum / static_cast<double>(pixels));
    }
  }
  __syncthreads();
  float channel_mean[3], inverse_std[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    channel_mean[c] = job.mean == nullptr ? 0.0f : job.mean[c * job.mean_stride];
    inverse_std[c] = job.std == nullptr ? 1.0f : 1.0f / job.std[c * job.std_stride];
  }
  const int64_t begin = (blockIdx.x % job.parts) * kBlockPixels;
  const int64_t end = begin + kBlockPixels < pixels ? begin + kBlockPixels : pixels;
  for (int64_t first = begin + kRun * threadIdx.x; first < end; first += kRun * kThreads) {
    Pack<T, kRun> packs[3];  // kRun pixels are three packs of channels
    T* run = &packs[0].value[0];
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (first + k >= end) break;
      Pixel pixel = jitter(job, work, load_pixel(job, work, static_cast<int>(first + k)), mean, false);
      if (work.draws.grey) {
        const float value = grey(pixel);
        pixel = {value, value, value};
      }
      narrow((pixel.red - channel_mean[0]) * inverse_std[0], run + 3 * k);
      narrow((pixel.green - channel_mean[1]) * inverse_std[1], run + 3 * k + 1);
      narrow((pixel.blue - channel_mean[2]) * inverse_std[2], run + 3 * k + 2);
    }
    T* to = out + 3 * (sample * pixels + first);
    if (is_packed) {
#pragma unroll
      for (int c = 0; c < 3; ++c) reinterpret_cast<Pack<T, kRun>*>(to)[c] = packs[c];
    } else {
#pragma unroll
      for (int e = 0; e < 3 * kRun; ++e) {
        if (first + e / 3 < end) to[e] = run[e];
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
  double* partial = nullptr;
  const bool needs_mean = job.settings.needs_mean();
  const Tensor partials =
      new_empty(images, {needs_mean ? static_cast<int64_t>(blocks) : 0}, ScalarType::Double);
  if (needs_mean) {
    partial = partials.mutable_data_ptr<double>();
    launch.run(sum_grey, blocks)(job, partial);
  }
  dispatch_reduced(dtype, [&](auto type) {
    using T = decltype(type);
    launch.run(write_augmented<T>, blocks)(job, partial, static_cast<T*>(out.mutable_data_ptr()),
                                           pixels % kRun == 0);
  });
  return out;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("augment", TORCH_BOX(&pst::cuda::augment));
}
