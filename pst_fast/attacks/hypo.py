"""HYPO: hypocritical perturbations (Tao et al., NeurIPS 2021)."""

from typing import ClassVar

from torch import Tensor

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.fixed import FixedReference, Recipe


@ATTACKS.register("hypo")
class HypocriticalPerturbation(FixedReference):
    """Images made easier than they are for an adversarially trained network: each driven to its class."""

    paper = "Tao et al., NeurIPS 2021 (arXiv 2102.04716)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(epochs=10, steps=100, relative_step=0.1, adversary=2 / 255),
        "fast": Recipe(epochs=6, steps=20, relative_step=0.2, adversary=2 / 255, adversary_steps=2),
    }

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        return labels
