// Division of numbers below 2^31 by one that a launch is given: a multiplication and a shift in the place of
// the twenty instructions of an unknown divisor (Granlund and Montgomery, PLDI 1994).
#pragma once

#include "common/abi.h"
#include "cuda/launch.h"

namespace pst::cuda {

class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t value) : value_(static_cast<uint32_t>(value)) {
    STD_TORCH_CHECK(value > 0 && value < (int64_t{1} << 31), "the tensor is too large for one launch");
    while ((uint64_t{1} << shift_) < value_) ++shift_;
    const uint64_t above = (uint64_t{1} << shift_) - value_;
    factor_ = static_cast<uint32_t>((above << 32) / value_ + 1);
  }

  __device__ __forceinline__ uint32_t value() const { return value_; }
  __device__ __forceinline__ uint32_t divide(uint32_t number) const {
    return (__umulhi(number, factor_) + number) >> shift_;
  }
  __device__ __forceinline__ uint32_t rest(uint32_t number, uint32_t quotient) const {
    return number - quotient * value_;
  }
  __device__ __forceinline__ uint32_t modulo(uint32_t number) const { return rest(number, divide(number)); }

 private:
  uint32_t value_ = 1, factor_ = 1, shift_ = 0;
};

}  // namespace pst::cuda
