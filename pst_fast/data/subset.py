"""Which samples of a data set are taken: the first classes, and a seeded number of samples of each."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pst_fast.data.datasets import SPLITS, Split
from pst_fast.errors import InputError

Part = Literal["all", "choose", "report"]
"""All samples of each class, or a half of them: one to make choices on, one for the figures to report."""


def subset_rows(
    labels: np.ndarray,
    classes: Sequence[str],
    split: Split,
    *,
    num_classes: int | None,
    per_class: int | None,
    seed: int,
    part: Part = "all",
) -> np.ndarray:
    """Positions, int64 and ascending, of the samples to take.

    A class's samples depend on nothing but the seed, the split and the class, and fewer of them are among
    more of them: results on subsets of different sizes can be compared.

    Args:
        labels: int64 [N].
        classes: Names, by label.
        split: ``train`` or ``test``.
        num_classes: Take the first so many classes; None: all.
        per_class: Take so many samples of each (of the part); None: all.
        seed: Of the draw.
        part: Which half of each class; ``choose`` begins with the samples that ``all`` would take first.

    Raises:
        InputError: More is asked for than there is.
    """
    if num_classes is None:
        num_classes = len(classes)
    if not 1 <= num_classes <= len(classes):
        raise InputError(f"--num-classes: expected 1 to {len(classes)}, got {num_classes}")
    if per_class is None and part == "all":
        return np.flatnonzero(labels < num_classes)
    if per_class is not None and per_class < 1:
        raise InputError(f"--{split}-per-class: expected at least 1, got {per_class}")
    rows = []
    for label in range(num_classes):
        random = np.random.default_rng((seed, SPLITS.index(split), label))
        of_class = _half(random.permutation(np.flatnonzero(labels == label)), part)
        wanted = len(of_class) if per_class is None else per_class
        if len(of_class) < wanted:
            raise InputError(
                f"--{split}-per-class: expected at most the {len(of_class)} {split} images "
                f"of class {classes[label]!r}, got {wanted}"
            )
        rows.append(of_class[:wanted])
    return np.sort(np.concatenate(rows))


def _half(rows: np.ndarray, part: Part) -> np.ndarray:
    middle = (len(rows) + 1) // 2
    return {"all": rows, "choose": rows[:middle], "report": rows[middle:]}[part]
