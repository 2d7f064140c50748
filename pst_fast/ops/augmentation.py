"""The fused augmentation: from stored bytes to what a network takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pst_fast.ops import reference
from pst_fast.ops._backend import HAS_CPU, use_native
from pst_fast.ops._checks import (
    REDUCED,
    check_device,
    check_dtype,
    check_label_range,
    check_number,
    check_shape,
    names,
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
    mean: Tensor | Sequence[float] | None = None,
    std: Tensor | Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Gather, perturb, pad-crop, flip, jitter, grey, normalise and cast a batch, in one pass.

    In this order: row ``index[i]`` is taken; ``clamp(image/255 + delta, 0, 1)``; a window of the image's own
    size is cropped at random from the image with ``padding`` black pixels on each side; it is mirrored with
    probability 1/2 if ``flip``; with ``jitter_probability`` brightness, contrast, saturation and hue are
    adjusted in a random order, with torchvision's definitions for float images; with
    ``grey_probability`` it becomes greyscale (in three channels); ``(x - mean) / std``.

    Every number is drawn by Philox4x32-10 from (``seed``, ``offset``, position in the batch), each sample its
    own: the same call gives the same batch, and all devices draw the same.

    Args:
        images: uint8 [M, H, W, 3].
        seed: 64-bit key of the draws.
        offset: 64-bit counter of the draws: the batch's number, say. Another one, other draws.
        index: int64 [B], rows of ``images``; None: all, in order.
        delta: Perturbations [M, H, W, 3], gathered by the same index: float32 in [0,1] units, or
            int8 or int16 in units of 1/255; None: none.
        padding: Black pixels on each side before the crop.
        flip: Whether half of the samples are mirrored.
        brightness: Factors are uniform in [max(0, 1-brightness), 1+brightness]; 0: left out.
        contrast: Likewise; blends with the mean of the greyscale image.
        saturation: Likewise; blends with the greyscale image.
        hue: Shifts are uniform in [-hue, hue], in turns, at most 0.5; 0: left out.
        jitter_probability: Share of the samples whose colours are adjusted.
        grey_probability: Share of the samples that become greyscale.
        mean: Three numbers, or a float32 tensor [3] on the images' device (which saves a copy to a GPU).
        std: Likewise.
        dtype: Of the result: float32, bfloat16 or float16.

    Returns:
        [B, 3, H, W], channels_last.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape or device, or a number out of its range.
        RuntimeError: An index outside [0, M). On CUDA a device-side trap that the next synchronisation meets.
    """
    op = "augment"
    check_dtype(op, "images", images, [torch.uint8])
    if images.dim() != 4 or images.shape[3] != 3:
        raise ValueError(f"{op}: images must be [M, H, W, 3], got {list(images.shape)}")
    if index is not None:
        check_dtype(op, "index", index, [torch.int64])
        if index.dim() != 1:
            raise ValueError(f"{op}: index must be [B], got {list(index.shape)}")
        check_device(op, "index", index, images, "images")
    if delta is not None:
        check_dtype(op, "delta", delta, [torch.float32, torch.int8, torch.int16])
        check_shape(op, "delta", delta, images.shape, "images")
        check_device(op, "delta", delta, images, "images")
    if dtype not in REDUCED:
        raise TypeError(f"{op}: dtype must be {names(REDUCED)}, got {names([dtype])}")
    check_number(op, "padding", padding, 0, 2**20)
    for name, strength in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        check_number(op, name, strength, 0, float("inf"))
    check_number(op, "hue", hue, 0, 0.5)
    check_number(op, "jitter_probability", jitter_probability, 0, 1)
    check_number(op, "grey_probability", grey_probability, 0, 1)
    for name, word in (("seed", seed), ("offset", offset)):
        if not -(2**63) <= word < 2**63:
            raise ValueError(f"{op}: {name} must fit 64 bits with sign, got {word}")
    mean = _channels(op, "mean", mean, images)
    std = _channels(op, "std", std, images)
    if use_native(images):
        return torch.ops.pst_fast.augment(
            images, index, delta, seed, offset, padding, flip, brightness, contrast, saturation, hue,
            jitter_probability, grey_probability, mean, std, dtype,
        )  # fmt: skip
    if index is not None:
        check_label_range(op, index, images.shape[0], "index")
    return reference.augment(
        images,
        seed=seed,
        offset=offset,
        index=index,
        delta=delta,
        padding=padding,
        flip=flip,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        jitter_probability=jitter_probability,
        grey_probability=grey_probability,
        mean=mean,
        std=std,
        dtype=dtype,
    )


def _channels(op: str, name: str, value: Tensor | Sequence[float] | None, images: Tensor) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        value = torch.tensor(value, dtype=torch.float32, device=images.device)
    check_dtype(op, name, value, [torch.float32])
    check_shape(op, name, value, [3], "an RGB image's channels")
    check_device(op, name, value, images, "images")
    return value


def _register() -> None:
    @torch.library.register_fake("pst_fast::augment")
    def _(
        images: Tensor,
        index: Tensor | None,
        delta: Tensor | None,
        seed: int,
        offset: int,
        padding: int,
        flip: bool,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        jitter_probability: float,
        grey_probability: float,
        mean: Tensor | None,
        std: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        batch = images.shape[0] if index is None else index.shape[0]
        height, width = images.shape[1:3]
        return images.new_empty((batch, height, width, 3), dtype=dtype).permute(0, 3, 1, 2)


if HAS_CPU:
    _register()
