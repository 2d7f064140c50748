// Compiled once for each vector unit, with PST_ISA naming it. Includes nothing of the standard library: an
// inline function of it, compiled here for AVX-512, could be the copy that the linker takes for all.
#include "cpu/kernels.h"

#include "cpu/kernels_ar.h"
#include "cpu/kernels_augment.h"
#include "cpu/kernels_bank.h"
#include "cpu/kernels_degrade.h"
#include "cpu/kernels_mean.h"
#include "cpu/kernels_pixels.h"
#include "cpu/kernels_pooling.h"
#include "cpu/kernels_steps.h"

#define PST_JOIN2(a, b) a##b
#define PST_JOIN(a, b) PST_JOIN2(a, b)
#define PST_TABLE PST_JOIN(kernels_, PST_ISA)

namespace pst::cpu {

extern const Kernels PST_TABLE;

const Kernels PST_TABLE = {
    {pool_planes<float>, pool_planes<BFloat16>, pool_planes<Half>},
    {pool_pixels<float>, pool_pixels<BFloat16>, pool_pixels<Half>},
    {unpool_planes<float>, unpool_planes<BFloat16>, unpool_planes<Half>},
    {unpool_pixels<float>, unpool_pixels<BFloat16>, unpool_pixels<Half>},
    moments,
    moments_backward,
    pixel_sums,
    ar_planes,
    square_sum,
    scale_by,
    {{step_row<LinfMove, float, float>, step_row<LinfMove, float, BFloat16>, step_row<LinfMove, float, Half>},
     {step_row<LinfMove, BFloat16, float>, step_row<LinfMove, BFloat16, BFloat16>,
      step_row<LinfMove, BFloat16, Half>},
     {step_row<LinfMove, Half, float>, step_row<LinfMove, Half, BFloat16>, step_row<LinfMove, Half, Half>}},
    {{step_row<L2Move, float, float>, step_row<L2Move, float, BFloat16>, step_row<L2Move, float, Half>},
     {step_row<L2Move, BFloat16, float>, step_row<L2Move, BFloat16, BFloat16>,
      step_row<L2Move, BFloat16, Half>},
     {step_row<L2Move, Half, float>, step_row<L2Move, Half, BFloat16>, step_row<L2Move, Half, Half>}},
    {l2_sums<float>, l2_sums<BFloat16>, l2_sums<Half>},
    {l2_sums_exact<float>, l2_sums_exact<BFloat16>, l2_sums_exact<Half>},
    degrade_sample,
    {class_sums<float>, class_sums<BFloat16>, class_sums<Half>},
    class_move,
    {input_row<float>, input_row<BFloat16>, input_row<Half>},
    encode_row,
    decode_row,
    {augment_sample<float>, augment_sample<BFloat16>, augment_sample<Half>},
};

}  // namespace pst::cpu
