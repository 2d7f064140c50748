"""What each task of the graph does: the stages that it builds, and what a person is told of them."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pst_fast.cli.plan import NO_ATTACK, Plan
from pst_fast.cli.tasks import Task, graph
from pst_fast.cli.terminal import Report, clock, with_time_left
from pst_fast.data.perturbations import FILE
from pst_fast.errors import InputError
from pst_fast.manifest import MANIFEST, NotBuilt, looking, read_manifest


def clean_folder(out: Path) -> Path:
    """Where the prepared images lie."""
    return out / "clean"


def attack_folder(out: Path, attack: str, seed: int) -> Path:
    """Where an attack's ``bank`` and ``poisoned`` folders lie."""
    return out / "attacks" / f"{attack}-seed{seed}"


def train_folder(out: Path, attack: str, defense: str, seed: int) -> Path:
    """Where a training run's metrics lie."""
    return out / "train" / attack / f"{defense}-seed{seed}"


def output_of(plan: Plan, task: Task) -> Path:
    """The folder that a task makes last."""
    if task.kind == "prepare":
        return clean_folder(plan.out)
    if task.kind == "poison":
        return attack_folder(plan.out, task.attack, task.seed) / "poisoned"
    return train_folder(plan.out, task.attack, task.defense, task.seed)


def title_of(plan: Plan, task: Task) -> str:
    """What is shown while a task is under way."""
    if task.kind == "prepare":
        return f"prepare {plan.dataset}"
    if task.kind == "train":
        return f"train {task.label}"
    return f"read {plan.perturbation}" if task.attack == FILE else f"craft {task.label}"


def perform(plan: Plan, task: Task, report: Report) -> list[str]:
    """Build the stages of ``task`` that are not there yet.

    Args:
        plan: The run.
        task: Its needs are there.
        report: Called with (fraction done in [0,1], a few words).

    Returns:
        A line about each stage, for people.

    Raises:
        InputError: Something given cannot be used.
    """
    try:
        return {"prepare": _prepare, "poison": _poison, "train": _train}[task.kind](plan, task, report)
    except torch.OutOfMemoryError:
        raise InputError(
            f"the memory of {plan.device} does not hold it; "
            f"expected room, or a --batch-size of less than {plan.train.batch_size}"
        ) from None


def found(plan: Plan, task: Task) -> list[str] | None:
    """The lines about a task whose stages are all there and up to date; None where there is work to do."""
    if not (output_of(plan, task) / MANIFEST).is_file():
        return None
    try:
        with looking():
            return perform(plan, task, lambda fraction, words: None)
    except NotBuilt:
        return None


def tasks_to_do(plan: Plan) -> tuple[list[Task], list[Task]]:
    """The finished tasks of a plan, and the others, both in its order.

    Raises:
        InputError: The data set cannot be used.
    """
    finished: list[Task] = []
    to_do: list[Task] = []
    for task in graph(plan)[0]:
        try:
            there = set(task.needs) <= set(finished) and found(plan, task) is not None
        except InputError:
            if task.kind == "prepare":
                raise
            there = False
        (finished if there else to_do).append(task)
    return finished, to_do


def _prepare(plan: Plan, task: Task, report: Report) -> list[str]:
    from pst_fast.data.prepare import prepare

    def build() -> Path:
        return prepare(
            clean_folder(plan.out),
            dataset=plan.dataset,
            data_dir=plan.data_dir,
            image_size=plan.image_size,
            subset=plan.subset,
            num_classes=plan.num_classes,
            train_per_class=plan.train_per_class,
            test_per_class=plan.test_per_class,
            data_seed=plan.data_seed,
            test_part=plan.test_part,
            test_jpeg=plan.test_jpeg,
            progress=with_time_left(report),
        )

    line = _stage(title_of(plan, task), clean_folder(plan.out), build)
    _check_budgets(plan)
    return [line]


def _check_budgets(plan: Plan) -> None:
    """Raise InputError, before anything is trained, unless epsilon suits the attacks at this image size."""
    from pst_fast.attacks.base import ATTACKS

    size = read_manifest(clean_folder(plan.out))["facts"]["image_size"]
    for attack in plan.attacks:
        if attack not in (NO_ATTACK, FILE):
            ATTACKS[attack].in_norm(plan.norm).resolve_epsilon(plan.epsilon, size, size)


def _poison(plan: Plan, task: Task, report: Report) -> list[str]:
    from pst_fast.data import bank

    clean, folder = clean_folder(plan.out), attack_folder(plan.out, task.attack, task.seed)

    def craft() -> Path:
        return bank.craft(
            folder / "bank",
            clean,
            attack=task.attack,
            epsilon=plan.epsilon,
            norm=plan.norm,
            steps=plan.steps,
            preset=plan.preset,
            model=plan.surrogate,
            width=plan.surrogate_width,
            seed=task.seed,
            device=plan.device,
            progress=with_time_left(report),
        )

    def take() -> Path:
        assert plan.perturbation is not None
        return bank.import_bank(
            folder / "bank", clean, plan.perturbation, layout=plan.layout, apply_mode=plan.apply_mode
        )

    def apply() -> Path:
        return bank.apply(folder / "poisoned", clean, folder / "bank")

    return [
        _stage(title_of(plan, task), folder / "bank", take if task.attack == FILE else craft),
        _stage(f"apply {task.label}", folder / "poisoned", apply),
    ]


def _train(plan: Plan, task: Task, report: Report) -> list[str]:
    from pst_fast.train.trainer import train

    folder, clean = train_folder(plan.out, task.attack, task.defense, task.seed), clean_folder(plan.out)
    poisoned = attack_folder(plan.out, task.attack, task.seed) / "poisoned"

    def build() -> Path:
        return train(
            folder,
            train_data=clean if task.attack == NO_ATTACK else poisoned,
            test_data=clean,
            settings=dataclasses.replace(plan.train, defense=task.defense, seed=task.seed),
            device=plan.device,
            loader=plan.loader,
            progress=report,
        )

    return [_stage(title_of(plan, task), folder, build)]


def _stage(title: str, output: Path, build: Callable[[], Path]) -> str:
    """Build one stage; a line that says what came of it."""
    before = _stamp(output)
    started = time.monotonic()
    build()
    words = "there already" if _stamp(output) == before else f"done in {clock(time.monotonic() - started)}"
    return ", ".join([f"{title}: {words}", *_facts(read_manifest(output))])


def _stamp(output: Path) -> tuple[int, int] | None:
    manifest = output / MANIFEST
    if not manifest.is_file():
        return None
    status = manifest.stat()
    return status.st_ino, status.st_mtime_ns


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    """What a person wants to know of a finished stage."""
    kind, facts = manifest["kind"], manifest["facts"]
    if kind == "prepare":
        train, test = sum(facts["counts"]["train"]), sum(facts["counts"]["test"])
        side, converted = facts["image_size"], sum(facts["converted"].values())
        words = [f"{train} training and {test} test images of {side}x{side}, {len(facts['classes'])} classes"]
        return words + ([f"{converted} of them converted to RGB"] if converted else [])
    if kind == "craft":
        budget = facts["budget"]
        return [
            f"measured Linf {budget['linf'] * 255:.0f}/255",
            f"L2 {budget['l2']:.2f}",
            f"{budget['pixels']} pixels",
            *([f"read as {facts['layout']}"] if "layout" in facts else []),
            *facts.get("findings", []),
        ]
    if kind == "train":
        return [f"last {facts['last_accuracy']:.1%}", f"best {facts['best_accuracy']:.1%}"]
    return []
