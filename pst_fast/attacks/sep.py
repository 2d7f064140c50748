"""SEP: self-ensemble protection (Chen et al., ICLR 2023)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.features import class_means, without_classifier
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import MEAN, STD, perturbed_inputs
from pst_fast.attacks.reference import Training, train_reference
from pst_fast.attacks.rows import Crafted, craft_rows
from pst_fast.attacks.surrogate import load_state, save_state
from pst_fast.attacks.transforms import shift_and_flip
from pst_fast.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Settings of the ensemble and of the steps against it.

    Attributes:
        training: Of the network.
        checkpoints: Of it, at even distances, the last one included.
        steps: Rounds over all checkpoints.
        relative_step: Size of a step as a fraction of epsilon.
    """

    training: Training
    checkpoints: int
    steps: int
    relative_step: float

    def epochs(self) -> list[int]:
        """After which epochs a checkpoint is kept."""
        return [round(self.training.epochs * (k + 1) / self.checkpoints) for k in range(self.checkpoints)]


@dataclass(frozen=True)
class Member:
    """One checkpoint: its features, frozen, and the classes' means of them, fp32 [K,D]."""

    model: nn.Module
    means: Tensor


@ATTACKS.register("sep")
class SelfEnsembleProtection(Attack):
    """Features are driven to the mean of the class five on, on all checkpoints of one training.

    A round takes a step on every checkpoint in turn. Their gradients are corrected by what they differ from
    the ensemble's at the round's start, and add up over it; the sign of that sum is the round's own step.
    """

    paper = "Chen et al., ICLR 2023 (arXiv 2211.12005)"
    norm = "linf"
    epsilon = 2 / 255
    uses_model = True
    shared = True
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(Training(120), checkpoints=15, steps=30, relative_step=0.5),
        "fast": Recipe(Training(12), checkpoints=3, steps=5, relative_step=0.5),
    }

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train the network and keep its checkpoints, then take the steps; both go on after a kill."""
        classes = len(task.data.classes)
        if classes < 2:
            raise InputError("SelfEnsembleProtection: expected images of at least two classes, got one")
        recipe = self.recipe_of(task)
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        members = self._train(task, recipe)

        def perturb(x: Tensor, labels: Tensor) -> Crafted:
            targets = (labels + shift(classes)) % classes
            delta = minimize(members, x, targets, epsilon, recipe)
            with torch.no_grad():
                features = members[-1].model(perturbed_inputs(x, delta)).float()
            return delta, (torch.cdist(features, members[-1].means).argmin(1) == targets).sum()

        steps, reached = craft_rows(task, epsilon, members[0].model, perturb, after=0.4)
        task.facts["reached_target"] = reached
        task.progress(1.0, f"{reached:.1%} of the images reach their target on the last checkpoint")
        return steps

    def _train(self, task: CraftTask, recipe: Recipe) -> list[Member]:
        def keep(epochs: int, model: nn.Module) -> None:
            if epochs in recipe.epochs():
                save_state(_path(task, epochs), {"model": model.state_dict()})

        network = train_reference(task, recipe.training, shift_and_flip, share=0.4, kept=keep)
        members = []
        for epochs in recipe.epochs():
            state = load_state(_path(task, epochs))
            if state is None:
                raise InputError(f"{_path(task, epochs)}: expected a checkpoint, but it is missing")
            network.load_state_dict(state["model"])
            model = frozen(without_classifier(network, len(task.data.classes)))
            members.append(Member(model, class_means(task, model)))
        return members


def shift(num_classes: int) -> int:
    """How far the target is from the class: five, or half of the classes where there are few."""
    return 5 if num_classes > 5 else num_classes // 2


def minimize(members: list[Member], x: Tensor, targets: Tensor, epsilon: float, recipe: Recipe) -> Tensor:
    """Perturbations, fp32 like ``x``, that bring all members' features near the targets' means."""
    step_size = recipe.relative_step * epsilon
    mean, std = (x.new_full((x.shape[1],), value) for value in (MEAN, STD))
    delta = torch.zeros_like(x)
    for _ in range(recipe.steps):
        inputs = perturbed_inputs(x, delta)
        at_start = [_gradient(member, inputs, targets) for member in members]
        ensemble = torch.stack(at_start).mean(0)
        inner, total = delta.clone(), torch.zeros_like(ensemble)
        for number in torch.randperm(len(members)).tolist():
            grad = _gradient(members[number], inputs, targets)
            total += grad - (at_start[number] - ensemble)
            ops.linf_step_(
                inner, total, x, step_size=step_size, epsilon=epsilon, mean=mean, std=std, out=inputs
            )
        ops.linf_step_(delta, total, x, step_size=step_size, epsilon=epsilon)
    return delta


def _gradient(member: Member, inputs: Tensor, targets: Tensor) -> Tensor:
    leaf = inputs.detach().requires_grad_()
    distance = (member.model(leaf).float() - member.means[targets]).square().mean(1).sum()
    (grad,) = torch.autograd.grad(distance, leaf)
    return grad.float()


def _path(task: CraftTask, epochs: int) -> Path:
    return task.folder / f"checkpoint-{epochs}.pt"
