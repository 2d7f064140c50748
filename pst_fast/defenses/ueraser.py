"""UEraser (Qin et al., 2023, arXiv 2303.15127): augmentations that are chosen against the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.errors import InputError
from pst_fast.precision import autocast
from pst_fast.train.augmentation import denormalise, renormalise

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit

DRAWS = 5
"""Augmented copies of an image, of which the one with the highest loss is learned."""


class _AdversarialAugmentations(Defense):
    """Plasma brightness and contrast, shuffled channels and TrivialAugment, of kornia.

    Attributes:
        adversarial: Share of the training, from its start, in which the hardest of five draws is learned;
            afterwards it is a single draw.
    """

    adversarial: ClassVar[float]

    def start(self, fit: Fit) -> None:
        self._fit = fit
        self._augment = _augmentations()
        self._steps = 0
        self._hard_steps = self.adversarial * fit.epochs * len(fit.loader)

    def transform(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = denormalise(inputs)
        draws = DRAWS if self._steps < self._hard_steps else 1
        self._steps += 1
        views = torch.stack([renormalise(self._augment(images).clamp(0, 1)) for _ in range(draws)])
        if draws == 1:
            return views[0], labels
        hardest = self._losses(views, labels).argmax(0)
        return views[hardest, torch.arange(len(labels), device=labels.device)], labels

    @torch.no_grad()
    def _losses(self, views: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropies [D,B] of views [D,B,3,H,W], the batch norms' running statistics left alone."""
        model, fit = self._fit.model, self._fit
        model.eval()
        with autocast(fit.device, fit.bf16):
            losses = [F.cross_entropy(model(view).float(), labels, reduction="none") for view in views]
        model.train()
        return torch.stack(losses)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]


@DEFENSES.register("ueraser")
class UEraser(_AdversarialAugmentations):
    """The hardest of five draws in the first quarter of the training, one draw afterwards."""

    summary: ClassVar[str] = "strong augmentations (kornia), at first the hardest of five draws"
    adversarial: ClassVar[float] = 0.25


@DEFENSES.register("ueraser-max")
class UEraserMax(_AdversarialAugmentations):
    """The hardest of five draws, throughout."""

    summary: ClassVar[str] = "strong augmentations (kornia), the hardest of five draws throughout"
    adversarial: ClassVar[float] = 1.0


def _augmentations() -> nn.Module:
    try:
        import kornia.augmentation as kornia
    except ImportError as error:
        raise InputError("--defenses ueraser needs kornia: pip install 'pst_fast[rivals]'") from error
    return nn.Sequential(
        kornia.RandomPlasmaBrightness(roughness=(0.1, 0.7), intensity=(0.0, 1.0), p=1.0),
        kornia.RandomPlasmaContrast(roughness=(0.1, 0.7), p=1.0),
        kornia.RandomChannelShuffle(p=0.5),
        kornia.auto.TrivialAugment(),
    )
