// The L-infinity and L2 steps on CUDA.
#include "common/ball.h"
#include "common/checks.h"
#include "cuda/launch.h"
#include "cuda/normalise.h"

namespace pst::cuda {

// Sizes and strides, in elements; sample, channel, row, column.
struct Geometry {
  int64_t count, sample_size, pixels, width;
  int channels;
  // Of dense layouts with less than 2^31 elements.
  Divisor sample;
  ChannelRuns runs;
};

struct Operands {
  const float* delta;
  const void* grad;
  const float* x;
  float* new_delta;
  void* out;
  Normalisation normalisation;
};

struct Strides {
  int64_t delta[4], grad[4], x[4], new_delta[4], out[4];
};

// One move for the whole batch, or one for each sample.
struct BatchMove {
  LinfMove move;
  static constexpr bool kBySample = false;
  __device__ LinfMove of(int64_t) const { return move; }
};

struct SampleMoves {
  const L2Move* moves;
  static constexpr bool kBySample = true;
  __device__ L2Move of(int64_t sample) const { return moves[sample]; }
};

// All tensors in one dense layout: four elements a thread. Positions have 32 bits; larger tensors take
// step_strided.
template <typename Moves, typename G, typename O>
__global__ void __launch_bounds__(kThreads) step_dense(Geometry geometry, Operands at, Moves moves) {
  using Index = uint32_t;
  constexpr int kPack = 4;
  __shared__ NormaliseTable normalised;
  const Index begin = (static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  const Index count = static_cast<Index>(geometry.count);
  const int filled = begin >= count ? 0 : (count - begin < kPack ? static_cast<int>(count - begin) : kPack);
  Pack<float, kPack> delta = {}, x = {}, new_delta;
  Pack<G, kPack> grad = {};
  Pack<O, kPack> out;
  const G* grads = static_cast<const G*>(at.grad);
  O* outs = static_cast<O*>(at.out);
  if (filled == kPack) {
    delta = *reinterpret_cast<const Pack<float, kPack>*>(at.delta + begin);
    x = *reinterpret_cast<const Pack<float, kPack>*>(at.x + begin);
    grad = *reinterpret_cast<const Pack<G, kPack>*>(grads + begin);
  } else {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      if (e >= filled) break;
      delta.value[e] = at.delta[begin + e];
      x.value[e] = at.x[begin + e];
      grad.value[e] = grads[begin + e];
    }
  }
  if (outs != nullptr) {
    normalised.fill(at.normalisation, geometry.channels);
    __syncthreads();
  }
  if (filled == 0) return;
  ChannelWalk walk(geometry.runs, begin);
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    const Index sample = Moves::kBySample && e < filled ? geometry.sample.divide(begin + e) : 0;
    const float clean = x.value[e];
    const float moved = moves.of(static_cast<int64_t>(sample))(delta.value[e], widen(grad.value[e]));
    const float perturbed = clamp01(clean + moved);
    new_delta.value[e] = perturbed - clean;
    if (outs != nullptr) narrow(normalised(perturbed, walk.channel), &out.value[e]);
    walk.next(geometry.runs);
  }
  if (filled == kPack) {
    *reinterpret_cast<Pack<float, kPack>*>(at.new_delta + begin) = new_delta;
    if (outs != nullptr) *reinterpret_cast<Pack<O, kPack>*>(outs + begin) = out;
  } else {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      if (e >= filled) break;
      at.new_delta[begin + e] = new_delta.value[e];
      if (outs != nullptr) outs[begin + e] = out.value[e];
    }
  }
}

__device__ __forceinline__ int64_t offset_of(const int64_t (&stride)[4], int64_t n, int64_t c, int64_t h,
                                             int64_t w) {
  return n * stride[0] + c * stride[1] + h * stride[2] + w * stride[3];
}

// Any layouts, one element a thread.
template <typename Moves, typename G, typename O>
__global__ void __launch_bounds__(kThreads)
    step_strided(Geometry geometry, Operands at, Strides strides, Moves moves) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= geometry.count) return;
  const int64_t n = i / geometry.sample_size, within = i - n * geometry.sample_size;
  const int64_t c = within / geometry.pixels, pixel = within - c * geometry.pixels;
  const int64_t h = pixel / geometry.width, w = pixel - h * geometry.width;
  const float clean = at.x[offset_of(strides.x, n, c, h, w)];
  const float gradient = widen(static_cast<const G*>(at.grad)[offset_of(strides.grad, n, c, h, w)]);
  const float perturbed =
      clamp01(clean + moves.of(n)(at.delta[offset_of(strides.delta, n, c, h, w)], gradient));
  at.new_delta[offset_of(strides.new_delta, n, c, h, w)] = perturbed - clean;
  if (at.out != nullptr) {
    narrow(at.normalisation(perturbed, c), static_cast<O*>(at.out) + offset_of(strides.out, n, c, h, w));
  }
}

