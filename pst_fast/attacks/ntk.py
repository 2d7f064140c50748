"""Neural tangent kernels of infinitely wide networks with ReLU, and what gradient descent makes of them.

Weights are drawn from N(0,1) and multiplied by WEIGHT / sqrt(fan-in), biases by BIAS (Jacot et al., NeurIPS
2018; Arora et al., NeurIPS 2019 for convolutions).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

WEIGHT, BIAS = 1.76, 0.18
_EDGE = 1e-7
_PIXELS_AT_ONCE = 1 << 24

Kernel = Callable[[Tensor, Tensor], Tensor]
"""From x [N,C,H,W] and z [M,C,H,W] to the tangent kernel [N,M], in the dtype of ``x``, differentiable."""


class _Layer(NamedTuple):
    """Covariances of a layer's outputs: of pairs, of x and of z with themselves; tangent kernel of pairs."""

    pairs: Tensor
    of_x: Tensor
    of_z: Tensor
    tangent: Tensor


def dense_kernel(x: Tensor, z: Tensor, *, hidden: int = 5) -> Tensor:
    """Tangent kernel [N,M] of a network of ``hidden`` fully connected layers and an output."""
    a, b = x.flatten(1), z.flatten(1)
    inputs = _Layer(a @ b.T, a.square().sum(1)[:, None], b.square().sum(1)[None], torch.zeros_like(a[:1, :1]))
    return _dense_layers(_scaled(inputs, 1 / a.shape[1]), hidden)


def convolutional_kernel(x: Tensor, z: Tensor, *, convolutions: int = 2, hidden: int = 2) -> Tensor:
    """Tangent kernel [N,M] of 3x3 convolutions at full resolution, fully connected layers and an output.

    Without pooling only pairs of the same pixel matter. They are kept for some rows at a time, and computed
    once more in the backward pass.
    """
    pixels = x.shape[2] * x.shape[3] * len(z)
    rows = max(1, _PIXELS_AT_ONCE // pixels)

    def some(part: Tensor, z: Tensor) -> Tensor:
        return _convolutional_rows(part, z, convolutions, hidden)

    return torch.cat([checkpoint(some, part, z, use_reentrant=False) for part in x.split(rows)])


def _convolutional_rows(x: Tensor, z: Tensor, convolutions: int, hidden: int) -> Tensor:
    channels = x.shape[1]
    layer = _Layer(
        torch.einsum("nchw,mchw->nmhw", x, z) / channels,
        x.square().mean(1)[:, None],
        z.square().mean(1)[None],
        x.new_zeros(1, 1, 1, 1).expand(len(x), len(z), *x.shape[2:]),
    )
    for number in range(convolutions):
        if number:
            layer = _through_relu(layer)
        layer = _Layer(*(WEIGHT**2 * F.avg_pool2d(kernel, 3, 1, 1) for kernel in layer))
        layer = _with_weights(layer)
    flat = _through_relu(layer)
    return _dense_layers(_Layer(*(kernel.mean((2, 3)) for kernel in flat)), hidden)


def _dense_layers(layer: _Layer, hidden: int) -> Tensor:
    for _ in range(hidden):
        layer = _through_relu(_with_weights(_scaled(layer, WEIGHT**2)))
    return _with_weights(_scaled(layer, WEIGHT**2)).tangent


def _scaled(layer: _Layer, factor: float) -> _Layer:
    return _Layer(*(kernel * factor for kernel in layer))


def _with_weights(layer: _Layer) -> _Layer:
    """Add the biases, and what the layer's own weights and biases add to the tangent kernel."""
    pairs, of_x, of_z = (kernel + BIAS**2 for kernel in layer[:3])
    return _Layer(pairs, of_x, of_z, pairs + layer.tangent)


def _through_relu(layer: _Layer) -> _Layer:
    scale = (layer.of_x * layer.of_z).sqrt()
    cosine = (layer.pairs / scale).clamp(-1 + _EDGE, 1 - _EDGE)
    angle = cosine.acos()
    pairs = scale * ((1 - cosine.square()).sqrt() + (math.pi - angle) * cosine) / (2 * math.pi)
    slopes = (math.pi - angle) / (2 * math.pi)
    return _Layer(pairs, layer.of_x / 2, layer.of_z / 2, layer.tangent * slopes)


def predictions_at(time: float, train: Tensor, across: Tensor, targets: Tensor) -> Tensor:
    """What the mean network says after gradient descent on the mean squared error for ``time``.

    It is across K^-1 (1 - exp(-K t)) targets, computed without an inverse, as an integral of exp(-K s).

    Args:
        time: Learning rate times steps.
        train: Tangent kernel among the training images, [N,N].
        across: Between others and the training images, [M,N].
        targets: [N,K].

    Returns:
        [M,K].
    """
    count, classes = targets.shape
    pace = time / targets.numel()
    block = train.new_zeros(count + classes, count + classes)
    block[:count, :count] = -pace * train
    block[:count, count:] = pace * targets
    return across @ torch.linalg.matrix_exp(block)[:count, count:]
