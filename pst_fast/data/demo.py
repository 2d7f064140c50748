"""The demo data set: ten shapes, drawn by the package itself, the same on every machine.

Shape is the only thing that tells the classes apart: colours, places, sizes, angles, textures and noise are
drawn for each image alike. So content takes a network some effort, as it does in photographs, and a small
regular perturbation is the easier thing to learn.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from pst_fast.data.datasets import DATASETS, ArraySource
from pst_fast.data.types import ImageSet

SIZE = 32
TRAIN_PER_CLASS, TEST_PER_CLASS = 200, 100
_SUPERSAMPLING = 2

Field = np.ndarray  # signed distance-like value at each pixel: negative inside the shape


def _disc(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 0.85


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.7) - 0.2


def _square(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(x), np.abs(y)) - 0.75


def _frame(x: Field, y: Field) -> Field:
    return np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.62) - 0.18


def _triangle(x: Field, y: Field) -> Field:
    sides = [np.cos(a) * x + np.sin(a) * y for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    return np.maximum.reduce(sides) - 0.5


def _cross(x: Field, y: Field) -> Field:
    arms = np.minimum(np.abs(x), np.abs(y)) - 0.25
    return np.maximum(arms, np.maximum(np.abs(x), np.abs(y)) - 0.9)


def _star(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 0.62 - 0.33 * np.cos(5 * np.arctan2(y, x))


def _crescent(x: Field, y: Field) -> Field:
    return np.maximum(np.hypot(x, y) - 0.9, 0.68 - np.hypot(x - 0.45, y))


def _bars(x: Field, y: Field) -> Field:
    return np.maximum(0.22 - np.abs(x), np.maximum(np.abs(x) - 0.68, np.abs(y) - 0.85))


def _dots(x: Field, y: Field) -> Field:
    return np.hypot(np.abs(x) - 0.48, np.abs(y) - 0.48) - 0.32


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "bars": _bars,
    "crescent": _crescent,
    "cross": _cross,
    "disc": _disc,
    "dots": _dots,
    "frame": _frame,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}


def draw(labels: np.ndarray, seed: int) -> np.ndarray:
    """Draw one image for each label.

    Args:
        labels: int64 [N], positions in ``SHAPES``.
        seed: Everything else about the images follows from it.

    Returns:
        uint8 [N,32,32,3].
    """
    rng = np.random.default_rng(seed)
    count = len(labels)
    side = SIZE * _SUPERSAMPLING

    def column(low: float, high: float, channels: int = 1) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1, channels)).astype(np.float32)

    grid = (np.arange(side, dtype=np.float32) + 0.5) / _SUPERSAMPLING
    across, down = grid[None, None, :, None], grid[None, :, None, None]

    radius = column(7.5, 12.0)
    angle = column(-0.5, 0.5)
    x, y = across - column(11, SIZE - 11), down - column(11, SIZE - 11)
    u = (np.cos(angle) * x + np.sin(angle) * y) / (radius * column(0.8, 1.2))
    v = (-np.sin(angle) * x + np.cos(angle) * y) / radius
    inside = np.empty((count, side, side, 1), dtype=np.float32)
    for label, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(labels == label)
        inside[rows] = shape(u[rows], v[rows]) < 0

    background = _texture(rng, count, across, down, column)
    foreground = _texture(rng, count, across, down, column)
    # the two differ by at least some contrast, of either sign, so that no colour tells anything
    contrast = column(0.2, 0.45) * np.where(rng.random((count, 1, 1, 1)) < 0.5, -1, 1).astype(np.float32)
    image = background + inside * (foreground - background + contrast)
    image = image.reshape(count, SIZE, _SUPERSAMPLING, SIZE, _SUPERSAMPLING, 3).mean((2, 4))
    image += rng.normal(0, 0.008, image.shape).astype(np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _texture(
    rng: np.random.Generator,
    count: int,
    across: np.ndarray,
    down: np.ndarray,
    column: Callable[..., np.ndarray],
) -> np.ndarray:
    """A tone with a gradient and a soft wave, hardly coloured, as photographs have: float32 [N,S,S,3]."""
    field = column(0.3, 0.7) + column(-0.004, 0.004) * (across - 16) + column(-0.004, 0.004) * (down - 16)
    phase = column(0, 2 * np.pi) + column(-0.3, 0.3) * across + column(-0.3, 0.3) * down
    return field + column(0, 0.03) * np.sin(phase) + column(-0.025, 0.025, 3)


def _image_set(per_class: int, seed: int) -> ImageSet:
    count = per_class * len(SHAPES)
    labels = np.random.default_rng((seed, 1)).permutation(np.arange(count) % len(SHAPES)).astype(np.int64)
    parts = np.array_split(labels, max(1, count // 250))
    images = np.concatenate([draw(part, seed + 1000 * number) for number, part in enumerate(parts)])
    return ImageSet(images, labels, np.arange(count), tuple(SHAPES))


@DATASETS.register("demo")
def demo(data_dir: Path | None) -> ArraySource:
    """2,000 training and 1,000 test images of ten shapes at 32x32; nothing is read or downloaded."""
    return _drawn()


@cache
def _drawn() -> ArraySource:
    return ArraySource(_image_set(TRAIN_PER_CLASS, 11), _image_set(TEST_PER_CLASS, 12), version="2")
