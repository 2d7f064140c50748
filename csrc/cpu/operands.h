// A tensor's memory as the kernels address it, and a network's normalisation.
#pragma once

#include <array>
#include <vector>

#include "common/abi.h"

namespace pst::cpu {

// Where a tensor of four dimensions lies; strides in elements.
struct Operand {
  char* data = nullptr;
  int64_t bytes = 0;
  std::array<int64_t, 4> stride{};

  static Operand of(const Tensor& t, bool is_written) {
    Operand operand;
    operand.data =
        static_cast<char*>(is_written ? t.mutable_data_ptr() : const_cast<void*>(t.const_data_ptr()));
    operand.bytes = static_cast<int64_t>(t.element_size());
    for (int d = 0; d < 4; ++d) operand.stride[static_cast<size_t>(d)] = t.stride(d);
    return operand;
  }
  char* at(int64_t elements) const { return data == nullptr ? nullptr : data + elements * bytes; }
  int64_t offset(int64_t n, int64_t c, int64_t h) const {
    return n * stride[0] + c * stride[1] + h * stride[2];
  }
};

// Mean and 1/std by channel, for what goes to `out`; 0 and 1 where they are not wanted.
struct Normalisation {
  bool wanted = false;
  std::vector<float> mean, inverse_std;

  Normalisation(const MaybeTensor& m, const MaybeTensor& s, int64_t channels)
      : wanted(m.has_value() || s.has_value()) {
    mean.assign(static_cast<size_t>(channels), 0.0f);
    inverse_std.assign(static_cast<size_t>(channels), 1.0f);
    for (size_t c = 0; c < mean.size(); ++c) {
      const auto k = static_cast<int64_t>(c);
      if (m) mean[c] = m->const_data_ptr<float>()[k * m->stride(0)];
      if (s) inverse_std[c] = 1.0f / s->const_data_ptr<float>()[k * s->stride(0)];
    }
  }
};

}  // namespace pst::cpu
