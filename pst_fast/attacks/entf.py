"""EntF: entangled features (Wen et al., ICLR 2023)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.features import class_means, without_classifier
from pst_fast.attacks.fixed import FixedReference, Objective, Recipe
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.reference import Training


@ATTACKS.register("entf")
class EntangledFeatures(FixedReference):
    """Every image is pushed away from the mean feature of its class, on an adversarially trained network."""

    paper = "Wen et al., ICLR 2023 (arXiv 2303.04183)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(Training(100, adversary=4 / 255, adversary_steps=10), steps=300, relative_step=0.05),
        "fast": Recipe(Training(6, adversary=4 / 255, adversary_steps=2), steps=30, relative_step=0.1),
    }

    def objective(self, task: CraftTask, network: nn.Module) -> Objective:
        model = frozen(without_classifier(network, len(task.data.classes)))
        means = class_means(task, model)

        def loss(features: Tensor, centres: Tensor) -> Tensor:
            return -(features - centres).square().sum(1).mean()

        def reached(features: Tensor, labels: Tensor) -> Tensor:
            return torch.cdist(features, means).argmin(1) != labels

        return Objective(model, loss, lambda labels: means[labels], reached)
