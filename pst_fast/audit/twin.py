"""A data set beside its clean twin."""

from pathlib import Path

import numpy as np

from pst_fast.data.bank import measure_budget
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError


def compare(data: ImageSet, clean: ImageSet, folder: Path) -> dict[str, float]:
    """How far the images are from the clean ones, as :func:`pst_fast.data.bank.measure_budget` has it.

    Raises:
        InputError: The twin has other sizes, labels or classes.
    """
    if data.images.shape != clean.images.shape:
        raise InputError(
            f"{folder}: expected the clean twin, {list(data.images.shape)}, got {list(clean.images.shape)}"
        )
    if data.classes != clean.classes or not np.array_equal(data.labels, clean.labels):
        raise InputError(f"{folder}: expected the clean twin with the same classes and labels, got others")
    return measure_budget(clean.images, data.images)
