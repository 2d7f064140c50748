// max_pool on CUDA. The backward pass gathers: a pixel looks at the windows that it is in. No atomics.
#include "common/checks.h"
#include "common/windows.h"
#include "cuda/divisor.h"
#include "cuda/launch.h"

namespace pst::cuda {

// Threads have a pack of channels of a window, or of a pixel: `count` of them, channels first.
struct PoolWork {
  Windows windows;
  uint32_t count;
  int32_t packs;
  Divisor by_packs, by_columns, by_rows;
};

struct Place {
  int32_t pack, column, row;
  int64_t sample;

  __device__ __forceinline__ Place(const PoolWork& work, uint32_t at) {
    const uint32_t pixel = work.by_packs.divide(at), line = work.by_columns.divide(pixel);
    pack = static_cast<int32_t>(work.by_packs.rest(at, pixel));
    column = static_cast<int32_t>(work.by_columns.rest(pixel, line));
    const uint32_t of = work.by_rows.divide(line);
    row = static_cast<int32_t>(work.by_rows.rest(line, of));
    sample = of;
  }
};

// kSize: the windows' size where it is known, so that all loads are on the way at once; else 0.
template <int kSize, typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    write_maxima(PoolWork work, const T* __restrict__ features, T* __restrict__ maxima,
                 uint8_t* __restrict__ places) {
  const uint32_t at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= work.count) return;
  const Windows& w = work.windows;
  const Place place(work, at);
  const int size = kSize > 0 ? kSize : w.size;
  const int top = w.start(place.row), left = w.start(place.column);
  const auto* from = reinterpret_cast<const Pack<T, kPack>*>(features) + place.pack;
  float best[kPack];
  uint8_t chosen[kPack];
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    best[e] = -INFINITY;
    chosen[e] = static_cast<uint8_t>(w.first_tap(place.row) * size + w.first_tap(place.column));
  }
#pragma unroll(kSize > 0 ? kSize : 1)
  for (int y = 0; y < size; ++y) {
#pragma unroll(kSize > 0 ? kSize : 1)
    for (int x = 0; x < size; ++x) {
      const int row = top + y, column = left + x;
      if (row < 0 || row >= w.height || column < 0 || column >= w.width) continue;
      const auto value = from[((place.sample * w.height + row) * w.width + column) * work.packs];
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const float v = widen(value.value[e]);
        if (is_above(v, best[e])) {
          best[e] = v;
          chosen[e] = static_cast<uint8_t>(y * size + x);
        }
      }
    }
  }
  Pack<T, kPack> maximum;
  Pack<uint8_t, kPack> codes;
#pragma unroll
  for (int e = 0; e < kPack; ++e) {
    narrow(best[e], &maximum.value[e]);
    codes.value[e] = chosen[e];
  }
  reinterpret_cast<Pack<T, kPack>*>(maxima)[at] = maximum;
  reinterpret_cast<Pack<uint8_t, kPack>*>(places)[at] = codes;
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads)
    write_gradients(PoolWork work, const T* __restrict__ grad, const uint8_t* __restrict__ places,
                    T* __restrict__ features) {
  const uint32_t at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= work.count) return;
  const Windows& w = work.windows;
  const Place place(work, at);
  const int rows = w.out_height(), columns = w.out_width();
  const int top = w.first_window(place.row), bottom = w.last_window(place.row, w.height);
  const int left = w.first_window(place.column), right = w.last_window(place.column, w.width);
  float sum[kPack] = {};
#pragma unroll 1  // of small windows a pixel is in one or two a side
  for (int i = top; i <= bottom; ++i) {
#pragma unroll 1
    for (int j = left; j <= right; ++j) {
      const int tap = (place.row - w.start(i)) * w.size + place.column - w.start(j);
      const int64_t from = ((place.sample * rows + i) * columns + j) * work.packs + place.pack;
      const auto value = reinterpret_cast<const Pack<T, kPack>*>(grad)[from];
      const auto codes = reinterpret_cast<const Pack<uint8_t, kPack>*>(places)[from];
#pragma unroll
      for (int e = 0; e < kPack; ++e) sum[e] += codes.value[e] == tap ? widen(value.value[e]) : 0.0f;
    }
  }
  Pack<T, kPack> written;
