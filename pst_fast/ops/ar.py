"""Autoregressive perturbations."""

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import check_device, check_dtype, check_label_range, check_number, check_shape

MOST_PIXELS = 2**14
"""Of a side, and of the crop."""


def ar_perturbation(
    coefficients: Tensor,
    labels: Tensor,
    *,
    height: int,
    width: int,
    epsilon: float,
    seed: int,
    crop: int = 4,
    index: Tensor | None = None,
) -> Tensor:
    """Run the autoregressive process of each sample's class (Sandoval-Segura et al., NeurIPS 2022).

    A canvas of (``height`` + ``crop``) x (``width`` + ``crop``) starts as standard normal noise. Row after
    row, from its third row and column on, every value becomes the sum of the eight values before it in the
    3x3 window that ends at it, weighted by its class's and channel's coefficients. The first ``crop`` rows
    and columns are cut off, and all channels together are scaled to the L2 norm ``epsilon``.

    The noise is drawn by Philox4x32-10 from (``seed``, the sample's index): a sample's perturbation depends
    neither on the others nor on the number of threads, and all devices give the same up to rounding. States
    are fp32, norms fp64.

    Args:
        coefficients: float32 [K, C, 3, 3], of each class and channel. The last of the nine stands for the
            value itself, and is not read.
        labels: int64 [N], in [0, K).
        height: Of the perturbations, at least 1.
        width: Likewise; on CUDA ``width`` + ``crop`` is at most 2040.
        epsilon: L2 norm of each perturbation.
        seed: 64-bit key of the draws.
        crop: Rows and columns of the canvas that are cut off, at least 0.
        index: int64 [N], the sample's number that its noise is drawn from, any; None: 0, 1, ... N-1.

    Returns:
        float32 [N, H, W, C].

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape or device, or a number out of its range.
        RuntimeError: A label outside [0, K); on CUDA see :func:`pst_fast.ops.class_channel_stats`. Or a
            process that diverges or dies out, so that there is nothing to scale; on CUDA, where looking would
            stall every call, that sample's perturbation is NaN instead.
    """
    op = "ar_perturbation"
    check_dtype(op, "coefficients", coefficients, [torch.float32])
    if coefficients.dim() != 4 or coefficients.shape[2:] != (3, 3) or 0 in coefficients.shape[:2]:
        raise ValueError(f"{op}: coefficients must be [K, C, 3, 3], got {list(coefficients.shape)}")
    check_dtype(op, "labels", labels, [torch.int64])
    if labels.dim() != 1:
        raise ValueError(f"{op}: labels must be [N], got {list(labels.shape)}")
    check_device(op, "labels", labels, coefficients, "coefficients")
    if index is not None:
        check_dtype(op, "index", index, [torch.int64])
        check_shape(op, "index", index, labels.shape, "labels")
        check_device(op, "index", index, coefficients, "coefficients")
    for name, size, least in (("height", height, 1), ("width", width, 1), ("crop", crop, 0)):
        check_number(op, name, size, least, MOST_PIXELS)
    if not 0 < epsilon <= 3e38:
        raise ValueError(f"{op}: epsilon must be more than 0, and finite, got {epsilon}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"{op}: seed must fit 64 bits with sign, got {seed}")
    if use_native(coefficients):
        return torch.ops.pst_fast.ar_perturbation(
            coefficients, labels, index, height, width, epsilon, seed, crop
        )
    check_label_range(op, labels, coefficients.shape[0])
    out = reference.ar_perturbation(
        coefficients,
        labels,
        height=height,
        width=width,
        epsilon=epsilon,
        seed=seed,
        crop=crop,
        index=index,
    )
    _check_norms(out, labels)
    return out


def _check_norms(out: Tensor, labels: Tensor) -> None:
    """As the native op does on the CPU."""
    if out.device.type != "cpu" or torch.compiler.is_compiling():
        return
    failed = out[:, 0, 0, 0].isnan().nonzero()
    if failed.numel():
        raise RuntimeError(
            f"ar_perturbation: the process of class {int(labels[failed[0, 0]])} diverges or dies out on "
            f"{out.shape[1]}x{out.shape[2]} pixels"
        )


def _register() -> None:
    @torch.library.register_fake("pst_fast::ar_perturbation")
    def _(
        coefficients: Tensor,
        labels: Tensor,
        index: Tensor | None,
        height: int,
        width: int,
        epsilon: float,
        seed: int,
        crop: int,
    ) -> Tensor:
        return coefficients.new_empty((labels.shape[0], height, width, coefficients.shape[1]))


if HAS_CPU:
    _register()
