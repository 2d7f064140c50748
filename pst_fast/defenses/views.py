"""Views of an image by name, and the static mix of them."""

from collections.abc import Mapping

import torch

from pst_fast import ops
from pst_fast.ops import View
from pst_fast.ops.reference_degrade import mirror_pad

#: Colour-keeping views by name.
VIEWS: dict[str, View] = {
    "raw": View(),
    "median": View.median(),
    "erase": View.erase(),
    "jpeg10": View.jpeg(10),
    "jpeg20": View.jpeg(20),
    "jpeg40": View.jpeg(40),
    "blur": View.blur(),
    "down-up": View.down_up(),
    "2-bit": View.bits(2),
    "3-bit": View.bits(3),
}
#: The share of each in the static mix.
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


def apply_mix(images: torch.Tensor, mix: Mapping[str, float], seed: int, step: int) -> torch.Tensor:
    """One view a sample, drawn from ``mix`` (name -> probability), the same way for the same seed and step.

    Args:
        images: uint8 [B,H,W,3], on any device.
    """
    views = [VIEWS[name] for name in mix]
    return ops.degrade(images, views, probabilities=list(mix.values()), seed=seed, offset=step)


def mirror_edges(images: torch.Tensor) -> torch.Tensor:
    """The outermost pixels of each side taken from inside, mirrored: a filter's border is not the image's.

    Args:
        images: uint8 [B,H,W,3]; they stay as they are where a side has less than three pixels.
    """
    return mirror_pad(images[:, 1:-1, 1:-1], 1) if min(images.shape[1:3]) >= 3 else images
