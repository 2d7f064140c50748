// Inner loops of the int8 banks. Included by kernels.cpp alone.
#pragma once

#include "cpu/kernels.h"
#include "cpu/lanes.h"

namespace pst::cpu {

// Sixteen pixels of three planes, pixel after pixel.
PST_INLINE void interleave(Bytes red, Bytes green, Bytes blue, uint8_t* to) {
  Bytes pair;
  pair = __builtin_shuffle(red, green, Bytes{0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5});
  store_bytes(__builtin_shuffle(pair, blue, Bytes{0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15}),
              to);
  pair = __builtin_shuffle(red, green, Bytes{21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26});
  store_bytes(__builtin_shuffle(pair, blue, Bytes{0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15}),
              to + 16);
  pair = __builtin_shuffle(red, green, Bytes{0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0});
  store_bytes(__builtin_shuffle(pair, blue, Bytes{26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31}),
              to + 32);
}

static void encode_run(const float* __restrict from, int64_t count, BallCode code, int8_t* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = code.encode(from[i]);
}

// Three planes: as many pixels of each as fit the L1 cache, then their order.
static void encode_planes(const CodeRow& row, BallCode code, int8_t* to) {
  constexpr int64_t kPixels = 512, kBlock = 16;
  uint8_t codes[3][kPixels];
  for (int64_t first = 0; first < row.count; first += kPixels) {
    const int64_t count = row.count - first < kPixels ? row.count - first : kPixels;
    for (int64_t p = 0; p < 3; ++p) {
      encode_run(row.from + p * row.plane + first, count, code, reinterpret_cast<int8_t*>(codes[p]));
    }
    int64_t i = 0;
    for (; i + kBlock <= count; i += kBlock) {
      interleave(load_bytes(codes[0] + i), load_bytes(codes[1] + i), load_bytes(codes[2] + i),
                 reinterpret_cast<uint8_t*>(to) + 3 * (first + i));
    }
    for (; i < count; ++i) {
      for (int64_t p = 0; p < 3; ++p) to[3 * (first + i) + p] = static_cast<int8_t>(codes[p][i]);
    }
  }
}

static void encode_row(const CodeRow& row, BallCode code, int8_t* to) {
  const float* from = row.from;
  const int64_t count = row.count, stride = row.stride, plane = row.plane;
  if (row.planes == 1 && stride == 1) {
    encode_run(from, count, code, to);
  } else if (row.planes == 3 && stride == 1) {
    encode_planes(row, code, to);
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
