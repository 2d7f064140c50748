"""Sums of pixels by class, exact, and the pixels that they single out."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import check_dtype, check_label_range, check_labels


def class_pixel_sums(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum every pixel's channels, and the products of two of them, by class, in one pass over the images.

    Means and covariances of all pixels follow; ``ops`` (Wu et al., ICLR 2023) is searched from them. Whole
    numbers throughout: the result is exact, and the same on every device.

    Args:
        images: uint8 [N,H,W,3].
        labels: int64 [N], in [0, num_classes).
        num_classes: K.

    Returns:
        ``counts`` int64 [K]; ``sums`` int64 [K,H,W,3]; ``products`` int64 [K,H,W,6], in the order RR, RG,
        RB, GG, GB, BB.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape or device, or ``num_classes`` below 1.
        RuntimeError: A label outside [0, num_classes); on CUDA see
            :func:`pst_fast.ops.class_channel_stats`.
    """
    op = "class_pixel_sums"
    check_dtype(op, "images", images, [torch.uint8])
    if images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(f"{op}: images must be [N, H, W, 3], got {list(images.shape)}")
    check_labels(op, labels, images, "images", num_classes)
    if use_native(images):
        return torch.ops.pst_fast.class_pixel_sums(images, labels, num_classes)
    check_label_range(op, labels, num_classes)
    return reference.class_pixel_sums(images, labels, num_classes)


class OnePixels(NamedTuple):
    """What :func:`one_pixel_search` found; for a class without images -1, 0 and NaN.

    Attributes:
        rows: int64 [K,n], best pixel first.
        columns: int64 [K,n].
        colours: uint8 [K,n,3], of 0 and 255.
        scores: float64 [K,n], mean / standard deviation of the change.
    """

    rows: Tensor
    columns: Tensor
    colours: Tensor
    scores: Tensor


def one_pixel_search(images: Tensor, labels: Tensor, num_classes: int, num_pixels: int = 1) -> OnePixels:
    """The pixels and colours that, put into all images of a class, change them most reliably.

    For every class, position and each of the eight colours at the corners of the RGB cube: the mean over the
    class of the change that the colour makes, summed over the channels, divided by its standard deviation.
    The best ``num_pixels`` positions are returned, each with its best colour (one-pixel shortcuts: Wu et al.,
    ICLR 2023). One pass over the images (:func:`class_pixel_sums`); the result is the same on every device.

    Args:
        images: uint8 [N,H,W,3].
        labels: int64 [N], in [0, num_classes).
        num_classes: K.
        num_pixels: n, from 1 to H*W.

    Raises:
        TypeError, ValueError, RuntimeError: As :func:`class_pixel_sums`; ValueError also for ``num_pixels``.
    """
    counts, sums, products = class_pixel_sums(images, labels, num_classes)
    height, width = images.shape[1:3]
    if not 1 <= num_pixels <= height * width:
        raise ValueError(
            f"one_pixel_search: num_pixels must be between 1 and {height * width}, got {num_pixels}"
        )
    colours = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=images.device)
    shape = (num_classes, num_pixels)
    found = OnePixels(
        labels.new_full(shape, -1),
        labels.new_full(shape, -1),
        images.new_zeros((*shape, 3)),
        torch.full(shape, torch.nan, dtype=torch.float64, device=images.device),
    )
    for label, count in enumerate(counts.tolist()):
        if count == 0:
            continue
        scores = _change_scores(count, sums[label], products[label], colours)
        best, colour = (t.flatten() for t in scores.max(0))
        order = best.argsort(descending=True, stable=True)[:num_pixels]
        found.rows[label] = order // width
        found.columns[label] = order % width
        found.colours[label] = (255 * colours[colour[order]]).to(torch.uint8)
        found.scores[label] = best[order]
    return found


def _change_scores(count: int, sums: Tensor, products: Tensor, colours: Tensor) -> Tensor:
    """mean / standard deviation of the summed change over one class, float64 [8,H,W].

    To reach 0 a value x changes by x, to reach 255 by 255 - x: the summed change is linear in the pixel,
    so its mean and variance follow from the pixel's mean and covariance, which whole numbers give exactly.
    """
    signs = (1 - 2 * colours).unsqueeze(-1).unsqueeze(-1)  # [8,3,1,1]
    mean = 255 * count * colours.sum(1).view(-1, 1, 1)
    for channel in range(3):
        mean = mean + signs[:, channel] * sums[..., channel]
    variance = torch.zeros_like(mean)
    for pair, (a, b) in enumerate(reference.CHANNEL_PAIRS):
        covariance = count * products[..., pair] - sums[..., a] * sums[..., b]
        variance += signs[:, a] * signs[:, b] * (1 if a == b else 2) * covariance
    # Where nothing varies the score is infinite; this floor, far below any variance that can occur,
    # ranks such pixels by their mean.
    return mean.double() / variance.double().clamp(min=1e-6).sqrt()


def _register() -> None:
    @torch.library.register_fake("pst_fast::class_pixel_sums")
    def _(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (num_classes, *images.shape[1:3])
        return labels.new_empty((num_classes,)), labels.new_empty((*shape, 3)), labels.new_empty((*shape, 6))


if HAS_CPU:
    _register()
