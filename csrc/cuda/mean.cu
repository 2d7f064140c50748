// class_mean_step_ on CUDA. Every sum has its place in one order: no atomics.
#include "common/ball.h"
#include "common/checks.h"
#include "cuda/launch.h"

namespace pst::cuda {

// Sizes and strides in elements.
struct Images {
  int64_t size, pixels, width;  // size: of one image
  int64_t channels;
};

struct Labels {
  const int64_t* data;
  int64_t count, stride, num_classes;
  __device__ __forceinline__ int64_t operator[](int64_t i) const { return data[i * stride]; }
};

struct Strides {
  int64_t of[4];
};

static Strides strides_of(const Tensor& t) {
  Strides strides{};
  for (int d = 0; d < 4; ++d) strides.of[d] = t.stride(d);
  return strides;
}

// Channel and pixel of the element that comes `i`-th in one layout or the other.
struct Place {
  int64_t channel, pixel;
  __device__ __forceinline__ Place(const Images& images, int64_t i, bool is_last) {
    if (is_last) {
      pixel = i / images.channels;
      channel = i - pixel * images.channels;
    } else {
      channel = i / images.pixels;
      pixel = i - channel * images.pixels;
    }
  }
  __device__ __forceinline__ int64_t offset(const Images& images, const Strides& strides) const {
    const int64_t h = pixel / images.width;
    return channel * strides.of[1] + h * strides.of[2] + (pixel - h * images.width) * strides.of[3];
  }
};

struct ClassMean {
  Images images;
  Labels labels;
  const void* grad;
  Strides grad_strides, delta_strides;
  bool is_last;  // elements are numbered as channels_last lays them
  float* delta;
  LinfMove move;
  int64_t tiles;
};

// One block's work, before anything else: inside the loop below it would cost registers.
__device__ __forceinline__ void check_range(const Labels& labels) {
  for (int64_t i = threadIdx.x; i < labels.count; i += kThreads) {
    const int64_t label = labels[i];
    if (label >= 0 && label < labels.num_classes) continue;
    printf("pst_fast: labels must be in [0, %lld), got %lld\n", static_cast<long long>(labels.num_classes),
           static_cast<long long>(label));
    __trap();
  }
}

// A block has one class's tile of elements. Each of its warps looks for the class in its part of the labels,
// and adds up what it finds there, four samples in flight; then the parts are added in their order.
template <int kPack, typename G>
__global__ void __launch_bounds__(kThreads) class_mean(ClassMean job) {
  constexpr int kWarps = kThreads / 32, kTile = 32 * kPack, kFlight = 4;
  __shared__ float parts[kWarps][kTile];
  if (blockIdx.x == 0) check_range(job.labels);
  const int64_t k = blockIdx.x / job.tiles, tile = blockIdx.x % job.tiles * kTile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = tile + lane * kPack;
  const bool is_inside = first < job.images.size;
  const G* from = static_cast<const G*>(job.grad);
  if (is_inside) from += Place(job.images, first, job.is_last).offset(job.images, job.grad_strides);
  const int64_t begin = job.labels.count * warp / kWarps, end = job.labels.count * (warp + 1) / kWarps;
  float sum[kPack] = {};
  bool is_found = false;
  int64_t next = begin + lane < end ? job.labels[begin + lane] : -1;
  for (int64_t base = begin; base < end; base += 32) {
    const int64_t label = next, ahead = base + 32 + lane;
    next = ahead < end ? job.labels[ahead] : -1;
    unsigned mask = __ballot_sync(0xffffffffu, label == k);
    is_found = is_found || mask != 0;
    while (mask != 0) {
      Pack<G, kPack> value[kFlight] = {};
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        if (mask == 0) continue;
        const int64_t sample = base + __ffs(static_cast<int>(mask)) - 1;
        mask &= mask - 1;
        if (is_inside) {
          value[u] = *reinterpret_cast<const Pack<G, kPack>*>(from + sample * job.grad_strides.of[0]);
        }
      }
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] += widen(value[u].value[e]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kPack; ++e) parts[warp][lane * kPack + e] = sum[e];
  if (!__syncthreads_or(is_found)) return;
  const int64_t i = tile + threadIdx.x;
  if (threadIdx.x >= kTile || i >= job.images.size) return;
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += parts[w][threadIdx.x];
  float* to = job.delta + k * job.delta_strides.of[0] +
              Place(job.images, i, job.is_last).offset(job.images, job.delta_strides);
  *to = job.move(*to, total);
}

struct Inputs {
  Images images;
  Labels labels;
  const float *delta, *x;
  void* out;
  Strides delta_strides, x_strides, out_strides;
  bool is_last;
  const float *mean, *std;  // null: not wanted
  int64_t mean_stride, std_stride;
  int64_t tiles;
};

template <typename O>
__device__ __forceinline__ void write_input(const Inputs& job, float clean, float moved, int64_t channel,
                                            O* to) {
  float value = clamp01(clean + moved);
  if (job.mean != nullptr) value -= job.mean[channel * job.mean_stride];
  if (job.std != nullptr) value *= 1.0f / job.std[channel * job.std_stride];
  narrow(value, to);
}

// All tensors in one dense layout: four elements a thread, 32-bit positions within an image.
template <typename O>
__global__ void __launch_bounds__(kThreads) inputs_dense(Inputs job) {
  constexpr int kPack = 4;
  const int64_t n = blockIdx.x / job.tiles;
  const uint32_t tile = static_cast<uint32_t>(blockIdx.x % job.tiles);
  const uint32_t first = (tile * kThreads + threadIdx.x) * kPack;
  const uint32_t size = static_cast<uint32_t>(job.images.size);
  if (first >= size) return;
  const int64_t at = n * job.images.size + first;
  const float* from = job.delta + job.labels[n] * job.images.size + first;
  const Pack<float, kPack> x = *reinterpret_cast<const Pack<float, kPack>*>(job.x + at);
  const Pack<float, kPack> delta = *reinterpret_cast<const Pack<float, kPack>*>(from);
  const uint32_t pixels = static_cast<uint32_t>(job.images.pixels),
                 channels = static_cast<uint32_t>(job.images.channels);
  Pack<O, kPack> out;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    const uint32_t channel = job.is_last ? (first + e) % channels : (first + e) / pixels;
    write_input(job, x.value[e], delta.value[e], channel, &out.value[e]);
  }
  *reinterpret_cast<Pack<O, kPack>*>(static_cast<O*>(job.out) + at) = out;
}

