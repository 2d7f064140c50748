"""Random resized crops: the same ones whether FFCV cuts them while it reads, or a device afterwards."""

from dataclasses import dataclass

import numpy as np
import torch

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of an image's area that a crop has, and its width by its height, as in torchvision and FFCV."""
_STREAM = 20260
_TRIALS = 10
_AT_A_TIME = 256


@dataclass(frozen=True)
class Crops:
    """How the images of a training are cropped.

    Attributes:
        seed: With the step and the place in the batch, fixes every box.
        sizes: Side of the crops, in pixels, in each epoch.
    """

    seed: int
    sizes: tuple[int, ...]


def draw_boxes(
    count: int, height: int | np.ndarray, width: int | np.ndarray, seed: int, step: int
) -> np.ndarray:
    """Top, left, height and width, int64 [count,4], of random crops of the images of one batch.

    As torchvision's ``RandomResizedCrop`` draws them, from (seed, step, place in the batch) alone.

    Args:
        count: Images, from the batch's first one on.
        height: Of the images in pixels, one number or int64 [count].
        width: The same.
        seed: Of the training.
        step: Of the training, from 0 on.
    """
    draws = np.random.default_rng((seed, step, _STREAM)).random((count, _TRIALS + 1, 2))
    whole = np.column_stack([np.broadcast_to(side, count) for side in (height, width)])
    # Where none of ten trials fits: the largest part of an admissible ratio.
    sides = np.minimum(whole, np.rint(whole[:, ::-1] * (1 / RATIO[0], RATIO[1])).astype(np.int64))
    low, high = np.log(RATIO)
    left = np.arange(count)
    for trial in range(_TRIALS):
        area = whole[left].prod(1) * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[left, trial, 0])
        ratio = np.exp(low + (high - low) * draws[left, trial, 1])
        found = np.rint(np.sqrt(np.column_stack([area / ratio, area * ratio]))).astype(np.int64)
        fits = ((found > 0) & (found <= whole[left])).all(1)
        sides[left[fits]] = found[fits]
        left = left[~fits]
    places = draws[:, _TRIALS] * (whole - sides + 1)
    return np.column_stack([np.floor(places).astype(np.int64), sides])


def random_resized_crop(images: torch.Tensor, size: int, seed: int, step: int) -> torch.Tensor:
    """Crop each image at random and bring it to one size: uint8 [B,H,W,3] to uint8 [B,size,size,3].

    A pixel is the mean of what it covers of the box, which is OpenCV's ``INTER_AREA``, and so FFCV's. (Where
    one side grows and the other shrinks OpenCV takes no more than two pixels of each row and column.)
    """
    count, height, width = images.shape[:3]
    boxes = torch.from_numpy(draw_boxes(count, height, width, seed, step)).to(images.device).float()
    parts = zip(images.split(_AT_A_TIME), boxes.split(_AT_A_TIME), strict=True)
    return torch.cat([_cut(some, box, size) for some, box in parts])


def _cut(images: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    height, width = images.shape[1:3]
    rows = _covered(boxes[:, 0], boxes[:, 2], size, height)[:, None]
    columns = _covered(boxes[:, 1], boxes[:, 3], size, width)[:, None]
    planes = images.permute(0, 3, 1, 2).float().contiguous()
    found = rows @ planes @ columns.transpose(2, 3)
    return found.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _covered(start: torch.Tensor, length: torch.Tensor, size: int, whole: int) -> torch.Tensor:
    """Share of each of ``whole`` pixels in each of a box's ``size``, fp32 [B,size,whole]; rows sum to 1."""
    scale = (length / size)[:, None, None]
    edge = start[:, None, None] + torch.arange(size, device=start.device)[:, None] * scale
    pixel = torch.arange(whole, device=start.device)
    return (torch.minimum(edge + scale, pixel + 1) - torch.maximum(edge, pixel)).clamp_(min=0) / scale
