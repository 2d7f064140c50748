"""samples.png: a few training images, clean and under each attack, and what was added to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pst_fast.cli.plan import NO_ATTACK
from pst_fast.files import replacing
from pst_fast.report.style import STYLE, context

AMPLIFICATION = 10
NUM_SAMPLES = 8
_CELL, _LABEL_WIDTH = 0.95, 1.15


@dataclass(frozen=True)
class Samples:
    """The first image of each of the first classes (then the second of each, ...).

    Attributes:
        labels: int64 [M].
        clean: uint8 [M, H, W, 3].
        poisoned: The same images under each attack, with the attack's first seed.
    """

    labels: np.ndarray
    clean: np.ndarray
    poisoned: dict[str, np.ndarray]


def read_samples(out: Path, rows: Sequence[Mapping[str, Any]], count: int = NUM_SAMPLES) -> Samples:
    """Read at most ``count`` images.

    Args:
        out: The run's folder, with ``clean`` and ``attacks/<attack>-seed<seed>/poisoned`` in it.
        rows: The rows of ``results.json``.
    """
    from pst_fast.data.beton import read_beton

    seeds: dict[str, int] = {}
    for row in rows:
        if row["attack"] != NO_ATTACK:
            seeds.setdefault(row["attack"], row["seed"])
    beton = read_beton(out / "clean" / "train.beton")
    labels = np.asarray(beton.labels)
    chosen = choose_samples(labels, count)
    poisoned = {}
    for attack, seed in seeds.items():
        folder = out / "attacks" / f"{attack}-seed{seed}" / "poisoned"
        poisoned[attack] = np.asarray(read_beton(folder / "train.beton").gather(chosen))
    return Samples(labels[chosen], np.asarray(beton.gather(chosen)), poisoned)


def draw_samples(path: Path, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the samples: clean, then under each attack, and what it added.

    Args:
        path: The PNG file to write.
        out: The run's folder (see :func:`read_samples`).
        rows: The rows of ``results.json``.
    """
    samples = read_samples(out, rows)
    lines = [("clean", samples.clean)]
    for attack, poisoned in samples.poisoned.items():
        lines += [
            (attack, poisoned),
            (f"{attack}: what was\nadded, x {AMPLIFICATION}", amplified(samples.clean, poisoned)),
        ]
    with context():
        figure = _figure(lines)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def choose_samples(labels: np.ndarray, count: int) -> np.ndarray:
    """Rows, int64 [min(count, N)], that take the classes in turn: first of each class, second of each, ..."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(len(labels)) - starts
    return order[np.argsort(rank, kind="stable")][:count]


def amplified(clean: np.ndarray, poisoned: np.ndarray) -> np.ndarray:
    """The difference of two uint8 arrays, ten times as large, around grey (128), clamped, as uint8."""
    difference = poisoned.astype(np.int16) - clean.astype(np.int16)
    return np.clip(128 + AMPLIFICATION * difference, 0, 255).astype(np.uint8)


def _figure(lines: Sequence[tuple[str, np.ndarray]]) -> Figure:
    count = len(lines[0][1])
    width, height = _LABEL_WIDTH + _CELL * count, _CELL * len(lines)
    figure = Figure(figsize=(width, height), dpi=STYLE.dpi)
    for line, (words, images) in enumerate(lines):
        bottom = 1 - (line + 1) * _CELL / height
        figure.text(
            (_LABEL_WIDTH - 0.08) / width, bottom + _CELL / height / 2, words,
            ha="right", va="center", fontsize=8,
        )  # fmt: skip
        for column, image in enumerate(images):
            left = (_LABEL_WIDTH + _CELL * column) / width
            axes = figure.add_axes((left, bottom, 0.96 * _CELL / width, 0.96 * _CELL / height))
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
    return figure
