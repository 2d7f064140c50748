"""Features pooled over a grid, and their statistics by class."""

from typing import Any

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import REDUCED, check_dtype, check_label_range, check_labels


def grid_pool(features: Tensor, grid: int = 4) -> Tensor:
    """Average features over each cell of a ``grid`` x ``grid`` partition of the map.

    The cells are those of :func:`torch.nn.functional.adaptive_avg_pool2d`, overlapping where ``grid`` does
    not divide the height or the width. Differentiable.

    Args:
        features: [N, C, H, W], contiguous or channels_last (both are read in place), or [N, C], which
            needs ``grid=1``; float32, bfloat16 or float16, accumulated in fp32.
        grid: Cells along each side.

    Returns:
        float32 [N, C*grid*grid], ordered as [C, grid, grid].

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, or an impossible ``grid``.
    """
    _check_features("grid_pool", features, grid)
    if use_native(features):
        return torch.ops.pst_fast.grid_pool(features, grid)
    return reference.grid_pool(features, grid)


def class_channel_stats(
    features: Tensor, labels: Tensor, num_classes: int, grid: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and scatter of pooled features, by class; what ACM is computed from.

    Accumulated in fp32 by Welford's recurrence, in an order that depends on the shapes alone: the result is
    the same for any number of threads. ``means`` and ``m2`` are differentiable.

    Args:
        features: As for :func:`grid_pool`.
        labels: int64 [N], in [0, num_classes).
        num_classes: K.
        grid: As for :func:`grid_pool`.

    Returns:
        ``counts`` int64 [K]; ``means`` float32 [K, C*grid*grid]; ``m2`` float32, same shape: the sum of
        squared deviations from the class's mean. Zeros for a class with no sample.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape or device.
        RuntimeError: A label outside [0, num_classes). On CUDA it is reported as PyTorch's own losses do it:
            by a device-side trap that the next synchronisation meets, since looking at the labels
            from the host would stall every call.
    """
    op = "class_channel_stats"
    _check_features(op, features, grid)
    check_labels(op, labels, features, "features", num_classes)
    if use_native(features):
        return torch.ops.pst_fast.class_channel_stats(features, labels, num_classes, grid)
    check_label_range(op, labels, num_classes)
    return reference.class_channel_stats(features, labels, num_classes, grid)


def _check_features(op: str, features: Tensor, grid: int) -> None:
    check_dtype(op, "features", features, REDUCED)
    if features.dim() not in (2, 4):
        raise ValueError(f"{op}: features must be [N, C] or [N, C, H, W], got {list(features.shape)}")
    if grid < 1:
        raise ValueError(f"{op}: grid must be at least 1, got {grid}")
    if features.dim() == 2 and grid != 1:
        raise ValueError(f"{op}: grid must be 1 for features [N, C], got {grid}")
    if features.dim() == 4 and (features.shape[2] == 0 or features.shape[3] == 0):
        raise ValueError(f"{op}: features must have at least one pixel, got {list(features.shape)}")


def _is_channels_last(features: Tensor) -> bool:
    return (
        features.dim() == 4
        and not features.is_contiguous()
        and features.is_contiguous(memory_format=torch.channels_last)
    )


def _pool_backward(grad: Tensor, features: Tensor, grid: int) -> Tensor:
    height, width = features.shape[2:] if features.dim() == 4 else (1, 1)
    spread = torch.ops.pst_fast.grid_pool_backward(
        grad, height, width, grid, features.dtype, _is_channels_last(features)
    )
    return spread if features.dim() == 4 else spread.flatten(1)


def _pooled_width(features: Tensor, grid: int) -> int:
    return features.shape[1] * grid * grid


def _register() -> None:
    library = torch.library

    @library.register_fake("pst_fast::grid_pool")
    def _(features: Tensor, grid: int) -> Tensor:
        return features.new_empty((features.shape[0], _pooled_width(features, grid)), dtype=torch.float32)

    @library.register_fake("pst_fast::grid_pool_backward")
    def _(
        grad: Tensor, height: int, width: int, grid: int, dtype: torch.dtype, channels_last: bool
    ) -> Tensor:
        shape = (grad.shape[0], grad.shape[1] // (grid * grid), height, width)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=dtype, device=grad.device, memory_format=layout)

    @library.register_fake("pst_fast::class_channel_stats")
    def _(features: Tensor, labels: Tensor, num_classes: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (num_classes, _pooled_width(features, grid))
        means = features.new_empty(shape, dtype=torch.float32)
        return labels.new_empty((num_classes,)), means, torch.empty_like(means)

    @library.register_fake("pst_fast::class_channel_stats_backward")
    def _(
        grad_means: Tensor, grad_m2: Tensor, pooled: Tensor, labels: Tensor, counts: Tensor, means: Tensor
    ) -> Tensor:
        return torch.empty_like(pooled)

    def pool_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.grid = inputs[1]

    def pool_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        return _pool_backward(grad.contiguous(), features, ctx.grid), None

    library.register_autograd("pst_fast::grid_pool", pool_backward, setup_context=pool_setup)

    def stats_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        features, labels, _, ctx.grid = inputs
        counts, means, _ = output
        ctx.mark_non_differentiable(counts)
        ctx.save_for_backward(features, labels, counts, means)

    def stats_backward(
        ctx: Any, _: Tensor | None, grad_means: Tensor, grad_m2: Tensor
    ) -> tuple[Tensor, None, None, None]:
        features, labels, counts, means = ctx.saved_tensors
        pooled = torch.ops.pst_fast.grid_pool(features, ctx.grid)
        grad = torch.ops.pst_fast.class_channel_stats_backward(
            grad_means.contiguous(), grad_m2.contiguous(), pooled, labels, counts, means
        )
        return _pool_backward(grad, features, ctx.grid), None, None, None

    library.register_autograd("pst_fast::class_channel_stats", stats_backward, setup_context=stats_setup)


if HAS_CPU:
    _register()
