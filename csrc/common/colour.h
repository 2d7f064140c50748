// Colour adjustments of one pixel in [0, 1], as torchvision defines them for float images; no branches.
#pragma once

#include "common/portable.h"

namespace pst {

struct Pixel {
  float red, green, blue;
};

PST_INLINE float grey(Pixel p) {
  return 0.2989f * p.red + 0.587f * p.green + 0.114f * p.blue;
}

PST_INLINE Pixel brightness(Pixel p, float factor) {
  return {clamp01(factor * p.red), clamp01(factor * p.green), clamp01(factor * p.blue)};
}

// Contrast blends with the image's mean grey, saturation with the pixel's own grey.
PST_INLINE Pixel blend(Pixel p, float factor, float with) {
  const float share = (1.0f - factor) * with;
  return {clamp01(factor * p.red + share), clamp01(factor * p.green + share),
          clamp01(factor * p.blue + share)};
}

// One channel of the colour with the given value (the largest channel), chroma and hue; `sextant` is the hue
// in sixths of a turn plus the channel's start (red 5, green 3, blue 1), in [0, 12).
PST_INLINE float channel_of_hue(float value, float chroma, float sextant) {
  const float k = sextant >= 6.0f ? sextant - 6.0f : sextant;
  return clamp01(value - chroma * clamp01(lesser(k, 4.0f - k)));
}

// Turns the hue. Value and chroma stay, so that RGB comes straight from the turned hue.
PST_INLINE Pixel turn_hue(Pixel p, float turns) {
  const float value = greater(greater(p.red, p.green), p.blue);
  const float chroma = value - lesser(lesser(p.red, p.green), p.blue);
  const float inverse = reciprocal(chroma > 0.0f ? chroma : 1.0f);
  // Selecting first and multiplying once spares two of three products.
  const bool is_red = value == p.red, is_green = value == p.green;
  const float base = is_red ? 0.0f : (is_green ? 2.0f : 4.0f);
  const float difference = is_red ? p.green - p.blue : (is_green ? p.blue - p.red : p.red - p.green);
  float sextant = base + difference * inverse + 6.0f * turns;  // in [-4, 8]
  sextant = sextant < 0.0f ? sextant + 6.0f : sextant;
  sextant = sextant >= 6.0f ? sextant - 6.0f : sextant;
  return {channel_of_hue(value, chroma, sextant + 5.0f), channel_of_hue(value, chroma, sextant + 3.0f),
          channel_of_hue(value, chroma, sextant + 1.0f)};
}

}  // namespace pst
