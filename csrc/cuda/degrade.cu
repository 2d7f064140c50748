// The views of `degrade` on CUDA: a launch for the JPEGs' chroma, one for their luma, one for all other
// views.
//
// All threads of a block work on one sample, and so on one view; a launch leaves the others' samples alone.
// Of a JPEG eight threads share a block of 8 x 8 values, a row each. Of the other views a thread block has a
// tile of pixels; what several of them need, it reads or computes once, in shared memory.
#include <algorithm>

#include "common/cells.h"
#include "common/checks.h"
#include "common/jpeg.h"
#include "cuda/launch.h"

namespace pst::cuda {

constexpr int kSide = 8;                   // of a JPEG's blocks
constexpr int kBlocks = kThreads / kSide;  // of those, for a thread block
constexpr int kTile = 32;                  // side of a tile
constexpr int kRun = 4;                    // pixels of a thread, in a row of the tile
static_assert(kTile * kTile == kRun * kThreads, "a thread block has a tile");

struct ViewJob {
  Views views;
  const uint8_t* images;
  const int64_t* index;
  int64_t index_stride, rows;
  int height, width;
  bool is_read_wide, is_written_wide;  // whether eight pixels of a row can be had as three words of 8 bytes
  uint8_t *chroma, *out;               // chroma: [B, 2, height, width], rounded up to whole tiles
};

// What a thread block works on.
struct ViewWork {
  View view;
  ViewDraw draw;
  const uint8_t* image;
  int64_t sample;
  int32_t step[2][kSide * kSide];  // of a JPEG: luma, chroma
};

struct Colour {
  int32_t red, green, blue;
};

// `parts`: thread blocks for each sample.
__device__ void start_view(const ViewJob& job, int parts, ViewWork* work) {
  if (threadIdx.x == 0) {
    work->sample = blockIdx.x / parts;
    work->draw = draw_view(job.views, static_cast<uint32_t>(work->sample), job.height, job.width);
    work->view = job.views.view[work->draw.view];
    const int64_t row = job.index == nullptr ? work->sample : job.index[work->sample * job.index_stride];
    if (row < 0 || row >= job.rows) {
      printf("pst_fast::degrade: index must be in [0, %lld), got %lld\n", static_cast<long long>(job.rows),
             static_cast<long long>(row));
      __trap();
    }
    work->image = job.images + 3 * row * job.height * job.width;
  }
  __syncthreads();
  if (work->view.kind != kJpeg) return;
  if (threadIdx.x < 2 * kSide * kSide) {
    const int is_chroma = threadIdx.x / (kSide * kSide), at = threadIdx.x % (kSide * kSide);
    work->step[is_chroma][at] = jpeg_step(is_chroma, at, work->view.a);
  }
  __syncthreads();
}

__device__ __forceinline__ Colour shown(const ViewWork& work, Colour colour) {
  if (!work.view.grey) return colour;
  const int32_t luma = jpeg_luma(colour.red, colour.green, colour.blue);
  return {luma, luma, luma};
}

__device__ __forceinline__ Colour load_colour(const ViewJob& job, const ViewWork& work, int y, int x) {
  const uint8_t* at = work.image + 3 * (y * job.width + x);
  return shown(work, {__ldg(at), __ldg(at + 1), __ldg(at + 2)});
}

// Eight pixels of a row, from a multiple of eight on; beyond the border its pixel again.
__device__ __forceinline__ void load_colours(const ViewJob& job, const ViewWork& work, int y, int left,
                                             Colour (&colours)[kSide]) {
  if (job.is_read_wide && left < job.width) {
    const auto* at = reinterpret_cast<const uint2*>(work.image + 3 * (y * job.width + left));
    const uint2 first = __ldg(at), second = __ldg(at + 1), third = __ldg(at + 2);
    const uint32_t words[6] = {first.x, first.y, second.x, second.y, third.x, third.y};
    const auto byte = [&](int i) { return static_cast<int32_t>(words[i / 4] >> (8 * (i % 4)) & 255); };
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      colours[i] = shown(work, {byte(3 * i), byte(3 * i + 1), byte(3 * i + 2)});
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSide; ++i) colours[i] = load_colour(job, work, y, min(left + i, job.width - 1));
  }
}

