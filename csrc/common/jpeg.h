// A JPEG round trip as libjpeg computes it (baseline, "islow" transforms, triangle upsampling), without the
// entropy coding, which loses nothing. Whole numbers throughout: every device gives libjpeg's own pixels.
// `V` is an int32_t, or a vector of them.
#pragma once

#include "common/portable.h"

namespace pst {

// A table lies where its reader runs: under nvcc, on the device alone.
#ifdef __CUDACC__
#define PST_TABLE_MEMORY __device__ const
#define PST_TABLE_READER static __device__ __forceinline__
#else
#define PST_TABLE_MEMORY static const
#define PST_TABLE_READER PST_INLINE
#endif

// Annex K of the standard: luma, then chroma.
PST_TABLE_MEMORY uint8_t kJpegTables[2][64] = {
    {16, 11,  10,  16, 24, 40, 51, 61, 12,  12,  14,  19,  26, 58, 60, 55,  14,  13,  16,  24, 40, 57,
     69, 56,  14,  17, 22, 29, 51, 87, 80,  62,  18,  22,  37, 56, 68, 109, 103, 77,  24,  35, 55, 64,
     81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98,  112, 100, 103, 99},
    {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99,
     99, 99, 47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99}};

// Entry `at` of the quantisation table at a quality in 1..100; is_chroma: 0 or 1.
PST_TABLE_READER int32_t jpeg_step(int is_chroma, int at, int quality) {
  const int scale = quality < 50 ? 5000 / quality : 200 - 2 * quality;
  const int step = (kJpegTables[is_chroma][at] * scale + 50) / 100;
  return step < 1 ? 1 : (step > 255 ? 255 : step);
}

// Greyscale, and luma: ITU-R 601 in 16 bits.
template <typename V>
PST_INLINE V jpeg_luma(V red, V green, V blue) {
  return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
}

// 128 << 16, and a half less one: 255.5 does not round up.
constexpr int32_t kJpegHalf = (128 << 16) + 32767;

template <typename V>
PST_INLINE V jpeg_cb(V red, V green, V blue) {
  return (-11059 * red - 21709 * green + 32768 * blue + kJpegHalf) >> 16;
}

template <typename V>
PST_INLINE V jpeg_cr(V red, V green, V blue) {
  return (32768 * red - 27439 * green - 5329 * blue + kJpegHalf) >> 16;
}

PST_INLINE uint8_t jpeg_byte(int32_t value) {
  return static_cast<uint8_t>(value < 0 ? 0 : (value > 255 ? 255 : value));
}

// One pixel back; cb and cr in 0..255.
PST_INLINE void jpeg_rgb(int32_t luma, int32_t cb, int32_t cr, uint8_t* out) {
  cb -= 128;
  cr -= 128;
  out[0] = jpeg_byte(luma + ((91881 * cr + 32768) >> 16));
  out[1] = jpeg_byte(luma + ((-22554 * cb - 46802 * cr + 32768) >> 16));
  out[2] = jpeg_byte(luma + ((116130 * cb + 32768) >> 16));
}

template <typename V>
PST_INLINE V jpeg_descale(V value, int shift) {
  return (value + (1 << (shift - 1))) >> shift;
}

// The odd part that both transforms share (Loeffler, Ligtenberg, Moschytz, ICASSP 1989), times 2^13.
template <typename V>
PST_INLINE void jpeg_rotate(V& t0, V& t1, V& t2, V& t3) {
  const V z5 = (t0 + t2 + t1 + t3) * 9633;
  const V z1 = (t0 + t3) * -7373, z2 = (t1 + t2) * -20995;
  const V z3 = (t0 + t2) * -16069 + z5, z4 = (t1 + t3) * -3196 + z5;
  t0 = t0 * 2446 + z1 + z3;
  t1 = t1 * 16819 + z2 + z4;
  t2 = t2 * 25172 + z2 + z3;
  t3 = t3 * 12299 + z1 + z4;
}

// The transform of eight values. The first of the two passes leaves them four times as large, the second
// takes that back: the result is eight times the transform.
template <bool kSecond, typename V>
PST_INLINE void jpeg_forward(V* v) {
  const int shift = kSecond ? 15 : 11;
  V t0 = v[3] - v[4], t1 = v[2] - v[5], t2 = v[1] - v[6], t3 = v[0] - v[7];
  const V s0 = v[0] + v[7], s1 = v[1] + v[6], s2 = v[2] + v[5], s3 = v[3] + v[4];
  const V t10 = s0 + s3, t13 = s0 - s3, t11 = s1 + s2, t12 = s1 - s2;
  const V z1 = (t12 + t13) * 4433;
  jpeg_rotate(t0, t1, t2, t3);
  v[0] = kSecond ? jpeg_descale(t10 + t11, 2) : (t10 + t11) * 4;
  v[4] = kSecond ? jpeg_descale(t10 - t11, 2) : (t10 - t11) * 4;
  v[2] = jpeg_descale(z1 + t13 * 6270, shift);
  v[6] = jpeg_descale(z1 - t12 * 15137, shift);
  v[1] = jpeg_descale(t3, shift);
  v[3] = jpeg_descale(t2, shift);
  v[5] = jpeg_descale(t1, shift);
  v[7] = jpeg_descale(t0, shift);
}

template <bool kSecond, typename V>
PST_INLINE void jpeg_inverse(V* v) {
  const int shift = kSecond ? 18 : 11;
  const V z1 = (v[2] + v[6]) * 4433;
  const V t2 = z1 - v[6] * 15137, t3 = z1 + v[2] * 6270;
  const V t0 = (v[0] + v[4]) * 8192, t1 = (v[0] - v[4]) * 8192;
  V o3 = v[7], o2 = v[5], o1 = v[3], o0 = v[1];
  jpeg_rotate(o3, o2, o1, o0);
  const V e0 = t0 + t3, e1 = t1 + t2, e2 = t1 - t2, e3 = t0 - t3;
  v[0] = jpeg_descale(e0 + o0, shift);
  v[7] = jpeg_descale(e0 - o0, shift);
  v[1] = jpeg_descale(e1 + o1, shift);
  v[6] = jpeg_descale(e1 - o1, shift);
  v[2] = jpeg_descale(e2 + o2, shift);
  v[5] = jpeg_descale(e2 - o2, shift);
  v[3] = jpeg_descale(e3 + o3, shift);
  v[4] = jpeg_descale(e3 - o3, shift);
}

// One sample of chroma doubled in both directions: `near` and `far` are the rows at 3/4 and 1/4 of the
// weight, each with its column at 3/4 and the neighbour at 1/4; `is_right`: the neighbour is the right one.
PST_INLINE int32_t jpeg_triangle(int32_t near, int32_t far, int32_t near_side, int32_t far_side,
                                 bool is_right) {
  return (3 * (3 * near + far) + 3 * near_side + far_side + (is_right ? 7 : 8)) >> 4;
}

}  // namespace pst
