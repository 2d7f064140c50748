"""What report.html shows, as one JSON document."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pst_fast.cli.command import command_of
from pst_fast.cli.plan import NO_ATTACK
from pst_fast.errors import InputError
from pst_fast.report.metrics import Epoch, read_metrics
from pst_fast.report.pictures import pictures
from pst_fast.report.table import Figure, figure, subject, summarise, training_seconds, words

Row = Mapping[str, Any]
Key = tuple[str, str]

FIGURES = {
    "last": (100.0, 1),
    "recovered": (100.0, 1),
    "best": (100.0, 1),
    "seconds": (1.0, 0),
    "craft_seconds": (1.0, 0),
    "images_per_second": (1.0, 0),
}
"""Fields of :class:`pst_fast.report.table.Summary`, with the scale and the digits that they are shown by."""

MAX_POINTS = 150
"""Epochs of a run that are shown; of longer runs every other, third, ... one, and the last."""

MAX_EVENTS = 100
"""Events of a run that are shown, the first ones."""


def report_document(out: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Gather a run's results, curves and pictures.

    Numbers are rounded, and NaN is None. Names are kept as they are: whoever shows them escapes them.

    Args:
        out: The run's folder, with ``results.json``; the rows' ``folder`` entries are relative to it.
        rows: The rows of ``results.json``, at least one.

    Returns:
        JSON values: ``subject``, ``attacks``, ``defenses``, ``seeds``, ``stages``; ``cells`` (attack by
        attack) and ``baseline``; ``worst``, of each defense; ``pictures``; ``command`` and ``environment``.

    Raises:
        InputError: ``results.json`` or a run's ``metrics.jsonl`` is missing or damaged.
    """
    results = _read_results(out / "results.json")
    settings = results["settings"]
    attacks = _names(settings["attacks"], (row["attack"] for row in rows))
    defenses = _names(settings["defenses"], (row["defense"] for row in rows))
    finished, failed = _by_cell(rows), _by_cell(results.get("failures", []))
    keys = [(attack, defense) for attack in attacks for defense in defenses]
    cells = [_cell(out, key, finished.get(key, []), failed.get(key, [])) for key in keys]
    return {
        "subject": subject(rows),
        "attacks": attacks,
        "no_attack": NO_ATTACK,
        "defenses": defenses,
        "seeds": list(settings["seeds"]),
        "stages": list(rows[0]["stages"]),
        "cells": cells,
        "baseline": _baseline(out, rows),
        "worst": [_worst(defense, cells) for defense in defenses],
        "pictures": pictures(out, rows),
        "command": command_of(settings),
        "environment": results["environment"],
    }


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: expected the results of a run, found no such file") from None
    except ValueError:
        results = None
    if not isinstance(results, dict) or not {"settings", "environment"} <= set(results):
        raise InputError(f"{path}: expected an object with rows, environment and settings")
    return results


def _names(asked: Sequence[str], found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*asked, *found]))


def _by_cell(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    cells: dict[Key, list[Row]] = {}
    for row in rows:
        cells.setdefault((row["attack"], row["defense"]), []).append(row)
    return cells


def _cell(out: Path, key: Key, rows: Sequence[Row], failures: Sequence[Row]) -> dict[str, Any]:
    """One attack met by one defense.

    ``figures`` holds [mean, "mean ± spread"] over the finished seeds by the names in ``FIGURES``, or is None
    where there are none; ``runs`` has an entry for each of them, ``failures`` the ``seed`` and ``error`` of
    those that failed.
    """
    figures = None
    if rows:
        (summary,) = summarise(rows)
        figures = {name: _shown(getattr(summary, name), *how) for name, how in FIGURES.items()}
    return {
        "attack": key[0],
        "defense": key[1],
        "figures": figures,
        "runs": [_run(out, row) for row in rows],
        "failures": [{"seed": failure["seed"], "error": failure["error"]} for failure in failures],
    }


def _run(out: Path, row: Row) -> dict[str, Any]:
    return {
        "seed": row["seed"],
        "last": _rounded(row["last_accuracy"]),
        "best": _rounded(row["best_accuracy"]),
        "clean": _rounded(row["clean_accuracy"]),
        "craft_seconds": _rounded(row["seconds"]["craft"], 1),
        "seconds": _rounded(training_seconds(row), 1),
        "images_per_second": _rounded(row["images_per_second"], 1),
        "peak_memory_bytes": row["peak_memory_bytes"],
        **_curves(read_metrics(out / row["folder"]), row["stages"]),
    }


def _baseline(out: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Plain training on the clean data, which every row is compared with: ``last`` and ``runs``, by seed."""
    accuracies = {row["seed"]: row["clean_accuracy"] for row in rows}
    runs = []
    for seed, accuracy in accuracies.items():
        folder = out / "train" / NO_ATTACK / f"erm-seed{seed}"
        curves = _curves(read_metrics(folder), rows[0]["stages"])
        runs.append({"seed": seed, "last": _rounded(accuracy), **curves})
    return {"last": _shown(figure(list(accuracies.values())), *FIGURES["last"]), "runs": runs}


def _curves(epochs: Sequence[Epoch], stages: Sequence[str]) -> dict[str, Any]:
    """``epochs``, ``accuracy`` [epochs], ``acm`` and ``levels`` [stages, epochs], ``events``.

    ``acm`` and ``levels`` are empty where nothing was measured, or slowed. ``step`` is 1 unless the curves
    are thinned, ``more_events`` the number of events that are left out.
    """
    step = -(-len(epochs) // MAX_POINTS)
    shown = [epoch for i, epoch in enumerate(epochs) if i % step == 0 or i == len(epochs) - 1]
    measured = any(epoch.get("acm") for epoch in shown)
    slowed = any(level for epoch in shown for level in epoch.get("levels", {}).values())
    events = [event for epoch in epochs for event in epoch.get("events", [])]
    return {
        "epochs": [epoch["epoch"] for epoch in shown],
        "accuracy": [_rounded(epoch["test_accuracy"]) for epoch in shown],
        "acm": [[_significant(epoch.get("acm", {}).get(name)) for epoch in shown] for name in stages]
        if measured
        else [],
        "levels": [[epoch.get("levels", {}).get(name, 0) for epoch in shown] for name in stages]
        if slowed
        else [],
        "events": [
            {
                "epoch": _rounded(event["epoch"], 2),
                "kind": event["kind"],
                "words": event["words"],
                "stages": event["stages"],
            }
            for event in events[:MAX_EVENTS]
        ],
        "step": step,
        "more_events": len(events[MAX_EVENTS:]),
    }


def _worst(defense: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The attack under which a defense ends lowest, and how many attacks it met (the clean data are none)."""
    mine = [cell for cell in cells if cell["defense"] == defense and cell["attack"] != NO_ATTACK]
    met = [cell for cell in mine if cell["figures"]]
    worst = min(met, key=lambda cell: cell["figures"]["last"][0], default=None)
    return {
        "defense": defense,
        "attack": worst and worst["attack"],
        "met": len(met),
        "of": len(mine),
    }


def _shown(value: Figure, scale: float, digits: int) -> list[float | str | None]:
    mean = _rounded(value.mean, 6)
    return [mean, "n/a" if mean is None else words(value, scale, digits)]


def _rounded(value: float, digits: int = 4) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _significant(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
