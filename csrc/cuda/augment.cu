// The fused augmentation on CUDA: one launch, or two where contrast needs the mean of a large image first.
#include "common/checks.h"
#include "common/colour.h"
#include "common/draws.h"
#include "cuda/divisor.h"
#include "cuda/launch.h"
#include "cuda/normalise.h"

namespace pst::cuda {

constexpr int kRun = 4;                                // pixels of a thread, or values, at a time
constexpr int kWarpPixels = 32 * kRun;                 // of a warp at a time
constexpr int64_t kBlockPixels = 8 * kRun * kThreads;  // pixels of a block
constexpr int kWarps = kThreads / 32;

enum DeltaKind { kNoDelta, kFloatDelta, kInt8Delta, kInt16Delta };

struct Job {
  AugmentSettings settings;
  const uint8_t* images;
  const void* delta;
  DeltaKind delta_kind;
  const int64_t* index;
  int64_t index_stride, rows;
  int height, width, parts;             // parts: blocks for each sample
  Divisor columns, row_packs;           // pixels of a row, and packs of kRun values where is_wide
  bool is_packed, is_wide, needs_mean;  // whether kRun divides an image's pixels, and a row's values
  Normalisation normalisation;
  double* sums;  // [blocks], of grey, where parts > 1

  __device__ __forceinline__ int64_t pixels() const { return static_cast<int64_t>(height) * width; }
};

// What a block works on: part of one sample.
struct Work {
  AugmentDraws draws;
  int64_t row;
};

// Run by one thread; the others read the result from shared memory. kPlain: no sample's colours change.
template <bool kPlain>
__device__ void start_work(const Job& job, Work* work) {
  const int64_t sample = blockIdx.x / job.parts;
  const auto position = static_cast<uint32_t>(sample);
  work->draws = kPlain ? draw_window(job.settings, position) : draw(job.settings, position);
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
  const int y = static_cast<int>(job.columns.divide(at)), x = at - y * job.width;
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
  const int y = static_cast<int>(job.columns.divide(at)), x = at - y * job.width;
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

// Makes the adjustments from one place in the sample's order to another.
__device__ __forceinline__ void jitter(const Job& job, const Work& work, int from, int to, float mean,
                                       Pixel (&pixels)[kRun]) {
  const auto each = [&](auto&& adjusted) {
#pragma unroll
    for (int k = 0; k < kRun; ++k) pixels[k] = adjusted(pixels[k]);
  };
#pragma unroll 1
  for (int place = from; place < to; ++place) {
    const int kind = work.draws.order[place];
    if (!job.settings.enabled[kind]) continue;
    const float factor = work.draws.factor[kind];
    switch (kind) {
      case kBrightness:
        each([&](Pixel p) { return brightness(p, factor); });
        break;
      case kContrast:
        each([&](Pixel p) { return blend(p, factor, mean); });
        break;
      case kSaturation:
        each([&](Pixel p) { return blend(p, factor, grey(p)); });
        break;
      default:
        each([&](Pixel p) { return turn_hue(p, factor); });
    }
  }
}

__device__ __forceinline__ int place_of_contrast(const Work& work) {
  int place = 0;
  while (work.draws.order[place] != kContrast) ++place;
  return place;
}

// The block's pixels, and those that a warp has of them.
struct Span {
  int64_t begin, end;
  __device__ __forceinline__ explicit Span(const Job& job)
      : begin(blockIdx.x % job.parts * kBlockPixels), end(min(begin + kBlockPixels, job.pixels())) {}

  template <typename Visit>
  __device__ __forceinline__ void by_warp(Visit&& visit) const {
#pragma unroll 1
    for (int64_t first = begin + threadIdx.x / 32 * kWarpPixels; first < end; first += kWarps * kWarpPixels) {
      visit(static_cast<int>(first));
    }
  }
};

// Of the grey image just before contrast, over the block's pixels; valid in thread 0. `last`: as the thread's
// last run is then.
__device__ __forceinline__ double sum_grey(const Job& job, const Work& work, Pixel (&last)[kRun]) {
  const Span span(job);
  const int end = static_cast<int>(span.end), contrast = place_of_contrast(work);
  float sum = 0;
  span.by_warp([&](int first) {
    const int at = first + threadIdx.x % 32 * kRun;
    load_run(job, work, at, end, last);
    jitter(job, work, 0, contrast, 0, last);
#pragma unroll
    for (int k = 0; k < kRun; ++k) sum += at + k < end ? grey(last[k]) : 0.0f;
  });
  return block_sum<kThreads>(sum);
}

// The first of two launches where an image has several blocks and contrast needs its mean.
__global__ void __launch_bounds__(kThreads, 4) write_sums(Job job) {
  __shared__ Work work;
  if (threadIdx.x == 0) start_work<false>(job, &work);
  __syncthreads();
  if (!work.draws.jitter) return;
  Pixel last[kRun];
  const double sum = sum_grey(job, work, last);
  if (threadIdx.x == 0) job.sums[blockIdx.x] = sum;
}

// Four values of a row of the window, in the order in which they are written, and where they come from.
struct Four {
  int row;             // of the image that the window's row is
  int first;           // the first value's place in it, if nothing is flipped
  int pixel, channel;  // of the first value, if the row is flipped
  bool is_flipped, is_inside;

  __device__ __forceinline__ Four(const Job& job, const Work& work, uint32_t pack)
      : is_flipped(work.draws.flip) {
    const uint32_t y = job.row_packs.divide(pack), value = kRun * job.row_packs.rest(pack, y);
    const int x = static_cast<int>(value / 3);
    row = static_cast<int>(y) + work.draws.top;
    first = static_cast<int>(value) + 3 * work.draws.left;
    channel = static_cast<int>(value) - 3 * x;
    pixel = job.width - 1 - x + work.draws.left;
    is_inside = row >= 0 && row < job.height &&
                (is_flipped ? pixel >= 1 && pixel < job.width : first >= 0 && first + kRun <= 3 * job.width);
  }

  // Of value k in its row; -1 where it is outside the image.
  __device__ __forceinline__ int place(const Job& job, int k) const {
    const int on = (channel + k) / 3;
    const int at = is_flipped ? 3 * (pixel - on) + channel + k - 3 * on : first + k;
    return row >= 0 && row < job.height && at >= 0 && at < 3 * job.width ? at : -1;
  }

  // One byte for each value, 0 outside the image; `line`: of an array that is laid as the images are.
  __device__ __forceinline__ uint32_t bytes(const Job& job, const void* line) const {
    const auto* from = static_cast<const uint8_t*>(line);
    if (!is_inside) {
      uint32_t word = 0;
#pragma unroll 1
      for (int k = 0; k < kRun; ++k) {
        const int at = place(job, k);
        if (at >= 0) word |= static_cast<uint32_t>(__ldg(from + at)) << (8 * k);
      }
      return word;
    }
    // Flipped, the values lie in two neighbours' six bytes. No word is read that has none of them.
    const uintptr_t address = reinterpret_cast<uintptr_t>(from + (is_flipped ? 3 * (pixel - 1) : first));
    const auto* aligned = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
    const uint32_t shift = 8 * static_cast<uint32_t>(address & 3);
    const uint32_t low = __ldg(aligned), middle = shift != 0 || is_flipped ? __ldg(aligned + 1) : 0;
    const uint32_t word = __funnelshift_r(low, middle, shift);
    if (!is_flipped) return word;
    const uint32_t high = __funnelshift_r(middle, shift == 24 ? __ldg(aligned + 2) : 0, shift);
    return __byte_perm(word, high, channel == 0 ? 0x0543 : (channel == 1 ? 0x1054 : 0x2105));
  }
};

// A sample whose colours stay as they are: its values keep their order, but for the flip.
template <typename T>
__device__ __forceinline__ void write_plain(const Job& job, const Work& work, int64_t sample, T* out) {
  const int lane = threadIdx.x % 32;
  float mean[3], inverse[3];  // of the channels that follow the lane's number
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    mean[c] = job.normalisation.mean_of((lane + c) % 3);
    inverse[c] = job.normalisation.inverse_of((lane + c) % 3);
  }
  const uint32_t packs = 3 * static_cast<uint32_t>(job.pixels()) / kRun;
  auto* to = reinterpret_cast<Pack<T, kRun>*>(out + 3 * sample * job.pixels());
  Span(job).by_warp([&](int first_pixel) {
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      const uint32_t pack = 3 * static_cast<uint32_t>(first_pixel) / kRun + 32 * j + lane;
      if (pack >= packs) break;
      const Four four(job, work, pack);
      const int64_t line = 3 * (work.row * job.height + four.row) * job.width;
      const uint32_t clean = four.bytes(job, job.images + line);
      Pack<T, kRun> written;
      uint32_t codes = 0;
      if (job.delta_kind == kInt8Delta) codes = four.bytes(job, static_cast<const int8_t*>(job.delta) + line);
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        float value = static_cast<float>(clean >> (8 * k) & 255) * kUnit;
        if (job.delta_kind == kInt8Delta) {
          value = clamp01(value + static_cast<float>(static_cast<int8_t>(codes >> (8 * k) & 255)) * kUnit);
        } else if (job.delta_kind != kNoDelta) {
          const int at = four.place(job, k);
          if (at >= 0) value = perturbed(job, value, line + at);
        }
        const int of = (2 * j + k) % 3;  // 128 j + 4 lane + k values come before
        narrow((value - mean[of]) * inverse[of], &written.value[k]);
      }
      to[pack] = written;
    }
  });
}

