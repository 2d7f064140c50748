"""From a data set to a table: prepare, craft, apply, train, report."""

import dataclasses
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pst_fast.cli.config import NO_ATTACK, Plan, settings_of
from pst_fast.cli.terminal import Report, Terminal, clock, with_time_left
from pst_fast.data.perturbations import FILE
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import MANIFEST, environment, read_manifest
from pst_fast.memory import keep_freed_memory

Row = dict[str, Any]

_UNTOUCHED = {"linf": 0.0, "l2": 0.0, "pixels": 0}


def run(plan: Plan, terminal: Terminal) -> list[Row]:
    """Run every stage of ``plan`` that is not there yet, and write the report.

    ``results.json`` is written anew after each cell (attack x defense x seed) that is finished. A cell that
    fails is told and left out, and the others go on.

    Returns:
        One row per attack, defense and seed: what ``results.json`` holds (see docs/pipeline.md).

    Raises:
        InputError: Something given cannot be used, another run works in ``plan.out``, or (once all others
            are finished) cells failed.
    """
    from pst_fast.report import write_report

    keep_freed_memory()
    with _only_run_in(plan.out):
        rows: list[Row] = []
        failures: list[str] = []
        clean = _prepare(plan, terminal)
        _check_budgets(plan, clean)
        for seed in plan.seeds:
            baseline = _train(plan, terminal, NO_ATTACK, "erm", seed, clean, clean)
            clean_accuracy = read_manifest(baseline)["facts"]["last_accuracy"]
            for attack in plan.attacks:
                with _surviving(terminal, f"{attack} seed {seed}", failures):
                    poisoned = clean if attack == NO_ATTACK else _poison(plan, terminal, attack, seed, clean)
                    for defense in plan.defenses:
                        with _surviving(terminal, f"{attack}/{defense} seed {seed}", failures):
                            is_baseline = (attack, defense) == (NO_ATTACK, "erm")
                            trained = (
                                baseline
                                if is_baseline
                                else _train(plan, terminal, attack, defense, seed, poisoned, clean)
                            )
                            rows.append(_row(plan, attack, defense, seed, clean, trained, clean_accuracy))
                            _write_results(plan, rows)
        if rows:
            write_report(plan.out, rows)
    if failures:
        raise InputError("; ".join(failures))
    return rows


@contextmanager
def _surviving(terminal: Terminal, cell: str, failures: list[str]) -> Iterator[None]:
    """Note a failure that is the cell's own, so that the others go on."""
    try:
        yield
    except InputError as error:
        failures.append(f"{cell} failed: {error}")
        terminal.say(failures[-1])


def _check_budgets(plan: Plan, clean: Path) -> None:
    """Raise InputError, before anything is trained, unless epsilon suits the attacks at this image size."""
    from pst_fast.attacks.base import ATTACKS

    size = read_manifest(clean)["facts"]["image_size"]
    for attack in plan.attacks:
        if attack not in (NO_ATTACK, FILE):
            ATTACKS[attack].resolve_epsilon(plan.epsilon, size, size)


def attack_folder(out: Path, attack: str, seed: int) -> Path:
    """Where an attack's ``bank`` and ``poisoned`` folders lie."""
    return out / "attacks" / f"{attack}-seed{seed}"


def train_folder(out: Path, attack: str, defense: str, seed: int) -> Path:
    """Where a training run's metrics lie."""
    return out / "train" / attack / f"{defense}-seed{seed}"


def _prepare(plan: Plan, terminal: Terminal) -> Path:
    from pst_fast.data.prepare import prepare

    def build(report: Report) -> Path:
        return prepare(
            plan.out / "clean",
            dataset=plan.dataset,
            data_dir=plan.data_dir,
            image_size=plan.image_size,
            num_classes=plan.num_classes,
            train_per_class=plan.train_per_class,
            test_per_class=plan.test_per_class,
            data_seed=plan.data_seed,
            test_part=plan.test_part,
            progress=with_time_left(report),
        )

    return _stage(terminal, f"prepare {plan.dataset}", plan.out / "clean", build)


