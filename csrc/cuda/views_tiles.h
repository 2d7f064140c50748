// All views but JPEG: a thread block has a tile of pixels. What several of them need, it reads or computes
// once, in shared memory.
#pragma once

#include "common/cells.h"
#include "cuda/views.h"

namespace pst::cuda {

constexpr int kTile = 32;  // side of a tile
constexpr int kRun = 4;    // pixels of a thread, in a row of the tile
static_assert(kTile * kTile == kRun * kThreads, "a thread block has a tile");

// A tile of a sample, and a thread's run of pixels in it.
struct Place {
  int top, left, y, x;  // of the tile, and of the run

  __device__ __forceinline__ Place(const ViewJob& job, int tile) {
    const int across = (job.width + kTile - 1) / kTile;
    top = tile / across * kTile;
    left = tile % across * kTile;
    y = top + threadIdx.x / (kTile / kRun);
    x = left + threadIdx.x % (kTile / kRun) * kRun;
  }
};

// A colour as a word, and back.
__device__ __forceinline__ uint32_t packed(Colour p) {
  return static_cast<uint32_t>(p.red | p.green << 8 | p.blue << 16);
}

__device__ __forceinline__ int32_t channel_of(uint32_t word, int channel) {
  return static_cast<int32_t>(word >> (8 * channel) & 255);
}

// Words of a row of the tile with `halo` pixels around it: odd, so that rows start in different banks.
__host__ __device__ constexpr int pitch_of(int halo) {
  return (kTile + 2 * halo) | 1;
}

// The tile and `halo` pixels around it, mirrored at the image's border. What lies further out, no pixel sees.
__device__ __forceinline__ void load_tile(const ViewJob& job, const ViewWork& work, const Place& place,
                                          int halo, uint32_t* tile) {
  const int side = kTile + 2 * halo, pitch = pitch_of(halo);
  const bool is_once = halo < min(job.height, job.width);  // no pixel is mirrored more than once
  const auto held = [&](int at, int count) {
    if (!is_once) return mirror(at, count);
    const int raised = abs(at);
    return raised < count ? raised : max(2 * (count - 1) - raised, 0);
  };
  const uint32_t inverse = (1u << 22) / side + 1;  // exact for all places in a tile
  for (uint32_t at = threadIdx.x; at < static_cast<uint32_t>(side * side); at += kThreads) {
    const int row = static_cast<int>(at * inverse >> 22), column = static_cast<int>(at) - row * side;
    const int y = held(place.top + row - halo, job.height);
    tile[row * pitch + column] =
        packed(load_colour(job, work, y, held(place.left + column - halo, job.width)));
  }
  __syncthreads();
}

// Columns of three are sorted once for the three pixels that have them in their window.
__device__ __forceinline__ void show_median(const ViewJob& job, const ViewWork& work, const Place& place,
                                            uint32_t* tile, Colour (&out)[kRun]) {
  constexpr int kColumns = kRun + 2, kPitch = pitch_of(1);
  load_tile(job, work, place, 1, tile);
  const uint32_t* from = tile + (place.y - place.top) * kPitch + place.x - place.left;
  int32_t median[3][kRun];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    int32_t low[kColumns], middle[kColumns], high[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      low[i] = channel_of(from[i], c);
      middle[i] = channel_of(from[kPitch + i], c);
      high[i] = channel_of(from[2 * kPitch + i], c);
      sort_pair(low[i], middle[i]);
      sort_pair(middle[i], high[i]);
      sort_pair(low[i], middle[i]);
    }
    const auto middle_of = [](int32_t a, int32_t b, int32_t d) { return max(min(a, b), min(max(a, b), d)); };
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      median[c][k] = middle_of(max(max(low[k], low[k + 1]), low[k + 2]),
                               middle_of(middle[k], middle[k + 1], middle[k + 2]),
                               min(min(high[k], high[k + 1]), high[k + 2]));
    }
  }
#pragma unroll
  for (int k = 0; k < kRun; ++k) out[k] = {median[0][k], median[1][k], median[2][k]};
}

struct Means {
  float value[3];
};

__device__ __forceinline__ Colour rounded(const Means& mean) {
  return {round_byte(mean.value[0]), round_byte(mean.value[1]), round_byte(mean.value[2])};
}

