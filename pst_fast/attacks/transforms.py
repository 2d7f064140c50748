"""Differentiable augmentations of a network's inputs, for perturbations that have to survive augmentation."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
