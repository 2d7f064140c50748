"""Attacks against a network that is trained first and stays as it is: each perturbation goes its own way."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast.attacks.base import Attack, CraftTask
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import L2PGD, PGD, LinfPGD, Loss, Transform, perturbed_inputs
from pst_fast.attacks.reference import Training, train_reference
from pst_fast.attacks.rows import Crafted, craft_rows
from pst_fast.attacks.transforms import shift_and_flip
from pst_fast.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Settings of the steps against the reference network.

    Attributes:
        training: Of that network.
        steps: Gradient steps on a perturbation.
        relative_step: Size of one of them as a fraction of epsilon.
        restarts: Random starts of a perturbation; that of the lowest loss is kept.
    """

    training: Training
    steps: int
    relative_step: float
    restarts: int = 1

    @property
    def training_share(self) -> float:
        """Of the work: passes through the network, a backward one for the weights' gradients among them."""
        training = self.training
        each = 3 + (2 * training.adversary_steps if training.adversary else 0)
        return training.epochs * each / (training.epochs * each + 2 * self.steps * self.restarts)


@dataclass(frozen=True)
class Objective:
    """What the perturbations of a batch are driven to.

    Attributes:
        model: The frozen network, or a part of it.
        loss: From its fp32 outputs and the goals to a scalar that the steps reduce.
        goals: From labels, int64 [B], to what the loss compares the outputs with.
        reached: From outputs and labels to whether each sample is where it should be, bool [B].
    """

    model: nn.Module
    loss: Loss
    goals: Callable[[Tensor], Tensor]
    reached: Callable[[Tensor, Tensor], Tensor]


class FixedReference(Attack):
    """Base: what a perturbation is driven to, a subclass says."""

    norm = "linf"
    norms = ("linf", "l2")
    epsilon = 8 / 255
    uses_model = True
    shared = True
    recipes: ClassVar[dict[str, Recipe]]

    def transform(self, num_classes: int) -> Transform:
        """Through which the network sees the images, in its training and in the steps."""
        return shift_and_flip

    @abstractmethod
    def objective(self, task: CraftTask, network: nn.Module) -> Objective:
        """For the network that has been trained."""

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train the reference network, then take the steps, batch by batch; both go on after a kill."""
        if len(task.data.classes) < 2:
            raise InputError(f"{type(self).__name__}: expected images of at least two classes, got one")
        recipe = self.recipe_of(task)
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        transform = self.transform(len(task.data.classes))
        network = train_reference(task, recipe.training, transform, share=recipe.training_share)
        aim = self.objective(task, network)
        pgd = (L2PGD if self.norm == "l2" else LinfPGD)(
            aim.model,
            step_size=recipe.relative_step * epsilon,
            epsilon=epsilon,
            loss=aim.loss,
            transform=transform,
        )

        def perturb(x: Tensor, labels: Tensor) -> Crafted:
            delta = best_start(pgd, x, aim.goals(labels), recipe)
            with torch.no_grad():
                outputs = aim.model(perturbed_inputs(x, delta)).float()
                return delta, aim.reached(outputs, labels).sum()

        steps, reached = craft_rows(
            task, epsilon, aim.model, perturb, after=recipe.training_share, norm=self.norm
        )
        task.facts["reached_target"] = reached
        task.progress(1.0, f"{reached:.1%} of the images reach their target on the reference network")
        return steps


def towards_classes(network: nn.Module, targets: Callable[[Tensor], Tensor]) -> Objective:
    """The network shall take an image for the class that ``targets`` names for its label."""
    return Objective(
        frozen(network),
        F.cross_entropy,
        targets,
        lambda outputs, labels: outputs.argmax(1) == targets(labels),
    )


def best_start(pgd: PGD, x: Tensor, goals: Tensor, recipe: Recipe) -> Tensor:
    """Steps from random starts, several times; of each sample the perturbation of the lowest loss."""
    best, lowest = torch.zeros_like(x), torch.full((len(x),), torch.inf, device=x.device)
    for _ in range(recipe.restarts):
        delta = pgd.start(x)
        pgd.run_(x, delta, goals, steps=recipe.steps)
        if recipe.restarts == 1:
            return delta
        with torch.no_grad():
            outputs = pgd.model(perturbed_inputs(x, delta)).float()
            each = zip(outputs.split(1), goals.split(1), strict=True)
            loss = torch.stack([pgd.loss(output, goal) for output, goal in each])
        is_better = loss < lowest
        lowest = torch.where(is_better, loss, lowest)
        best = torch.where(is_better.view(-1, 1, 1, 1), delta, best)
    return best
