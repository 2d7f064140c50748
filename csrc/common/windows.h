// Windows of max pooling, as in torch.nn.functional.max_pool2d: what lies beside the map is no pixel.
#pragma once

#include "common/portable.h"

namespace pst {

struct Windows {
  int32_t height, width;  // of the map
  int32_t size, stride, padding;

  PST_INLINE_MEMBER int32_t out(int32_t side) const { return (side + 2 * padding - size) / stride + 1; }
  PST_INLINE_MEMBER int32_t out_height() const { return out(height); }
  PST_INLINE_MEMBER int32_t out_width() const { return out(width); }

  // Where window `number` begins in a side; it may be before the map.
  PST_INLINE_MEMBER int32_t start(int32_t number) const { return number * stride - padding; }
  // The window's taps [first, last] in a side.
  PST_INLINE_MEMBER int32_t first_tap(int32_t number) const {
    const int32_t start = this->start(number);
    return start < 0 ? -start : 0;
  }
  PST_INLINE_MEMBER int32_t last_tap(int32_t number, int32_t side) const {
    const int32_t rest = side - start(number);
    return (rest < size ? rest : size) - 1;
  }
  // The windows [first, last] of a side that a pixel at `at` is in.
  PST_INLINE_MEMBER int32_t first_window(int32_t at) const {
    const int32_t before = at + padding - size;
    return before < 0 ? 0 : before / stride + 1;
  }
  PST_INLINE_MEMBER int32_t last_window(int32_t at, int32_t side) const {
    const int32_t last = (at + padding) / stride, count = out(side);
    return (last < count ? last : count - 1);
  }
};

// A value takes the place of a maximum if it is larger, or not a number.
PST_INLINE bool is_above(float value, float maximum) {
  return value > maximum || value != value;
}

}  // namespace pst
