"""A surrogate network and the perturbations of its images, each following the other in turns."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pst_fast import distributed
from pst_fast.attacks.base import CraftTask
from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.integers import round_to_ball
from pst_fast.attacks.pgd import LinfPGD, Transform, crafting_batch, perturbed_inputs
from pst_fast.attacks.quantized import DeviceBank, MappedBank, QuantizedBank
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded
from pst_fast.distributed import Shard

STATE = "state.pt"


@dataclass(frozen=True)
class Recipe:
    """Settings of the alternation between network and perturbations.

    Attributes:
        steps: Gradient steps on a perturbation each time it is met.
        relative_step: Size of one of them as a fraction of epsilon.
        train_batches: Batches that the network learns from in a round; None: an epoch of them.
        max_rounds: Where to stop if the training error never falls below ``stop_error``.
        stop_error: Training error on perturbed images at which the noise has done its work.
        batch_size: Images that the network learns from at a time.
        subset: Fraction of each class whose images shape the perturbations.
    """

    steps: int
    relative_step: float
    train_batches: int | None
    max_rounds: int
    stop_error: float = 0.01
    batch_size: int = 512
    subset: float = 1.0


class Alternation(ABC):
    """The turns; what the perturbations are, a subclass says.

    Attributes:
        transform: Through which the network sees the images, in its training and in the steps, or None.
    """

    def __init__(self, task: CraftTask, recipe: Recipe, epsilon: float) -> None:
        self.task, self.recipe, self.epsilon = task, recipe, epsilon
        self.round, self.error = 0, 1.0
        self.shape, self.labels = tuple(task.data.images.shape), torch.from_numpy(task.data.labels)
        fits = distributed.broadcast(self._fits_on_the_device())
        self.on_device = self._copied() if fits else None
        self.surrogate = Surrogate(
            task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4, adapt=self._adapt
        )
        self.order = BatchOrder(len(task.data), recipe.batch_size, task.seed)
        self.train_batches = recipe.train_batches or len(task.data) // self.order.batch_size
        self.transform: Transform | None = None
        # Passes through the network, a backward one for the weights' gradients among those of learning.
        learning = 3 * self.train_batches * self.order.batch_size
        moving = 2 * recipe.steps * recipe.subset * len(task.data)
        self._learning_share = learning / (learning + moving)

    def _adapt(self, network: nn.Module) -> nn.Module:
        """The network that is trained, made of the task's."""
        return network

    def _learn(self, inputs: Tensor, labels: Tensor) -> None:
        """One step of the network on perturbed inputs."""
        self.surrogate.train_step(self.transform(inputs) if self.transform else inputs, labels)

    def _fits_on_the_device(self) -> bool:
        """Whether the images and one byte for each of their values are at most half of its free memory."""
        if self.task.device.type != "cuda":
            return False
        return 2 * self.task.data.images.nbytes <= torch.cuda.mem_get_info(self.task.device)[0] // 2

    def _copied(self) -> tuple[Tensor, Tensor]:
        images = np.ascontiguousarray(self.task.data.images)
        return torch.from_numpy(images).to(self.task.device), self.labels.to(self.task.device)

    @abstractmethod
    def perturbation(self, rows: Tensor) -> Tensor:
        """The perturbations of these samples like their images: fp32 [B,3,H,W] channels_last."""

    @abstractmethod
    def _minimize(self) -> float:
        """Move the perturbations; the training error with them."""

    @abstractmethod
    def steps(self) -> np.ndarray:
        """The perturbations in whole steps of 1/255, int8 or int16 [N or K,H,W,3]."""

    @abstractmethod
    def _noise(self) -> dict[str, Any]:
        """The state of the perturbations at the end of a round."""

    @abstractmethod
    def _start_noise(self, state: dict[str, Any] | None) -> None:
        """Go back to it, or begin."""

    def run(self) -> None:
        """Take turns until the training error is low enough; the state is saved after each round.

        Of several processes the main one trains the network.
        """
        self._start(load_state(self.task.folder / STATE))
        while self.round < self.recipe.max_rounds and self.error >= self.recipe.stop_error:
            with seeded(self.task.seed + 1 + self.round, self.task.device):
                distributed.on_main(self._train)
                distributed.share_module_(self.surrogate.model)
                self.error = self._minimize()
            self.round += 1
            if distributed.is_main():
                save_state(self.task.folder / STATE, self._state())

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x, fp32 [B,3,H,W] channels_last in [0,1], and labels, int64 [B], on the device that computes."""
        if self.on_device is None:
            return self.task.batch(rows.numpy())
        images, labels = self.on_device
        rows = rows.to(self.task.device)
        return images[rows].permute(0, 3, 1, 2).float().div_(255), labels[rows]

    def _train(self) -> None:
        for number in range(self.train_batches):
            self._tell(self._learning_share * number / self.train_batches, "the network learns")
            rows = torch.from_numpy(self.order[self.round * self.train_batches + number])
            x, labels = self.batch(rows)
            self._learn(perturbed_inputs(x, self.perturbation(rows)), labels)

    def descent(self) -> LinfPGD:
        """Steps that reduce the loss of the network as it is now."""
        return LinfPGD(
            frozen(self.surrogate.model),
            step_size=self.recipe.relative_step * self.epsilon,
            epsilon=self.epsilon,
            transform=self.transform,
        )

    def _tell_moving(self, done: float) -> None:
        self._tell(self._learning_share + (1 - self._learning_share) * done, "the perturbations follow")

    def _tell(self, inside: float, words: str) -> None:
        error = f", training error {self.error:.1%}" if self.round else ""
        fraction = (self.round + inside) / self.recipe.max_rounds
        self.task.progress(fraction, f"round {self.round + 1}{error}: {words}")

    def _state(self) -> dict[str, Any]:
        return {
            "surrogate": self.surrogate.state(),
            "noise": self._noise(),
            "round": self.round,
            "error": self.error,
        }

    def _start(self, state: dict[str, Any] | None) -> None:
        """Where a killed craft left off, or at the beginning."""
        self._start_noise(state and state["noise"])
        if state is not None:
            self.surrogate.restore(state["surrogate"])
            self.round, self.error = state["round"], state["error"]


class SampleWise(Alternation):
    """One perturbation a sample."""

    def __init__(self, task: CraftTask, recipe: Recipe, epsilon: float) -> None:
        super().__init__(task, recipe, epsilon)
        self.bank: QuantizedBank
        if self.on_device:
            self.bank = DeviceBank(self.shape, epsilon, task.device)
        else:
            self.bank = MappedBank(self.shape, epsilon, task.device, task.folder)

    def perturbation(self, rows: Tensor) -> Tensor:
        return self.bank.gather(rows)

    def _minimize(self) -> float:
        wrong = torch.zeros((), dtype=torch.int64, device=self.task.device)
        count, pgd = len(self.labels), self.descent()
        height, width = self.shape[1:3]
        step = distributed.broadcast(crafting_batch(pgd.model, height, width, self.task.device))
        starts, shard = range(0, count, step), distributed.beside_main()
        own = starts[shard.of(len(starts))]
        for number, start in enumerate(own):
            self._tell_moving(number / len(own))
            rows = torch.arange(start, min(start + step, count))
            x, labels = self.batch(rows)
            # Whatever is drawn for a block is drawn for it alone, whichever process crafts it.
            with seeded(self.task.seed + 1 + self.round * count + start, self.task.device):
                delta = pgd.run_(x, self.perturbation(rows), labels, steps=self.recipe.steps)
            self.bank.scatter_(rows, delta)
            wrong += _errors(pgd.model, x, delta, labels)
        blocks = [Shard(rank, shard.count).of(len(starts)) for rank in range(shard.count)]
        self.bank.end_round([slice(some.start * step, some.stop * step) for some in blocks])
        return distributed.sum_(wrong).item() / count

    def steps(self) -> np.ndarray:
        return self.bank.steps()

    def _noise(self) -> dict[str, Any]:
        return self.bank.state()

    def _start_noise(self, state: dict[str, Any] | None) -> None:
        if state is None:
            self.bank.begin()
        else:
            self.bank.restore(state)


class ClassWise(Alternation):
    """One perturbation a class, shaped by a fixed part of each class's images."""

    def __init__(self, task: CraftTask, recipe: Recipe, epsilon: float) -> None:
        super().__init__(task, recipe, epsilon)
        self.subset = stratified_rows(task.data.labels, recipe.subset, task.seed)
        # [K,H,W,3], so that what is taken of it is channels_last.
        self.delta = torch.zeros((len(task.data.classes), *self.shape[1:]), device=task.device)

    def perturbation(self, rows: Tensor) -> Tensor:
        labels = self.labels[rows]
        return self.delta[labels.to(self.delta.device)].permute(0, 3, 1, 2)

    def _batches(self) -> Iterator[Tensor]:
        for start in range(0, len(self.subset), self.recipe.batch_size):
            self._tell_moving(start / len(self.subset))
            yield torch.from_numpy(self.subset[start : start + self.recipe.batch_size])

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
            self.delta[label] = mean.clamp(-self.epsilon, self.epsilon)

    def steps(self) -> np.ndarray:
        return round_to_ball(self.delta.cpu().numpy(), self.epsilon)

    def _noise(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def _start_noise(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.delta.copy_(state["delta"])


def _errors(model: nn.Module, x: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(perturbed_inputs(x, delta)).argmax(1) != labels).sum()


def stratified_rows(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Shuffled rows, int64, of a fraction of each class (at least one image of it)."""
    rng = np.random.default_rng(seed)
    members = (rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels))
    return rng.permutation(np.concatenate([rows[: max(1, round(fraction * len(rows)))] for rows in members]))