// An 8 x 8 block through the quantised transform: each of eight threads holds a row, before and after. The
// whole warp takes part.
__device__ __forceinline__ void code_block(int32_t (&v)[kSide], int lane, int32_t (*tile)[kSide + 1],
                                           const int32_t* step) {
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] -= 128;
  jpeg_forward<false>(v);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSide; ++i) tile[lane][i] = v[i];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] = tile[i][lane];
  jpeg_forward<true>(v);
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int32_t q = step[kSide * i + lane], magnitude = (v[i] < 0 ? -v[i] : v[i]) + 4 * q;
    // Exact: the half keeps the quotient further from a whole number than the division's rounding.
    const int32_t level =
        static_cast<int32_t>(__fdividef(static_cast<float>(magnitude) + 0.5f, static_cast<float>(8 * q)));
    v[i] = (v[i] < 0 ? -level : level) * q;
  }
  jpeg_inverse<false>(v);
#pragma unroll
  for (int i = 0; i < kSide; ++i) tile[i][lane] = v[i];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] = tile[lane][i];
  jpeg_inverse<true>(v);
#pragma unroll
  for (int i = 0; i < kSide; ++i) v[i] = jpeg_byte(v[i] + 128);
}

__device__ __forceinline__ uint8_t* chroma_plane(const ViewJob& job, const ViewWork& work, int channel) {
  return job.chroma + (2 * work.sample + channel) * whole_blocks(job.height) * whole_blocks(job.width);
}

__device__ __forceinline__ void store_bytes(const int32_t (&v)[kSide], uint8_t* to) {
  uint2 packed{0, 0};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    packed.x |= static_cast<uint32_t>(v[i]) << (8 * i);
    packed.y |= static_cast<uint32_t>(v[i + 4]) << (8 * i);
  }
  *reinterpret_cast<uint2*>(to) = packed;
}

__global__ void __launch_bounds__(kThreads) code_chroma(const __grid_constant__ ViewJob job, int parts) {
  __shared__ ViewWork work;
  __shared__ int32_t tiles[kBlocks][kSide][kSide + 1];
  start_view(job, parts, &work);
  if (work.view.kind != kJpeg) return;
  const bool is_full = work.view.b != 0;
  const int rows = is_full ? job.height : (job.height + 1) / 2;
  const int columns = is_full ? job.width : (job.width + 1) / 2;
  const int across = (columns + kSide - 1) / kSide, down = (rows + kSide - 1) / kSide;
  const int count = across * down, pitch = static_cast<int>(whole_blocks(job.width));
  const int tile = threadIdx.x / kSide, lane = threadIdx.x % kSide;
  for (int first = blockIdx.x % parts * kBlocks; first < count; first += parts * kBlocks) {
    const int place = min(first + tile, count - 1);  // the last is done again
    const int y = place / across * kSide + lane, left = place % across * kSide;
    const int held_y = min(y, rows - 1);
    int32_t cb[kSide] = {}, cr[kSide] = {};
    Colour colours[kSide];
    if (is_full) {
      load_colours(job, work, held_y, left, colours);
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        cb[i] = jpeg_cb(colours[i].red, colours[i].green, colours[i].blue);
        cr[i] = jpeg_cr(colours[i].red, colours[i].green, colours[i].blue);
      }
    } else {
#pragma unroll
      for (int part = 0; part < 4; ++part) {  // upper left, upper right, lower left, lower right
        const int half = part % 2;
        load_colours(job, work, min(2 * held_y + part / 2, job.height - 1), 2 * left + half * kSide, colours);
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
          cb[half * 4 + i / 2] += jpeg_cb(colours[i].red, colours[i].green, colours[i].blue);
          cr[half * 4 + i / 2] += jpeg_cr(colours[i].red, colours[i].green, colours[i].blue);
        }
      }
#pragma unroll
      for (int i = 0; i < kSide; ++i) {
        cb[i] = (cb[i] + 1 + i % 2) >> 2;
        cr[i] = (cr[i] + 1 + i % 2) >> 2;
      }
    }
    code_block(cb, lane, tiles[tile], work.step[1]);
    store_bytes(cb, chroma_plane(job, work, 0) + y * pitch + left);
    code_block(cr, lane, tiles[tile], work.step[1]);
    store_bytes(cr, chroma_plane(job, work, 1) + y * pitch + left);
  }
}

