"""Twins of the views: each one tensor op after the other, on uint8 [B,H,W,3]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pst_fast.ops.reference_jpeg import SUBSAMPLINGS, jpeg
from pst_fast.ops.reference_philox import philox

if TYPE_CHECKING:
    from pst_fast.ops.degradation import View

_BLOCK = 3  # of the draws; augment has 0 to 2


def degrade(
    images: Tensor, views: Sequence[View], until: Sequence[float], *, seed: int, offset: int
) -> Tensor:
    """Each image under the first view whose ``until`` is above the image's draw."""
    positions = torch.arange(images.shape[0], device=images.device)
    words = philox(seed, offset, positions, _BLOCK)
    drawn = torch.bucketize(
        (words[:, 0] >> 8) * 2.0**-24, images.new_tensor(until, dtype=torch.float64), right=True
    )
    out = images.clone()
    for number, view in enumerate(views):
        rows = (drawn == number).nonzero()[:, 0]
        if len(rows):
            out[rows] = look(images[rows], view, words[rows])
    return out


def look(images: Tensor, view: View, words: Tensor) -> Tensor:
    """All of the images under one view; ``words`` int64 [B,4] are their draws."""
    if view.grey:
        images = grey(images)
    if view.kind == "jpeg":
        return jpeg(images, int(view.a), SUBSAMPLINGS[int(view.b)])
    if view.kind == "blur":
        return blur(images, view.a)
    if view.kind == "median":
        return median(images)
    if view.kind == "down-up":
        return down_up(images, int(view.a))
    if view.kind == "bits":
        return bits(images, int(view.a))
    if view.kind == "erase":
        return erase(images, view.a, view.b, words)
    return images


def grey(images: Tensor) -> Tensor:
    """ITU-R 601 luma in 16 bits, on all three channels."""
    luma = (images.int() * images.new_tensor([19595, 38470, 7471], dtype=torch.int32)).sum(
        -1, dtype=torch.int32
    )
    return ((luma + 32768) >> 16).to(torch.uint8)[..., None].expand_as(images)


def gaussian_taps(sigma: float) -> Tensor:
    """Weights, float64 [2 round(3 sigma) + 1], that sum to 1."""
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    return taps / taps.sum()


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, along the rows and then along the columns."""
    taps = gaussian_taps(sigma).float().to(images.device).expand(3, 1, -1)
    padded = _planes(mirror_pad(images, taps.shape[2] // 2))
    rows = F.conv2d(padded, taps[:, :, None, :], groups=3)
    return _pixels(F.conv2d(rows, taps[:, :, :, None], groups=3))


def median(images: Tensor) -> Tensor:
    """3x3 median of each channel."""
    height, width = images.shape[1:3]
    padded = mirror_pad(images, 1)
    shifts = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return torch.stack(shifts).median(0).values


def down_up(images: Tensor, factor: int) -> Tensor:
    """Area-averaged, and bilinearly back."""
    planes = _planes(images)
    height, width = planes.shape[-2:]
    cells = F.adaptive_avg_pool2d(planes, (max(1, height // factor), max(1, width // factor)))
    return _pixels(F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False))


def bits(images: Tensor, depth: int) -> Tensor:
    """To ``2 ** depth`` levels and back to bytes."""
    levels = 2**depth - 1
    return ((images.float() * (levels / 255)).round() * (255 / levels)).round().to(torch.uint8)


def erase(images: Tensor, low: float, high: float, words: Tensor) -> Tensor:
    """A grey square in each image."""
    height, width = images.shape[1:3]
    short = min(height, width)
    least, most = int(low * short), int(high * short)
    side = least + (words[:, 1] * (most - least + 1) >> 32)
    top = words[:, 2] * (height - side + 1) >> 32
    left = words[:, 3] * (width - side + 1) >> 32
    y = torch.arange(height, device=images.device)[:, None] - top[:, None, None]
    x = torch.arange(width, device=images.device) - left[:, None, None]
    side = side[:, None, None]
    inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
    return images.masked_fill(inside[..., None], 128)


def mirror_pad(images: Tensor, radius: int) -> Tensor:
    """Mirrored on each side, the border itself not repeated, as often as it takes."""
    rows, columns = (
        _mirror(torch.arange(-radius, count + radius, device=images.device), count)
        for count in images.shape[1:3]
    )
    return images[:, rows][:, :, columns]


def _mirror(at: Tensor, count: int) -> Tensor:
    if count == 1:
        return torch.zeros_like(at)
    at = at.abs() % (2 * (count - 1))
    return torch.where(at < count, at, 2 * (count - 1) - at)


def _planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float()


def _pixels(planes: Tensor) -> Tensor:
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
