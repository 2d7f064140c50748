"""Sizes of the images that a network is trained and evaluated at."""

import math

import torch
import torch.nn.functional as F

from pst_fast.train.settings import TrainSettings

MULTIPLE = 32


def resolution(progressive: tuple[float, float] | None, image_size: int, epoch: int, epochs: int) -> int:
    """Side, in pixels, of the training images in an epoch (from 0 on).

    Progressive resizing as in FFCV's ImageNet recipes (Leclerc et al., arXiv 2306.12517): it grows linearly
    over the epochs between two fractions of the stored size, in multiples of 32.
    """
    if progressive is None:
        return image_size
    low, high = progressive
    share = low + (high - low) * epoch / max(1, epochs - 1)
    return max(MULTIPLE, MULTIPLE * round(share * image_size / MULTIPLE))


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [B,H,W,3] at another size, uint8 [B,size,size,3]: bilinear, with antialiasing."""
    if images.shape[1:3] == (size, size):
        return images
    planes = images.permute(0, 3, 1, 2).float()
    found = F.interpolate(planes, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sizes_by_epoch(settings: TrainSettings, image_size: int) -> tuple[int, ...]:
    """Side of the training images in each epoch."""
    epochs = range(settings.epochs)
    return tuple(resolution(settings.progressive, image_size, epoch, settings.epochs) for epoch in epochs)


def trained_sizes(settings: TrainSettings, image_size: int) -> list[int]:
    """Sides other than the stored one at which a network is trained or evaluated."""
    sizes = {*sizes_by_epoch(settings, image_size), settings.eval_size or image_size}
    return sorted(sizes - {image_size})


def progressive_of(text: str | None) -> tuple[float, float] | None:
    """``MIN:MAX`` as two numbers; ValueError where it is not 0 < MIN <= MAX <= 1."""
    if text is None:
        return None
    low, _, high = text.partition(":")
    bounds = float(low), float(high)
    if not (0 < bounds[0] <= bounds[1] <= 1) or not all(map(math.isfinite, bounds)):
        raise ValueError(text)
    return bounds
