"""The fused ops: native kernels on CPU and CUDA, or their twins in plain PyTorch.

``PST_FAST_BACKEND=native`` requires the native libraries (ImportError without them), ``torch`` uses the
twins of :mod:`pst_fast.ops.reference`; unset, the native ones run where they were built, and where they were
not, the twins do, with one warning. The ops are also at ``torch.ops.pst_fast``, for ``torch.compile``
and for exported programs.
"""

from pst_fast.ops._backend import is_native
from pst_fast.ops.ar import ar_perturbation
from pst_fast.ops.augmentation import augment
from pst_fast.ops.bank import gather_bank, quantize_bank_
from pst_fast.ops.degradation import View, degrade
from pst_fast.ops.maxima import max_pool
from pst_fast.ops.mean import class_mean_step_
from pst_fast.ops.pixels import class_pixel_sums, one_pixel_search
from pst_fast.ops.pooling import class_channel_stats, grid_pool
from pst_fast.ops.steps import l2_step, l2_step_, linf_step, linf_step_

__all__ = [
    "View",
    "ar_perturbation",
    "augment",
    "class_channel_stats",
    "class_mean_step_",
    "class_pixel_sums",
    "degrade",
    "gather_bank",
    "grid_pool",
    "is_native",
    "l2_step",
    "l2_step_",
    "linf_step",
    "linf_step_",
    "max_pool",
    "one_pixel_search",
    "quantize_bank_",
]
