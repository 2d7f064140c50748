"""The results as a table: one line per attack and defense, averaged over the seeds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]

COLUMNS = ("attack", "defense", "last", "best", "clean", "recovered", "seconds")


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation (None where there is one value only) over the seeds."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Summary:
    """One attack met by one defense, over its seeds.

    Attributes:
        last: Test accuracy in [0,1] after the last epoch.
        best: Of the best epoch, chosen with the test labels: an oracle, for comparison only.
        clean: Of plain training on clean data with the same seeds and budget, last epoch.
        recovered: last / clean, seed by seed.
        seconds: Of the training run, all its phases together.
        craft_seconds: Of crafting the attack, which all defenses that meet it share.
        images_per_second: Of training, evaluation left out.
    """

    attack: str
    defense: str
    seeds: int
    last: Figure
    best: Figure
    clean: Figure
    recovered: Figure
    seconds: Figure
    craft_seconds: Figure
    images_per_second: Figure


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Average the rows of ``results.json`` over the seeds, in the order in which the cells first come."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["attack"], row["defense"]), []).append(row)
    return [
        Summary(
            attack=attack,
            defense=defense,
            seeds=len(cell),
            last=figure([row["last_accuracy"] for row in cell]),
            best=figure([row["best_accuracy"] for row in cell]),
            clean=figure([row["clean_accuracy"] for row in cell]),
            recovered=figure([_ratio(row["last_accuracy"], row["clean_accuracy"]) for row in cell]),
            seconds=figure([training_seconds(row) for row in cell]),
            craft_seconds=figure([row["seconds"]["craft"] for row in cell]),
            images_per_second=figure([row["images_per_second"] for row in cell]),
        )
        for (attack, defense), cell in cells.items()
    ]


def figure(values: Sequence[float]) -> Figure:
    """Mean and spread of at least one value."""
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def training_seconds(row: Row) -> float:
    """Seconds of a row's training run, all its phases together (the data's phases are left out)."""
    return sum(value for phase, value in row["seconds"].items() if phase not in ("prepare", "craft", "apply"))


def markdown_table(rows: Sequence[Row]) -> str:
    """The table in Markdown, accuracies in per cent, with a line above that says what was run."""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * 2 + " ---: |" * (len(COLUMNS) - 2)
    lines = ["| " + " | ".join(_cells(summary)) + " |" for summary in summarise(rows)]
    return "\n".join([caption(rows), "", head, *lines, "", LEGEND, ""])


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Print the same table to a terminal."""
    table = Table()
    for position, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if position < 2 else "right", no_wrap=True)
    previous = None
    for summary in summarise(rows):
        if previous not in (None, summary.attack):
            table.add_section()
        previous = summary.attack
        table.add_row(*_cells(summary))
    console.print(caption(rows), highlight=False, markup=False)
    console.print(table)
    console.print(LEGEND, highlight=False, markup=False)


def caption(rows: Sequence[Row]) -> str:
    """What was run, and what the figures are."""
    return f"{subject(rows)}: test accuracy in %"


def subject(rows: Sequence[Row]) -> str:
    """One line: data set, network, epochs, seeds."""
    first = rows[0]
    seeds = sorted({row["seed"] for row in rows})
    names = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
    return (
        f"{first['dataset']}, {first['model']} of width {first['width']}, {first['epochs']} epochs, {names}"
    )


LEGEND = (
    "last: after the last epoch; best: best epoch, chosen on test labels (an oracle); clean: plain training "
    "on clean data; recovered: last / clean; ±: standard deviation over seeds."
)


def _cells(summary: Summary) -> list[str]:
    shares = (summary.last, summary.best, summary.clean, summary.recovered)
    return [
        summary.attack,
        summary.defense,
        *(words(f, 100.0) for f in shares),
        words(summary.seconds, 1.0, 0),
    ]


def words(figure: Figure, scale: float, digits: int = 1) -> str:
    """``mean ± spread``, or the mean alone where there is no spread, as the tables show them."""
    mean = f"{figure.mean * scale:.{digits}f}"
    return mean if figure.spread is None else f"{mean} ± {figure.spread * scale:.{digits}f}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
