// Rows of a data set that a batch takes.
#pragma once

#include "common/abi.h"

namespace pst::cpu {

// Row i of the batch is row rows[i] of the data set; without an index, row i.
struct Rows {
  const int64_t* index = nullptr;
  int64_t stride = 0, count = 0;

  Rows(const char* op, const MaybeTensor& given, int64_t total) : count(total) {
    if (!given) return;
    index = given->const_data_ptr<int64_t>();
    stride = given->stride(0);
    count = given->size(0);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = index[i * stride];
      STD_TORCH_CHECK(row >= 0 && row < total, op, ": index must be in [0, ", total, "), got ", row);
    }
  }
  int64_t operator[](int64_t i) const { return index == nullptr ? i : index[i * stride]; }
};

}  // namespace pst::cpu
