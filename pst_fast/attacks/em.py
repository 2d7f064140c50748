"""Error-minimising noise: perturbations that leave a network nothing to learn (Huang et al., ICLR 2021)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.integers import round_to_ball
from pst_fast.attacks.pgd import LinfPGD, crafting_batch, perturbed_inputs
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded

STATE = "em-state.pt"


@dataclass(frozen=True)
class Recipe:
    """Settings of the alternation between network and perturbations.

    Attributes:
        steps: Gradient steps on a perturbation each time it is met.
        relative_step: Size of one of them as a fraction of epsilon.
        train_batches: Batches that the network learns from in a round.
        max_rounds: Where to stop if the training error never falls below ``stop_error``.
        stop_error: Training error on perturbed images at which the noise has done its work.
        batch_size: Images that the network learns from at a time.
        subset: Fraction of each class whose images shape the perturbations.
    """

    steps: int
    relative_step: float
    train_batches: int
    max_rounds: int
    stop_error: float = 0.01
    batch_size: int = 512
    subset: float = 1.0


class Alternation:
    """Network and perturbations, one per sample, in turns.

    The images and the perturbations lie on the device that computes if both fit, else in main memory.
    """

    def __init__(self, task: CraftTask, recipe: Recipe, epsilon: float, num_perturbations: int) -> None:
        self.task, self.recipe, self.epsilon = task, recipe, epsilon
        self.round, self.error = 0, 1.0
        shape = (num_perturbations, *task.data.images.shape[1:])
        storage = task.device
        if storage.type == "cuda":
            needed = task.data.images.nbytes + 4 * math.prod(shape)
            if needed > torch.cuda.mem_get_info(storage)[0] // 2:
                storage = torch.device("cpu")
        self.images = torch.from_numpy(np.ascontiguousarray(task.data.images)).to(storage)
        self.labels = torch.from_numpy(np.ascontiguousarray(task.data.labels)).to(storage)
        # NHWC, so that its slices are channels_last batches without a copy.
        self.delta = torch.zeros(shape, device=storage)
        self.surrogate = Surrogate(task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
        self.order = BatchOrder(len(task.data), recipe.batch_size, task.seed)

    def run(self) -> None:
        """Take turns until the training error is low enough; the state is saved after each round."""
        state = load_state(self.task.folder / STATE)
        if state is not None:
            self._restore(state)
        while self.round < self.recipe.max_rounds and self.error >= self.recipe.stop_error:
            with seeded(self.task.seed + 1 + self.round, self.task.device):
                self._train()
                self.error = self._minimize()
            self.round += 1
            save_state(self.task.folder / STATE, self._state())

    def batch(self, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """x, fp32 [B,3,H,W] channels_last in [0,1], and labels, int64 [B], on the device that computes."""
        x = self.images[rows].to(self.task.device).permute(0, 3, 1, 2).float().div_(255)
        return x, self.labels[rows].to(self.task.device)

    def perturbation(self, rows: slice | Tensor) -> Tensor:
        """The perturbations of these samples like their images: fp32 [B,3,H,W] channels_last."""
        return self.delta[rows].to(self.task.device).permute(0, 3, 1, 2)

    def _train(self) -> None:
        for number in range(self.recipe.train_batches):
            self._tell(0.1 * number / self.recipe.train_batches, "the network learns")
            rows = torch.from_numpy(self.order[self.round * self.recipe.train_batches + number])
            rows = rows.to(self.images.device)
            x, labels = self.batch(rows)
            self.surrogate.train_step(perturbed_inputs(x, self.perturbation(rows)), labels)

    def _minimize(self) -> float:
        wrong = torch.zeros((), dtype=torch.int64, device=self.task.device)
        count, pgd = len(self.labels), self.descent()
        height, width = self.images.shape[1:3]
        step = crafting_batch(pgd.model, height, width, self.task.device)
        for start in range(0, count, step):
            self._tell(0.1 + 0.9 * start / count, "the perturbations follow")
            rows = slice(start, start + step)
            x, labels = self.batch(rows)
            delta = pgd.run_(x, self.perturbation(rows), labels, steps=self.recipe.steps)
            if self.delta.device != delta.device:
                self.delta[rows] = delta.permute(0, 2, 3, 1).to(self.delta.device)
            wrong += _errors(pgd.model, x, delta, labels)
        return wrong.item() / count

    def descent(self) -> LinfPGD:
        """Steps that reduce the loss of the network as it is now."""
        return LinfPGD(
            frozen(self.surrogate.model),
            step_size=self.recipe.relative_step * self.epsilon,
            epsilon=self.epsilon,
        )

    def _tell(self, inside: float, words: str) -> None:
        error = f", training error {self.error:.1%}" if self.round else ""
        fraction = (self.round + inside) / self.recipe.max_rounds
        self.task.progress(fraction, f"round {self.round + 1}{error}: {words}")

    def _state(self) -> dict[str, Any]:
        return {
            "surrogate": self.surrogate.state(),
            "delta": self.delta,
            "round": self.round,
            "error": self.error,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.surrogate.restore(state["surrogate"])
        self.delta.copy_(state["delta"])
        self.round, self.error = state["round"], state["error"]


class _ClassWise(Alternation):
    """The same with one perturbation a class, shaped by a fixed part of each class's images."""

    def __init__(self, task: CraftTask, recipe: Recipe, epsilon: float) -> None:
        super().__init__(task, recipe, epsilon, len(task.data.classes))
        self.subset = stratified_rows(task.data.labels, recipe.subset, task.seed)

    def perturbation(self, rows: slice | Tensor) -> Tensor:
        return self.delta[self.labels[rows]].to(self.task.device).permute(0, 3, 1, 2)

    def _batches(self) -> Iterator[Tensor]:
        for start in range(0, len(self.subset), self.recipe.batch_size):
            self._tell(0.1 + 0.9 * start / len(self.subset), "the perturbations follow")
            yield torch.from_numpy(self.subset[start : start + self.recipe.batch_size]).to(self.labels.device)

    def _minimize(self) -> float:
        wrong = torch.zeros((), dtype=torch.int64, device=self.task.device)
        pgd = self.descent()
        for rows in self._batches():
            x, labels = self.batch(rows)
            delta = pgd.run_(x, self.perturbation(rows), labels, steps=self.recipe.steps)
            self._take_means(delta, labels)
        # The perturbations moved with every batch: the error counts with the last ones.
        for rows in self._batches():
            x, labels = self.batch(rows)
            wrong += _errors(pgd.model, x, self.perturbation(rows), labels)
        return wrong.item() / len(self.subset)

    def _take_means(self, delta: Tensor, labels: Tensor) -> None:
        """Replace the perturbation of each class that is in the batch by the mean of its samples'."""
        for label in labels.unique().tolist():
            mean = delta[labels == label].mean(0).permute(1, 2, 0)
            self.delta[label] = mean.clamp(-self.epsilon, self.epsilon).to(self.delta.device)


