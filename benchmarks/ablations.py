"""What each part of `pst` and `pst-plus` is good for: one is changed at a time.

The variants are trained on the poisoned sets that a run of `pst_fast.run` has left, with that run's settings,
and compared by test accuracy after the last epoch. It goes on where it was stopped; `ablations.json` in the
run's folder holds what is finished.
"""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console

from pst_fast.cli.pipeline import attack_folder
from pst_fast.cli.terminal import Terminal
from pst_fast.defenses.base import DEFENSES, Defense
from pst_fast.defenses.ladder import STAGES, Stage
from pst_fast.defenses.pst import PST
from pst_fast.defenses.pst_plus import PSTPlus
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import environment, read_manifest
from pst_fast.pst import ActivationClusterMeasurement, OverThreshold, OverViews
from pst_fast.pst.schedule import THRESHOLD
from pst_fast.pst.trigger import Trigger
from pst_fast.train.loop import Fit
from pst_fast.train.settings import TrainSettings
from pst_fast.train.trainer import train


class _Limits(PST):
    summary: ClassVar[str] = "limits of ACM itself, at the three shallowest depths"

    def trigger(self, fit: Fit) -> Trigger:
        return OverThreshold(fit.acm, THRESHOLD)


class _Shallow(PST):
    summary: ClassVar[str] = "only the three shallowest depths are watched and slowed"

    def trigger(self, fit: Fit) -> Trigger:
        whole = super().trigger(fit)
        assert isinstance(whole, OverViews)
        return OverViews(whole.acm, whole.views, depth=3)


class _Pooled(PST):
    summary: ClassVar[str] = "ACM of globally pooled activations: where they cluster does not count"

    def trigger(self, fit: Fit) -> Trigger:
        own = fit.acm
        fit.acm = ActivationClusterMeasurement(fit.model, own.images, own.labels, grid=1, bf16=own.bf16)
        return super().trigger(fit)


class _Impatient(PST):
    summary: ClassVar[str] = "one check is enough"
    options: ClassVar[dict[str, Any]] = {**PST.options, "patience": 0}


class _NoRollback(PST):
    summary: ClassVar[str] = "stages are slowed, nothing is taken back"
    options: ClassVar[dict[str, Any]] = {**PST.options, "rollback": 0}


class _NoSlowing(PST):
    summary: ClassVar[str] = "training goes back, and on at the same rates"
    options: ClassVar[dict[str, Any]] = {**PST.options, "gamma": 1.0}


class _PlusImpatient(PSTPlus):
    summary: ClassVar[str] = "one check is enough"
    patience: ClassVar[int] = 0


class _PlusNoRollback(PSTPlus):
    summary: ClassVar[str] = "the view changes, nothing is taken back"
    rollback: ClassVar[int] = 0


class _PlusOneView(PSTPlus):
    summary: ClassVar[str] = "from the first stage straight to the strongest view"
    stages = (STAGES[0], STAGES[-1])


class _PlusNoFollowing(PSTPlus):
    summary: ClassVar[str] = "nothing is learned from the images as they are"
    stages = tuple(replace(stage, following=None) for stage in STAGES)


def _with_one_sign(number: int) -> tuple[Stage, ...]:
    return (replace(STAGES[0], signs=(STAGES[0].signs[number],)), *STAGES[1:])


class _PlusMedianSign(PSTPlus):
    summary: ClassVar[str] = "only what the median takes away tells of a trap"
    stages = _with_one_sign(0)


class _PlusGreySign(PSTPlus):
    summary: ClassVar[str] = "only what greyscale takes away tells of a trap"
    stages = _with_one_sign(1)


VARIANTS: dict[str, type[Defense]] = {
    "pst/limits": _Limits,
    "pst/shallow": _Shallow,
    "pst/pooled": _Pooled,
    "pst/impatient": _Impatient,
    "pst/no-rollback": _NoRollback,
    "pst/no-slowing": _NoSlowing,
    "pst-plus/impatient": _PlusImpatient,
    "pst-plus/no-rollback": _PlusNoRollback,
    "pst-plus/one-view": _PlusOneView,
    "pst-plus/no-following": _PlusNoFollowing,
    "pst-plus/median-sign": _PlusMedianSign,
    "pst-plus/grey-sign": _PlusGreySign,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's options."""
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--attacks", required=True, help="of that run, comma-separated")
    parser.add_argument(
        "--variants", default=",".join(VARIANTS), help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="one of that run's (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Train what is not there yet, and print a line for each."""
    with DEFENSES.extended(VARIANTS):
        _train(args.run, args.attacks.split(","), args.variants.split(","), args.seed)


def _train(run: Path, attacks: list[str], variants: list[str], seed: int) -> None:
    settings, device = _settings_of(run)
    summaries = {name: DEFENSES[name].summary for name in variants}
    terminal = Terminal(Console(stderr=True))
    rows: list[dict[str, Any]] = []
    for attack in attacks:
        poisoned = attack_folder(run, attack, seed) / "poisoned"
        if not poisoned.is_dir():
            raise InputError(f"--attacks {attack}: expected one that {run} has with seed {seed}")
        for name, summary in summaries.items():
            folder = run / "ablations" / attack / f"{name.replace('/', '-')}-seed{seed}"
            with terminal.stage(f"{attack} {name}") as report:
                train(
                    folder,
                    train_data=poisoned,
                    test_data=run / "clean",
                    settings=replace(settings, defense=name, seed=seed),
                    device=device,
                    progress=report,
                )
            facts = read_manifest(folder)["facts"]
            last, events = facts["last_accuracy"], len(facts["events"])
            rows.append(
                {"attack": attack, "variant": name, "seed": seed, "last_accuracy": last, "events": events}
            )
            write_json(run / "ablations.json", {"rows": rows, "environment": environment()})
            print(f"{attack:<12} {name:<22} {last:6.1%}  {summary}", flush=True)


def _settings_of(folder: Path) -> tuple[TrainSettings, torch.device]:
    path = folder / "results.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        known = {
            field.name: settings[field.name] for field in fields(TrainSettings) if field.name in settings
        }
        return TrainSettings(defense="erm", **known), torch.device(settings["device"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected the results of a run, but {error}") from error
