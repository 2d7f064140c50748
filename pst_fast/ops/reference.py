"""A twin of each native op in plain PyTorch.

The twins define what the ops compute, run on any device, differentiate by themselves, and work in fp64
where their inputs are fp64. They check nothing: :mod:`pst_fast.ops` does, before it calls either side.
The twins of the augmentation and of the autoregressive processes are in modules of their own, and are
offered here too.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pst_fast.ops.reference_ar import (
    ar_perturbation as ar_perturbation,
)
from pst_fast.ops.reference_augment import (
    AugmentParameters as AugmentParameters,
)
from pst_fast.ops.reference_augment import (
    apply_parameters as apply_parameters,
)
from pst_fast.ops.reference_augment import (
    augment as augment,
)
from pst_fast.ops.reference_augment import (
    draw_parameters as draw_parameters,
)
from pst_fast.ops.reference_philox import (
    philox as philox,
)

#: The six products of two channels, in the order of :func:`class_pixel_sums`.
CHANNEL_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def grid_pool(features: Tensor, grid: int = 4) -> Tensor:
    """Twin of :func:`pst_fast.ops.grid_pool`."""
    wide = _wide(features)
    if wide.dim() == 2:
        return wide.clone() if wide is features else wide
    return functional.adaptive_avg_pool2d(wide, grid).flatten(1)


def max_pool(features: Tensor, kernel_size: int, stride: int, padding: int = 0) -> Tensor:
    """Twin of :func:`pst_fast.ops.max_pool`."""
    return functional.max_pool2d(features, kernel_size, stride, padding)


def class_channel_stats(
    features: Tensor, labels: Tensor, num_classes: int, grid: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Twin of :func:`pst_fast.ops.class_channel_stats`: the textbook two passes."""
    pooled = grid_pool(features, grid)
    zeros = pooled.new_zeros(num_classes, pooled.shape[1])
    counts = labels.new_zeros(num_classes).index_add(0, labels, torch.ones_like(labels))
    means = zeros.index_add(0, labels, pooled) / counts.clamp(min=1).unsqueeze(1)
    deviations = pooled - means.index_select(0, labels)
    return counts, means, zeros.index_add(0, labels, deviations.square())


def class_pixel_sums(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Twin of :func:`pst_fast.ops.class_pixel_sums`, a few images at a time for the sake of memory."""
    height, width = images.shape[1:3]
    counts = labels.new_zeros(num_classes).index_add(0, labels, torch.ones_like(labels))
    sums = labels.new_zeros(num_classes, height, width, 3)
    products = labels.new_zeros(num_classes, height, width, 6)
    first, second = ([a for a, _ in CHANNEL_PAIRS], [b for _, b in CHANNEL_PAIRS])
    for some, of in zip(images.split(256), labels.split(256), strict=True):
        wide = some.long()
        sums.index_add_(0, of, wide)
        products.index_add_(0, of, wide[..., first] * wide[..., second])
    return counts, sums, products


def linf_step(
    delta: Tensor,
    grad: Tensor,
    x: Tensor,
    *,
    step_size: float,
    epsilon: float,
    ascend: bool = False,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`pst_fast.ops.linf_step`."""
    moved = delta + (step_size if ascend else -step_size) * torch.sign(grad.to(delta.dtype))
    return _finish(moved.clamp(-epsilon, epsilon), x, mean, std, out)


def linf_step_(
    delta: Tensor,
    grad: Tensor,
    x: Tensor,
    *,
    step_size: float,
    epsilon: float,
    ascend: bool = False,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`pst_fast.ops.linf_step_`."""
    new = linf_step(
        delta, grad, x, step_size=step_size, epsilon=epsilon, ascend=ascend, mean=mean, std=std, out=out
    )
    return delta.copy_(new)


def l2_step(
    delta: Tensor,
    grad: Tensor,
    x: Tensor,
    *,
    step_size: float,
    epsilon: float,
    ascend: bool = False,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`pst_fast.ops.l2_step`."""
    grad = grad.to(delta.dtype)
    norm = _sample_norm(grad)
    direction = grad / torch.where(norm > 0, norm, 1)
    moved = delta + (step_size if ascend else -step_size) * direction
    length = _sample_norm(moved)
    scale = torch.where(length > epsilon, epsilon / torch.where(length > 0, length, 1), 1)
    return _finish(moved * scale, x, mean, std, out)


def l2_step_(
    delta: Tensor,
    grad: Tensor,
    x: Tensor,
    *,
    step_size: float,
    epsilon: float,
    ascend: bool = False,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`pst_fast.ops.l2_step_`."""
    new = l2_step(
        delta, grad, x, step_size=step_size, epsilon=epsilon, ascend=ascend, mean=mean, std=std, out=out
    )
    return delta.copy_(new)


def class_mean_step_(
    delta: Tensor,
    grad: Tensor,
    labels: Tensor,
    *,
    step_size: float,
    epsilon: float,
    ascend: bool = False,
    x: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`pst_fast.ops.class_mean_step_`. The sign of a mean is that of the sum."""
    sums = torch.zeros_like(delta).index_add(0, labels, grad.to(delta.dtype))
    counts = labels.new_zeros(len(delta)).index_add(0, labels, torch.ones_like(labels))
    moved = delta + (step_size if ascend else -step_size) * torch.sign(sums)
    is_present = (counts > 0).view(-1, 1, 1, 1)
    delta.copy_(torch.where(is_present, moved.clamp(-epsilon, epsilon), delta))
    if x is not None:
        _finish(delta.index_select(0, labels), x, mean, std, out)
    return delta


def quantize_bank_(bank: Tensor, delta: Tensor, *, epsilon: float, index: Tensor | None = None) -> Tensor:
    """Twin of :func:`pst_fast.ops.quantize_bank_`."""
    levels = (delta.nan_to_num(nan=0.0) * (127 / epsilon)).clamp(-127, 127).round().to(torch.int8)
    codes = levels.permute(0, 2, 3, 1)
    return bank.copy_(codes) if index is None else bank.index_copy_(0, index, codes)


def gather_bank(bank: Tensor, *, epsilon: float, index: Tensor | None = None) -> Tensor:
    """Twin of :func:`pst_fast.ops.gather_bank`."""
    codes = bank if index is None else bank.index_select(0, index)
    return (codes.float() * (epsilon / 127)).clamp(-epsilon, epsilon).permute(0, 3, 1, 2)


def _wide(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _sample_norm(values: Tensor) -> Tensor:
    # vector_norm refuses to reduce over an empty dimension only for some orders; 2 is not one of them.
    return torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True)


def _finish(moved: Tensor, x: Tensor, mean: Tensor | None, std: Tensor | None, out: Tensor | None) -> Tensor:
    perturbed = (x + moved).clamp(0, 1)
    if out is not None:
        normalised = perturbed
        if mean is not None:
            normalised = normalised - mean.view(1, -1, 1, 1)
        if std is not None:
            normalised = normalised / std.view(1, -1, 1, 1)
        out.copy_(normalised)
    return perturbed - x
