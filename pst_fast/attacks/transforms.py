"""Differentiable augmentations of a network's inputs, for perturbations that have to survive augmentation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pst_fast.attacks.pgd import MEAN, STD, Transform

# Luma and the two axes of colour (YIQ), in which a hue is an angle.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def shift_and_flip(inputs: Tensor) -> Tensor:
    """Move each sample by up to an eighth of its sides, zeros beyond its edges, and mirror half of them.

    Args:
        inputs: Float [B,C,H,W]. The draws come from PyTorch's generator of its device.
    """
    batch, _, height, width = inputs.shape
    # From pixels to the grid's coordinates, in which an image is 2 wide.
    most = torch.tensor([width // 8 / width, height // 8 / height], device=inputs.device) * 2
    shift = (2 * torch.rand(batch, 2, device=inputs.device) - 1) * most
    # Whole pixels: in between, sampling would blur.
    pixel = torch.tensor([2 / width, 2 / height], device=inputs.device)
    shift = torch.round(shift / pixel) * pixel
    mirror = torch.where(torch.rand(batch, device=inputs.device) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(batch, 2, 3, device=inputs.device)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = mirror, 1.0, shift
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
    return lambda inputs: _jitter(_crop(inputs, 1 - 0.9 * strength), strength)


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


def _jitter(inputs: Tensor, strength: float) -> Tensor:
    def drawn(width: float) -> Tensor:
        return (2 * torch.rand(len(inputs), 1, 1, 1, device=inputs.device) - 1) * width

    def chosen(share: float) -> Tensor:
        return torch.rand(len(inputs), 1, 1, 1, device=inputs.device) < share

    x = inputs.float() * STD + MEAN
    to_yiq = _TO_YIQ.to(x.device)
    brightness, contrast, saturation = (1 + drawn(0.4 * strength) for _ in range(3))
    angle = drawn(0.1 * strength).flatten() * 2 * math.pi
    moved = (x * brightness).clamp(0, 1)
    middle = _luma(moved).mean((1, 2, 3), keepdim=True)
    moved = (middle + contrast * (moved - middle)).clamp(0, 1)
    grey = _luma(moved)
    moved = (grey + saturation * (moved - grey)).clamp(0, 1)
    turn = torch.zeros(len(x), 3, 3, device=x.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 2, 1], turn[:, 1, 2] = angle.sin(), -angle.sin()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    moved = torch.einsum("bij,bjhw->bihw", matrix, moved).clamp(0, 1)
    x = torch.where(chosen(0.8 * strength), moved, x)
    x = torch.where(chosen(0.2 * strength), _luma(x).expand_as(x), x)
    return ((x - MEAN) / STD).to(inputs.dtype)


def _luma(x: Tensor) -> Tensor:
    return torch.einsum("c,bchw->bhw", _TO_YIQ[0].to(x.device), x).unsqueeze(1)
