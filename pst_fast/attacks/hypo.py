"""HYPO: hypocritical perturbations (Tao et al., NeurIPS 2021)."""

from typing import ClassVar

from torch import nn

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.fixed import FixedReference, Objective, Recipe, towards_classes
from pst_fast.attacks.reference import Training


@ATTACKS.register("hypo")
class HypocriticalPerturbation(FixedReference):
    """Images made easier than they are for an adversarially trained network: each driven to its class."""

    paper = "Tao et al., NeurIPS 2021 (arXiv 2102.04716)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(Training(10, adversary=2 / 255), steps=100, relative_step=0.1),
        "fast": Recipe(Training(6, adversary=2 / 255, adversary_steps=2), steps=20, relative_step=0.2),
    }

    def objective(self, task: CraftTask, network: nn.Module) -> Objective:
        return towards_classes(network, lambda labels: labels)
