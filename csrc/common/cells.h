// Cells of adaptive average pooling: cell i of `grid` over `size` pixels is [start, end).
#pragma once

#include "common/portable.h"

namespace pst {

template <typename I>
PST_INLINE I cell_start(I cell, I grid, I size) {
  return cell * size / grid;
}

template <typename I>
PST_INLINE I cell_end(I cell, I grid, I size) {
  return ((cell + 1) * size + grid - 1) / grid;
}

// First and last cell that hold a pixel: neighbours overlap where grid does not divide size.
template <typename I>
PST_INLINE I first_cell(I pixel, I grid, I size) {
  return pixel * grid / size;
}

template <typename I>
PST_INLINE I last_cell(I pixel, I grid, I size) {
  return ((pixel + 1) * grid + size - 1) / size - 1;
}

}  // namespace pst
