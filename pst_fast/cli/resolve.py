"""From the flags to the plan: open ones are filled, and all is checked that can be beforehand."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from pst_fast.cli.checks import (
    at_least,
    check_attacks,
    check_list,
    check_model,
    in_range,
    parse_epsilon,
    parse_progressive,
    parse_seed,
    resolve_device,
)
from pst_fast.cli.executors.names import check_executor
from pst_fast.cli.flags import RunConfig
from pst_fast.cli.plan import Plan
from pst_fast.cli.recipes import BUDGETS, recipe_of
from pst_fast.data.perturbations import FILE, LAYOUTS
from pst_fast.errors import InputError
from pst_fast.train.resizing import trained_sizes
from pst_fast.train.settings import TrainSettings

T = TypeVar("T")

ALL = "all"
"""Stands for every attack or every defense."""


def resolve(config: RunConfig) -> Plan:
    """Fill the open flags from the data set's recipe, and check everything that can be checked beforehand.

    Raises:
        InputError: An unknown name, a number out of range, a device that is not there.
    """
    from pst_fast.attacks.base import ATTACKS
    from pst_fast.data.datasets import DATASETS
    from pst_fast.defenses.base import DEFENSES

    DATASETS[config.dataset]
    if config.budget is not None and config.budget not in BUDGETS:
        raise InputError(
            f"--budget {config.budget}: expected one of {', '.join(map(str, BUDGETS))}; "
            "--epochs takes any number"
        )
    recipe = recipe_of(config.dataset, config.budget)

    def given(name: str, kind: Callable[..., T]) -> T:
        value = getattr(config, name)
        return kind(getattr(recipe, name) if value is None else value)

    attacks = _with_all(_attacks(config, given("attacks", tuple)), ATTACKS.names())
    defenses = _with_all(given("defenses", tuple), DEFENSES.names())
    for flag, names in (("--attacks", attacks), ("--defenses", defenses), ("--seeds", config.seeds)):
        check_list(flag, names)
    for name in defenses:
        DEFENSES[name]
    epsilon = parse_epsilon(config.epsilon)
    check_attacks(attacks, epsilon, config.norm, config.steps)

    for flag in ("num_classes", "train_per_class", "test_per_class", "image_size"):
        if getattr(config, flag) is not None:
            at_least(1 if flag != "num_classes" else 2, flag, getattr(config, flag))
    progressive = recipe.progressive if config.progressive is None else config.progressive
    train = TrainSettings(
        defense="erm",
        model=given("model", str),
        width=at_least(1, "width", given("width", int)),
        epochs=at_least(1, "epochs", given("epochs", int)),
        batch_size=at_least(2, "batch_size", given("batch_size", int)),
        learning_rate=in_range("learning_rate", given("learning_rate", float), above=0.0),
        weight_decay=in_range("weight_decay", given("weight_decay", float)),
        warmup_epochs=in_range("warmup_epochs", given("warmup_epochs", float)),
        label_smoothing=in_range("label_smoothing", given("label_smoothing", float), below=1.0),
        random_resized_crop=given("random_resized_crop", bool),
        progressive=parse_progressive(progressive),
        eval_size=None if config.eval_size is None else at_least(8, "eval_size", config.eval_size),
        ema=in_range("ema", given("ema", float), below=1.0),
        amp=config.amp,
        compile=config.compile,
    )
    surrogate = train.model if config.surrogate is None else config.surrogate
    surrogate_width = train.width if config.surrogate_width is None else config.surrogate_width
    at_least(1, "surrogate_width", surrogate_width)
    image_size = config.image_size or recipe.image_size
    check_model(train.model, train.width, image_size, trained_sizes(train, image_size))
    check_model(surrogate, surrogate_width, image_size)
    remote = config.executor != "local" and config.device != "auto"
    device = torch.device(config.device) if remote else resolve_device(config.device)
    check_executor(config.executor, config.slurm)
    if config.threads is not None:
        at_least(1, "threads", config.threads)
    return Plan(
        dataset=config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        subset=config.subset,
        num_classes=config.num_classes,
        train_per_class=config.train_per_class,
        test_per_class=config.test_per_class,
        data_seed=at_least(0, "data_seed", config.data_seed),
        test_part=config.test_part,
        test_jpeg=config.test_jpeg,
        attacks=attacks,
        defenses=defenses,
        seeds=tuple(parse_seed(word) for word in config.seeds),
        perturbation=config.perturbation,
        layout=config.layout,
        apply_mode=config.apply_mode,
        epsilon=epsilon,
        norm=config.norm,
        steps=config.steps,
        preset="fast" if given("preset", str) == "fast" else "paper",
        surrogate=surrogate,
        surrogate_width=surrogate_width,
        train=train,
        loader=config.loader,
        device=device,
        executor=config.executor,
        workers=_workers(config, device),
        threads=config.threads,
        slurm=config.slurm,
        out=Path("runs") / config.dataset if config.out is None else config.out,
    )


def _workers(config: RunConfig, device: torch.device) -> int | None:
    """Tasks at a time; None where the executor decides."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if config.executor != "local" or config.workers not in (None, 1):
            raise InputError(
                f"--executor {config.executor} --workers {config.workers or 'open'}: expected neither under "
                "torchrun, whose processes share each task"
            )
        return 1
    if config.workers is not None:
        return at_least(1, "workers", config.workers)
    if config.executor != "local":
        return None
    return max(1, torch.cuda.device_count()) if device.type == "cuda" else 1


def _attacks(config: RunConfig, attacks: tuple[str, ...]) -> tuple[str, ...]:
    """The attacks by name; with --perturbation ``file`` alone, or after those that are asked for."""
    if config.perturbation is None:
        for flag, value in (("--layout", config.layout), ("--attacks", FILE if FILE in attacks else None)):
            if value is not None:
                raise InputError(f"{flag} {value}: expected --perturbation FILE beside it")
        return attacks
    if config.layout is not None and config.layout not in LAYOUTS:
        raise InputError(f"--layout {config.layout!r}: expected one of {', '.join(LAYOUTS)}")
    if not config.perturbation.exists():
        raise InputError(
            f"--perturbation {config.perturbation}: expected a file or folder, but there is none"
        )
    asked = config.attacks or ()
    return asked if FILE in asked else (*asked, FILE)


def _with_all(names: tuple[str, ...], every: Sequence[str]) -> tuple[str, ...]:
    """The names, with those that are not among them yet in the place of ``all``."""
    at = names.index(ALL) if ALL in names else len(names)
    rest = tuple(name for name in every if name not in names) if at < len(names) else ()
    return (*names[:at], *rest, *names[at + 1 :])
