// Cells of adaptive average pooling: cell i of `grid` over `size` pixels is [start, end).
#pragma once

#include "common/portable.h"

namespace pst {

PST_INLINE int64_t cell_start(int64_t cell, int64_t grid, int64_t size) {
  return cell * size / grid;
}

PST_INLINE int64_t cell_end(int64_t cell, int64_t grid, int64_t size) {
  return ((cell + 1) * size + grid - 1) / grid;
}

// First and last cell that hold a pixel: neighbours overlap where grid does not divide size.
PST_INLINE int64_t first_cell(int64_t pixel, int64_t grid, int64_t size) {
  return pixel * grid / size;
}

PST_INLINE int64_t last_cell(int64_t pixel, int64_t grid, int64_t size) {
  return ((pixel + 1) * grid + size - 1) / size - 1;
}

}  // namespace pst
