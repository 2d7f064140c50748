"""REM and SEM: error-minimising noise for networks that are trained on disturbed images."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast import distributed, ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import MEAN, STD, perturbed_inputs
from pst_fast.attacks.rows import Crafted, craft_rows
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded
from pst_fast.attacks.transforms import shift_and_flip
from pst_fast.precision import autocast

STATE = "network.pt"
SAVES = 20
"""How often the network is put on the disk."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the network's training and of the perturbations that it meets.

    Attributes:
        train_steps: Batches that the network learns from.
        decay_every: After so many of them its learning rate is divided by ten.
        steps: Gradient steps on a perturbation.
        relative_step: Size of one of them as a fraction of epsilon.
        views: Random shifts and flips over which a step's gradient is summed.
        disturbance: Radius of what disturbs the perturbed images, as a fraction of epsilon.
        disturbance_steps: Gradient steps of an adversary that disturbs them.
        disturbance_step: Size of one of them as a fraction of that radius.
        batch_size: Images that the network learns from at a time.
    """

    train_steps: int
    decay_every: int
    steps: int
    relative_step: float
    views: int
    disturbance: float = 0.5
    disturbance_steps: int = 10
    disturbance_step: float = 0.2
    batch_size: int = 128


class DisturbedErrorMinimizing(Attack):
    """Base: minimise the loss of disturbed images over the perturbations; how they are disturbed is open.

    The network trains on disturbed, perturbed images, whose perturbations are made anew for each batch. With
    the network that comes out, the perturbations of all images are made at the end.
    """

    norm = "linf"
    epsilon = 8 / 255
    uses_model = True
    shared = True
    recipes: ClassVar[dict[str, Recipe]]

    @abstractmethod
    def disturb(self, model: nn.Module, inputs: Tensor, labels: Tensor, radius: float) -> Tensor:
        """What to add, within ``radius``, to a network's inputs [B,3,H,W]; it has no gradient."""

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train the network, then make the perturbations, batch by batch; both go on after a kill."""
        self.recipe = self.recipe_of(task)
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        model = frozen(self._train(task, epsilon))

        def perturb(x: Tensor, labels: Tensor) -> Crafted:
            delta = self.minimize(model, x, labels, epsilon)
            with torch.no_grad():
                return delta, (model(perturbed_inputs(x, delta)).argmax(1) != labels).sum()

        steps, error = craft_rows(task, epsilon, model, perturb, after=0.7)
        task.facts["train_error"] = error
        task.progress(1.0, f"training error {error:.1%}")
        return steps

    def minimize(self, model: nn.Module, x: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        """Perturbations, fp32 like ``x``, under which the disturbed images have a low loss."""
        recipe, radius = self.recipe, self.recipe.disturbance * epsilon / STD
        delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
        delta = (x + delta).clamp_(0, 1).sub_(x)
        inputs = perturbed_inputs(x, delta)
        mean, std = (x.new_full((x.shape[1],), value) for value in (MEAN, STD))
        for _ in range(recipe.steps):
            total = torch.zeros_like(inputs)
            for _ in range(recipe.views):
                leaf = inputs.detach().requires_grad_()
                seen = shift_and_flip(leaf)
                disturbed = seen + self.disturb(model, seen.detach(), labels, radius)
                total += input_gradient(model, disturbed, labels, leaf)
            ops.linf_step_(
                delta, total, x, step_size=recipe.relative_step * epsilon, epsilon=epsilon,
                mean=mean, std=std, out=inputs,
            )  # fmt: skip
        return delta

    def _train(self, task: CraftTask, epsilon: float) -> nn.Module:
        surrogate = Surrogate(task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
        distributed.on_main(lambda: self._learn(surrogate, task, epsilon))
        distributed.share_module_(surrogate.model)
        return surrogate.model

    def _learn(self, surrogate: Surrogate, task: CraftTask, epsilon: float) -> None:
        recipe = self.recipe
        order = BatchOrder(len(task.data), recipe.batch_size, task.seed)
        state = load_state(task.folder / STATE)
        if state is not None:
            surrogate.restore(state["surrogate"])
        radius = recipe.disturbance * epsilon / STD
        for step in range(state["steps"] if state else 0, recipe.train_steps):
            task.progress(0.7 * step / recipe.train_steps, f"batch {step + 1} of {recipe.train_steps}")
            x, labels = task.batch(order[step])
            for group in surrogate.optimizer.param_groups:
                group["lr"] = 0.1 * 0.1 ** (step // recipe.decay_every)
            with seeded(task.seed + 1 + step, task.device):
                surrogate.model.eval()
                delta = self.minimize(surrogate.model, x, labels, epsilon)
                seen = shift_and_flip(perturbed_inputs(x, delta))
                disturbed = seen + self.disturb(surrogate.model, seen, labels, radius)
                surrogate.train_step(disturbed, labels)
            if (step + 1) % max(1, recipe.train_steps // SAVES) == 0:
                save_state(task.folder / STATE, {"surrogate": surrogate.state(), "steps": step + 1})


def input_gradient(model: nn.Module, inputs: Tensor, labels: Tensor, leaf: Tensor) -> Tensor:
    """Of the cross-entropy, with respect to the leaf that the inputs were made from."""
    with autocast(inputs.device):
        logits = model(inputs)
    (grad,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels), leaf)
    return grad


@ATTACKS.register("rem")
class RobustErrorMinimizing(DisturbedErrorMinimizing):
    """The images are disturbed by an adversary, so that adversarial training learns nothing either."""

    paper = "Fu et al., ICLR 2022 (arXiv 2203.14533)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(train_steps=5000, decay_every=2000, steps=10, relative_step=0.2, views=5),
        "fast": Recipe(
            train_steps=150,
            decay_every=75,
            steps=3,
            relative_step=0.4,
            views=1,
            disturbance_steps=1,
            disturbance_step=1.0,
        ),
    }

    def disturb(self, model: nn.Module, inputs: Tensor, labels: Tensor, radius: float) -> Tensor:
        step = self.recipe.disturbance_step * radius
        change = torch.empty_like(inputs).uniform_(-radius, radius)
        for _ in range(self.recipe.disturbance_steps):
            leaf = (inputs + change).requires_grad_()
            grad = input_gradient(model, leaf, labels, leaf)
            change = (change + step * grad.sign()).clamp_(-radius, radius)
        return change


@ATTACKS.register("sem")
class StableErrorMinimizing(DisturbedErrorMinimizing):
    """REM with uniform noise in the adversary's place."""

    paper = "Liu et al., AAAI 2024 (arXiv 2311.13091)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(train_steps=5000, decay_every=2000, steps=10, relative_step=0.2, views=5),
        "fast": Recipe(train_steps=150, decay_every=75, steps=3, relative_step=0.4, views=1),
    }

    def disturb(self, model: nn.Module, inputs: Tensor, labels: Tensor, radius: float) -> Tensor:
        return torch.empty_like(inputs).uniform_(-radius, radius)
