"""Views: ways of looking at a training image that may destroy a perturbation and keep the content.

Every view takes and gives uint8 [B,H,W,3] on the host; each sample is treated alone.
"""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

View = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def raw(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The image as it is."""
    return images


def jpeg(images: torch.Tensor, rng: np.random.Generator, quality: int) -> torch.Tensor:
    """A JPEG round trip (ISS, Liu et al., ICML 2023, arXiv 2301.13838)."""

    def round_trip(image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream))

    if not len(images):
        return images
    return torch.from_numpy(np.stack(list(_pool().map(round_trip, images.numpy()))))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="jpeg")


def median(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """3x3 median of each channel."""
    padded = F.pad(_planes(images), (1, 1, 1, 1), mode="reflect")
    height, width = images.shape[1:3]
    shifts = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return _pixels(torch.stack(shifts).median(0).values)


def blur(images: torch.Tensor, rng: np.random.Generator, sigma: float = 1.0) -> torch.Tensor:
    """Gaussian blur, ``sigma`` in pixels."""
    radius = round(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, -1)
    padded = F.pad(_planes(images), (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, taps[:, :, None, :], groups=3)
    return _pixels(F.conv2d(rows, taps[:, :, :, None], groups=3))


def down_up(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Area-averaged to half the size, and bilinearly back."""
    planes = _planes(images)
    height, width = planes.shape[-2:]
    half = F.adaptive_avg_pool2d(planes, (max(1, height // 2), max(1, width // 2)))
    return _pixels(F.interpolate(half, size=(height, width), mode="bilinear", align_corners=False))


def bits(images: torch.Tensor, rng: np.random.Generator, depth: int) -> torch.Tensor:
    """Quantised to ``2 ** depth`` levels a channel."""
    levels = 2**depth - 1
    return ((images.float() * (levels / 255)).round() * (255 / levels)).round().to(torch.uint8)


def erase(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A grey square, a quarter to a half of the side long, at a random place."""
    images = images.clone()
    height, width = images.shape[1:3]
    short = min(height, width)
    for image in images:
        side = int(rng.integers(short // 4, short // 2 + 1))
        y = int(rng.integers(0, height - side + 1))
        x = int(rng.integers(0, width - side + 1))
        image[y : y + side, x : x + side] = 128
    return images


def grey(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Luma on all three channels."""
    luma = images.float() @ torch.tensor([0.2989, 0.587, 0.114])
    return luma.round().to(torch.uint8)[..., None].expand_as(images).contiguous()


def grey_jpeg(images: torch.Tensor, rng: np.random.Generator, quality: int = 10) -> torch.Tensor:
    """Luma, then a JPEG round trip."""
    return jpeg(grey(images, rng), rng, quality)


#: Colour-keeping views by name, with the share of each in the static mix.
VIEWS: dict[str, View] = {
    "raw": raw,
    "median": median,
    "erase": erase,
    "jpeg10": partial(jpeg, quality=10),
    "jpeg20": partial(jpeg, quality=20),
    "jpeg40": partial(jpeg, quality=40),
    "blur": blur,
    "down-up": down_up,
    "2-bit": partial(bits, depth=2),
    "3-bit": partial(bits, depth=3),
}
STATIC_MIX: dict[str, float] = {
    "raw": 1 / 6,
    "median": 1 / 6,
    "erase": 1 / 6,
    "jpeg10": 1 / 18,
    "jpeg20": 1 / 18,
    "jpeg40": 1 / 18,
    "blur": 1 / 12,
    "down-up": 1 / 12,
    "2-bit": 1 / 12,
    "3-bit": 1 / 12,
}


def apply_mix(images: torch.Tensor, mix: dict[str, float], rng: np.random.Generator) -> torch.Tensor:
    """One view a sample, drawn from ``mix`` (name -> probability; they sum to 1).

    Args:
        images: uint8 [B,H,W,3], on any device.
    """
    names = list(mix)
    drawn = rng.choice(len(names), size=len(images), p=[mix[name] for name in names])
    host = images.cpu()
    out = host.clone()
    for number, name in enumerate(names):
        rows = torch.from_numpy(np.flatnonzero(drawn == number))
        if len(rows) and name != "raw":
            out[rows] = VIEWS[name](host[rows], rng)
    return out.to(images.device, non_blocking=True)


def _planes(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


def _pixels(planes: torch.Tensor) -> torch.Tensor:
    return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