struct Sums {
  double dd, dg, gg;
};

// Block s of a sample sums its s-th part. Strides serve every layout; dense ones are read in memory's order.
template <typename G>
__global__ void __launch_bounds__(kThreads)
    l2_partial(Geometry geometry, Operands at, Strides strides, bool is_dense, int parts, Sums* partial) {
  const int64_t n = blockIdx.x / parts;
  const int part = static_cast<int>(blockIdx.x % parts);
  const int64_t each = (geometry.sample_size + parts - 1) / parts;
  const int64_t begin = part * each;
  const int64_t end = begin + each < geometry.sample_size ? begin + each : geometry.sample_size;
  const auto visit = [&](auto&& add) {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      int64_t delta_at = n * geometry.sample_size + i, grad_at = delta_at;
      if (!is_dense) {
        const int64_t c = i / geometry.pixels, pixel = i - c * geometry.pixels;
        const int64_t h = pixel / geometry.width, w = pixel - h * geometry.width;
        delta_at = offset_of(strides.delta, n, c, h, w);
        grad_at = offset_of(strides.grad, n, c, h, w);
      }
      add(at.delta[delta_at], widen(static_cast<const G*>(at.grad)[grad_at]));
    }
  };
  float dd = 0, dg = 0, gg = 0;
  visit([&](float d, float g) {
    dd += d * d;
    dg += d * g;
    gg += g * g;
  });
  Sums sums{block_sum<kThreads>(dd), block_sum<kThreads>(dg), block_sum<kThreads>(gg)};
  __shared__ bool extreme;
  if (threadIdx.x == 0) extreme = is_extreme(static_cast<float>(sums.gg));
  __syncthreads();
  if (extreme) {
    double exact_dd = 0, exact_dg = 0, exact_gg = 0;
    visit([&](float d, float g) {
      exact_dd += static_cast<double>(d) * d;
      exact_dg += static_cast<double>(d) * g;
      exact_gg += static_cast<double>(g) * g;
    });
    sums = {block_sum<kThreads>(exact_dd), block_sum<kThreads>(exact_dg), block_sum<kThreads>(exact_gg)};
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = sums;
}

__global__ void __launch_bounds__(kThreads)
    l2_finish(const Sums* __restrict__ partial, int parts, int64_t samples, double signed_step,
              double epsilon, L2Move* __restrict__ moves) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= samples) return;
  Sums sum{};
  for (int part = 0; part < parts; ++part) {
    const Sums& one = partial[n * parts + part];
    sum.dd += one.dd;
    sum.dg += one.dg;
    sum.gg += one.gg;
  }
  moves[n] = l2_move(sum.dd, sum.dg, sum.gg, signed_step, epsilon);
}

// Of tensors in one dense layout, samples that one block holds in registers: a single pass. Packs of four.
constexpr int kSampleRuns = 4;
constexpr int64_t kMostInBlock = int64_t{4} * kSampleRuns * kThreads;

