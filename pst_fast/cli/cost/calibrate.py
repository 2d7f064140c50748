"""Short runs of the real thing on this machine, from which the time of the long ones is estimated.

A training is run in miniature: the same network, defense and batches, a few steps of each of a few epochs, on
a sample of the data set's own images. Crafts and purifications are begun at full size, and the time that they
have left is taken from what they report of their progress. All is done in a temporary folder.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.cli.cost.sizes import RunSize, chosen_of
from pst_fast.cli.plan import Plan
from pst_fast.data.bank import Bank, measure_bank
from pst_fast.data.beton import read_beton, write_beton
from pst_fast.data.datasets import DATASETS
from pst_fast.data.types import Batch, ImageSet
from pst_fast.defenses.base import DEFENSES, Defense, Purification
from pst_fast.errors import InputError
from pst_fast.files import sha256
from pst_fast.train.loop import Fit, Progress
from pst_fast.train.trainer import EVALUATION_BATCH, held_out_count

SAMPLE = 512
"""Images that are read for it."""
EPOCHS = 4
"""Of a training in miniature: what a defense does in a part of the training only falls into its part here."""
LEAST_WITH_CHECKS = 4
"""Steps of such an epoch, if the defense checks something after some steps."""
TRAINING_SECONDS = 8.0
CRAFTING_SECONDS = 8.0
"""Of a craft or a purification."""
LARGEST_SET = 1 << 31
"""Bytes of the largest set that these are begun on; of a larger one a part is taken, and the time scaled."""


@dataclass(frozen=True)
class TrainingCost:
    """What one training takes.

    Attributes:
        seconds: Of wall-clock time.
        flops_per_step: Of a step, as counted, or None where nothing was counted.
    """

    seconds: float
    flops_per_step: float


@dataclass(frozen=True)
class Sample:
    """Images of the run's data set, and how long it took to read one."""

    images: np.ndarray
    labels: np.ndarray
    seconds_each: float

    @classmethod
    def of(cls, size: RunSize) -> "Sample":
        """Read some of the training images, evenly over the classes."""
        source = DATASETS[size.plan.dataset](size.plan.data_dir)
        samples = chosen_of(size.plan, source)[1]["train"]
        some = np.linspace(0, len(samples.rows) - 1, min(SAMPLE, len(samples.rows))).astype(np.int64)
        rows = samples.rows[some]
        started = time.perf_counter()
        images = source.load("train", rows, size.data.image_size)
        return cls(images, samples.labels[some], (time.perf_counter() - started) / len(rows))

    def image_set(self, counts: tuple[int, ...]) -> ImageSet:
        """A set of so many images of each class, the sample's over and over."""
        labels = np.repeat(np.arange(len(counts)), counts)
        rows = np.empty(len(labels), np.int64)
        for label, count in enumerate(counts):
            own = np.flatnonzero(self.labels == label)
            rows[labels == label] = np.resize(own if len(own) else np.arange(len(self.labels)), count)
        order = np.random.default_rng(0).permutation(len(labels))
        classes = tuple(str(label) for label in range(len(counts)))
        return ImageSet(self.images[rows[order]], labels[order], np.arange(len(labels)), classes)


