"""TAP: targeted adversarial poisoning (Fowl et al., NeurIPS 2021)."""

from typing import ClassVar

from torch import Tensor

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.fixed import FixedReference, Recipe


@ATTACKS.register("tap")
class TargetedAdversarialPoisoning(FixedReference):
    """Adversarial examples of a plainly trained network, each driven to the class after its own."""

    paper = "Fowl et al., NeurIPS 2021 (arXiv 2106.10807)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(epochs=40, steps=250, relative_step=0.05, restarts=8),
        "fast": Recipe(epochs=10, steps=30, relative_step=0.1),
    }

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        return (labels + 1) % num_classes
