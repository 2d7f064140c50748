"""TUE: transferable unlearnable examples (Ren et al., ICLR 2023)."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast import ops
from pst_fast.attacks.alternation import Recipe, SampleWise
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.features import with_head
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import MEAN, STD, perturbed_inputs
from pst_fast.attacks.transforms import contrastive
from pst_fast.data.types import epoch_order
from pst_fast.precision import autocast

TEMPERATURE = 0.5
PROJECTION = 128
SEPARABILITY = 0.1
"""Weight of the classes' separability beside the contrastive loss."""

_VIEW = contrastive(1.0)


@ATTACKS.register("tue")
class TransferableUnlearnableExamples(Attack):
    """Easy for contrastive learning, which looks at no label, and by themselves apart by class."""

    paper = "Ren et al., ICLR 2023 (arXiv 2210.10114)"
    norm = "linf"
    epsilon = 8 / 255
    uses_model = True
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=20, relative_step=0.1, train_batches=None, max_rounds=40, stop_error=0.0),
        "fast": Recipe(
            steps=2, relative_step=0.35, train_batches=25, max_rounds=6, stop_error=0.0, batch_size=128
        ),
    }

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train encoder and perturbations in turns; goes on after a kill from the last whole round."""
        recipe = self.recipe_of(task)
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        alternation = ContrastiveAlternation(task, recipe, epsilon)
        alternation.run()
        task.facts["rounds"] = alternation.round
        task.progress(1.0, f"{alternation.round} rounds")
        return alternation.steps()


class ContrastiveAlternation(SampleWise):
    """An encoder with a projection learns to tell images apart; the perturbations help it."""

    def _adapt(self, network: nn.Module) -> nn.Module:
        def projection(features: int) -> nn.Module:
            return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTION))

        return with_head(network, len(self.task.data.classes), projection)

    def _learn(self, inputs: Tensor, labels: Tensor) -> None:
        self.surrogate.descend(torch.cat([_VIEW(inputs), _VIEW(inputs)]), contrastive_loss)

    def _shuffled(self) -> Iterator[Tensor]:
        """All rows, a batch at a time, none with a single image: others are what it is told from."""
        order = torch.from_numpy(epoch_order(len(self.labels), self.task.seed + 1, self.round))
        parts = list(order.split(self.recipe.batch_size))
        if len(parts) > 1 and len(parts[-1]) < self.recipe.batch_size // 2:
            parts[-2:] = [torch.cat(parts[-2:])]
        for number, rows in enumerate(parts):
            self._tell_moving(number / len(parts))
            yield rows

    def _minimize(self) -> float:
        model = frozen(self.surrogate.model)
        for rows in self._shuffled():
            x, labels = self.batch(rows)
            self.bank.scatter_(rows, self._steps(model, x, self.perturbation(rows), labels))
        self.bank.end_round()
        return 1.0  # there is no error to stop at

    def _steps(self, model: nn.Module, x: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
        mean, std = (x.new_full((x.shape[1],), value) for value in (MEAN, STD))
        inputs = perturbed_inputs(x, delta)
        for _ in range(self.recipe.steps):
            leaf, change = inputs.detach().requires_grad_(), delta.detach().clone().requires_grad_()
            with autocast(x.device):
                outputs = model(torch.cat([_VIEW(leaf), _VIEW(leaf)]))
            (grad,) = torch.autograd.grad(contrastive_loss(outputs.float()), leaf)
            (apart,) = torch.autograd.grad(separability(change, labels), change)
            # The inputs are (x + delta - MEAN) / STD.
            ops.linf_step_(
                delta, grad.float() / STD + SEPARABILITY * apart, x, mean=mean, std=std, out=inputs,
                step_size=self.recipe.relative_step * self.epsilon, epsilon=self.epsilon,
            )  # fmt: skip
        return delta


def contrastive_loss(outputs: Tensor) -> Tensor:
    """SimCLR's loss of projections [2B,D], row i + B being the other view of row i."""
    half = len(outputs) // 2
    directions = F.normalize(outputs.float(), dim=1)
    likeness = directions @ directions.T / TEMPERATURE
    likeness = likeness.masked_fill(torch.eye(2 * half, dtype=torch.bool, device=outputs.device), -torch.inf)
    return F.cross_entropy(likeness, torch.arange(2 * half, device=outputs.device).roll(half))


def separability(delta: Tensor, labels: Tensor) -> Tensor:
    """How badly perturbations [B,...] are apart by class: the smaller the better.

    For each pair of classes in the batch, the sum of their perturbations' mean distances to their centres
    over the distance of the centres; the mean of that over all pairs. Zero if there is one class only.
    """
    flat = delta.flatten(1)
    present, members = labels.unique(return_inverse=True)
    counts = members.bincount(minlength=len(present)).to(flat.dtype)
    centres = flat.new_zeros(len(present), flat.shape[1]).index_add(0, members, flat) / counts[:, None]
    spread = _norm(flat - centres[members])
    spread = spread.new_zeros(len(present)).index_add(0, members, spread) / counts
    first, second = torch.triu_indices(len(present), len(present), 1, device=flat.device)
    if len(first) == 0:
        return flat.sum() * 0
    return ((spread[first] + spread[second]) / _norm(centres[first] - centres[second])).mean()


def _norm(rows: Tensor) -> Tensor:
    return (rows.square().sum(1) + 1e-12).sqrt()  # with a gradient at zero: none
