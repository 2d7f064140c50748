"""A run with nothing left open."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pst_fast.data.frozen_subsets import Subset
from pst_fast.data.subset import Part
from pst_fast.train.settings import TrainSettings

NO_ATTACK = "none"
"""Stands for the clean data where the name of an attack is expected."""


@dataclass(frozen=True)
class Plan:
    """Every name is known, every number in range.

    Attributes:
        train: Settings that all training runs share; each run puts in its own defense and seed.
        epsilon: Budget on [0,1] images in the attacks' norm, or None for each paper's.
        The others are as in :class:`~pst_fast.cli.flags.RunConfig`.
    """

    dataset: str
    data_dir: Path | None
    image_size: int | None
    subset: Subset
    num_classes: int | None
    train_per_class: int | None
    test_per_class: int | None
    data_seed: int
    test_part: Part
    test_jpeg: int | None
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    seeds: tuple[int, ...]
    perturbation: Path | None
    layout: str | None
    apply_mode: Literal["paper", "released"]
    epsilon: float | None
    norm: Literal["linf", "l2"] | None
    steps: int | None
    preset: Literal["fast", "paper"]
    surrogate: str
    surrogate_width: int
    train: TrainSettings
    loader: Literal["auto", "device", "ffcv", "torch"]
    device: torch.device
    executor: str
    workers: int | None
    threads: int | None
    slurm: str | None
    out: Path


def settings_of(plan: Plan) -> dict[str, object]:
    """The plan as JSON values, for results.json."""
    settings = dataclasses.asdict(plan)
    train = settings.pop("train")
    for name in ("defense", "seed"):
        del train[name]
    for name in ("data_dir", "perturbation", "out", "device"):
        settings[name] = None if settings[name] is None else str(settings[name])
    return settings | train
