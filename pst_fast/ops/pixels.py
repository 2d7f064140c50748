"""Sums of pixels by class, exact."""

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


def _register() -> None:
    @torch.library.register_fake("pst_fast::class_pixel_sums")
    def _(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (num_classes, *images.shape[1:3])
        return labels.new_empty((num_classes,)), labels.new_empty((*shape, 3)), labels.new_empty((*shape, 6))


if HAS_CPU:
    _register()
