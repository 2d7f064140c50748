"""AAP: augmented adversarial poisoning (Wang et al., ICML 2024)."""

from typing import ClassVar

from torch import nn

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.fixed import FixedReference, Objective, Recipe, towards_classes
from pst_fast.attacks.pgd import Transform
from pst_fast.attacks.reference import Training
from pst_fast.attacks.transforms import contrastive


@ATTACKS.register("aap")
class AugmentedAdversarialPoisoning(FixedReference):
    """`tap` under the augmentations of contrastive learning, in the network's training and in the steps."""

    paper = "Wang et al., ICML 2024 (arXiv 2402.04010)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(Training(40), steps=250, relative_step=0.01),
        "fast": Recipe(Training(10), steps=30, relative_step=0.1),
    }

    def transform(self, num_classes: int) -> Transform:
        return contrastive(0.8 if num_classes >= 100 else 0.4)

    def objective(self, task: CraftTask, network: nn.Module) -> Objective:
        return towards_classes(network, lambda labels: (labels + 1) % len(task.data.classes))
