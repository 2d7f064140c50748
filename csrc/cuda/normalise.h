// (value - mean) / std by channel, as the kernels that write a network's inputs compute it.
#pragma once

#include "common/abi.h"
#include "cuda/divisor.h"
#include "cuda/launch.h"

namespace pst::cuda {

struct Normalisation {
  const float *mean, *std;  // null: not wanted
  int64_t mean_stride, std_stride;

  __device__ __forceinline__ float mean_of(int64_t channel) const {
    return mean == nullptr ? 0.0f : mean[channel * mean_stride];
  }
  __device__ __forceinline__ float inverse_of(int64_t channel) const {
    return std == nullptr ? 1.0f : 1.0f / std[channel * std_stride];
  }
  __device__ __forceinline__ float operator()(float value, int64_t channel) const {
    return (value - mean_of(channel)) * inverse_of(channel);
  }
};

static Normalisation normalisation_of(const MaybeTensor& mean, const MaybeTensor& std) {
  return {mean ? mean->const_data_ptr<float>() : nullptr, std ? std->const_data_ptr<float>() : nullptr,
          mean ? mean->stride(0) : 0, std ? std->stride(0) : 0};
}

constexpr int64_t kMostChannels = 64;  // of a table

// In shared memory, so that no thread divides. A block's threads fill it; a barrier must follow.
struct NormaliseTable {
  float mean[kMostChannels], inverse[kMostChannels];

  __device__ __forceinline__ void fill(const Normalisation& from, int channels) {
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
      mean[c] = from.mean_of(c);
      inverse[c] = from.inverse_of(c);
    }
  }
  __device__ __forceinline__ float operator()(float value, uint32_t channel) const {
    return (value - mean[channel]) * inverse[channel];
  }
};

// Which channel each element of a dense layout has: runs of one channel, one after the other.
struct ChannelRuns {
  Divisor length, channels;
};

static ChannelRuns channel_runs(int64_t pixels, int64_t channels, bool is_last) {
  return {Divisor(is_last ? 1 : pixels), Divisor(channels)};
}

// The channels of elements that follow each other.
struct ChannelWalk {
  uint32_t channel, left;

  __device__ __forceinline__ ChannelWalk(const ChannelRuns& runs, uint32_t first) {
    const uint32_t run = runs.length.divide(first);
    left = runs.length.value() - runs.length.rest(first, run);
    channel = runs.channels.modulo(run);
  }
  __device__ __forceinline__ void next(const ChannelRuns& runs) {
    if (--left != 0) return;
    left = runs.length.value();
    if (++channel == runs.channels.value()) channel = 0;
  }
};

}  // namespace pst::cuda
