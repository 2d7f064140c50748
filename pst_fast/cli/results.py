"""results.json: a row for each cell that is finished, a sentence for each that failed."""

from collections.abc import Mapping, Sequence
from typing import Any

from pst_fast.cli.plan import NO_ATTACK, Plan, settings_of
from pst_fast.cli.stages import attack_folder, clean_folder, output_of
from pst_fast.cli.tasks import Cell
from pst_fast.files import write_json
from pst_fast.manifest import environment, read_manifest

Row = dict[str, Any]

_UNTOUCHED = {"linf": 0.0, "l2": 0.0, "pixels": 0}


def row_of(plan: Plan, cell: Cell) -> Row:
    """The row of a finished cell (fields: docs/pipeline.md)."""
    prepared, trained = read_manifest(clean_folder(plan.out)), output_of(plan, cell.trained)
    facts = read_manifest(trained)["facts"]
    seconds = {"prepare": prepared["seconds"], "craft": 0.0, "apply": 0.0, **facts["seconds"]}
    budget: dict[str, float] = dict(_UNTOUCHED)
    if cell.attack != NO_ATTACK:
        folder = attack_folder(plan.out, cell.attack, cell.seed)
        bank = read_manifest(folder / "bank")
        seconds["craft"] = bank["facts"]["craft_seconds"]
        seconds["apply"] = read_manifest(folder / "poisoned")["seconds"]
        budget = bank["facts"]["budget"]
    return {
        "attack": cell.attack,
        "defense": cell.defense,
        "seed": cell.seed,
        "model": plan.train.model,
        "width": plan.train.width,
        "dataset": plan.dataset,
        "epochs": plan.train.epochs,
        "last_accuracy": facts["last_accuracy"],
        "best_accuracy": facts["best_accuracy"],
        "clean_accuracy": read_manifest(output_of(plan, cell.baseline))["facts"]["last_accuracy"],
        "seconds": seconds,
        "images_per_second": facts["images_per_second"],
        "peak_memory_bytes": facts["peak_memory_bytes"],
        "budget": budget,
        "stages": facts["stages"],
        "folder": trained.relative_to(plan.out).as_posix(),
    }


def write_results(plan: Plan, rows: Sequence[Row], failures: Mapping[Cell, str]) -> None:
    """Write ``results.json`` anew.

    Args:
        plan: The run.
        rows: Of the finished cells, in the plan's order.
        failures: Cell -> why it has no row.
    """
    missing = [
        {"attack": cell.attack, "defense": cell.defense, "seed": cell.seed, "error": error}
        for cell, error in failures.items()
    ]
    surroundings = {**environment(), "device": plan.device.type}
    write_json(
        plan.out / "results.json",
        {"rows": rows, "failures": missing, "environment": surroundings, "settings": settings_of(plan)},
    )
