"""Twin of the fused augmentation: Philox draws, and the adjustments one tensor op after the other."""

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from pst_fast.ops.reference_philox import philox, uniform

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the greyscale image (ITU-R 601, as torchvision rounds them)."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = tuple(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
"""The 24 orders of the adjustments; a draw picks one by its position in this (lexicographic) list."""


@dataclass
class AugmentParameters:
    """What was drawn for each of the B samples of a batch.

    Attributes:
        top: int64 [B], first row of the window in the padded image, in [0, 2*padding].
        left: int64 [B], likewise its first column.
        flip: bool [B], whether the window is mirrored.
        jitter: bool [B], whether any colour adjustment is made.
        factors: fp32 [B, 4]: brightness, contrast, saturation factor, hue shift (in turns).
        order: int64 [B, 4], the adjustments in the order in which they are made (``BRIGHTNESS`` ...).
        grey: bool [B], whether the result is turned to greyscale.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    grey: Tensor


def draw_parameters(
    batch_size: int,
    *,
    seed: int,
    offset: int,
    padding: int = 0,
    flip: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    jitter_probability: float = 1.0,
    grey_probability: float = 0.0,
    device: torch.device | str = "cpu",
) -> AugmentParameters:
    """What :func:`pst_fast.ops.augment` draws, on every device, for these arguments."""
    positions = torch.arange(batch_size, dtype=torch.int64, device=device)
    geometry, colour, rest = (philox(seed, offset, positions, block) for block in range(3))
    window = (geometry[:, :2] * (2 * padding + 1)) >> 32
    strengths = (brightness, contrast, saturation)
    low = torch.tensor([max(0.0, 1 - s) for s in strengths] + [-hue], dtype=torch.float32, device=device)
    high = torch.tensor([1 + s for s in strengths] + [hue], dtype=torch.float32, device=device)
    # The product is exact in fp64, so that one rounding remains, with or without a fused multiply-add.
    factors = low.double() + (high - low).double() * uniform(colour).double()
    orders = torch.tensor(ORDERS, dtype=torch.int64, device=device)
    return AugmentParameters(
        top=window[:, 0],
        left=window[:, 1],
        flip=(uniform(geometry[:, 2]) < 0.5) & flip,
        jitter=uniform(geometry[:, 3]).double() < jitter_probability,
        factors=factors.float(),
        order=orders[(rest[:, 0] * len(ORDERS)) >> 32],
        grey=uniform(rest[:, 1]).double() < grey_probability,
    )


def augment(
    images: Tensor,
    *,
    seed: int,
    offset: int,
    index: Tensor | None = None,
    delta: Tensor | None = None,
    padding: int = 0,
    flip: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    jitter_probability: float = 1.0,
    grey_probability: float = 0.0,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Twin of :func:`pst_fast.ops.augment`; ``dtype`` fp64 computes in fp64 too."""
    parameters = draw_parameters(
        images.shape[0] if index is None else index.shape[0],
        seed=seed,
        offset=offset,
        padding=padding,
        flip=flip,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        jitter_probability=jitter_probability,
        grey_probability=grey_probability,
        device=images.device,
    )
    strengths = (brightness, contrast, saturation, hue)
    adjustments = [kind for kind, strength in enumerate(strengths) if strength > 0]
    return apply_parameters(
        images,
        parameters,
        index=index,
        delta=delta,
        padding=padding,
        flip=flip,
        adjustments=adjustments if jitter_probability > 0 else [],
        grey=grey_probability > 0,
        mean=mean,
        std=std,
        dtype=dtype,
    )


def apply_parameters(
    images: Tensor,
    parameters: AugmentParameters,
    *,
    index: Tensor | None,
    delta: Tensor | None,
    padding: int,
    flip: bool,
    adjustments: list[int],
    grey: bool,
    mean: Tensor | None,
    std: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Augment with the given draws; ``flip``, ``adjustments`` and ``grey`` say what is done at all."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    if index is not None:
        images = images.index_select(0, index)
        delta = None if delta is None else delta.index_select(0, index)
    pixels = images.to(compute) / 255
    if delta is not None:
        shift = delta.to(compute)
        pixels = (pixels + (shift if delta.is_floating_point() else shift / 255)).clamp(0, 1)
    if padding or flip:
        pixels = _window(pixels, parameters, padding)
    pixels = pixels.permute(0, 3, 1, 2)  # [B,3,H,W], channels_last in memory
    for slot in range(4 if adjustments else 0):
        for kind in adjustments:
            rows = (parameters.jitter & (parameters.order[:, slot] == kind)).nonzero().squeeze(1)
            factor = parameters.factors[rows, kind].to(compute).view(-1, 1, 1, 1)
            pixels = pixels.index_copy(0, rows, _ADJUST[kind](pixels.index_select(0, rows), factor))
    if grey:
        pixels = torch.where(parameters.grey.view(-1, 1, 1, 1), _grey(pixels), pixels)
    if mean is not None:
        pixels = pixels - mean.to(compute).view(1, 3, 1, 1)
    if std is not None:
        pixels = pixels / std.to(compute).view(1, 3, 1, 1)
    return pixels.to(dtype).contiguous(memory_format=torch.channels_last)


def _window(pixels: Tensor, parameters: AugmentParameters, padding: int) -> Tensor:
    batch, height, width, _ = pixels.shape
    rows = torch.arange(height, device=pixels.device)
    columns = torch.arange(width, device=pixels.device).expand(batch, width)
    columns = torch.where(parameters.flip.unsqueeze(1), width - 1 - columns, columns)
    rows = rows + parameters.top.unsqueeze(1) - padding  # [B,H]
    columns = columns + parameters.left.unsqueeze(1) - padding  # [B,W]
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    samples = torch.arange(batch, device=pixels.device).view(-1, 1, 1)
    taken = pixels[
        samples,
        rows.clamp(0, max(height - 1, 0)).unsqueeze(2),
        columns.clamp(0, max(width - 1, 0)).unsqueeze(1),
    ]
    return torch.where(inside.unsqueeze(3), taken, 0)


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = pixels.unbind(1)
    value = GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue
    return value.unsqueeze(1)


def _brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    return (factor * pixels).clamp(0, 1)


def _contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(pixels).mean(dim=(1, 2, 3), keepdim=True)
    return (factor * pixels + (1 - factor) * mean).clamp(0, 1)


def _saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    return (factor * pixels + (1 - factor) * _grey(pixels)).clamp(0, 1)


def _hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue; value and chroma stay, so that RGB comes straight from the turned hue."""
    red, green, blue = pixels.unbind(1)
    high = pixels.amax(1)
    chroma = high - pixels.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    sextant = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sextant = sextant + 6 * turns.squeeze(1)
    channels = []
    for start in (5, 3, 1):
        k = torch.remainder(sextant + start, 6)
        channels.append(high - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1).clamp(0, 1)


_ADJUST = {BRIGHTNESS: _brightness, CONTRAST: _contrast, SATURATION: _saturation, HUE: _hue}
