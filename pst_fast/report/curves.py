"""curves.png: test accuracy and the ACM of each depth over the epochs, one line of panels per attack."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from pst_fast.cli.plan import NO_ATTACK
from pst_fast.files import replacing
from pst_fast.report.metrics import Epoch, read_metrics
from pst_fast.report.style import DEFENSE_COLOURS, STAGE_COLOURS, STYLE, context, level_colours

Row = Mapping[str, Any]
Runs = dict[str, list[list[Epoch]]]

MAX_ACM_PANELS = 3

# Inches. Panels are placed by hand: matplotlib's layout engines take seconds for a page of them.
_PANEL_WIDTH, _PANEL_HEIGHT = 3.3, 1.75
_STRIP_GAP, _STRIP_HEIGHT = 0.06, 0.45
_LEFT, _BETWEEN, _RIGHT = 0.6, 0.62, 0.12
_ABOVE, _BELOW, _LEGEND_LINE = 0.3, 0.42, 0.19


def draw_curves(path: Path, out: Path, rows: Sequence[Row]) -> None:
    """Draw the training runs of ``rows``.

    Test accuracy is averaged over the seeds, with the range over the seeds shaded; the ACM panels show
    the first seed, since roll-backs of different seeds do not fall together.

    Args:
        path: The PNG file to write.
        out: The run's folder; the rows' ``folder`` entries are relative to it.
        rows: The rows of ``results.json``.

    Raises:
        InputError: A run's ``metrics.jsonl`` is missing or damaged.
    """
    cells: dict[str, Runs] = {}
    for row in rows:
        runs = cells.setdefault(row["attack"], {}).setdefault(row["defense"], [])
        runs.append(read_metrics(out / row["folder"]))
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    folders = [out / "train" / NO_ATTACK / f"erm-seed{seed}" for seed in seeds]
    baseline = [read_metrics(folder) for folder in folders if folder.is_dir()]
    with context():
        figure = _Page(cells, baseline, list(rows[0]["stages"]), seeds[0]).draw()
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


class _Page:
    """The figure: what is on it, and where."""

    def __init__(
        self, cells: dict[str, Runs], baseline: list[list[Epoch]], stages: list[str], first_seed: int
    ) -> None:
        self.cells = cells
        self.baseline = baseline
        self.first_seed = first_seed
        defenses = list(dict.fromkeys(name for runs in cells.values() for name in runs))
        self.measured = _measured(cells, defenses)
        self.colours = {name: DEFENSE_COLOURS[i % len(DEFENSE_COLOURS)] for i, name in enumerate(defenses)}
        self.shades = {name: STAGE_COLOURS[i % len(STAGE_COLOURS)] for i, name in enumerate(stages)}
        self.staged = any(
            level
            for runs in cells.values()
            for name in self.measured
            for epoch in runs.get(name, [[]])[0]
            for level in epoch.get("levels", {}).values()
        )
        strip = _STRIP_GAP + _STRIP_HEIGHT if self.staged else 0.0
        self.line_height = _ABOVE + _PANEL_HEIGHT + strip + _BELOW
        self.legend_height = _LEGEND_LINE * max(-(-(len(defenses) + 1) // 3), 2) + 0.18
        columns = 1 + len(self.measured)
        self.width = _LEFT + columns * _PANEL_WIDTH + (columns - 1) * _BETWEEN + _RIGHT
        self.height = self.line_height * len(cells) + self.legend_height
        self.figure = Figure(figsize=(self.width, self.height), dpi=STYLE.dpi)

    def draw(self) -> Figure:
        for line, (attack, runs) in enumerate(self.cells.items()):
            axes = self._axes(line, 0)
            _draw_accuracy(axes, runs, self.baseline, self.colours)
            axes.set_title(
                "clean data" if attack == NO_ATTACK else attack, loc="left", fontweight="bold", fontsize=10
            )
            shown = [name for name in self.measured if name in runs]
            limits = _acm_limits([runs[name][0] for name in shown])
            for name in shown:
                column = 1 + self.measured.index(name)
                epochs = runs[name][0]
                panel = self._axes(line, column)
                _draw_acm(panel, epochs, self.shades, limits)
                panel.set_title(f"ACM under {name}, seed {self.first_seed}", loc="left")
                if self.staged:
                    panel.tick_params(labelbottom=False)
                    panel.set_xlabel("")
                    _draw_levels(self._axes(line, column, strip=True), epochs, list(self.shades))
        self._draw_legends()
        return self.figure

    def _axes(self, line: int, column: int, strip: bool = False) -> Axes:
        """The panel of a line and column (both from 0), or the strip under it."""
        left = _LEFT + column * (_PANEL_WIDTH + _BETWEEN)
        top = self.height - line * self.line_height - _ABOVE
        height = _PANEL_HEIGHT
        if strip:
            top -= _PANEL_HEIGHT + _STRIP_GAP
            height = _STRIP_HEIGHT
        elif column == 0 and self.staged:
            height += _STRIP_GAP + _STRIP_HEIGHT
        bottom = top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, _PANEL_WIDTH / self.width, height / self.height)
        )

    def _draw_legends(self) -> None:
        handles = [Line2D([], [], color=colour, label=name) for name, colour in self.colours.items()]
        if self.baseline:
            handles.append(Line2D([], [], color=STYLE.grey, linestyle="--", label="erm, clean data"))
        self._legend(handles, 0, 3)
        if not self.measured:
            return
        handles = [Line2D([], [], color=shade, label=name) for name, shade in self.shades.items()]
        if self.staged:
            handles += [
                Line2D([], [], color=STYLE.dark, linestyle=":", marker="v", markersize=4, label="roll-back"),
                Line2D(
                    [], [], color=level_colours(3)[2], linestyle="", marker="s", label="slowed; darker: more"
                ),
            ]
        self._legend(handles, 1, 4)

    def _legend(self, handles: list[Line2D], column: int, ncols: int) -> None:
        left = (_LEFT + column * (_PANEL_WIDTH + _BETWEEN)) / self.width
        anchor = (left, (self.legend_height - 0.08) / self.height)
        self.figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=anchor, ncols=ncols, borderaxespad=0,
            borderpad=0, columnspacing=1.2, handlelength=1.8,
        )  # fmt: skip


def _draw_accuracy(axes: Axes, runs: Runs, baseline: list[list[Epoch]], colours: Mapping[str, str]) -> None:
    if baseline:
        epochs, values = _over_seeds(baseline)
        axes.plot(epochs, values.mean(axis=0), color=STYLE.grey, linestyle="--", linewidth=1.2)
    for name, seeds in runs.items():
        epochs, values = _over_seeds(seeds)
        axes.plot(epochs, values.mean(axis=0), color=colours[name], marker="o", markersize=2.5)
        if len(values) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(epochs, low, high, color=colours[name], alpha=0.15, linewidth=0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("test accuracy")
    _epoch_axis(axes, epochs)


def _draw_acm(
    axes: Axes, epochs: list[Epoch], shades: Mapping[str, str], limits: tuple[float, float]
) -> None:
    numbers = [epoch["epoch"] for epoch in epochs]
    for name, shade in shades.items():
        series = [epoch.get("acm", {}).get(name, np.nan) for epoch in epochs]
        axes.plot(numbers, series, color=shade, marker="o", markersize=2.5)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    decisions = []
    for event in (event for epoch in epochs for event in epoch.get("events", [])):
        if event["kind"] == "view":
            decisions.append(textwrap.fill(event["words"], 54))
        if event["kind"] == "rollback":
            axes.axvline(event["epoch"], color=STYLE.dark, linestyle=":", linewidth=0.9, zorder=0)
            axes.plot(
                event["epoch"], 1.0, marker="v", color=STYLE.dark, markersize=4, clip_on=False,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.text(
        0.985, 0.03, "\n".join(decisions), transform=axes.transAxes, ha="right", va="bottom", fontsize=6.5,
        color=STYLE.dark, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )  # fmt: skip
    _epoch_axis(axes, numbers)


def _draw_levels(axes: Axes, epochs: list[Epoch], stages: list[str]) -> None:
    """How far each depth's learning rate has been lowered at each epoch's end (pale: not at all)."""
    numbers = [epoch["epoch"] for epoch in epochs]
    levels = np.array([[epoch.get("levels", {}).get(name, 0) for epoch in epochs] for name in stages])
    deepest = max(3, int(levels.max()))
    edges = [number - 0.5 for number in numbers] + [numbers[-1] + 0.5]
    axes.grid(False)
    axes.pcolormesh(
        edges, np.arange(len(stages) + 1), levels, cmap=ListedColormap(level_colours(deepest)),
        vmin=-0.5, vmax=deepest + 0.5, edgecolors="white", linewidth=0.5,
    )  # fmt: skip
    _epoch_axis(axes, numbers)
    axes.set_yticks(np.arange(len(stages)) + 0.5, stages, fontsize=5.5)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, pad=1)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _measured(cells: dict[str, Runs], defenses: list[str]) -> list[str]:
    """The defenses whose ACM is shown: plain training, then those that act on the measure, then the rest."""

    def epochs_of(name: str) -> list[Epoch]:
        return [epoch for runs in cells.values() for run in runs.get(name, []) for epoch in run]

    def rank(name: str) -> int:
        if name == "erm":
            return 0
        return 1 if any(epoch.get("events") for epoch in epochs_of(name)) else 2

    with_acm = [name for name in defenses if any(epoch.get("acm") for epoch in epochs_of(name))]
    shown = set(sorted(with_acm, key=rank)[:MAX_ACM_PANELS])
    return [name for name in with_acm if name in shown]


def _over_seeds(runs: list[list[Epoch]]) -> tuple[list[int], np.ndarray]:
    """Epoch numbers, and test accuracy [seeds, epochs]."""
    values = np.array([[epoch["test_accuracy"] for epoch in run] for run in runs])
    return [epoch["epoch"] for epoch in runs[0]], values


def _acm_limits(runs: list[list[Epoch]]) -> tuple[float, float]:
    """One logarithmic scale for all panels of an attack, so that they can be compared by eye."""
    values = [value for run in runs for epoch in run for value in epoch.get("acm", {}).values()]
    positive = [value for value in values if np.isfinite(value) and value > 0]
    if not positive:
        return 0.1, 10.0
    return min(positive) / 1.3, max(positive) * 1.3


def _epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
