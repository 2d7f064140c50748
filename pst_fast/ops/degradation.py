"""Views that may destroy a perturbation and keep the content, each sample its own, on the images' device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pst_fast.ops import reference_degrade
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import check_device, check_dtype, check_label_range, check_number
from pst_fast.ops.reference_jpeg import SUBSAMPLINGS

KINDS = ("raw", "jpeg", "blur", "median", "down-up", "bits", "erase")
MAX_VIEWS = 32
MAX_RADIUS = 15


@dataclass(frozen=True)
class View:
    """One way of looking at an image; make it by one of the methods below.

    Attributes:
        kind: Of ``KINDS``.
        a, b: Its parameters, in the order of the method that makes it.
        grey: Whether the image loses its colour first.
    """

    kind: str = "raw"
    a: float = 0
    b: float = 0
    grey: bool = False

    @classmethod
    def jpeg(cls, quality: int, subsampling: str = "4:2:0") -> "View":
        """A JPEG round trip (ISS, Liu et al., ICML 2023, arXiv 2301.13838): libjpeg's pixels exactly.

        Args:
            quality: 1 to 100.
            subsampling: Of the chroma, ``4:2:0`` or ``4:4:4``.
        """
        check_number("View.jpeg", "quality", quality, 1, 100)
        if subsampling not in SUBSAMPLINGS:
            raise ValueError(f"View.jpeg: subsampling must be 4:2:0 or 4:4:4, got {subsampling!r}")
        return cls("jpeg", int(quality), SUBSAMPLINGS.index(subsampling))

    @classmethod
    def blur(cls, sigma: float = 1.0) -> "View":
        """Gaussian blur, ``sigma`` in pixels (0 to 5), over ``2 round(3 sigma) + 1``, mirrored."""
        check_number("View.blur", "sigma", sigma, 0, MAX_RADIUS / 3)
        return cls("blur", sigma)

    @classmethod
    def median(cls) -> "View":
        """3x3 median of each channel; the border is mirrored."""
        return cls("median")

    @classmethod
    def down_up(cls, factor: int = 2) -> "View":
        """Area-averaged to 1/``factor`` of the size (at least one pixel), and bilinearly back."""
        check_number("View.down_up", "factor", factor, 1, 2**16)
        return cls("down-up", int(factor))

    @classmethod
    def bits(cls, depth: int) -> "View":
        """Quantised to ``2 ** depth`` levels a channel, depth 1 to 8."""
        check_number("View.bits", "depth", depth, 1, 8)
        return cls("bits", int(depth))

    @classmethod
    def erase(cls, low: float = 0.25, high: float = 0.5) -> "View":
        """A grey square at a random place, its side uniform between two shares of the image's shorter one."""
        check_number("View.erase", "low", low, 0, 1)
        check_number("View.erase", "high", high, low, 1)
        return cls("erase", low, high)

    def in_grey(self) -> "View":
        """The same on the greyscale image (ITU-R 601, as Pillow's ``convert("L")``, on three channels)."""
        return replace(self, grey=True)


def degrade(
    images: Tensor,
    views: Sequence[View],
    *,
    seed: int,
    offset: int,
    probabilities: Sequence[float] | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Show each image of a batch under a view of its own, drawn from ``views``.

    The draws are Philox4x32-10's of (``seed``, ``offset``, position in the batch), independent of those that
    :func:`pst_fast.ops.augment` makes with the same numbers, and the same on every device.

    Args:
        images: uint8 [M, H, W, 3].
        views: One to 32 of them.
        seed: 64-bit key of the draws.
        offset: 64-bit counter of the draws: the batch's number, say.
        probabilities: Of each view, up to a common factor; None: all alike.
        index: int64 [B], rows of ``images``; None: all, in order.

    Returns:
        uint8 [B, H, W, 3]. All devices agree to the last bit but for the blur and ``down_up``, whose
        floating-point sums may round to the neighbouring level.

    Raises:
        TypeError: Another dtype, or a view that is not a :class:`View`.
        ValueError: Another shape or device, or a number out of its range.
        RuntimeError: An index outside [0, M). On CUDA a device-side trap that the next synchronisation meets.
    """
    op = "degrade"
    check_dtype(op, "images", images, [torch.uint8])
    if images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(f"{op}: images must be [M, H, W, 3], got {list(images.shape)}")
    if index is not None:
        check_dtype(op, "index", index, [torch.int64])
        if index.dim() != 1:
            raise ValueError(f"{op}: index must be [B], got {list(index.shape)}")
        check_device(op, "index", index, images, "images")
    for name, word in (("seed", seed), ("offset", offset)):
        if not -(2**63) <= word < 2**63:
            raise ValueError(f"{op}: {name} must fit 64 bits with sign, got {word}")
    until = cumulative(views, probabilities, op)
    if use_native(images):
        return torch.ops.pst_fast.degrade(images, index, _table(views, until), seed, offset)
    if index is not None:
        check_label_range(op, index, images.shape[0], "index")
        images = images[index]
    return reference_degrade.degrade(images, views, until, seed=seed, offset=offset)


def cumulative(
    views: Sequence[View], probabilities: Sequence[float] | None = None, op: str = "degrade"
) -> list[float]:
    """The draw below which each view is taken; the last that is possible takes all that is left."""
    for view in views:
        if not isinstance(view, View):
            raise TypeError(f"{op}: views must be of View, got {type(view).__name__}")
    check_number(op, "the number of views", len(views), 1, MAX_VIEWS)
    weights = [1.0] * len(views) if probabilities is None else [float(p) for p in probabilities]
    if len(weights) != len(views):
        raise ValueError(f"{op}: probabilities must be {len(views)}, one a view, got {len(weights)}")
    total = math.fsum(weights)
    if not (all(w >= 0 for w in weights) and 0 < total < float("inf")):
        raise ValueError(f"{op}: probabilities must be at least 0 and not all 0, got {weights}")
    until = [math.fsum(weights[: i + 1]) / total for i in range(len(weights))]
    last = max(i for i, w in enumerate(weights) if w > 0)
    return until[:last] + [2.0] * (len(until) - last)


def _table(views: Sequence[View], until: Sequence[float]) -> Tensor:
    """What csrc/common/checks.h reads: a row a view."""
    table = torch.zeros(len(views), 5 + MAX_RADIUS + 1, dtype=torch.float64)
    for row, view, limit in zip(table, views, until, strict=True):
        a: float = view.a
        if view.kind == "blur":
            taps = reference_degrade.gaussian_taps(view.a)
            a = len(taps) // 2
            row[5 : 5 + a + 1] = taps[a:]
        elif view.kind == "bits":
            a = 2**view.a - 1
        row[:5] = torch.tensor([limit, KINDS.index(view.kind), view.grey, a, view.b])
    return table


def _register() -> None:
    @torch.library.register_fake("pst_fast::degrade")
    def _(images: Tensor, index: Tensor | None, views: Tensor, seed: int, offset: int) -> Tensor:
        batch = images.shape[0] if index is None else index.shape[0]
        return images.new_empty((batch, *images.shape[1:]))


if HAS_CPU:
    _register()