template <typename G, typename O>
__global__ void __launch_bounds__(kThreads)
    l2_samples(Geometry geometry, Operands at, double signed_step, double epsilon) {
  constexpr int kPack = 4;
  __shared__ bool extreme;
  __shared__ L2Move move;
  __shared__ NormaliseTable normalised;
  const int64_t sample = blockIdx.x * geometry.sample_size;
  const uint32_t size = static_cast<uint32_t>(geometry.sample_size);
  const auto first = [](int run) { return (run * kThreads + threadIdx.x) * kPack; };
  Pack<float, kPack> delta[kSampleRuns] = {};
  Pack<G, kPack> grad[kSampleRuns] = {};
#pragma unroll
  for (int r = 0; r < kSampleRuns; ++r) {
    if (first(r) >= size) break;
    delta[r] = *reinterpret_cast<const Pack<float, kPack>*>(at.delta + sample + first(r));
    grad[r] = *reinterpret_cast<const Pack<G, kPack>*>(static_cast<const G*>(at.grad) + sample + first(r));
  }
  const auto products = [&](auto zero) {
    auto dd = zero, dg = zero, gg = zero;
#pragma unroll
    for (int e = 0; e < kPack * kSampleRuns; ++e) {
      const decltype(zero) d = delta[e / kPack].value[e % kPack], g = widen(grad[e / kPack].value[e % kPack]);
      dd += d * d;
      dg += d * g;
      gg += g * g;
    }
    return Sums{block_sum<kThreads>(dd), block_sum<kThreads>(dg), block_sum<kThreads>(gg)};
  };
  if (at.out != nullptr) normalised.fill(at.normalisation, geometry.channels);
  Sums sums = products(0.0f);
  if (threadIdx.x == 0) extreme = is_extreme(static_cast<float>(sums.gg));
  __syncthreads();
  if (extreme) sums = products(0.0);
  if (threadIdx.x == 0) move = l2_move(sums.dd, sums.dg, sums.gg, signed_step, epsilon);
  __syncthreads();
  O* outs = static_cast<O*>(at.out);
#pragma unroll
  for (int r = 0; r < kSampleRuns; ++r) {
    if (first(r) >= size) break;
    const auto x = *reinterpret_cast<const Pack<float, kPack>*>(at.x + sample + first(r));
    Pack<float, kPack> new_delta;
    Pack<O, kPack> out;
    ChannelWalk walk(geometry.runs, first(r));
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const float clean = x.value[e];
      const float perturbed = clamp01(clean + move(delta[r].value[e], widen(grad[r].value[e])));
      new_delta.value[e] = perturbed - clean;
      if (outs != nullptr) narrow(normalised(perturbed, walk.channel), &out.value[e]);
      walk.next(geometry.runs);
    }
    *reinterpret_cast<Pack<float, kPack>*>(at.new_delta + sample + first(r)) = new_delta;
    if (outs != nullptr) *reinterpret_cast<Pack<O, kPack>*>(outs + sample + first(r)) = out;
  }
}

struct Step {
  Geometry geometry;
  Operands at;
  Strides strides;
  bool is_dense, is_packed;
  ScalarType grad_type, out_type;
};

static Step prepare(const Tensor& delta, const Tensor& grad, const Tensor& x, const MaybeTensor& mean,
                    const MaybeTensor& std, const MaybeTensor& out, const Tensor& new_delta) {
  check_step(delta, grad, x, mean, std, out);
  Step step{};
  step.geometry = {delta.numel(),
                   delta.size(1) * delta.size(2) * delta.size(3),
                   delta.size(2) * delta.size(3),
                   delta.size(3),
                   static_cast<int>(delta.size(1)),
                   {},
                   {}};
  step.at = {delta.const_data_ptr<float>(),
             grad.const_data_ptr(),
             x.const_data_ptr<float>(),
             new_delta.mutable_data_ptr<float>(),
             out ? out->mutable_data_ptr() : nullptr,
             normalisation_of(mean, std)};
  const Layout layout = layout_of(delta);
  step.is_dense = layout != Layout::kOther && delta.size(1) <= kMostChannels;
  step.is_packed = true;
  const auto add = [&](const Tensor& t, int64_t* strides) {
    for (int d = 0; d < 4; ++d) strides[d] = t.stride(d);
    step.is_dense = step.is_dense && fits(t, layout);
    step.is_packed =
        step.is_packed && is_aligned(t.const_data_ptr(), 4 * static_cast<int64_t>(t.element_size()));
  };
  add(delta, step.strides.delta);
  add(grad, step.strides.grad);
  add(x, step.strides.x);
  add(new_delta, step.strides.new_delta);
  if (out) add(*out, step.strides.out);
  const Geometry& sizes = step.geometry;
  if (step.is_dense && sizes.count > 0 && sizes.count < 0x7fffffff) {
    step.geometry.sample = Divisor(sizes.sample_size);
    step.geometry.runs = channel_runs(sizes.pixels, sizes.channels, layout == Layout::kChannelsLast);
  }
  step.grad_type = grad.scalar_type();
  step.out_type = out ? out->scalar_type() : ScalarType::Float;
  return step;
}

// Calls `run` with values of the types of the gradient and of `out`.
template <typename F>
static void dispatch_step(const Step& step, F&& run) {
  dispatch_reduced(step.grad_type,
                   [&](auto grad) { dispatch_reduced(step.out_type, [&](auto out) { run(grad, out); }); });
}

