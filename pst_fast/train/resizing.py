"""Sizes of the images that a network is trained and evaluated at, and random resized crops.

All of it works on batches, on their device, after a loader has read them: the same seed and step give the
same crops whichever loader is used. (FFCV's own random decoder draws from a state that cannot be set.)
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from pst_fast.train.settings import TrainSettings

MULTIPLE = 32
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of an image's area that a crop has, and its width by its height, as in torchvision and FFCV."""
_STREAM = 20260
_TRIALS = 10


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
    return _as_bytes(found)


def random_resized_crop(images: torch.Tensor, size: int, seed: int, step: int) -> torch.Tensor:
    """Crop each image at random and bring it to one size: uint8 [B,H,W,3] to uint8 [B,size,size,3].

    Boxes as torchvision's ``RandomResizedCrop`` draws them, from (seed, step, position in the batch) alone;
    bilinear within a box, without antialiasing.
    """
    count, height, width = images.shape[:3]
    boxes = torch.from_numpy(draw_boxes(count, height, width, seed, step)).to(images.device)
    rows = _places(boxes[:, 0], boxes[:, 2], size, height)
    columns = _places(boxes[:, 1], boxes[:, 3], size, width)
    grid = torch.stack(
        [columns[:, None, :].expand(count, size, size), rows[:, :, None].expand(count, size, size)], -1
    )
    planes = images.permute(0, 3, 1, 2).float()
    return _as_bytes(F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False))


def draw_boxes(count: int, height: int, width: int, seed: int, step: int) -> np.ndarray:
    """Top, left, height and width, int64 [count,4], of random crops of images of one size."""
    draws = np.random.default_rng((seed, step, _STREAM)).random((count, _TRIALS + 1, 2))
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[:, :_TRIALS, 0])
    low, high = np.log(RATIO)
    ratio = np.exp(low + (high - low) * draws[:, :_TRIALS, 1])
    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    rows, first = np.arange(count), fits.argmax(1)
    # Where none of ten trials fits: the largest central part of an admissible ratio.
    fallback = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    heights = np.where(fits.any(1), heights[rows, first], fallback[0])
    widths = np.where(fits.any(1), widths[rows, first], fallback[1])
    places = draws[:, _TRIALS] * np.stack([height - heights + 1, width - widths + 1], 1)
    return np.column_stack([np.floor(places).astype(np.int64), heights, widths])


def _places(start: torch.Tensor, length: torch.Tensor, size: int, whole: int) -> torch.Tensor:
    """Where pixels of boxes that are brought to one size lie, fp32 [B,size], in grid_sample's terms."""
    start, length = start[:, None].float(), length[:, None].float()
    inside = (torch.arange(size, device=start.device) + 0.5) * length / size - 0.5
    # A box's edge is the edge of its picture: what lies beyond does not come in.
    pixels = start + torch.minimum(inside.clamp(min=0), length - 1)
    return (2 * pixels + 1) / whole - 1


def _as_bytes(planes: torch.Tensor) -> torch.Tensor:
    return planes.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def trained_sizes(settings: TrainSettings, image_size: int) -> list[int]:
    """Sides other than the stored one at which a network is trained or evaluated."""
    epochs = range(settings.epochs)
    sizes = {resolution(settings.progressive, image_size, epoch, settings.epochs) for epoch in epochs}
    return sorted((sizes | {settings.eval_size or image_size}) - {image_size})


def progressive_of(text: str | None) -> tuple[float, float] | None:
    """``MIN:MAX`` as two numbers; ValueError where it is not 0 < MIN <= MAX <= 1."""
    if text is None:
        return None
    low, _, high = text.partition(":")
    bounds = float(low), float(high)
    if not (0 < bounds[0] <= bounds[1] <= 1) or not all(map(math.isfinite, bounds)):
        raise ValueError(text)
    return bounds
