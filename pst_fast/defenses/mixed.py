"""Training on mixtures of two images: torchvision's transforms as defenses."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torchvision.transforms import v2

from pst_fast.defenses.base import Defense

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


class Mixed(Defense):
    """Every batch is mixed with itself in another order, and its labels likewise.

    Attributes:
        mixing: Of ``torchvision.transforms.v2``, with the papers' Beta(1, 1).
    """

    mixing: ClassVar[type[v2.MixUp] | type[v2.CutMix]]

    def start(self, fit: Fit) -> None:
        self._mix = self.mixing(alpha=1.0, num_classes=fit.num_classes)

    def transform(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, targets = self._mix(inputs, labels)
        return mixed, targets
