"""Draw how many times faster ours is, from files that ``--json`` wrote."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.table import read_documents
from pst_fast.errors import InputError
from pst_fast.files import replacing
from pst_fast.report.style import DEFENSE_COLOURS, STYLE, context

NAMES = {
    "ops": ("op", "shape"),
    "crafting": ("network", "images"),
    "training": ("network", "images", "augmentation"),
}
BASELINES = {
    "ops": {"eager_ratio": "PyTorch eager", "compiled_ratio": "torch.compile"},
    "crafting": {"published_ratio": "published loop, eager", "compiled_ratio": "torch.compile"},
    "training": {"naive_ratio": "PIL + DataLoader, eager", "compiled_ratio": "torch.compile"},
}
TITLES = {"ops": "Ops", "crafting": "Crafting step", "training": "Training step"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's options."""
    words = "what --json wrote; a table that several have is the last one's"
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=words)
    parser.add_argument("--out", type=Path, required=True, help="the figure, .svg or .png")


def run(args: argparse.Namespace) -> None:
    """Draw the figure."""
    if args.out.suffix not in (".svg", ".png"):
        raise InputError(f"--out: expected a name that ends in .svg or .png, got {args.out}")
    written = {name: rows for file in args.files for name, rows in read_documents(file).items()}
    documents = {name: written[name] for name in NAMES if name in written}
    bars = {name: steady_bars(name, document["rows"]) for name, document in documents.items()}
    bars = {name: some for name, some in bars.items() if some}
    if not bars:
        raise InputError(f"{', '.join(map(str, args.files))}: expected a row with a ratio, got none")
    with context(), mpl.rc_context({"svg.hashsalt": "pst_fast"}):
        figure = draw(bars, {name: documents[name]["device"] for name in bars})
        with replacing(args.out) as temporary:
            metadata = {"Date": None} if args.out.suffix == ".svg" else None
            figure.savefig(temporary, format=args.out.suffix[1:], dpi=STYLE.dpi, metadata=metadata)
    print(f"{args.out}: {sum(map(len, bars.values()))} rows")


Bar = tuple[str, dict[str, float]]


def steady_bars(name: str, rows: list[dict[str, Any]]) -> list[Bar]:
    """Label and ratios of each row; of an op, the steadiest of its rows with the largest input.

    Rows without any ratio were not steady and are left out.
    """
    bars: dict[str, tuple[float, Bar]] = {}
    for row in rows:
        ratios = {key: row[key] for key in BASELINES[name] if row.get(key) is not None}
        if not ratios:
            continue
        label = " ".join(str(row[key]) for key in NAMES[name])
        group = row["op"] if name == "ops" else label
        size = row.get("nbytes", 0)
        if group not in bars or size > bars[group][0]:
            bars[group] = size, (label, ratios)
    return [bar for _, bar in bars.values()]


def draw(bars: dict[str, list[Bar]], devices: dict[str, str]) -> Figure:
    """A panel a benchmark, a group of bars a row."""
    heights = [len(some) + 1 for some in bars.values()]
    figure = Figure(figsize=(7, 0.42 * sum(heights) + 0.5), layout="constrained")
    panels = figure.subplots(len(bars), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, some) in zip(panels, bars.items(), strict=True):
        _panel(panel, name, some)
        title = f"{TITLES[name]}, {devices[name]}"
        panel.annotate(title, (-0.02, 1.03), xycoords="axes fraction", ha="right", weight="bold")
    panels[-1].set_xlabel("times faster than")
    return figure


def _panel(panel: Axes, name: str, bars: list[Bar]) -> None:
    for number, (key, label) in enumerate(BASELINES[name].items()):
        places = [place - 0.2 + 0.4 * number for place in range(len(bars))]
        values = [ratios.get(key, float("nan")) for _, ratios in bars]
        drawn = panel.barh(places, values, height=0.36, color=DEFENSE_COLOURS[number], label=label)
        panel.bar_label(drawn, [f"{v:.1f}" if v == v else "" for v in values], padding=2, fontsize=7)
    panel.axvline(1, color=STYLE.dark, linewidth=0.8)
    if max(value for _, ratios in bars for value in ratios.values()) > 10:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
    panel.margins(x=0.1)
    panel.set_yticks(range(len(bars)), [label for label, _ in bars])
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(BASELINES[name]), fontsize=7)
