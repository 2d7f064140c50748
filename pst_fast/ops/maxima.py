"""Max pooling for CUDA whose backward pass gathers."""

from typing import Any

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, devices_of, use_native
from pst_fast.ops._checks import REDUCED, check_dtype, check_number

DEVICES = devices_of("max_pool")
"""Whose tensors the kernels are for."""


def max_pool(features: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """The maxima of windows, as :func:`torch.nn.functional.max_pool2d` finds them.

    On CUDA the place of a window's maximum (the first of equal ones) is kept as a byte, and the gradient is
    gathered: each pixel looks at the windows that it is in, and adds up in fp32. On a CPU PyTorch's own runs,
    at the memory's speed. Differentiable once.

    Args:
        features: [N, C, H, W]; float32, bfloat16 or float16; on CUDA others than channels_last are copied.
        kernel_size: Pixels of a window's sides, at most 16.
        stride: Pixels from window to window; ``kernel_size`` if None.
        padding: Pixels at each edge that windows may reach beyond it, at most half of ``kernel_size``.

    Returns:
        [N, C, (H + 2*padding - kernel_size) // stride + 1, ...], of the features' dtype, channels_last on
        CUDA.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, or windows that do not fit.
    """
    stride = kernel_size if stride is None else stride
    check_dtype("max_pool", "features", features, REDUCED)
    check_number("max_pool", "kernel_size", kernel_size, 1, 16)
    check_number("max_pool", "stride", stride, 1, 2**20)
    check_number("max_pool", "padding", padding, 0, kernel_size // 2)
    if features.dim() != 4 or min(features.shape[2:]) + 2 * padding < kernel_size:
        raise ValueError(
            f"max_pool: features must be [N, C, H, W], with {kernel_size} pixels a side, padding included, "
            f"got {list(features.shape)}"
        )
    if use_native(features) and features.device.type in DEVICES:
        maxima, _ = torch.ops.pst_fast.max_pool(features, kernel_size, stride, padding)
        return maxima
    return reference.max_pool(features, kernel_size, stride, padding)


def _register() -> None:
    library = torch.library

    @library.register_fake("pst_fast::max_pool")
    def _(features: Tensor, kernel_size: int, stride: int, padding: int) -> tuple[Tensor, Tensor]:
        sides = [(side + 2 * padding - kernel_size) // stride + 1 for side in features.shape[2:]]
        maxima = torch.empty(
            (*features.shape[:2], *sides),
            dtype=features.dtype,
            device=features.device,
            memory_format=torch.channels_last,
        )
        return maxima, torch.empty_like(maxima, dtype=torch.uint8)

    @library.register_fake("pst_fast::max_pool_backward")
    def _(
        grad: Tensor, places: Tensor, height: int, width: int, kernel_size: int, stride: int, padding: int
    ) -> Tensor:
        shape = (*grad.shape[:2], height, width)
        return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        features, *ctx.windows = inputs
        ctx.sides = features.shape[2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None]:
        (places,) = ctx.saved_tensors
        spread = torch.ops.pst_fast.max_pool_backward(grad, places, *ctx.sides, *ctx.windows)
        return spread, None, None, None

    library.register_autograd("pst_fast::max_pool", backward, setup_context=setup)


if HAS_CPU:
    _register()
