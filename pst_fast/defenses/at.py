"""Adversarial training (Madry et al., ICLR 2018, arXiv 1706.06083)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from pst_fast.attacks.pgd import MEAN, STD, LinfPGD
from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.train.augmentation import denormalise, renormalise

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit

EPSILON = 8 / 255
STEP_SIZE = 2 / 255
STEPS = 10


@DEFENSES.register("at")
class AdversarialTraining(Defense):
    """Every image is replaced by an adversarial example of 8/255: ten signed steps of 2/255, random start."""

    summary: ClassVar[str] = "adversarial training: PGD-10 of 8/255"

    def start(self, fit: Fit) -> None:
        self._model = fit.model
        self._pgd = LinfPGD(
            fit.model,
            step_size=STEP_SIZE,
            epsilon=EPSILON,
            ascend=True,
            transform=lambda inputs: renormalise(inputs * STD + MEAN),
        )

    def transform(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = denormalise(inputs).clamp_(0, 1)
        delta = torch.empty_like(x).uniform_(-EPSILON, EPSILON)
        delta = (x + delta).clamp_(0, 1).sub_(x)
        self._model.eval()
        self._pgd.run_(x, delta, labels, steps=STEPS)
        self._model.train()
        return renormalise(x + delta), labels
