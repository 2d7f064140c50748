#include "cpu/kernels.h"

namespace pst::cpu {

extern const Kernels kernels_baseline;
#ifdef PST_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

static const Kernels& choose() {
#ifdef PST_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return kernels_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2;
#endif
  return kernels_baseline;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace pst::cpu