def _poison(plan: Plan, terminal: Terminal, attack: str, seed: int, clean: Path) -> Path:
    from pst_fast.data import bank

    folder = attack_folder(plan.out, attack, seed)

    def craft(report: Report) -> Path:
        return bank.craft(
            folder / "bank",
            clean,
            attack=attack,
            epsilon=plan.epsilon,
            preset=plan.preset,
            model=plan.surrogate,
            width=plan.surrogate_width,
            seed=seed,
            device=plan.device,
            progress=with_time_left(report),
        )

    def take(report: Report) -> Path:
        assert plan.perturbation is not None
        return bank.import_bank(
            folder / "bank", clean, plan.perturbation, layout=plan.layout, apply_mode=plan.apply_mode
        )

    def apply(report: Report) -> Path:
        return bank.apply(folder / "poisoned", clean, folder / "bank")

    if attack == FILE:
        _stage(terminal, f"read {plan.perturbation}", folder / "bank", take)
    else:
        _stage(terminal, f"craft {attack} seed {seed}", folder / "bank", craft)
    return _stage(terminal, f"apply {attack} seed {seed}", folder / "poisoned", apply)


def _train(
    plan: Plan, terminal: Terminal, attack: str, defense: str, seed: int, train_data: Path, test_data: Path
) -> Path:
    from pst_fast.train.trainer import train

    folder = train_folder(plan.out, attack, defense, seed)

    def build(report: Report) -> Path:
        return train(
            folder,
            train_data=train_data,
            test_data=test_data,
            settings=dataclasses.replace(plan.train, defense=defense, seed=seed),
            device=plan.device,
            loader=plan.loader,
            progress=report,
        )

    return _stage(terminal, f"train {attack}/{defense} seed {seed}", folder, build)


def _stage(terminal: Terminal, title: str, output: Path, build: Callable[[Report], Path]) -> Path:
    """Build one stage under a live line, and leave a line that says what came of it."""
    before = _stamp(output)
    started = time.monotonic()
    with terminal.stage(title) as report:
        build(report)
    words = "there already" if _stamp(output) == before else f"done in {clock(time.monotonic() - started)}"
    terminal.say(", ".join([f"{title}: {words}", *_found(read_manifest(output))]))
    return output


def _found(manifest: Mapping[str, Any]) -> list[str]:
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


def _stamp(output: Path) -> tuple[int, int] | None:
    manifest = output / MANIFEST
    if not manifest.is_file():
        return None
    status = manifest.stat()
    return status.st_ino, status.st_mtime_ns


def _row(
    plan: Plan, attack: str, defense: str, seed: int, clean: Path, trained: Path, clean_accuracy: float
) -> Row:
    prepared, result = read_manifest(clean), read_manifest(trained)
    facts = result["facts"]
    seconds = {"prepare": prepared["seconds"], "craft": 0.0, "apply": 0.0, **facts["seconds"]}
    budget: dict[str, float] = dict(_UNTOUCHED)
    if attack != NO_ATTACK:
        folder = attack_folder(plan.out, attack, seed)
        bank = read_manifest(folder / "bank")
        seconds["craft"] = bank["facts"]["craft_seconds"]
        seconds["apply"] = read_manifest(folder / "poisoned")["seconds"]
        budget = bank["facts"]["budget"]
    return {
        "attack": attack,
        "defense": defense,
        "seed": seed,
        "model": plan.train.model,
        "width": plan.train.width,
        "dataset": plan.dataset,
        "epochs": plan.train.epochs,
        "last_accuracy": facts["last_accuracy"],
        "best_accuracy": facts["best_accuracy"],
        "clean_accuracy": clean_accuracy,
        "seconds": seconds,
        "images_per_second": facts["images_per_second"],
        "peak_memory_bytes": facts["peak_memory_bytes"],
        "budget": budget,
        "stages": facts["stages"],
        "folder": trained.relative_to(plan.out).as_posix(),
    }


def _write_results(plan: Plan, rows: list[Row]) -> None:
    surroundings = {**environment(), "device": plan.device.type}
    write_json(
        plan.out / "results.json",
        {"rows": rows, "environment": surroundings, "settings": settings_of(plan)},
    )


@contextmanager
def _only_run_in(out: Path) -> Iterator[None]:
    """Hold ``out`` for this process: two runs in one folder would take each other's working folders away."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out}: expected a folder, found a file in its place") from None
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out {out}: another run is at work there; wait for it or name another"
            ) from None
        yield