def _errors(model: nn.Module, x: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(perturbed_inputs(x, delta)).argmax(1) != labels).sum()


def stratified_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Shuffled rows, int64, of a fraction of each class (at least one image of it)."""
    rng = np.random.default_rng(seed)
    members = (rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels))
    return rng.permutation(np.concatenate([rows[: max(1, round(fraction * len(rows)))] for rows in members]))


# The fast presets take few steps in each of several rounds and do not stop early. Fewer rounds of more steps
# cost the same and fit the surrogate at once, but do not carry over: with two rounds of four steps its error
# was below 0.1 %, and a network trained afresh still learned the images.
@ATTACKS.register("em")
class ErrorMinimizing(Attack):
    """Sample-wise: the network learns a few batches, then every perturbation moves to reduce its loss."""

    paper = "Huang et al., ICLR 2021 (arXiv 2101.04898)"
    norm = "linf"
    epsilon = 8 / 255
    uses_model = True
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=20, relative_step=0.1, train_batches=10, max_rounds=100),
        "fast": Recipe(
            steps=1, relative_step=0.35, train_batches=25, max_rounds=6, stop_error=0.0, batch_size=128
        ),
    }

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train network and perturbations in turns, until the error is below the recipe's or rounds run out.

        After every round the state goes to the task's folder, and a craft that was killed goes on from
        there. The facts say how many rounds there were and which error the last one reached.
        """
        recipe = self.recipes[task.preset]
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        alternation = self._alternation(task, recipe, epsilon)
        alternation.run()
        task.facts.update(
            rounds=alternation.round, train_error=alternation.error, stop_error=recipe.stop_error
        )
        task.progress(1.0, f"{alternation.round} rounds, training error {alternation.error:.1%}")
        return round_to_ball(alternation.delta.cpu().numpy(), epsilon)

    def _alternation(self, task: CraftTask, recipe: Recipe, epsilon: float) -> Alternation:
        return Alternation(task, recipe, epsilon, len(task.data))


@ATTACKS.register("em-class")
class ClassWiseErrorMinimizing(ErrorMinimizing):
    """Class-wise: a class's perturbation is the mean of where a step takes those of its samples."""

    class_conditional = True
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(steps=1, relative_step=0.1, train_batches=10, max_rounds=100, subset=0.2),
        "fast": Recipe(
            steps=1,
            relative_step=0.2,
            train_batches=25,
            max_rounds=8,
            stop_error=0.0,
            batch_size=128,
            subset=0.2,
        ),
    }

    def _alternation(self, task: CraftTask, recipe: Recipe, epsilon: float) -> Alternation:
        return _ClassWise(task, recipe, epsilon)
