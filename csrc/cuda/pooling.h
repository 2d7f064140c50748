// grid_pool, for the kernels that go on from it.
#pragma once

#include "common/abi.h"

namespace pst::cuda {

Tensor grid_pool(const Tensor& features, int64_t grid);

}  // namespace pst::cuda
