"""One step of projected gradient descent or ascent on a perturbation."""

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import (
    REDUCED,
    check_device,
    check_dtype,
    check_number,
    check_shape,
    forbid_grad,
)


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
    """Sign step, projection to the L-infinity ball, clamp of the image; in place, in one pass.

    ``delta`` goes against ``sign(grad)`` by ``step_size`` (with it if ``ascend``), is clamped to
    [-epsilon, epsilon], and then to where ``x + delta`` is in [0, 1]
    (PGD: Madry et al., arXiv 1706.06083).

    Args:
        delta: float32 [N, C, H, W] in [0,1] units; changed.
        grad: float32, bfloat16 or float16, same shape.
        x: Clean images, float32 in [0, 1], same shape. ``delta``, ``grad``, ``x`` and ``out`` may each be of
            any layout; fastest where all are contiguous or all channels_last.
        step_size: In [0,1] units.
        epsilon: Radius in [0,1] units.
        ascend: Whether to add the step.
        mean: float32 [C], subtracted from what goes to ``out``; None: 0.
        std: float32 [C], divides it; None: 1.
        out: float32, bfloat16 or float16, same shape: receives ``(x + delta - mean) / std``, what a
            network takes next, in the same pass; None: not computed.

    Returns:
        ``delta``.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape or device, a negative ``step_size`` or ``epsilon``, or ``mean``
            or ``std`` without ``out``.
    """
    _check("linf_step_", delta, grad, x, step_size, epsilon, mean, std, out)
    forbid_grad("linf_step_", delta)
    if use_native(delta):
        torch.ops.pst_fast.linf_step_(delta, grad, x, step_size, epsilon, ascend, mean, std, out)
        return delta
    with torch.no_grad():
        return reference.linf_step_(
            delta, grad, x, step_size=step_size, epsilon=epsilon, ascend=ascend, mean=mean, std=std, out=out
        )


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
    """As :func:`linf_step_`, but leaves ``delta`` alone and returns a new one in ``delta``'s layout."""
    _check("linf_step", delta, grad, x, step_size, epsilon, mean, std, out)
    if use_native(delta):
        if out is None:
            return torch.ops.pst_fast.linf_step(delta, grad, x, step_size, epsilon, ascend)
        return torch.ops.pst_fast.linf_step_out(delta, grad, x, step_size, epsilon, ascend, mean, std, out)
    with torch.no_grad():
        return reference.linf_step(
            delta, grad, x, step_size=step_size, epsilon=epsilon, ascend=ascend, mean=mean, std=std, out=out
        )


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
    """As :func:`linf_step_` for the L2 ball of each sample.

    ``delta`` moves by ``step_size * grad / ||grad||`` (not at all where the gradient is zero), is scaled
    to length ``epsilon`` where it is longer, and then clamped to where ``x + delta`` is in [0, 1].
    """
    _check("l2_step_", delta, grad, x, step_size, epsilon, mean, std, out)
    forbid_grad("l2_step_", delta)
    if use_native(delta):
        torch.ops.pst_fast.l2_step_(delta, grad, x, step_size, epsilon, ascend, mean, std, out)
        return delta
    with torch.no_grad():
        return reference.l2_step_(
            delta, grad, x, step_size=step_size, epsilon=epsilon, ascend=ascend, mean=mean, std=std, out=out
        )


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
    """As :func:`l2_step_`, but leaves ``delta`` alone and returns a new one in ``delta``'s layout."""
    _check("l2_step", delta, grad, x, step_size, epsilon, mean, std, out)
    if use_native(delta):
        if out is None:
            return torch.ops.pst_fast.l2_step(delta, grad, x, step_size, epsilon, ascend)
        return torch.ops.pst_fast.l2_step_out(delta, grad, x, step_size, epsilon, ascend, mean, std, out)
    with torch.no_grad():
        return reference.l2_step(
            delta, grad, x, step_size=step_size, epsilon=epsilon, ascend=ascend, mean=mean, std=std, out=out
        )


def _check(
    op: str,
    delta: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float,
    epsilon: float,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor | None,
) -> None:
    check_dtype(op, "delta", delta, [torch.float32])
    if delta.dim() != 4:
        raise ValueError(f"{op}: delta must be [N, C, H, W], got {list(delta.shape)}")
    check_number(op, "step_size", step_size, 0, float("inf"))
    check_number(op, "epsilon", epsilon, 0, float("inf"))
    images = [("grad", grad, REDUCED), ("x", x, (torch.float32,))]
    if out is not None:
        images.append(("out", out, REDUCED))
    for name, tensor, accepted in images:
        check_dtype(op, name, tensor, accepted)
        check_shape(op, name, tensor, delta.shape, "delta")
        check_device(op, name, tensor, delta, "delta")
    for name, channel in (("mean", mean), ("std", std)):
        if channel is None:
            continue
        if out is None:
            raise ValueError(f"{op}: {name} normalises what goes to out, but out is None")
        check_dtype(op, name, channel, [torch.float32])
        check_shape(op, name, channel, [delta.shape[1]], "delta's channels")
        check_device(op, name, channel, delta, "delta")


def _register() -> None:
    library = torch.library

    for name in ("linf_step", "l2_step"):

        @library.register_fake(f"pst_fast::{name}_")
        def _(
            delta: Tensor,
            grad: Tensor,
            x: Tensor,
            step_size: float,
            epsilon: float,
            ascend: bool,
            mean: Tensor | None,
            std: Tensor | None,
            out: Tensor | None,
        ) -> None:
            return None

        @library.register_fake(f"pst_fast::{name}")
        def _(
            delta: Tensor, grad: Tensor, x: Tensor, step_size: float, epsilon: float, ascend: bool
        ) -> Tensor:
            return torch.empty_like(delta)

        @library.register_fake(f"pst_fast::{name}_out")
        def _(
            delta: Tensor,
            grad: Tensor,
            x: Tensor,
            step_size: float,
            epsilon: float,
            ascend: bool,
            mean: Tensor | None,
            std: Tensor | None,
            out: Tensor,
        ) -> Tensor:
            return torch.empty_like(delta)


if HAS_CPU:
    _register()
