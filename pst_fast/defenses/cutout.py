"""Cutout (DeVries and Taylor, 2017, arXiv 1708.04552)."""

from typing import ClassVar

import torch

from pst_fast.defenses.base import DEFENSES, Defense

SHARE = 0.5
"""Side of the square by that of the image: 16 of 32 pixels, as on CIFAR-10 in the paper."""


@DEFENSES.register("cutout")
class Cutout(Defense):
    """A square around a random pixel is set to the mean colour; it may reach beyond the edge."""

    summary: ClassVar[str] = "plain training with a square of half the side cut out of every image"

    def transform(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, _, height, width = inputs.shape
        side = round(SHARE * min(height, width))

        def inside(size: int) -> torch.Tensor:
            start = torch.randint(size, (count, 1), device=inputs.device) - side // 2
            position = torch.arange(size, device=inputs.device)
            return (position >= start) & (position < start + side)

        hole = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
        return inputs.masked_fill(hole, 0.0), labels
