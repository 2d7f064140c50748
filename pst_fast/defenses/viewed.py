"""Plain training with every image shown under one fixed view: the compressions of ISS and their kin."""

from typing import ClassVar

import torch

from pst_fast import ops
from pst_fast.defenses.base import Defense
from pst_fast.ops import View


class Viewed(Defense):
    """Training images are degraded, then cropped and flipped; test images stay as they are.

    Attributes:
        degradation: What the images go through.
    """

    degradation: ClassVar[View]

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        return ops.degrade(images, [self.degradation], seed=seed, offset=step)