#pragma unroll
  for (int e = 0; e < kPack; ++e) narrow(sum[e], &written.value[e]);
  reinterpret_cast<Pack<T, kPack>*>(features)[at] = written;
}

// Calls `run` with the work and a pack of 16 bytes where that fits the channels and `from`, or of one value.
template <typename T, typename F>
static void with_work(const Windows& windows, const Tensor& from, int64_t rows, int64_t columns, F&& run) {
  const int64_t samples = from.size(0), channels = from.size(1);
  constexpr int kWide = 16 / sizeof(T);
  const auto go = [&](auto pack) {
    const int64_t packs = channels / pack(), count = samples * rows * columns * packs;
    STD_TORCH_CHECK(count < 0x7fffff00, "the tensor is too large for one launch");
    run(PoolWork{windows, static_cast<uint32_t>(count), static_cast<int32_t>(packs), Divisor(packs),
                 Divisor(columns), Divisor(rows)},
        pack);
  };
  if (channels % kWide == 0 && is_aligned(from.const_data_ptr(), 16))
    return go(std::integral_constant<int, kWide>{});
  go(std::integral_constant<int, 1>{});
}

static std::tuple<Tensor, Tensor> max_pool(const Tensor& features, int64_t kernel_size, int64_t stride,
                                           int64_t padding) {
  const Windows windows = check_max_pool(features, kernel_size, stride, padding);
  const Launch launch(features);
  const Tensor from = as_channels_last(features);
  const auto outputs = new_maxima(from, windows);
  const Tensor &maxima = std::get<0>(outputs), &places = std::get<1>(outputs);
  if (from.numel() == 0) return outputs;
  dispatch_reduced(from.scalar_type(), [&](auto type) {
    using T = decltype(type);
    with_work<T>(
        windows, from, windows.out_height(), windows.out_width(), [&](const PoolWork& work, auto pack) {
          const auto kernel = windows.size == 3 ? write_maxima<3, T, pack()> : write_maxima<0, T, pack()>;
          launch.run(kernel, blocks_for(work.count, kThreads))(
              work, static_cast<const T*>(from.const_data_ptr()), static_cast<T*>(maxima.mutable_data_ptr()),
              places.mutable_data_ptr<uint8_t>());
        });
  });
  return outputs;
}

static Tensor max_pool_backward(const Tensor& grad, const Tensor& places, int64_t height, int64_t width,
                                int64_t kernel_size, int64_t stride, int64_t padding) {
  const Windows windows = check_max_pool_backward(grad, places, height, width, kernel_size, stride, padding);
  const Launch launch(grad);
  const Tensor from = as_channels_last(grad), codes = as_channels_last(places);
  Tensor features = new_empty(grad, {grad.size(0), grad.size(1), height, width}, grad.scalar_type(),
                              MemoryFormat::ChannelsLast);
  if (features.numel() == 0) return features;
  dispatch_reduced(grad.scalar_type(), [&](auto type) {
    using T = decltype(type);
    with_work<T>(windows, from, height, width, [&](const PoolWork& work, auto pack) {
      launch.run(write_gradients<T, pack()>, blocks_for(work.count, kThreads))(
          work, static_cast<const T*>(from.const_data_ptr()), codes.const_data_ptr<uint8_t>(),
          static_cast<T*>(features.mutable_data_ptr()));
    });
  });
  return features;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("max_pool", TORCH_BOX(&pst::cuda::max_pool));
  m.impl("max_pool_backward", TORCH_BOX(&pst::cuda::max_pool_backward));
}