template <typename Moves>
static void launch_step(const Launch& launch, const Step& step, const Moves& moves) {
  const int64_t count = step.geometry.count;
  dispatch_step(step, [&](auto grad, auto out) {
    using G = decltype(grad);
    using O = decltype(out);
    if (step.is_dense && step.is_packed && count < 0x7fffffff - 4 * kThreads) {
      launch.run(step_dense<Moves, G, O>, blocks_for(count, 4 * kThreads))(step.geometry, step.at, moves);
    } else {
      launch.run(step_strided<Moves, G, O>, blocks_for(count, kThreads))(step.geometry, step.at, step.strides,
                                                                         moves);
    }
  });
}

static void run_linf(const Tensor& delta, const Step& step, double step_size, double epsilon, bool ascend) {
  if (step.geometry.count == 0) return;
  const Launch launch(delta);
  const LinfMove move{static_cast<float>(ascend ? step_size : -step_size), static_cast<float>(epsilon)};
  launch_step(launch, step, BatchMove{move});
}

static void run_l2(const Tensor& delta, const Step& step, double step_size, double epsilon, bool ascend) {
  if (step.geometry.count == 0) return;
  const Launch launch(delta);
  const int64_t samples = delta.size(0), size = step.geometry.sample_size;
  const double signed_step = ascend ? step_size : -step_size;
  if (step.is_dense && step.is_packed && size <= kMostInBlock && size % 4 == 0) {
    dispatch_step(step, [&](auto grad, auto out) {
      launch.run(l2_samples<decltype(grad), decltype(out)>, blocks_for(samples, 1))(step.geometry, step.at,
                                                                                    signed_step, epsilon);
    });
    return;
  }
  const int64_t wanted = (size + 16 * kThreads - 1) / (16 * kThreads);
  const int parts = static_cast<int>(wanted < 64 ? wanted : 64);
  const int64_t partial_bytes = samples * parts * static_cast<int64_t>(sizeof(Sums));
  const int64_t move_bytes = samples * static_cast<int64_t>(sizeof(L2Move));
  const Tensor partials = new_empty(delta, {partial_bytes}, ScalarType::Byte);
  const Tensor moves = new_empty(delta, {move_bytes}, ScalarType::Byte);
  Sums* partial = static_cast<Sums*>(partials.mutable_data_ptr());
  L2Move* move = static_cast<L2Move*>(moves.mutable_data_ptr());
  dispatch_reduced(step.grad_type, [&](auto grad) {
    launch.run(l2_partial<decltype(grad)>, blocks_for(samples * parts, 1))(
        step.geometry, step.at, step.strides, step.is_dense, parts, partial);
  });
  launch.run(l2_finish, blocks_for(samples, kThreads))(partial, parts, samples, signed_step, epsilon, move);
  launch_step(launch, step, SampleMoves{move});
}

static void linf_step_(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                       double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                       const MaybeTensor& out) {
  run_linf(delta, prepare(delta, grad, x, mean, std, out, delta), step_size, epsilon, ascend);
}

static Tensor linf_step_out(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                            double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                            const Tensor& out) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_linf(delta, prepare(delta, grad, x, mean, std, out, new_delta), step_size, epsilon, ascend);
  return new_delta;
}

static Tensor linf_step(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                        double epsilon, bool ascend) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_linf(delta, prepare(delta, grad, x, std::nullopt, std::nullopt, std::nullopt, new_delta), step_size,
           epsilon, ascend);
  return new_delta;
}

static void l2_step_(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                     double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                     const MaybeTensor& out) {
  run_l2(delta, prepare(delta, grad, x, mean, std, out, delta), step_size, epsilon, ascend);
}

static Tensor l2_step_out(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                          double epsilon, bool ascend, const MaybeTensor& mean, const MaybeTensor& std,
                          const Tensor& out) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_l2(delta, prepare(delta, grad, x, mean, std, out, new_delta), step_size, epsilon, ascend);
  return new_delta;
}

static Tensor l2_step(const Tensor& delta, const Tensor& grad, const Tensor& x, double step_size,
                      double epsilon, bool ascend) {
  Tensor new_delta = torch::stable::empty_like(delta);
  run_l2(delta, prepare(delta, grad, x, std::nullopt, std::nullopt, std::nullopt, new_delta), step_size,
         epsilon, ascend);
  return new_delta;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("linf_step_", TORCH_BOX(&pst::cuda::linf_step_));
  m.impl("linf_step", TORCH_BOX(&pst::cuda::linf_step));
  m.impl("linf_step_out", TORCH_BOX(&pst::cuda::linf_step_out));
  m.impl("l2_step_", TORCH_BOX(&pst::cuda::l2_step_));
  m.impl("l2_step", TORCH_BOX(&pst::cuda::l2_step));
  m.impl("l2_step_out", TORCH_BOX(&pst::cuda::l2_step_out));
}