// Any layouts, one element a thread.
template <typename O>
__global__ void __launch_bounds__(kThreads) inputs_strided(Inputs job) {
  const int64_t n = blockIdx.x / job.tiles;
  const int64_t i = blockIdx.x % job.tiles * kThreads + threadIdx.x;
  if (i >= job.images.size) return;
  const Place place(job.images, i, job.is_last);
  const auto at = [&](int64_t sample, const Strides& strides) {
    return sample * strides.of[0] + place.offset(job.images, strides);
  };
  write_input(job, job.x[at(n, job.x_strides)], job.delta[at(job.labels[n], job.delta_strides)],
              place.channel, static_cast<O*>(job.out) + at(n, job.out_strides));
}

// Whether four elements of any of the images' runs can be read at once.
static bool is_packed(const Tensor& t, int64_t size) {
  return size % 4 == 0 && is_aligned(t.const_data_ptr(), 4 * static_cast<int64_t>(t.element_size()));
}

static void step_classes(const Launch& launch, const Tensor& delta, const Tensor& grad, const Images& images,
                         const Labels& labels, LinfMove move) {
  const Layout layout = layout_of(grad);
  const bool is_wide = layout != Layout::kOther && is_packed(grad, images.size);
  const int64_t each = is_wide ? 128 : 32, tiles = (images.size + each - 1) / each;
  const ClassMean job{images,
                      labels,
                      grad.const_data_ptr(),
                      strides_of(grad),
                      strides_of(delta),
                      layout == Layout::kChannelsLast,
                      delta.mutable_data_ptr<float>(),
                      move,
                      tiles};
  const unsigned blocks = blocks_for(tiles * labels.num_classes, 1);
  dispatch_reduced(grad.scalar_type(), [&](auto type) {
    using G = decltype(type);
    if (is_wide) {
      class_mean<4, G><<<blocks, kThreads, 0, launch.stream()>>>(job);
    } else {
      class_mean<1, G><<<blocks, kThreads, 0, launch.stream()>>>(job);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

static void write_inputs(const Launch& launch, const Tensor& delta, const Images& images,
                         const Labels& labels, const Tensor& x, const MaybeTensor& mean,
                         const MaybeTensor& std, const Tensor& out) {
  const Layout layout = layout_of(out);
  const bool is_wide = layout != Layout::kOther && fits(delta, layout) && fits(x, layout) &&
                       is_packed(delta, images.size) && is_packed(x, images.size) &&
                       is_packed(out, images.size) && images.size < 0x7fffffff;
  const int64_t each = kThreads * (is_wide ? 4 : 1), tiles = (images.size + each - 1) / each;
  const Inputs job{images,
                   labels,
                   delta.const_data_ptr<float>(),
                   x.const_data_ptr<float>(),
                   out.mutable_data_ptr(),
                   strides_of(delta),
                   strides_of(x),
                   strides_of(out),
                   layout == Layout::kChannelsLast,
                   mean ? mean->const_data_ptr<float>() : nullptr,
                   std ? std->const_data_ptr<float>() : nullptr,
                   mean ? mean->stride(0) : 0,
                   std ? std->stride(0) : 0,
                   tiles};
  const unsigned blocks = blocks_for(tiles * labels.count, 1);
  dispatch_reduced(out.scalar_type(), [&](auto type) {
    using O = decltype(type);
    if (is_wide) {
      inputs_dense<O><<<blocks, kThreads, 0, launch.stream()>>>(job);
    } else {
      inputs_strided<O><<<blocks, kThreads, 0, launch.stream()>>>(job);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

static void class_mean_step_(const Tensor& delta, const Tensor& grad, const Tensor& labels, double step_size,
                             double epsilon, bool ascend, const MaybeTensor& x, const MaybeTensor& mean,
                             const MaybeTensor& std, const MaybeTensor& out) {
  check_class_mean_step(delta, grad, labels, x, mean, std, out);
  if (grad.numel() == 0) return;
  const Launch launch(delta);
  const int64_t pixels = delta.size(2) * delta.size(3);
  const Images images{delta.size(1) * pixels, pixels, delta.size(3), delta.size(1)};
  const Labels classes{labels.const_data_ptr<int64_t>(), labels.size(0), labels.stride(0), delta.size(0)};
  const LinfMove move{static_cast<float>(ascend ? step_size : -step_size), static_cast<float>(epsilon)};
  step_classes(launch, delta, grad, images, classes, move);
  if (out) write_inputs(launch, delta, images, classes, *x, mean, std, *out);
}

}  // namespace pst::cuda

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CUDA, m) {
  m.impl("class_mean_step_", TORCH_BOX(&pst::cuda::class_mean_step_));
}
