// class_mean_step_ on CUDA. Every sum has its place in one order: no atomics.
#include "common/ball.h"
#include "common/checks.h"
#include "cuda/classes.h"
#include "cuda/launch.h"
#include "cuda/normalise.h"

namespace pst::cuda {

// Sizes and strides in elements.
struct Images {
  int64_t size, pixels, width;  // size: of one image
  int64_t channels;
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
  bool is_last;   // elements are numbered as channels_last lays them
  bool is_dense;  // delta is laid as the gradients are, and aligned
  float* delta;
  LinfMove move;
  int64_t groups;  // blocks for each class
};

// A warp has a tile of one class's elements, and its share of the class's samples; then the shares are added
// in their order.
template <int kWarps, int kShares, int kPack, typename G>
__global__ void __launch_bounds__(32 * kWarps) class_mean(ClassMean job) {
  constexpr int kTile = 32 * kPack, kTiles = kWarps / kShares, kFlight = 8;
  __shared__ ClassList<kWarps> list;
  __shared__ float parts[kShares > 1 ? kWarps : 1][kTile];
  if (blockIdx.x == 0) check_range(job.labels, 0, 1);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, share = warp % kShares;
  const int64_t k = blockIdx.x / job.groups;
  const int64_t tile = (blockIdx.x % job.groups * kTiles + warp / kShares) * kTile;
  const int64_t first = tile + lane * kPack;
  const bool is_inside = first < job.images.size;
  const G* from = static_cast<const G*>(job.grad);
  if (is_inside) from += Place(job.images, first, job.is_last).offset(job.images, job.grad_strides);
  float sum[kPack] = {};
  bool is_found = false;
  for (int64_t start = 0; start < job.labels.count; start += list.kChunk) {
    const int count = list.find(job.labels, k, start, job.labels.count);
    is_found |= count != 0;
    for (int i = share; i < (is_inside ? count : 0); i += kShares * kFlight) {
      Pack<G, kPack> value[kFlight] = {};
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
        const int at = i + u * kShares;
        if (at < count) {
          value[u] = *reinterpret_cast<const Pack<G, kPack>*>(from + (start + list.place[at]) *
                                                                         job.grad_strides.of[0]);
        }
      }
#pragma unroll
      for (int u = 0; u < kFlight; ++u) {
#pragma unroll
        for (int e = 0; e < kPack; ++e) sum[e] += widen(value[u].value[e]);
      }
    }
  }
  if (!is_found) return;
  float* to = job.delta + k * job.delta_strides.of[0];
  const auto move_one = [&](int64_t i, float total) {
    float* one = to + Place(job.images, i, job.is_last).offset(job.images, job.delta_strides);
    *one = job.move(*one, total);
  };
  if constexpr (kShares > 1) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) parts[warp][lane * kPack + e] = sum[e];
    __syncthreads();
    for (int at = threadIdx.x; at < kTiles * kTile; at += 32 * kWarps) {
      const int of = at / kTile, element = at - of * kTile;
      const int64_t i = tile - warp / kShares * kTile + at;
      if (i >= job.images.size) break;
      float total = 0;
#pragma unroll
      for (int s = 0; s < kShares; ++s) total += parts[of * kShares + s][element];
      move_one(i, total);
    }
  } else if (is_inside && job.is_dense) {
    auto* pack = reinterpret_cast<Pack<float, kPack>*>(to + first);
    Pack<float, kPack> moved = *pack;
#pragma unroll
    for (int e = 0; e < kPack; ++e) moved.value[e] = job.move(moved.value[e], sum[e]);
    *pack = moved;
  } else if (is_inside) {
#pragma unroll
    for (int e = 0; e < kPack; ++e) move_one(first + e, sum[e]);
  }
}

struct Inputs {
  Images images;
  Labels labels;
  const float *delta, *x;
  void* out;
  Strides delta_strides, x_strides, out_strides;
  bool is_last;
  Normalisation normalisation;
  int64_t tiles;
};

// All tensors in one dense layout: kRuns times four elements a thread, 32-bit positions within an image.
constexpr int kRun = 4, kRuns = 2;

template <typename O>
__global__ void __launch_bounds__(kThreads) inputs_dense(Inputs job, ChannelRuns runs, Divisor tiles) {
  __shared__ NormaliseTable normalised;
  const uint32_t n = tiles.divide(blockIdx.x), tile = tiles.rest(blockIdx.x, n);
  const uint32_t size = static_cast<uint32_t>(job.images.size);
  const float* x_from = job.x + n * job.images.size;
  uint32_t first[kRuns];
  Pack<float, kRun> x[kRuns] = {}, delta[kRuns] = {};
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    first[r] = ((tile * kRuns + r) * kThreads + threadIdx.x) * kRun;
    if (first[r] < size) x[r] = *reinterpret_cast<const Pack<float, kRun>*>(x_from + first[r]);
  }
  const float* delta_from = job.delta + job.labels[n] * job.images.size;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    if (first[r] < size) delta[r] = *reinterpret_cast<const Pack<float, kRun>*>(delta_from + first[r]);
  }
  normalised.fill(job.normalisation, static_cast<int>(job.images.channels));
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    if (first[r] >= size) break;
    Pack<O, kRun> out;
    ChannelWalk walk(runs, first[r]);
