"""One step of projected gradient descent or ascent on class-wise perturbations."""

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import (
    REDUCED,
    check_device,
    check_dtype,
    check_label_range,
    check_labels,
    check_number,
    check_shape,
    forbid_grad,
)


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
    """Average gradients by class, sign step, projection to the L-infinity ball; in place.

    The perturbation of each class in the batch goes against the sign of its samples' mean gradient by
    ``step_size`` (with it if ``ascend``; not at all where the mean is zero), and is clamped to
    [-epsilon, epsilon]. Classes that are not in the batch stay as they are, bit for bit. Images are not
    clamped here, because a class has many (class-wise error-minimising noise: Huang et al., ICLR 2021).

    The gradients are read once, where they lie; nothing of their size is allocated. Sums are in fp32, in an
    order that is always the same: on the CPU the samples', on CUDA eight parts of the batch, each in the
    samples' order.

    Args:
        delta: float32 [K, C, H, W] in [0,1] units, contiguous or channels_last; changed.
        grad: float32, bfloat16 or float16 [B, C, H, W], of any layout; fastest contiguous or channels_last.
        labels: int64 [B], in [0, K).
        step_size: In [0,1] units.
        epsilon: Radius in [0,1] units.
        ascend: Whether to add the step.
        x: Clean images, float32 in [0, 1], grad's shape, any layout; with ``out`` only.
        mean: float32 [C], subtracted from what goes to ``out``; None: 0.
        std: float32 [C], divides it; None: 1.
        out: float32, bfloat16 or float16, grad's shape, any layout: receives
            ``(clamp(x + delta[labels], 0, 1) - mean) / std`` of the new ``delta``, what a network takes next,
            in one further pass; None: not computed.

    Returns:
        ``delta``.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, device, or layout of ``delta``; a negative ``step_size`` or ``epsilon``;
            ``x`` without ``out`` or ``out`` without ``x``; ``mean`` or ``std`` without ``out``.
        RuntimeError: A label outside [0, K); on CUDA see :func:`pst_fast.ops.class_channel_stats`. Or
            ``delta`` is a leaf that requires grad.
    """
    op = "class_mean_step_"
    _check(op, delta, grad, labels, step_size, epsilon, x, mean, std, out)
    forbid_grad(op, delta)
    if use_native(delta):
        torch.ops.pst_fast.class_mean_step_(
            delta, grad, labels, step_size, epsilon, ascend, x, mean, std, out
        )
        return delta
    check_label_range(op, labels, delta.shape[0])
    with torch.no_grad():
        return reference.class_mean_step_(
            delta,
            grad,
            labels,
            step_size=step_size,
            epsilon=epsilon,
            ascend=ascend,
            x=x,
            mean=mean,
            std=std,
            out=out,
        )


def _check(
    op: str,
    delta: Tensor,
    grad: Tensor,
    labels: Tensor,
    step_size: float,
    epsilon: float,
    x: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor | None,
) -> None:
    check_dtype(op, "delta", delta, [torch.float32])
    if delta.dim() != 4:
        raise ValueError(f"{op}: delta must be [K, C, H, W], got {list(delta.shape)}")
    if not (delta.is_contiguous() or delta.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"{op}: delta must be contiguous or channels_last, got strides {delta.stride()}")
    check_dtype(op, "grad", grad, REDUCED)
    if grad.dim() != 4 or grad.shape[1:] != delta.shape[1:]:
        raise ValueError(
            f"{op}: grad must have the shape [B, {', '.join(str(n) for n in delta.shape[1:])}] "
            f"(delta's images), got {list(grad.shape)}"
        )
    check_device(op, "grad", grad, delta, "delta")
    check_labels(op, labels, grad, "grad", delta.shape[0])
    check_number(op, "step_size", step_size, 0, float("inf"))
    check_number(op, "epsilon", epsilon, 0, float("inf"))
    for name, channel in (("mean", mean), ("std", std)):
        if channel is None:
            continue
        if out is None:
            raise ValueError(f"{op}: {name} normalises what goes to out, but out is None")
        check_dtype(op, name, channel, [torch.float32])
        check_shape(op, name, channel, [delta.shape[1]], "delta's channels")
        check_device(op, name, channel, delta, "delta")
    if (x is None) != (out is None):
        given, missing = ("x", "out") if out is None else ("out", "x")
        raise ValueError(f"{op}: x and out must be given together, got {given} without {missing}")
    for name, images, accepted in (("x", x, (torch.float32,)), ("out", out, REDUCED)):
        if images is not None:
            check_dtype(op, name, images, accepted)
            check_shape(op, name, images, grad.shape, "grad")
            check_device(op, name, images, delta, "delta")


def _register() -> None:
    @torch.library.register_fake("pst_fast::class_mean_step_")
    def _(
        delta: Tensor,
        grad: Tensor,
        labels: Tensor,
        step_size: float,
        epsilon: float,
        ascend: bool,
        x: Tensor | None,
        mean: Tensor | None,
        std: Tensor | None,
        out: Tensor | None,
    ) -> None:
        return None


if HAS_CPU:
    _register()
