"""Attacks against a network that is trained first and stays as it is: each perturbation goes its own way."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast import ops
from pst_fast.attacks.base import Attack, CraftTask
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import LinfPGD, crafting_batch, perturbed_inputs
from pst_fast.attacks.rows import Crafted, craft_rows
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded
from pst_fast.attacks.transforms import shift_and_flip
from pst_fast.errors import InputError

STATE = "reference.pt"


@dataclass(frozen=True)
class Recipe:
    """Settings of the reference network and of the steps against it.

    Attributes:
        epochs: Of the network's training.
        steps: Gradient steps on a perturbation.
        relative_step: Size of one of them as a fraction of epsilon.
        restarts: Random starts of a perturbation; that of the lowest loss is kept.
        adversary: Radius, on [0,1] images, of the adversarial examples that the network is trained on; 0: it
            is trained on the images.
        adversary_steps: Gradient steps of those.
        batch_size: Images that the network learns from at a time.
    """

    epochs: int
    steps: int
    relative_step: float
    restarts: int = 1
    adversary: float = 0.0
    adversary_steps: int = 5
    batch_size: int = 128


class FixedReference(Attack):
    """Base: what a perturbation is driven to, a subclass says."""

    norm = "linf"
    epsilon = 8 / 255
    uses_model = True
    recipes: ClassVar[dict[str, Recipe]]

    @abstractmethod
    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """The classes, int64 [B], that the network shall take the perturbed images for."""

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train the reference network, then take the steps, batch by batch; both go on after a kill."""
        if len(task.data.classes) < 2:
            raise InputError(f"{type(self).__name__}: expected images of at least two classes, got one")
        recipe = self.recipes[task.preset]
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        model = frozen(train_reference(task, recipe, lambda done, words: task.progress(0.4 * done, words)))
        pgd = LinfPGD(
            model, step_size=recipe.relative_step * epsilon, epsilon=epsilon, transform=shift_and_flip
        )

        def perturb(x: Tensor, labels: Tensor) -> Crafted:
            targets = self.targets(labels, len(task.data.classes))
            delta = _best_start(pgd, x, targets, epsilon, recipe)
            with torch.no_grad():
                return delta, (model(perturbed_inputs(x, delta)).argmax(1) == targets).sum()

        height, width = task.data.images.shape[1:3]
        batch = crafting_batch(model, height, width, task.device)
        steps, reached = craft_rows(task, epsilon, batch, perturb, after=0.4)
        task.facts["reached_target"] = reached
        task.progress(1.0, f"{reached:.1%} of the images reach their target on the reference network")
        return steps


def train_reference(task: CraftTask, recipe: Recipe, progress: Callable[[float, str], None]) -> nn.Module:
    """The task's network, trained with crops and flips, a tenth of the rate from half of the epochs on, and a
    hundredth from three quarters on.
    """
    surrogate = Surrogate(task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
    order = BatchOrder(len(task.data), recipe.batch_size, task.seed)
    batches = len(task.data) // order.batch_size
    state = load_state(task.folder / STATE)
    first = 0
    if state is not None:
        surrogate.restore(state["surrogate"])
        first = state["epochs"]
    adversary = None
    if recipe.adversary:
        radius = recipe.adversary
        adversary = LinfPGD(surrogate.model, step_size=radius / 4, epsilon=radius, ascend=True)
    for epoch in range(first, recipe.epochs):
        for group in surrogate.optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** ((2 * epoch >= recipe.epochs) + (4 * epoch >= 3 * recipe.epochs))
        with seeded(task.seed + 1 + epoch, task.device):
            for number in range(batches):
                progress((epoch + number / batches) / recipe.epochs, f"reference network, epoch {epoch + 1}")
                rows = order[epoch * batches + number]
                images = torch.from_numpy(task.data.images[rows]).to(task.device)
                labels = torch.from_numpy(task.data.labels[rows]).to(task.device)
                padding = images.shape[1] // 8
                x = ops.augment(
                    images, seed=task.seed, offset=epoch * batches + number, padding=padding, flip=True
                )
                delta = torch.zeros_like(x)
                if adversary is not None:
                    surrogate.model.eval()
                    adversary.run_(x, delta, labels, steps=recipe.adversary_steps)
                surrogate.train_step(perturbed_inputs(x, delta), labels)
        save_state(task.folder / STATE, {"surrogate": surrogate.state(), "epochs": epoch + 1})
    return surrogate.model


def _best_start(pgd: LinfPGD, x: Tensor, targets: Tensor, epsilon: float, recipe: Recipe) -> Tensor:
    """Steps from normal noise, several times; of each sample the perturbation of the lowest loss."""
    best, lowest = torch.zeros_like(x), torch.full((len(x),), torch.inf, device=x.device)
    for _ in range(recipe.restarts):
        delta = (epsilon * torch.randn_like(x)).clamp_(-epsilon, epsilon)
        delta = (x + delta).clamp_(0, 1).sub_(x)
        pgd.run_(x, delta, targets, steps=recipe.steps)
        with torch.no_grad():
            loss = F.cross_entropy(pgd.model(perturbed_inputs(x, delta)).float(), targets, reduction="none")
        is_better = loss < lowest
        lowest = torch.where(is_better, loss, lowest)
        best = torch.where(is_better.view(-1, 1, 1, 1), delta, best)
    return best
