"""Differentiable augmentations of a network's inputs, for perturbations that have to survive augmentation."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pst_fast import ops
from pst_fast.attacks.pgd import MEAN, STD, Transform
from pst_fast.ops import View

# Luma and the two axes of colour (YIQ), in which a hue is an angle; and back. Numbers, not tensors: a CUDA
# graph may not copy from main memory.
_TO_YIQ = [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
_FROM_YIQ = torch.tensor(_TO_YIQ, dtype=torch.float64).inverse().tolist()


def shift_and_flip(inputs: Tensor) -> Tensor:
    """Move each sample by up to an eighth of its sides, zeros beyond its edges, and mirror half of them.

    Args:
        inputs: Float [B,C,H,W]. The draws come from PyTorch's generator of its device.
    """
    batch, _, height, width = inputs.shape
    matrix = torch.zeros(batch, 2, 3, device=inputs.device)
    for row, size in enumerate((width, height)):
        # Whole pixels: in between, sampling would blur. The grid's coordinates go from -1 to 1.
        pixels = torch.randint(-(size // 8), size // 8 + 1, (batch,), device=inputs.device)
        matrix[:, row, 2] = pixels * (2 / size)
    mirror = torch.where(torch.rand(batch, device=inputs.device) < 0.5, -1.0, 1.0)
    matrix[:, 0, 0], matrix[:, 1, 1] = mirror, 1.0
    grid = F.affine_grid(matrix, list(inputs.shape), align_corners=False).to(inputs.dtype)
    return F.grid_sample(inputs, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def contrastive(strength: float) -> Transform:
    """The augmentations of contrastive learning, each sample its own draw, in a strength from 0 to 1.

    A crop of (1 - .9 s) to all of the area, resized to the whole; a mirror image for half of the samples; for
    .8 s of them brightness, contrast and saturation times 1 +- .4 s and the hue turned by up to .1 s of a
    circle; for .2 s of them no colour. (Wang et al., ICML 2024, who turn the hue in HSV; here it is turned in
    YIQ, where that is linear.)
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: expected a value between 0 and 1, got {strength}")
    return in_turn(lambda inputs: _crop(inputs, 1 - 0.9 * strength), coloured(strength, grey=0.2 * strength))


def in_turn(*transforms: Transform) -> Transform:
    """One after the other."""

    def transform(inputs: Tensor) -> Tensor:
        for each in transforms:
            inputs = each(inputs)
        return inputs

    return transform


def coloured(strength: float, *, grey: float) -> Transform:
    """The colour jitter of :func:`contrastive`, and no colour for a share ``grey`` of the samples."""
    return lambda inputs: _jitter(inputs, strength, grey)


def seen_through(mix: Mapping[View, float]) -> Transform:
    """Each sample under a view drawn from ``mix`` (view -> probability), and the gradient as if under none.

    That is the straight-through estimate of Athalye et al., ICML 2018 (arXiv 1802.00420). Views that draw
    something themselves (``View.erase``) draw the same each time.
    """

    def transform(inputs: Tensor) -> Tensor:
        x = inputs.float() * STD + MEAN
        pixels = (x.detach().permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
        draw = torch.rand(len(x), 1, 1, 1, device=x.device) * sum(mix.values())
        # Whole batches under each view, of which the draws choose: a CUDA graph would repeat the draws of an
        # op that is told its seed.
        seen = torch.zeros_like(pixels)
        for view, share in mix.items():
            seen = torch.where(
                (draw >= 0) & (draw < share), ops.degrade(pixels, [view], seed=0, offset=0), seen
            )
            draw = draw - share
        difference = seen.permute(0, 3, 1, 2).float() / 255 - x.detach()
        return ((x + difference - MEAN) / STD).to(inputs.dtype)

    return transform


def _crop(inputs: Tensor, least_area: float) -> Tensor:
    batch, device = len(inputs), inputs.device
    area = least_area + (1 - least_area) * torch.rand(batch, device=device)
    most = torch.clamp(-area.log(), max=math.log(4 / 3))  # the window stays in the image
    aspect = torch.exp((2 * torch.rand(batch, device=device) - 1) * most)
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    mirror = torch.where(torch.rand(batch, device=device) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(batch, 2, 3, device=device)
    matrix[:, 0, 0], matrix[:, 1, 1] = width * mirror, height
    matrix[:, 0, 2] = (1 - width) * (2 * torch.rand(batch, device=device) - 1)
    matrix[:, 1, 2] = (1 - height) * (2 * torch.rand(batch, device=device) - 1)
    grid = F.affine_grid(matrix, list(inputs.shape), align_corners=False).to(inputs.dtype)
    return F.grid_sample(inputs, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter(inputs: Tensor, strength: float, grey_probability: float) -> Tensor:
    def drawn(width: float) -> Tensor:
        return (2 * torch.rand(len(inputs), 1, 1, 1, device=inputs.device) - 1) * width

    def chosen(share: float) -> Tensor:
        return torch.rand(len(inputs), 1, 1, 1, device=inputs.device) < share

    x = inputs.float() * STD + MEAN
    brightness, contrast, saturation = (1 + drawn(0.4 * strength) for _ in range(3))
    angle = drawn(0.1 * strength) * (2 * math.pi)
    moved = (x * brightness).clamp(0, 1)
    middle = _luma(moved).mean((1, 2, 3), keepdim=True)
    moved = (middle + contrast * (moved - middle)).clamp(0, 1)
    grey = _luma(moved)
    moved = (grey + saturation * (moved - grey)).clamp(0, 1)
    luma, i, q = (_mixed(moved, weights) for weights in _TO_YIQ)
    turned = torch.cat([luma, angle.cos() * i - angle.sin() * q, angle.sin() * i + angle.cos() * q], dim=1)
    moved = torch.cat([_mixed(turned, weights) for weights in _FROM_YIQ], dim=1).clamp(0, 1)
    x = torch.where(chosen(0.8 * strength), moved, x)
    x = torch.where(chosen(grey_probability), _luma(x).expand_as(x), x)
    return ((x - MEAN) / STD).to(inputs.dtype)


def _luma(x: Tensor) -> Tensor:
    return _mixed(x, _TO_YIQ[0])


def _mixed(x: Tensor, weights: list[float]) -> Tensor:
    """A weighted sum of the three channels, [B,1,H,W]."""
    return weights[0] * x[:, :1] + weights[1] * x[:, 1:2] + weights[2] * x[:, 2:]