// Chroma at eight pixels of a row, doubled where it was halved.
__device__ __forceinline__ void load_chroma(const ViewJob& job, const ViewWork& work, int channel, int y,
                                            int left, int32_t (&chroma)[kSide]) {
  const uint8_t* plane = chroma_plane(job, work, channel);
  const int pitch = static_cast<int>(whole_blocks(job.width));
  if (work.view.b != 0) {
    const uint2 packed = *reinterpret_cast<const uint2*>(plane + y * pitch + left);
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      chroma[i] = static_cast<int32_t>((i < 4 ? packed.x : packed.y) >> (8 * (i % 4)) & 255);
    }
    return;
  }
  // The columns that the eight pixels lie in, and one on either side of them.
  constexpr int kColumns = kSide / 2 + 2;
  const int rows = (job.height + 1) / 2, columns = (job.width + 1) / 2;
  const uint8_t* near_row = plane + y / 2 * pitch;
  const uint8_t* far_row = plane + max(0, min(rows - 1, y / 2 + (y % 2 == 0 ? -1 : 1))) * pitch;
  int32_t near[kColumns], far[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int column = max(0, min(columns - 1, left / 2 + i - 1));
    near[i] = near_row[column];
    far[i] = far_row[column];
  }
#pragma unroll
  for (int i = 0; i < kSide; ++i) {
    const int at = 1 + i / 2, side = i % 2 == 0 ? at - 1 : at + 1;
    chroma[i] = columns <= 2 ? near[at] : jpeg_triangle(near[at], far[at], near[side], far[side], i % 2 != 0);
  }
}

// The JPEGs: luma, joined with the chroma that is there already.
__global__ void __launch_bounds__(kThreads) show_jpegs(const __grid_constant__ ViewJob job, int parts) {
  __shared__ ViewWork work;
  __shared__ int32_t tiles[kBlocks][kSide][kSide + 1];
  start_view(job, parts, &work);
  if (work.view.kind != kJpeg) return;
  const int across = (job.width + kSide - 1) / kSide, down = (job.height + kSide - 1) / kSide;
  const int tile = threadIdx.x / kSide, lane = threadIdx.x % kSide;
  uint8_t* image = job.out + 3 * work.sample * job.height * job.width;
  for (int first = blockIdx.x % parts * kBlocks; first < across * down; first += parts * kBlocks) {
    const int place = min(first + tile, across * down - 1);  // the last is done again
    const int y = place / across * kSide + lane, left = place % across * kSide;
    Colour colours[kSide];
    load_colours(job, work, min(y, job.height - 1), left, colours);
    int32_t luma[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) luma[i] = jpeg_luma(colours[i].red, colours[i].green, colours[i].blue);
    code_block(luma, lane, tiles[tile], work.step[0]);
    if (y >= job.height) continue;
    int32_t cb[kSide], cr[kSide];
    load_chroma(job, work, 0, y, left, cb);
    load_chroma(job, work, 1, y, left, cr);
    uint8_t* to = image + 3 * (y * job.width + left);
    uint32_t words[6] = {};
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      if (left + i >= job.width) break;
      uint8_t bytes[3];
      jpeg_rgb(luma[i], cb[i], cr[i], bytes);
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const int at = 3 * i + c;
        if (job.is_written_wide) {
          words[at / 4] |= static_cast<uint32_t>(bytes[c]) << (8 * (at % 4));
        } else {
          to[at] = bytes[c];
        }
      }
    }
    if (job.is_written_wide) {
#pragma unroll
      for (int w = 0; w < 3; ++w) reinterpret_cast<uint2*>(to)[w] = {words[2 * w], words[2 * w + 1]};
    }
  }
}

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