#pragma unroll
    for (int e = 0; e < kRun; ++e) {
      narrow(normalised(clamp01(x[r].value[e] + delta[r].value[e]), walk.channel), &out.value[e]);
      walk.next(runs);
    }
    *reinterpret_cast<Pack<O, kRun>*>(static_cast<O*>(job.out) + n * job.images.size + first[r]) = out;
  }
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
  const float x = job.x[at(n, job.x_strides)], delta = job.delta[at(job.labels[n], job.delta_strides)];
  narrow(job.normalisation(clamp01(x + delta), place.channel),
         static_cast<O*>(job.out) + at(n, job.out_strides));
}

// Whether `pack` elements of any of the images' runs can be read at once.
static bool is_packed(const Tensor& t, int64_t size, int64_t pack) {
  return size % pack == 0 && is_aligned(t.const_data_ptr(), pack * static_cast<int64_t>(t.element_size()));
}

static void step_classes(const Launch& launch, const Tensor& delta, const Tensor& grad, const Images& images,
                         const Labels& labels, LinfMove move) {
  const Layout layout = layout_of(grad);
  dispatch_reduced(grad.scalar_type(), [&](auto type) {
    using G = decltype(type);
    constexpr int kWide = 16 / sizeof(G);
    const auto tiles_of = [&](int64_t pack) { return (images.size + 32 * pack - 1) / (32 * pack); };
    const auto run = [&](auto warps, auto shares, auto pack) {
      constexpr int kTiles = warps() / shares();
      ClassMean job{images,
                    labels,
                    grad.const_data_ptr(),
                    strides_of(grad),
                    strides_of(delta),
                    layout == Layout::kChannelsLast,
                    layout != Layout::kOther && fits(delta, layout) && is_packed(delta, images.size, pack()),
                    delta.mutable_data_ptr<float>(),
                    move,
                    (tiles_of(pack()) + kTiles - 1) / kTiles};
      launch.run(class_mean<warps(), shares(), pack(), G>, blocks_for(job.groups * labels.num_classes, 1),
                 32 * warps())(job);
    };
    // Where there are too few tiles for a device's warps, sixteen warps share one.
    const auto with_shares = [&](auto pack) {
      if (tiles_of(pack()) * labels.num_classes < 4096) {
        run(std::integral_constant<int, 16>{}, std::integral_constant<int, 16>{}, pack);
      } else {
        run(std::integral_constant<int, 8>{}, std::integral_constant<int, 1>{}, pack);
      }
    };
    if (layout == Layout::kOther || !is_packed(grad, images.size, kWide)) {
      with_shares(std::integral_constant<int, 1>{});
    } else if (kWide > 4 && tiles_of(kWide) * labels.num_classes < 256) {
      with_shares(std::integral_constant<int, 4>{});  // twice as many blocks
    } else {
      with_shares(std::integral_constant<int, kWide>{});
    }
  });
}

static void write_inputs(const Launch& launch, const Tensor& delta, const Images& images,
                         const Labels& labels, const Tensor& x, const MaybeTensor& mean,
                         const MaybeTensor& std, const Tensor& out) {
  const Layout layout = layout_of(out);
  const bool is_wide = layout != Layout::kOther && fits(delta, layout) && fits(x, layout) &&
                       is_packed(delta, images.size, kRun) && is_packed(x, images.size, kRun) &&
                       is_packed(out, images.size, kRun) && images.size < 0x7fffffff &&
                       images.channels <= kMostChannels;
  const int64_t each = kThreads * (is_wide ? kRuns * kRun : 1), tiles = (images.size + each - 1) / each;
  const Inputs job{images,
                   labels,
                   delta.const_data_ptr<float>(),
                   x.const_data_ptr<float>(),
                   out.mutable_data_ptr(),
                   strides_of(delta),
                   strides_of(x),
                   strides_of(out),
                   layout == Layout::kChannelsLast,
                   normalisation_of(mean, std),
                   tiles};
  const unsigned blocks = blocks_for(tiles * labels.count, 1);
  dispatch_reduced(out.scalar_type(), [&](auto type) {
    using O = decltype(type);
    if (is_wide) {
      launch.run(inputs_dense<O>, blocks)(job, channel_runs(images.pixels, images.channels, job.is_last),
                                          Divisor(tiles));
    } else {
      launch.run(inputs_strided<O>, blocks)(job);
    }
  });
}

static void class_mean_step_(const Tensor& delta, const Tensor& grad, const Tensor& labels, double step_size,
                             double epsilon, bool ascend, const MaybeTensor& x, const MaybeTensor& mean,
                             const MaybeTensor& std, const MaybeTensor& out) {
  check_class_mean_step(delta, grad, labels, x, mean, std, out);
  if (grad.numel() == 0) return;
  const Launch launch(delta);
  const int64_t pixels = delta.size(2) * delta.size(3);
  const Images images{delta.size(1) * pixels, pixels, delta.size(3), delta.size(1)};
  const Labels classes = labels_of(labels, delta.size(0));
  const LinfMove move{static_cast<float>(ascend ? step_size : -step_size), static_cast<float>(epsilon)};
  step_classes(launch, delta, grad, images, classes, move);
  if (out) write_inputs(launch, delta, images, classes, *x, mean, std, *out);
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("class_mean_step_", TORCH_BOX(&pst::cuda::class_mean_step_));
}
