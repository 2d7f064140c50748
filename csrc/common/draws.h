// What the augmentation draws for a sample: the same on every device, and in reference_augment.py.
#pragma once

#include "common/philox.h"

namespace pst {

enum Adjustment { kBrightness = 0, kContrast = 1, kSaturation = 2, kHue = 3 };

// What the caller asked for.
struct AugmentSettings {
  uint64_t seed, offset;
  uint32_t padding;
  bool flip;
  float low[4], high[4];  // range of each adjustment's factor, by Adjustment
  bool enabled[4];
  double jitter_probability, grey_probability;  // the first is 0 where no adjustment is enabled

  bool needs_mean() const { return jitter_probability > 0 && enabled[kContrast]; }
};

// What a sample got.
struct AugmentDraws {
  int32_t top, left;  // of the window, relative to the unpadded image
  bool flip, jitter, grey;
  float factor[4];   // by Adjustment
  uint8_t order[4];  // Adjustments in the order in which they are made
};

// The index-th permutation of 0..3 in lexicographic order.
PST_INLINE void permutation(uint32_t index, uint8_t* order) {
  uint32_t left = 0x3210;  // what remains, four bits each
  const uint32_t digits[4] = {index / 6, index / 2 % 3, index % 2, 0};
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int slot = 0; slot < 4; ++slot) {
    const uint32_t shift = 4 * digits[slot];
    order[slot] = static_cast<uint8_t>((left >> shift) & 15);
    left = (left & ((1u << shift) - 1)) | ((left >> (shift + 4)) << shift);
  }
}

// The window, its flip, and whether colours are jittered; nothing more of colours.
PST_INLINE AugmentDraws draw_window(const AugmentSettings& settings, uint32_t position) {
  const Words geometry = philox(settings.seed, settings.offset, position, 0);
  AugmentDraws draws{};
  const uint32_t shifts = 2 * settings.padding + 1;
  const int32_t padding = static_cast<int32_t>(settings.padding);
  draws.top = static_cast<int32_t>(below(geometry.word[0], shifts)) - padding;
  draws.left = static_cast<int32_t>(below(geometry.word[1], shifts)) - padding;
  draws.flip = settings.flip && uniform(geometry.word[2]) < 0.5f;
  draws.jitter = static_cast<double>(uniform(geometry.word[3])) < settings.jitter_probability;
  return draws;
}

PST_INLINE AugmentDraws draw(const AugmentSettings& settings, uint32_t position) {
  const Words colour = philox(settings.seed, settings.offset, position, 1);
  const Words rest = philox(settings.seed, settings.offset, position, 2);
  AugmentDraws draws = draw_window(settings, position);
  for (int kind = 0; kind < 4; ++kind) {
    // Exact in double but for the last rounding: the same with or without a fused multiply-add.
    const double range = static_cast<double>(settings.high[kind] - settings.low[kind]);
    draws.factor[kind] = static_cast<float>(static_cast<double>(settings.low[kind]) +
                                            range * static_cast<double>(uniform(colour.word[kind])));
  }
  permutation(below(rest.word[0], 24), draws.order);
  draws.grey = static_cast<double>(uniform(rest.word[1])) < settings.grey_probability;
  return draws;
}

}  // namespace pst
