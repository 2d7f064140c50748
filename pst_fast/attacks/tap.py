"""TAP: targeted adversarial poisoning (Fowl et al., NeurIPS 2021)."""

from typing import ClassVar

from torch import nn

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.fixed import FixedReference, Objective, Recipe, towards_classes
from pst_fast.attacks.reference import Training


@ATTACKS.register("tap")
class TargetedAdversarialPoisoning(FixedReference):
    """Adversarial examples of a plainly trained network, each driven to the class after its own."""

    paper = "Fowl et al., NeurIPS 2021 (arXiv 2106.10807)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(Training(40), steps=250, relative_step=0.05, restarts=8),
        "fast": Recipe(Training(10), steps=30, relative_step=0.1),
    }

    def objective(self, task: CraftTask, network: nn.Module) -> Objective:
        return towards_classes(network, lambda labels: (labels + 1) % len(task.data.classes))