class Repeated:
    """A loader that gives one batch again and again, a few times an epoch."""

    cropped = False

    def __init__(self, batch: Batch, batches: int) -> None:
        self.batch_size = len(batch.labels)
        self.num_samples = batches * self.batch_size
        self.given = 0
        self._batch = batch
        self._batches = batches

    def __len__(self) -> int:
        return self._batches

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See :class:`~pst_fast.data.types.Loader`."""
        for _ in range(self._batches):
            self.given += 1
            yield self._batch


class Calibration:
    """Times the pieces of a run.

    Args:
        size: The run.
    """

    def __init__(self, size: RunSize) -> None:
        self.size = size
        self.plan: Plan = size.plan
        self.sample = Sample.of(size)
        self.classes = len(size.data.train)
        self._write_each: float | None = None

    def prepare(self) -> float:
        """Seconds of reading, resizing and writing all images."""
        count = self.size.images + sum(self.size.data.test)
        return count * (self.sample.seconds_each + self._written())

    def apply(self) -> float:
        """Seconds of adding a perturbation to all images, measuring it, and writing the result."""
        images, labels = self.sample.images, self.sample.labels
        index = np.arange(len(labels))
        data = ImageSet(images, labels, index, tuple(str(k) for k in range(self.classes)))
        bank = Bank(Path(), np.zeros(images.shape, np.int8), False, {}, None)
        started = time.perf_counter()
        measure_bank(data, bank)
        each = (time.perf_counter() - started) / len(labels)
        return self.size.images * (2 * each + 2 * self._written())

    def _written(self) -> float:
        """Seconds of writing, hashing and reading back one image."""
        if self._write_each is None:
            with tempfile.TemporaryDirectory() as folder:
                path, labels = Path(folder, "train.beton"), self.sample.labels
                started = time.perf_counter()
                write_beton(path, self.sample.images, labels, np.arange(len(labels)))
                sha256(path)
                read_beton(path).load_all()
                self._write_each = (time.perf_counter() - started) / len(labels)
        return self._write_each

    def training(self, defense: str) -> TrainingCost:
        """Run a training in miniature, and scale it up."""
        size, epochs = self.size, self.plan.train.epochs
        real = size.steps(defense)
        flops, steps = self._first_steps(defense)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            fit, loader, watched = self._fit(defense, EPOCHS, min(steps, real), Path(folder))
            start = (time.perf_counter() - started) * (real / len(loader) if loader.given else 1)
            started = time.perf_counter()
            fit.run()
            whole = time.perf_counter() - started
            started = time.perf_counter()
            fit.acm()
            acm = time.perf_counter() - started
        done = EPOCHS * len(loader)
        step = (fit.seconds["train"] - watched.seconds) / done
        check = watched.seconds / max(1, fit.defense.checks(done))
        saving = (whole - fit.seconds["train"] - fit.seconds["evaluate"]) / EPOCHS
        look = max(0.0, fit.seconds["evaluate"] / EPOCHS - acm) / _looks(fit)
        held_out = sum(held_out_count(count, fit.defense.held_out) for count in size.data.train)
        each = real * step + acm + (sum(size.data.test) + held_out) * look + saving
        if fit.defense.purifies:
            start += self._purifying(fit.defense)
        return TrainingCost(start + epochs * each + check * fit.defense.checks(epochs * real), flops)

    def _first_steps(self, defense: str) -> tuple[float, int]:
        """FLOPs of a step, and how many steps an epoch in miniature shall have; warms everything up."""
        with tempfile.TemporaryDirectory() as folder:
            fit, _, _ = self._fit(defense, 1, 2, Path(folder))
            whole, acm = FlopCounterMode(display=False), FlopCounterMode(display=False)
            with whole:
                fit.run()
            with acm:
                fit.acm()
            looks = _looks(fit) * self.size.network.forward_flops
            flops = (whole.get_total_flops() - acm.get_total_flops() - looks) / 2
        with tempfile.TemporaryDirectory() as folder:
            fit, _, _ = self._fit(defense, 1, 2, Path(folder))
            fit.run()
        steps = max(1, round(TRAINING_SECONDS / EPOCHS / (fit.seconds["train"] / 2)))
        if fit.defense.checks(EPOCHS * LEAST_WITH_CHECKS):
            steps = max(steps, LEAST_WITH_CHECKS)
        return flops, steps

    def _fit(self, defense: str, epochs: int, steps: int, folder: Path) -> tuple[Fit, Repeated, "_Watched"]:
        settings = replace(self.plan.train, defense=defense, seed=0, epochs=epochs)
        batch = self._batch(min(settings.batch_size, self.size.images))
        loader = Repeated(batch, steps)
        looks = self._batch(min(EVALUATION_BATCH, sum(self.size.data.test)))
        strategy = DEFENSES[defense]()
        fit = Fit(
            defense=strategy, loader=loader, test_loader=Repeated(looks, 1),
            held_out=Repeated(looks, 1) if strategy.held_out else None,
            probe=self._batch(self.size.data.probes), num_classes=self.classes, settings=settings,
            device=self.plan.device, folder=folder, progress=lambda fraction, words: None,
        )  # fmt: skip
        return fit, loader, _Watched(strategy)

    def _batch(self, count: int) -> Batch:
        rows = np.resize(np.random.default_rng(0).permutation(len(self.sample.labels)), count)
        return Batch(
            torch.from_numpy(self.sample.images[rows]).to(self.plan.device),
            torch.from_numpy(self.sample.labels[rows]).to(self.plan.device),
            torch.from_numpy(rows).to(self.plan.device),
        )

    def crafting(self, attack: str) -> float:
        """Seconds of a craft."""
        plan, kind = self.plan, ATTACKS[attack].in_norm(self.plan.norm)

        def craft(data: ImageSet, folder: Path, progress: Progress) -> None:
            task = CraftTask(
                data=data,
                epsilon=kind.resolve_epsilon(plan.epsilon, *data.images.shape[1:3]),
                preset=plan.preset,
                model=plan.surrogate,
                width=plan.surrogate_width,
                seed=0,
                device=plan.device,
                folder=folder,
                progress=progress,
                steps=plan.steps,
            )
            kind().craft(task)

        return self._paced(craft)

    def _purifying(self, defense: Defense) -> float:
        """Seconds of a purification."""
        plan = self.plan

        def purify(data: ImageSet, folder: Path, progress: Progress) -> None:
            task = Purification(
                data=data, seed=0, device=plan.device, folder=folder, progress=progress,
                width=plan.train.width,
            )  # fmt: skip
            for _ in defense.purify(task):
                pass

        return self._paced(purify)

    def _paced(self, work: Callable[[ImageSet, Path, Progress], None]) -> float:
        """Seconds of work on all images, by what it says of its progress after some seconds."""
        size = self.size
        parts = max(1, -(-size.images * size.data.image_bytes // LARGEST_SET))
        data = self.sample.image_set(tuple(max(1, count // parts) for count in size.data.train))
        clock = _Stopwatch(CRAFTING_SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            try:
                work(data, Path(folder), clock)
                seconds = clock.now()
            except _Enough:
                seconds = clock.whole()
        return seconds * size.images / len(data)


def _looks(fit: Fit) -> int:
    """Images that are evaluated in an epoch."""
    return fit.test_loader.num_samples + (fit.held_out.num_samples if fit.held_out else 0)


class _Watched:
    """Counts the seconds that a defense takes after steps."""

    def __init__(self, defense: Any) -> None:
        self.seconds = 0.0
        self._work: Callable[[], None] = defense.after_step
        defense.after_step = self

    def __call__(self) -> None:
        started = time.perf_counter()
        self._work()
        self.seconds += time.perf_counter() - started


class _Enough(BaseException):
    """A craft has told enough of its progress."""


class _Stopwatch:
    """Takes reports of progress, and ends the work when it knows its pace."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._started = time.perf_counter()
        self._reports: list[tuple[float, float]] = []

    def now(self) -> float:
        return time.perf_counter() - self._started

    def __call__(self, fraction: float, words: str) -> None:
        self._reports.append((self.now(), fraction))
        moved = self._reports[-1][1] > self._reports[0][1]
        if self.now() > self._limit and moved:
            raise _Enough

    def whole(self) -> float:
        """Seconds of all the work, the pace being that between the first report and the last."""
        (first, before), (last, after) = self._reports[0], self._reports[-1]
        if after <= before:
            raise InputError("--dry-run: expected progress to extrapolate from, got none")
        return first + (last - first) * (1 - before) / (after - before)
