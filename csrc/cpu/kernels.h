// The inner loops, compiled once for each vector unit (kernels.cpp) and chosen at run time (dispatch.cpp).
#pragma once

#include "common/ar.h"
#include "common/ball.h"
#include "common/code.h"
#include "common/draws.h"
#include "common/views.h"

namespace pst::cpu {

enum Storage { kFloat = 0, kBFloat16 = 1, kHalf = 2, kStorages = 3 };
enum DeltaKind { kNoDelta, kFloatDelta, kInt8Delta, kInt16Delta };

// `bounds` holds the cells' first row, end row, first column and end column: four times grid numbers.
struct PoolJob {
  int64_t channels, height, width, grid;
  const int64_t* bounds;

  PST_INLINE_MEMBER int64_t top(int64_t i) const { return bounds[i]; }
  PST_INLINE_MEMBER int64_t bottom(int64_t i) const { return bounds[grid + i]; }
  PST_INLINE_MEMBER int64_t left(int64_t j) const { return bounds[2 * grid + j]; }
  PST_INLINE_MEMBER int64_t right(int64_t j) const { return bounds[3 * grid + j]; }
};

// Elements of a step: n of them, each tensor with its own stride (1 on the fast path).
struct StepRow {
  const float* delta;
  const void* grad;
  const float* x;
  float* new_delta;
  void* out;                        // null: not wanted
  const float *mean, *inverse_std;  // null, one of each for all elements, or one for each
  bool is_constant;
  int64_t count;
  int64_t delta_stride, grad_stride, x_stride, new_delta_stride, out_stride;
};

struct L2Sums {
  double dd, dg, gg;
};

// Some elements of one class's samples: `rows` names the samples.
struct ClassRow {
  const void* grad;
  int64_t sample_stride, stride;  // in elements
  const int64_t* rows;
  int64_t samples, count;
};

// Some elements of one sample of a batch, to be perturbed and normalised.
struct InputRow {
  const float *delta, *x;
  void* out;
  const float *mean, *inverse_std;  // one of each for all elements, or one for each
  bool is_constant;
  int64_t count;
  int64_t delta_stride, x_stride, out_stride;
};

// Pixels of one sample, `stride` floats apart, each of `planes` values that are `plane` floats apart.
struct CodeRow {
  const float* from;
  int64_t count, stride, planes, plane;
};

struct AugmentJob {
  AugmentSettings settings;
  const uint8_t* images;
  const void* delta;
  DeltaKind delta_kind;
  int64_t height, width;
  float mean[3], inverse_std[3];

  // Rows that are worked on at once: about 1024 pixels, so that they stay in the L1 cache.
  int64_t tile_rows() const {
    const int64_t rows = 1024 / width;
    return rows < 1 ? 1 : (rows > height ? height : rows);
  }
  int64_t scratch_floats() const { return 3 * tile_rows() * width; }
};

struct DegradeJob {
  Views views;
  const uint8_t* images;
  int64_t height, width;

  // Of one thread: what the widest of the views needs, and a grey copy of the image.
  int64_t scratch_bytes() const {
    const int64_t padded = (height + 2 * kMaxRadius) * 3 * (width + 2 * kMaxRadius);
    return 5 * padded + 12 * (whole_blocks(height) + 8) * (whole_blocks(width) + 16) + 3 * height * width;
  }
};

constexpr int64_t kArPlanes = 8;

// Patterns of height x width pixels and some channels, cropped from canvases that are larger by `crop`.
struct ArJob {
  uint64_t seed;
  int64_t height, width, crop, channels;

  int64_t scratch_floats() const { return kArPlanes * (2 * (height + crop) + 3 * (width + crop)); }
};

struct ArPlane {
  const float* taps;  // nine
  uint64_t sample;
  uint32_t channel;
  float* out;  // of the plane's first value; the next is `channels` floats on
};

struct Kernels {
  // Planes [begin, end) of contiguous features.
  void (*pool_planes[kStorages])(PoolJob, const void* features, float* pooled, int64_t begin, int64_t end);
  // Samples [begin, end) of channels_last features; scratch holds channels*grid*grid floats.
  void (*pool_pixels[kStorages])(PoolJob, const void* features, float* pooled, float* scratch, int64_t begin,
                                 int64_t end);
  void (*unpool_planes[kStorages])(PoolJob, const float* grad, void* features, int64_t begin, int64_t end);
  // Samples [begin, end) of channels_last features; scratch holds channels*grid*grid + channels floats.
  void (*unpool_pixels[kStorages])(PoolJob, const float* grad, void* features, float* scratch, int64_t begin,
                                   int64_t end);
  // Mean and squared deviations of `columns` (at most kMomentColumns) columns over the given rows.
  void (*moments)(const float* pooled, int64_t stride, int64_t columns, const int64_t* rows, int64_t count,
                  float* mean, float* m2);
  void (*moments_backward)(const float* pooled, const float* mean, const float* grad_mean,
                           const float* grad_m2, float inverse_count, int64_t columns, float* grad);
  // Over the given images, `stride` bytes apart, of `pixels` (at most kSumPixels) pixels: the sums of the
  // channels (3 each) and of the products of two of them (6 each).
  void (*pixel_sums)(const uint8_t* images, int64_t stride, int64_t pixels, const int64_t* rows,
                     int64_t count, int64_t* sums, int64_t* products);
  // Runs the processes of at most kArPlanes planes, each its own; scratch holds the job's scratch_floats.
  void (*ar_planes)(const ArJob&, const ArPlane* planes, int64_t count, float* scratch);
  double (*square_sum)(const float* values, int64_t count);
  void (*scale_by)(float* values, int64_t count, double factor);
  void (*linf_row[kStorages][kStorages])(const StepRow&, LinfMove);
  void (*l2_row[kStorages][kStorages])(const StepRow&, L2Move);
  void (*l2_sums[kStorages])(const StepRow&, L2Sums*);        // adds to the sums
  void (*l2_sums_exact[kStorages])(const StepRow&, L2Sums*);  // likewise, each product in double
  void (*degrade)(const DegradeJob&, const ViewDraw&, int64_t row, uint8_t* out, char* scratch);
  // Sums of the class's gradients, added in the order of its samples; at most kSumElements of them.
  void (*class_sums[kStorages])(const ClassRow&, float* sums);
  // Moves element i of delta by the sign of sums[i]; it lies at where[i], or at i where that is null.
  void (*class_move)(const float* sums, const int64_t* where, int64_t count, LinfMove, float* delta);
  void (*input_row[kStorages])(const InputRow&);
  void (*encode_row)(const CodeRow&, BallCode, int8_t* to);
  void (*decode_row)(const int8_t* from, int64_t count, BallCode, float* to);
  void (*augment[kStorages])(const AugmentJob&, const AugmentDraws&, int64_t row, void* out, float* scratch);
};

constexpr int64_t kMomentColumns = 256;
constexpr int64_t kSumPixels = 256;
constexpr int64_t kSumElements = 1024;

const Kernels& kernels();

}  // namespace pst::cpu
