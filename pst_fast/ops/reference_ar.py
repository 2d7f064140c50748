"""Twin of the autoregressive perturbations: one anti-diagonal of all samples' canvases after the other."""

import math

import torch
from torch import Tensor

from pst_fast.ops.reference_philox import philox


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
    """Twin of :func:`pst_fast.ops.ar_perturbation`; of fp64 coefficients it computes in fp64."""
    if index is None:
        index = torch.arange(labels.shape[0], device=labels.device)
    start = start_noise(index, coefficients.shape[1], height + crop, width + crop, seed)
    canvas = ar_process(coefficients.index_select(0, labels), start.to(coefficients.dtype))
    pattern = canvas[:, :, crop:, crop:].permute(0, 2, 3, 1)
    norm = pattern.double().square().sum((1, 2, 3), keepdim=True).sqrt()
    scale = torch.where((norm > 0) & norm.isfinite(), epsilon / norm, math.nan)
    return (pattern * scale).to(coefficients.dtype).contiguous()


def start_noise(index: Tensor, channels: int, height: int, width: int, seed: int) -> Tensor:
    """Standard normal numbers in the first two rows and columns, all of the start that a process reads.

    Block c of Philox at position k of sample ``index[i]`` gives, by Box and Muller, column k of the first two
    rows and row k (from the third on) of the first two columns of channel c.

    Returns:
        float64 [N, channels, height, width], zero elsewhere.
    """
    positions = torch.arange(max(height, width), device=index.device).expand(index.shape[0], channels, -1)
    blocks = torch.arange(channels, device=index.device).view(-1, 1)
    words = philox(seed, index.view(-1, 1, 1), positions, blocks).double()  # [N, C, positions, 4]
    radius = ((words[..., 0::2] / 256).floor().add(1) * 2.0**-24).log().mul(-2).sqrt()
    angle = words[..., 1::2] * (2 * math.pi / 2**32)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)  # [N, C, positions, 2, 2]
    start = pairs.new_zeros(index.shape[0], channels, height, width)
    start[:, :, :, :2] = pairs[:, :, :height, 1, : min(width, 2)]
    start[:, :, :2] = pairs[:, :, :width, 0, : min(height, 2)].transpose(2, 3)
    return start


def ar_process(coefficients: Tensor, start: Tensor) -> Tensor:
    """Run a process of its own on every plane, from the third row and column on.

    Args:
        coefficients: [..., 3, 3], its leading dimensions broadcast to those of ``start``; the last of
            the nine is not read.
        start: [..., H, W], of which the first two rows and columns are read.

    Returns:
        [..., H, W].
    """
    height, width = start.shape[-2:]
    taps = coefficients.flatten(-2).movedim(-1, 0)  # [9, ...]
    canvas = start.flatten(-2).movedim(-1, 0).contiguous()  # [H*W, ...]: a diagonal's values are rows
    # Every value that one of row + column = d is made of has a smaller sum.
    for diagonal in range(4, height + width - 1 if min(height, width) > 2 else 0):
        first, last = max(2, diagonal - width + 1), min(height - 1, diagonal - 2)
        at = torch.arange(first, last + 1, device=start.device) * (width - 1) + diagonal
        value = taps[0] * canvas.index_select(0, at - 2 * width - 2)
        for tap in range(1, 8):
            value = value + taps[tap] * canvas.index_select(0, at - (2 - tap // 3) * width - 2 + tap % 3)
        canvas.index_copy_(0, at, value)
    return canvas.movedim(0, -1).reshape(start.shape)
