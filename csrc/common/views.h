// The views of `degrade`, and what a sample draws: the same on every device, and in reference_degrade.py.
#pragma once

#include "common/cells.h"
#include "common/philox.h"

namespace pst {

enum ViewKind { kRaw, kJpeg, kBlur, kMedian, kDownUp, kBits, kErase, kViewKinds };

constexpr int kMaxViews = 32;
constexpr int kMaxRadius = 15;  // of the blur

struct View {
  double until;  // drawn where the draw is below this, and not below that of the view before
  ViewKind kind;
  bool grey;       // first
  int32_t a, b;    // jpeg: quality, whether 4:4:4; down-up: factor; bits: levels - 1; erase: sides
  int32_t radius;  // blur: of the window
  float taps[kMaxRadius + 1];  // blur: of the centre, and of the pixels beside it
};

struct Views {
  uint64_t seed, offset;
  int32_t count;
  View view[kMaxViews];
};

struct ViewDraw {
  int32_t view, top, left, side;  // the square is that of erase
};

constexpr uint32_t kViewBlock = 3;  // augment draws blocks 0 to 2 from the same counter

PST_INLINE ViewDraw draw_view(const Views& views, uint32_t position, int64_t height, int64_t width) {
  const Words words = philox(views.seed, views.offset, position, kViewBlock);
  const double at = static_cast<double>(uniform(words.word[0]));
  ViewDraw draw{0, 0, 0, 0};
  while (draw.view + 1 < views.count && at >= views.view[draw.view].until) ++draw.view;
  const View& view = views.view[draw.view];
  if (view.kind == kErase) {
    draw.side =
        view.a + static_cast<int32_t>(below(words.word[1], static_cast<uint32_t>(view.b - view.a + 1)));
    draw.top = static_cast<int32_t>(below(words.word[2], static_cast<uint32_t>(height - draw.side + 1)));
    draw.left = static_cast<int32_t>(below(words.word[3], static_cast<uint32_t>(width - draw.side + 1)));
  }
  return draw;
}

// Where a position beside [0, count) is mirrored to; the border itself is not repeated.
template <typename I>
PST_INLINE I mirror(I at, I count) {
  if (count == 1) return 0;
  const I period = 2 * (count - 1);
  at = (at < 0 ? -at : at) % period;
  return at < count ? at : period - at;
}

PST_INLINE uint8_t round_byte(float value) {
  const int32_t level = static_cast<int32_t>(rintf(value));
  return static_cast<uint8_t>(level < 0 ? 0 : (level > 255 ? 255 : level));
}

// To levels + 1 values and back.
PST_INLINE uint8_t quantise(uint8_t value, int32_t levels) {
  const float scale = static_cast<float>(levels);
  return round_byte(rintf(static_cast<float>(value) * (scale / 255.0f)) * (255.0f / scale));
}

// Where a pixel lies between cells, for bilinear interpolation.
struct Between {
  int64_t first, second;
  float share;  // of the second
};

PST_INLINE Between between_cells(int64_t at, int64_t count, int64_t cells) {
  const float scale = static_cast<float>(cells) / static_cast<float>(count);
  const float place = (static_cast<float>(at) + 0.5f) * scale - 0.5f;
  const float held = place < 0.0f ? 0.0f : place;
  const int64_t first = static_cast<int64_t>(held);
  return {first, first + 1 < cells ? first + 1 : cells - 1, held - static_cast<float>(first)};
}

PST_INLINE float between(float first, float second, float share) {
  return first + (second - first) * share;
}

// Cells a side after shrinking by `factor`.
PST_INLINE int64_t down_cells(int64_t count, int64_t factor) {
  return count / factor < 1 ? 1 : count / factor;
}

// The least multiple of 8 that holds `count`.
PST_INLINE int64_t whole_blocks(int64_t count) {
  return (count + 7) / 8 * 8;
}

template <typename T>
PST_INLINE void sort_pair(T& a, T& b) {
  const T low = a < b ? a : b;
  b = a < b ? b : a;
  a = low;
}

// The median of nine (Devillard's network; the array is left partly sorted).
template <typename T>
PST_INLINE T median_of_nine(T* p) {
  sort_pair(p[1], p[2]);
  sort_pair(p[4], p[5]);
  sort_pair(p[7], p[8]);
  sort_pair(p[0], p[1]);
  sort_pair(p[3], p[4]);
  sort_pair(p[6], p[7]);
  sort_pair(p[1], p[2]);
  sort_pair(p[4], p[5]);
  sort_pair(p[7], p[8]);
  sort_pair(p[0], p[3]);
  sort_pair(p[5], p[8]);
  sort_pair(p[4], p[7]);
  sort_pair(p[3], p[6]);
  sort_pair(p[1], p[4]);
  sort_pair(p[2], p[5]);
  sort_pair(p[4], p[7]);
  sort_pair(p[4], p[2]);
  sort_pair(p[6], p[4]);
  sort_pair(p[4], p[2]);
  return p[4];
}

}  // namespace pst
