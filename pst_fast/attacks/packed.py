"""Convolutions on a CPU with their weights in oneDNN's own layout.

PyTorch has oneDNN lay out the weights anew at every call; where they stay as they are, once is enough.
The gradient of the input of a convolution of stride one is a convolution itself, with its weights turned
round.
"""

from typing import Any

import torch
from torch import Tensor

aten, onednn = torch.ops.aten, torch.ops.mkldnn

Where = tuple[Any, Any, Any]
"""A convolution's stride, padding and dilation, by side."""


def can_be_packed(x: Tensor) -> bool:
    """Whether oneDNN is there, and computes on such a device in such a precision."""
    return (
        x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and onednn._is_mkldnn_bf16_supported()))
    )


class PackedConv:
    """``relu(conv(x))`` or ``relu(conv(x) + shortcut)``, and the gradient of ``x``.

    Args:
        weight: Without groups; it is laid out as it is now.
        where: Where it goes.
        x: Such inputs as the layout is chosen for, for which :func:`can_be_packed` holds.
    """

    def __init__(self, weight: Tensor, where: Where, x: Tensor) -> None:
        self._key = _key(weight, x)
        # Held, so that no other weights can come to lie at the address in the key.
        self._weight, self._where = weight.detach(), where
        self._forward = _Packed(self._weight, where, x)
        self._turned = _turned(self._weight, where)
        self._backward: _Packed | None = None

    def fits(self, weight: Tensor, x: Tensor) -> bool:
        """Whether it was made for such inputs, and of these weights as they are now."""
        return self._key == _key(weight, x)

    def activated(self, x: Tensor, bias: Tensor | None, shortcut: Tensor | None) -> Tensor:
        """The result, like a convolution's."""
        return self._forward(x, bias, shortcut, relu=True)

    def input_gradient(self, grad: Tensor, x: Tensor, more: Tensor | None) -> Tensor:
        """The gradient of ``x``, and ``more`` of it; ``grad`` is that of the convolution's result."""
        if self._turned is None:
            return input_gradient(grad, x, self._weight, self._where, more)
        if self._backward is None:
            self._backward = _Packed(*self._turned, grad)
        return self._backward(grad, None, more, relu=False)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Copied and pickled as None, since oneDNN's layouts cannot be: the copy makes one of its own."""
        return type(None), ()


def input_gradient(grad: Tensor, x: Tensor, weight: Tensor, where: Where, more: Tensor | None) -> Tensor:
    """The gradient of a convolution's input, as PyTorch has it, and ``more`` of it."""
    of_x: Tensor = aten.convolution_backward(
        grad, x, weight, None, *where, False, (0, 0), 1, (True, False, False)
    )[0]
    return of_x if more is None else of_x.add_(more)


class _Packed:
    """Weights, detached ones, for inputs of one shape."""

    def __init__(self, weight: Tensor, where: Where, x: Tensor) -> None:
        stride, padding, dilation = where
        self._where = (list(padding), list(stride), list(dilation), 1)
        self._weight = aten.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *self._where, list(x.shape))

    def __call__(self, x: Tensor, bias: Tensor | None, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        out: Tensor
        if shortcut is None:
            last: tuple[Any, ...] = ("relu" if relu else "none", [], "")
            out = onednn._convolution_pointwise(x, self._weight, bias, *self._where, *last)
        else:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
            sums: tuple[Any, ...] = ("add", 1.0, "relu" if relu else None, [], None)
            out = onednn._convolution_pointwise.binary(x, shortcut, self._weight, bias, *self._where, *sums)
        return out


def _turned(weight: Tensor, where: Where) -> tuple[Tensor, Where] | None:
    """Weights whose convolution is the gradient of the input, and where they go; None if there are none."""
    stride, padding, dilation = where
    taps = weight.shape[2:]
    around = tuple(d * (k - 1) - p for d, k, p in zip(dilation, taps, padding, strict=True))
    if tuple(stride) != (1, 1) or min(around) < 0:
        return None
    return weight.transpose(0, 1).flip(2, 3), (stride, around, dilation)


def _key(weight: Tensor, x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.dtype, weight.data_ptr(), weight._version