// Along rows first, into shared memory, then along columns.
constexpr int kLinePitch = kTile + 4;  // rows start at 16 bytes, and at different banks

__device__ __forceinline__ void show_blur(const ViewJob& job, const ViewWork& work, const Place& place,
                                          uint32_t* tile, Colour (&out)[kRun]) {
  static_assert(kRun == 4, "taps go through four registers");
  const int radius = work.view.radius, rows = kTile + 2 * radius, pitch = pitch_of(radius);
  const float* taps = work.view.taps;
  load_tile(job, work, place, radius, tile);
  const int words = (rows * pitch + 3) / 4 * 4;
  float* lines = reinterpret_cast<float*>(tile + words);  // [3, rows, kLinePitch]
  for (int item = threadIdx.x; item < rows * (kTile / kRun); item += kThreads) {
    const int row = item / (kTile / kRun), column = item % (kTile / kRun) * kRun;
    const uint32_t* from = tile + row * pitch + column;
    Means sum[kRun] = {};
    float tap[kRun] = {};  // of the word for each pixel: 0 beyond its window
    for (int i = 0; i < 2 * radius + kRun; ++i) {
#pragma unroll
      for (int k = kRun - 1; k > 0; --k) tap[k] = tap[k - 1];
      tap[0] = i <= 2 * radius ? taps[abs(i - radius)] : 0.0f;
      const uint32_t word = from[i];
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const float value = static_cast<float>(channel_of(word, c));
#pragma unroll
        for (int k = 0; k < kRun; ++k) sum[k].value[c] += tap[k] * value;
      }
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      *reinterpret_cast<Pack<float, kRun>*>(lines + (c * rows + row) * kLinePitch + column) = {
          sum[0].value[c], sum[1].value[c], sum[2].value[c], sum[3].value[c]};
    }
  }
  __syncthreads();
  Means sum[kRun] = {};
  const float* from = lines + (place.y - place.top) * kLinePitch + place.x - place.left;
  for (int i = 0; i <= 2 * radius; ++i) {
    const float tap = taps[abs(i - radius)];
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const auto line = *reinterpret_cast<const Pack<float, kRun>*>(from + (c * rows + i) * kLinePitch);
#pragma unroll
      for (int k = 0; k < kRun; ++k) sum[k].value[c] += tap * line.value[k];
    }
  }
#pragma unroll
  for (int k = 0; k < kRun; ++k) out[k] = rounded(sum[k]);
}

__device__ __forceinline__ Means cell_mean(const ViewJob& job, const ViewWork& work, int i, int j, int rows,
                                           int columns) {
  const int top = cell_start(i, rows, job.height), bottom = cell_end(i, rows, job.height);
  const int left = cell_start(j, columns, job.width), right = cell_end(j, columns, job.width);
  Colour sum{0, 0, 0};
  for (int y = top; y < bottom; ++y) {
    for (int x = left; x < right; ++x) {
      const Colour p = load_colour(job, work, y, x);
      sum.red += p.red;
      sum.green += p.green;
      sum.blue += p.blue;
    }
  }
  const float inverse = 1.0f / static_cast<float>((bottom - top) * (right - left));
  return {{static_cast<float>(sum.red) * inverse, static_cast<float>(sum.green) * inverse,
           static_cast<float>(sum.blue) * inverse}};
}

// Along a side of a tile there are no more cells, with one on either side.
constexpr int kMostCells = kTile + 2;

