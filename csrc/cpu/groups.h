// Samples by class.
#pragma once

#include <vector>

#include "common/abi.h"

namespace pst::cpu {

// Samples grouped by class, in their order within each: rows[starts[k]..starts[k+1]) belong to class k.
struct Groups {
  std::vector<int64_t> rows, starts;

  const int64_t* begin(int64_t k) const { return rows.data() + starts[static_cast<size_t>(k)]; }
  int64_t count(int64_t k) const {
    return starts[static_cast<size_t>(k) + 1] - starts[static_cast<size_t>(k)];
  }
};

inline Groups group(const Tensor& labels, int64_t num_classes) {
  const int64_t samples = labels.size(0), stride = labels.stride(0);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  Groups groups{std::vector<int64_t>(static_cast<size_t>(samples)),
                std::vector<int64_t>(static_cast<size_t>(num_classes) + 1)};
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t k = label[i * stride];
    STD_TORCH_CHECK(k >= 0 && k < num_classes, "labels must be in [0, ", num_classes, "), got ", k);
    ++groups.starts[static_cast<size_t>(k) + 1];
  }
  for (size_t k = 1; k < groups.starts.size(); ++k) groups.starts[k] += groups.starts[k - 1];
  std::vector<int64_t> next(groups.starts.begin(), groups.starts.end() - 1);
  for (int64_t i = 0; i < samples; ++i) {
    groups.rows[static_cast<size_t>(next[static_cast<size_t>(label[i * stride])]++)] = i;
  }
  return groups;
}

}  // namespace pst::cpu