// A sample whose colours change, pixel by pixel. Each lane has kRun of them; through shared memory, the warp
// writes them in memory's order. `held`, where it `is_held`: the thread's one run, as it is just before
// contrast.
template <typename T>
__device__ __forceinline__ void write_coloured(const Job& job, const Work& work, int64_t sample, float mean,
                                               Pixel (&held)[kRun], bool is_held, T* out) {
  __shared__ Pack<T, kRun> staged[kWarps][3 * 32];
  const int lane = threadIdx.x % 32, end = static_cast<int>(Span(job).end);
  Pack<T, kRun>* own = staged[threadIdx.x / 32];
  float channel_mean[3], inverse[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    channel_mean[c] = job.normalisation.mean_of(c);
    inverse[c] = job.normalisation.inverse_of(c);
  }
  const int from = is_held ? place_of_contrast(work) : 0;
  out += 3 * sample * job.pixels();
  Span(job).by_warp([&](int first) {
    const int at = first + lane * kRun;
    if (!is_held) load_run(job, work, at, end, held);
    if (work.draws.jitter) jitter(job, work, from, 4, mean, held);
    Pack<T, kRun> packs[3];  // kRun pixels are three packs of channels
    T* run = &packs[0].value[0];
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      Pixel pixel = held[k];
      if (work.draws.grey) {
        const float value = grey(pixel);
        pixel = {value, value, value};
      }
      narrow((pixel.red - channel_mean[0]) * inverse[0], run + 3 * k);
      narrow((pixel.green - channel_mean[1]) * inverse[1], run + 3 * k + 1);
      narrow((pixel.blue - channel_mean[2]) * inverse[2], run + 3 * k + 2);
    }
    if (job.is_packed) {
#pragma unroll
      for (int c = 0; c < 3; ++c) own[3 * lane + c] = packs[c];
      __syncwarp();
      auto* to = reinterpret_cast<Pack<T, kRun>*>(out) + 3 * static_cast<int64_t>(first) / kRun;
      const int count = 3 * (end - first) / kRun;
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        if (32 * c + lane < count) to[32 * c + lane] = own[32 * c + lane];
      }
      __syncwarp();
    } else {
#pragma unroll
      for (int e = 0; e < 3 * kRun; ++e) {
        if (at + e / 3 < end) out[3 * static_cast<int64_t>(at) + e] = run[e];
      }
    }
  });
}

