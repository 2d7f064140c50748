// Inner loops of the int8 banks. Included by kernels.cpp alone.
#pragma once

#include "cpu/kernels.h"

namespace pst::cpu {

static void encode_row(const CodeRow& row, BallCode code, int8_t* to) {
  const float* from = row.from;
  const int64_t count = row.count, stride = row.stride, plane = row.plane;
  if (row.planes == 1 && stride == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) to[i] = code.encode(from[i]);
  } else if (row.planes == 3 && stride == 1) {  // written out, so that it is vectorised
    const float *red = from, *green = from + plane, *blue = from + 2 * plane;
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) {
      to[3 * i] = code.encode(red[i]);
      to[3 * i + 1] = code.encode(green[i]);
      to[3 * i + 2] = code.encode(blue[i]);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t p = 0; p < row.planes; ++p) *to++ = code.encode(from[i * stride + p * plane]);
    }
  }
}

static void decode_row(const int8_t* from, int64_t count, BallCode code, float* to) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) to[i] = code.decode(from[i]);
}

}  // namespace pst::cpu