// The tile and `halo` pixels around it, mirrored at the image's border.
__device__ __forceinline__ void load_tile(const ViewJob& job, const ViewWork& work, const Place& place,
                                          int halo, uint32_t* tile) {
  const int side = kTile + 2 * halo, pitch = pitch_of(halo);
  for (int at = threadIdx.x; at < side * side; at += kThreads) {
    const int row = at / side, column = at - row * side;
    const int y = mirror(place.top + row - halo, job.height);
    tile[row * pitch + column] =
        packed(load_colour(job, work, y, mirror(place.left + column - halo, job.width)));
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
constexpr int kLinePitch = kTile + 1;

__device__ __forceinline__ void show_blur(const ViewJob& job, const ViewWork& work, const Place& place,
                                          uint32_t* tile, Colour (&out)[kRun]) {
  const int radius = work.view.radius, rows = kTile + 2 * radius, pitch = pitch_of(radius);
  const float* taps = work.view.taps;
  load_tile(job, work, place, radius, tile);
  float* lines = reinterpret_cast<float*>(tile + rows * pitch);  // [3, rows, kLinePitch]
  for (int item = threadIdx.x; item < rows * (kTile / kRun); item += kThreads) {
    const int row = item / (kTile / kRun), column = item % (kTile / kRun) * kRun;
    Means sum[kRun] = {};
    for (int i = 0; i < 2 * radius + kRun; ++i) {
      const uint32_t word = tile[row * pitch + column + i];
#pragma unroll
      for (int k = 0; k < kRun; ++k) {
        const int away = abs(i - k - radius);
        if (away > radius) continue;
#pragma unroll
        for (int c = 0; c < 3; ++c) {
          sum[k].value[c] += taps[away] * static_cast<float>(channel_of(word, c));
        }
      }
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) {
#pragma unroll
      for (int k = 0; k < kRun; ++k) lines[(c * rows + row) * kLinePitch + column + k] = sum[k].value[c];
    }
  }
  __syncthreads();
  Means sum[kRun] = {};
  for (int i = 0; i <= 2 * radius; ++i) {
    const float tap = taps[abs(i - radius)];
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float* line = lines + (c * rows + place.y - place.top + i) * kLinePitch + place.x - place.left;
#pragma unroll
      for (int k = 0; k < kRun; ++k) sum[k].value[c] += tap * line[k];
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
      return sizeof(uint32_t) * words(view.radius) +
             sizeof(float) * 3 * kLinePitch * (kTile + 2 * view.radius);
    case kDownUp:
      return sizeof(Means) * kMostCells * kMostCells;
    default:
      return 0;
  }
}

// All other views, a tile a thread block.
__global__ void __launch_bounds__(kThreads) show_others(const __grid_constant__ ViewJob job, int tiles) {
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

static Tensor degrade(const Tensor& images, const MaybeTensor& index, const Tensor& views, int64_t seed,
                      int64_t offset) {
  check_degrade(images, index);
  STD_TORCH_CHECK(images.size(1) * images.size(2) < (int64_t{1} << 29), "images are too large");
  const Launch launch(images);
  const Tensor dense = torch::stable::contiguous(images);
  ViewJob job{};
  job.views = read_views(views, images, seed, offset);
  job.images = dense.const_data_ptr<uint8_t>();
  job.index = index ? index->const_data_ptr<int64_t>() : nullptr;
  job.index_stride = index ? index->stride(0) : 0;
  job.rows = images.size(0);
  job.height = static_cast<int>(images.size(1));
  job.width = static_cast<int>(images.size(2));
  const int64_t batch = index ? index->size(0) : job.rows;
  Tensor out = new_empty(images, {batch, job.height, job.width, 3}, ScalarType::Byte);
  if (out.numel() == 0) return out;
  job.out = out.mutable_data_ptr<uint8_t>();
  job.is_read_wide = job.width % kSide == 0 && is_aligned(job.images, 8);
  job.is_written_wide = job.width % kSide == 0 && is_aligned(job.out, 8);
  int32_t jpegs = 0;
  bool is_any_full = false;
  size_t shared = 0;
  for (int32_t i = 0; i < job.views.count; ++i) {
    const View& view = job.views.view[i];
    jpegs += view.kind == kJpeg;
    is_any_full |= view.kind == kJpeg && view.b != 0;
    shared = std::max(shared, tile_bytes(view));
  }
  // Lives until the end of this call: the allocator hands it on in the stream's order.
  Tensor chroma =
      new_empty(images, {jpegs > 0 ? 2 * batch * whole_blocks(job.height) * whole_blocks(job.width) : 0},
                ScalarType::Byte);
  if (jpegs > 0) {
    job.chroma = chroma.mutable_data_ptr<uint8_t>();
    const auto parts_of = [](int64_t height, int64_t width) {
      const int64_t count = whole_blocks(height) / kSide * (whole_blocks(width) / kSide);
      return static_cast<int>(std::min<int64_t>((count + kBlocks - 1) / kBlocks, 4096));
    };
    const int all = parts_of(job.height, job.width);
    const int some = is_any_full ? all : parts_of((job.height + 1) / 2, (job.width + 1) / 2);
    launch.run(code_chroma, blocks_for(batch * some, 1))(job, some);
    launch.run(show_jpegs, blocks_for(batch * all, 1))(job, all);
  }
  if (jpegs < job.views.count) {
    const int tiles = (job.height + kTile - 1) / kTile * ((job.width + kTile - 1) / kTile);
    launch.run(show_others, blocks_for(batch * tiles, 1), kThreads, shared)(job, tiles);
  }
  return out;
}

}  // namespace pst::cuda

PST_CUDA_KERNELS(m) {
  m.impl("degrade", TORCH_BOX(&pst::cuda::degrade));
}