// Where no sample's colours change, and rows are whole packs: a kernel of fewer registers.
template <typename T>
__global__ void __launch_bounds__(kThreads) write_all_plain(Job job, T* __restrict__ out) {
  __shared__ Work work;
  if (threadIdx.x == 0) start_work<true>(job, &work);
  __syncthreads();
  write_plain(job, work, blockIdx.x / job.parts, out);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 4) write_augmented(Job job, T* __restrict__ out) {
  __shared__ Work work;
  __shared__ float mean;
  const int64_t sample = blockIdx.x / job.parts;
  if (threadIdx.x == 0) start_work<false>(job, &work);
  __syncthreads();
  if (job.is_wide && !work.draws.jitter && !work.draws.grey) {
    write_plain(job, work, sample, out);
    return;
  }
  Pixel held[kRun];
  bool is_held = false;
  if (job.needs_mean && work.draws.jitter) {
    double sum = 0;
    if (job.parts == 1) {
      sum = sum_grey(job, work, held);
      is_held = job.pixels() <= kWarps * kWarpPixels;  // no thread has had two runs
    } else if (threadIdx.x == 0) {
      for (int part = 0; part < job.parts; ++part) sum += job.sums[sample * job.parts + part];
    }
    if (threadIdx.x == 0) mean = static_cast<float>(sum / static_cast<double>(job.pixels()));
  }
  __syncthreads();
  write_coloured(job, work, sample, mean, held, is_held, out);
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
  job.columns = Divisor(width);
  job.is_packed = pixels % kRun == 0;
  job.is_wide = 3 * width % kRun == 0;
  if (job.is_wide) job.row_packs = Divisor(3 * width / kRun);
  job.normalisation = normalisation_of(mean, std);
  const unsigned blocks = blocks_for(batch * job.parts, 1);
  job.needs_mean = job.settings.needs_mean();
  const bool is_first = job.needs_mean && job.parts > 1;
  const Tensor sums = new_empty(images, {is_first ? static_cast<int64_t>(blocks) : 0}, ScalarType::Double);
  if (is_first) {
    job.sums = sums.mutable_data_ptr<double>();
    launch.run(write_sums, blocks)(job);
  }
  const bool is_plain = job.settings.jitter_probability <= 0 && job.settings.grey_probability <= 0;
  dispatch_reduced(dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel = is_plain && job.is_wide ? write_all_plain<T> : write_augmented<T>;
    launch.run(kernel, blocks)(job, static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("augment", TORCH_BOX(&pst::cuda::augment));
}
