"""What a data set is, and the registry of them: a new one is one new file beside this."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.registry import Registry

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Source(Protocol):
    """Where the images of a data set come from."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, by label."""

    @property
    def image_size(self) -> int:
        """Side in pixels at which images are kept unless asked otherwise.

        InputError where the user has to say.
        """

    @property
    def converted(self) -> int:
        """How many of the images loaded so far were not RGB (CMYK, grey, palette, alpha) and were made so."""

    def labels(self, split: Split) -> np.ndarray:
        """int64 [N], in dataset order."""

    def ids(self, split: Split) -> Sequence[str]:
        """A name for each sample that stays the same when samples are added, removed or reordered."""

    def load(self, split: Split, rows: np.ndarray, image_size: int) -> np.ndarray:
        """The images at the positions ``rows`` of a split: uint8 [len(rows), image_size, image_size, 3].

        InputError names an image that cannot be read.
        """

    def fingerprint(self) -> Any:
        """A JSON value, cheap to get, that changes when the images do."""


DATASETS: Registry[Callable[[Path | None], Source]] = Registry("data set", "pst_fast.data")
"""Name -> function from the data folder (None: not given) to the source."""


class ArraySource:
    """A source in memory, for data sets that are drawn or small.

    Args:
        train: Training images; square, ``index`` is ignored (dataset order is the order given).
        test: Test images of the same size and classes.
        version: Enters the fingerprint: change it when the images change.
    """

    converted = 0

    def __init__(self, train: ImageSet, test: ImageSet, version: str) -> None:
        self._sets = {"train": train, "test": test}
        self.classes = train.classes
        self.image_size = int(train.images.shape[1])
        if test.classes != train.classes or {x.images.shape[1:] for x in (train, test)} != {
            (self.image_size, self.image_size, 3)
        }:
            raise ValueError(
                f"expected square training and test images of one size and the same classes, "
                f"got {train.images.shape} and {test.images.shape}, {train.classes} and {test.classes}"
            )
        self._version = version

    def labels(self, split: Split) -> np.ndarray:
        """See :class:`Source`."""
        return self._sets[split].labels.astype(np.int64)

    def ids(self, split: Split) -> Sequence[str]:
        """See :class:`Source`: positions."""
        return [str(row) for row in range(len(self._sets[split]))]

    def load(self, split: Split, rows: np.ndarray, image_size: int) -> np.ndarray:
        """See :class:`Source`. Another size than the images' own is refused."""
        if image_size != self.image_size:
            raise InputError(
                f"--image-size: expected {self.image_size}, the one size of this data set, got {image_size}"
            )
        return self._sets[split].images[rows]

    def fingerprint(self) -> Any:
        """See :class:`Source`."""
        return {"version": self._version, "shapes": [list(x.images.shape) for x in self._sets.values()]}