// The cells' means first, in shared memory: of those that the tile's pixels lie between.
__device__ __forceinline__ void show_down_up(const ViewJob& job, const ViewWork& work, const Place& place,
                                             Means* means, Colour (&out)[kRun]) {
  const int rows = static_cast<int>(down_cells(job.height, work.view.a));
  const int columns = static_cast<int>(down_cells(job.width, work.view.a));
  const int last_y = min(place.top + kTile, job.height) - 1, last_x = min(place.left + kTile, job.width) - 1;
  const int first_row = static_cast<int>(between_cells(place.top, job.height, rows).first);
  const int first_column = static_cast<int>(between_cells(place.left, job.width, columns).first);
  const int down = static_cast<int>(between_cells(last_y, job.height, rows).second) - first_row + 1;
  const int across = static_cast<int>(between_cells(last_x, job.width, columns).second) - first_column + 1;
  for (int at = threadIdx.x; at < down * across; at += kThreads) {
    const int i = at / across, j = at - i * across;
    means[at] = cell_mean(job, work, first_row + i, first_column + j, rows, columns);
  }
  __syncthreads();
  if (place.y > last_y) return;
  const Between row = between_cells(place.y, job.height, rows);
  const Means* first = means + (row.first - first_row) * across - first_column;
  const Means* second = means + (row.second - first_row) * across - first_column;
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    if (place.x + k > last_x) break;
    const Between column = between_cells(place.x + k, job.width, columns);
    Means mean;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      mean.value[c] = between(
          between(first[column.first].value[c], second[column.first].value[c], row.share),
          between(first[column.second].value[c], second[column.second].value[c], row.share), column.share);
    }
    out[k] = rounded(mean);
  }
}

// Views of which each pixel shows itself alone.
__device__ __forceinline__ void show_pixels(const ViewJob& job, const ViewWork& work, const Place& place,
                                            Colour (&out)[kRun]) {
  const auto is_erased = [&](int at, int start) { return at >= start && at < start + work.draw.side; };
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
    const int x = place.x + k;
    if (place.y >= job.height || x >= job.width) break;
    Colour p = load_colour(job, work, place.y, x);
    if (work.view.kind == kBits) {
      p = {quantise(static_cast<uint8_t>(p.red), work.view.a),
           quantise(static_cast<uint8_t>(p.green), work.view.a),
           quantise(static_cast<uint8_t>(p.blue), work.view.a)};
    } else if (work.view.kind == kErase && is_erased(place.y, work.draw.top) &&
               is_erased(x, work.draw.left)) {
      p = {128, 128, 128};
    }
    out[k] = p;
  }
}

// Bytes of shared memory that a view's tile takes.
static size_t tile_bytes(const View& view) {
  const auto words = [](int halo) { return static_cast<size_t>((kTile + 2 * halo) * pitch_of(halo)); };
  switch (view.kind) {
    case kMedian:
      return sizeof(uint32_t) * words(1);
    case kBlur:
      return sizeof(uint32_t) * (words(view.radius) + 3) +  // lines start at 16 bytes
             sizeof(float) * 3 * kLinePitch * (kTile + 2 * view.radius);
    case kDownUp:
      return sizeof(Means) * kMostCells * kMostCells;
    default:
      return 0;
  }
}

// All other views, a tile a thread block.
static __global__ void __launch_bounds__(kThreads)
    show_others(const __grid_constant__ ViewJob job, int tiles) {
  uint32_t* shared = shared_memory<uint32_t>();
  __shared__ ViewWork work;
  start_view(job, tiles, &work);
  if (work.view.kind == kJpeg) return;
  const Place place(job, static_cast<int>(blockIdx.x % tiles));
  Colour out[kRun];
  switch (work.view.kind) {
    case kMedian:
      show_median(job, work, place, shared, out);
      break;
    case kBlur:
      show_blur(job, work, place, shared, out);
      break;
    case kDownUp:
      show_down_up(job, work, place, reinterpret_cast<Means*>(shared), out);
      break;
    default:
      show_pixels(job, work, place, out);
  }
  if (place.y >= job.height || place.x >= job.width) return;
  uint8_t* to = job.out + 3 * ((work.sample * job.height + place.y) * job.width + place.x);
  if (job.is_written_wide) {
    uint32_t words[3] = {};
#pragma unroll
    for (int i = 0; i < 3 * kRun; ++i) {
      words[i / 4] |= static_cast<uint32_t>(channel_of(packed(out[i / 3]), i % 3)) << (8 * (i % 4));
    }
#pragma unroll
    for (int w = 0; w < 3; ++w) reinterpret_cast<uint32_t*>(to)[w] = words[w];
  } else {
#pragma unroll
    for (int i = 0; i < 3 * kRun; ++i) {
      if (place.x + i / 3 < job.width) to[i] = static_cast<uint8_t>(channel_of(packed(out[i / 3]), i % 3));
    }
  }
}

}  // namespace pst::cuda
