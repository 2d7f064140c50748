"""How large a run is: images, steps, files, arrays; counted, not measured."""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pst_fast.cli.plan import NO_ATTACK, Plan
from pst_fast.cli.stages import clean_folder
from pst_fast.cli.tasks import Task
from pst_fast.data.beton import beton_bytes
from pst_fast.data.datasets import DATASETS, SPLITS, Source, Split
from pst_fast.data.perturbations import FILE
from pst_fast.data.prepare import Samples, choose
from pst_fast.defenses.base import DEFENSES
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest
from pst_fast.models import create_model
from pst_fast.train.trainer import EVALUATION_BATCH, PROBES, held_out_count

FLOAT = 4


@dataclass(frozen=True)
class DataSize:
    """The prepared data set.

    Attributes:
        train, test: Images of each class.
        image_size: Side in pixels.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    image_size: int

    @property
    def image_bytes(self) -> int:
        """Of one image, uint8."""
        return 3 * self.image_size**2

    @property
    def probes(self) -> int:
        """Images on which ACM is measured."""
        each = max(2, PROBES // len(self.train))
        return sum(min(each, count) for count in self.train)


def data_size(plan: Plan, *, prepared: bool) -> DataSize | None:
    """The size of the data set: as prepared, or as the source says; None where it has to be fetched first.

    Args:
        plan: The run.
        prepared: Whether ``clean/`` is what the plan asks for.

    Raises:
        InputError: The data set cannot be used, or has less than is asked for.
    """
    if prepared:
        facts = read_manifest(clean_folder(plan.out))["facts"]
        train, test = (tuple(facts["counts"][split]) for split in SPLITS)
        return DataSize(train, test, facts["image_size"])
    source = DATASETS[plan.dataset](plan.data_dir)
    if getattr(source, "has_to_be_fetched", False):
        return None
    classes, chosen = chosen_of(plan, source)
    train, test = (
        tuple(np.bincount(chosen[split].labels, minlength=len(classes)).tolist()) for split in SPLITS
    )
    return DataSize(train, test, plan.image_size or source.image_size)


def chosen_of(plan: Plan, source: Source) -> tuple[list[str], dict[Split, Samples]]:
    """The classes and the samples that ``plan`` takes of its data set."""
    return choose(
        source, subset=plan.subset, num_classes=plan.num_classes, train_per_class=plan.train_per_class,
        test_per_class=plan.test_per_class, data_seed=plan.data_seed, test_part=plan.test_part,
    )  # fmt: skip


@dataclass(frozen=True)
class NetworkSize:
    """A network at one batch size, counted on the meta device.

    Attributes:
        parameters: How many.
        state_bytes: Of its weights and buffers.
        forward_flops: Of one image (a multiplication and an addition are two).
        training_flops: Of one image, forward and backward.
        saved_bytes: What the backward pass of one image needs kept.
        largest_bytes: The largest activation of one image.
    """

    parameters: int
    state_bytes: int
    forward_flops: int
    training_flops: int
    saved_bytes: int
    largest_bytes: int


@cache
def network_size(name: str, width: int, classes: int, image_size: int) -> NetworkSize:
    """Count on a batch of two images, of which batch norms can take statistics."""
    with torch.device("meta"):
        model = create_model(name, num_classes=classes, width=width, image_size=image_size)
        images = torch.empty(2, 3, image_size, image_size)
    largest = 0
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    alive: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            alive.append(tensor)  # so that no other storage takes the address
            kept[storage] = tensor.numel() * tensor.element_size()
        return tensor

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.numel() * output.element_size())

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), both:
        with forward:
            logits = model(images)
        logits.sum().backward()
    for hook in hooks:
        hook.remove()
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return NetworkSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        state_bytes=state,
        forward_flops=forward.get_total_flops() // 2,
        training_flops=both.get_total_flops() // 2,
        saved_bytes=sum(kept.values()) // 2,
        largest_bytes=largest // 2,
    )


@dataclass(frozen=True)
class RunSize:
    """A plan and its data."""

    plan: Plan
    data: DataSize

    @cached_property
    def network(self) -> NetworkSize:
        """The one that is trained."""
        train = self.plan.train
        return network_size(train.model, train.width, len(self.data.train), self.data.image_size)

    @property
    def images(self) -> int:
        """Training images."""
        return sum(self.data.train)

    def steps(self, defense: str) -> int:
        """Of an epoch of training."""
        share = DEFENSES[defense].held_out
        kept = self.images - sum(held_out_count(count, share) for count in self.data.train)
        batch = self.plan.train.batch_size
        return kept // batch if kept >= batch else math.ceil(kept / batch)

    def training_flops(self, defense: str, per_step: float | None = None) -> float:
        """Of a training with its evaluations and measurements; ``per_step`` where it is not plain."""
        plain = self.network.training_flops * min(self.plan.train.batch_size, self.images)
        step = plain if per_step is None else per_step
        looks = sum(self.data.test) + self.data.probes
        held_out = sum(held_out_count(count, DEFENSES[defense].held_out) for count in self.data.train)
        each = self.steps(defense) * step + (looks + held_out) * self.network.forward_flops
        return self.plan.train.epochs * each

    def disk_bytes(self, task: Task) -> dict[str, int]:
        """Stage -> bytes that a task leaves."""
        count, size = self.images, self.data.image_size
        if task.kind == "prepare":
            return {"prepare": beton_bytes(count, size) + beton_bytes(sum(self.data.test), size)}
        if task.kind == "poison":
            return {"craft": self.bank_bytes(task.attack), "apply": beton_bytes(count, size)}
        return {"train": self.network.state_bytes}

    def working_bytes(self, task: Task) -> int:
        """Bytes that a task has on disk for a while, beside what it leaves."""
        if task.kind == "poison":
            return 0 if task.attack == FILE else self.bank_bytes(task.attack)
        if task.kind != "train":
            return 0
        copies = 2 if DEFENSES[task.defense]().purifies else 0
        return self._checkpoint(task.defense) + copies * beton_bytes(self.images, self.data.image_size)

    def bank_bytes(self, attack: str) -> int:
        """Of the perturbations of an attack: a row for each image or class, in one or two bytes a value."""
        from pst_fast.attacks.base import ATTACKS

        if attack in (FILE, NO_ATTACK):
            return self.images * self.data.image_bytes
        kind, size = ATTACKS[attack].in_norm(self.plan.norm), self.data.image_size
        epsilon = kind.resolve_epsilon(self.plan.epsilon, size, size)
        steps = round(epsilon * 255)
        wide = kind.norm == "pixels" or ((kind.norm == "linf" or kind.uses_model) and steps > 127)
        rows = len(self.data.train) if kind.class_conditional else self.images
        return rows * self.data.image_bytes * (2 if wide else 1)

    def data_bytes(self, task: Task) -> int:
        """Images that a task holds in main memory (or on the device, in training), beside the network.

        Crafting maps its images and perturbations from their files; published ones are read whole.
        """
        whole = self.images * self.data.image_bytes
        if task.kind == "poison" and task.attack == FILE:
            return 3 * whole
        if task.kind == "train" and self.plan.loader in ("auto", "device"):
            return whole + sum(self.data.test) * self.data.image_bytes
        return 0

    def network_bytes(self, task: Task) -> int:
        """What a training takes beside its images: weights, gradients, momentum, snapshots, activations."""
        if task.kind != "train":
            return 0  # crafting takes batches that fit
        network = self.network
        batch = min(self.plan.train.batch_size, self.images)
        looks = min(EVALUATION_BATCH, sum(self.data.test))
        passing = max(batch * network.saved_bytes, 2 * looks * network.largest_bytes)
        probes = self.data.probes * self.data.image_bytes * (1 + FLOAT)
        return 2 * network.parameters * FLOAT + self._checkpoint(task.defense) + passing + probes

    def _checkpoint(self, defense: str) -> int:
        """Weights and momentum, once and in each snapshot of the defense."""
        one = self.network.state_bytes + self.network.parameters * FLOAT
        return one * (1 + DEFENSES[defense].snapshots)


def size_of(plan: Plan, *, prepared: bool) -> RunSize:
    """The size of a run.

    Raises:
        InputError: As :func:`data_size`, and where the data would have to be fetched first.
    """
    data = data_size(plan, prepared=prepared)
    if data is None:
        raise InputError(
            f"--dry-run: expected the files of {plan.dataset} to be there, since a plan fetches none; "
            "name their folder with --data-dir"
        )
    return RunSize(plan, data)
