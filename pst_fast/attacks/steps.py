"""The perturbations of a whole data set in whole steps, in a file that memory need not hold."""

import math
from pathlib import Path

import numpy as np

from pst_fast.data.mapped import Pages

NAME = "steps.npy"
_CHUNK_BYTES = 1 << 25


class StepsFile:
    """Steps of 1/255, int8 until a value does not fit and int16 from then on, written by rows.

    What was written is there again when the file is opened anew, also by another process.

    Args:
        path: An ``.npy`` file; zeros at first.
        shape: [N,H,W,3].
        dtype: To begin with.

    Attributes:
        array: int8 or int16 [N,H,W,3], mapped; another one after a value did not fit.
        is_new: Whether the file was not there.
    """

    array: np.memmap

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.signedinteger] = np.int8) -> None:
        self._path = path
        self.is_new = not path.is_file()
        if self.is_new:
            np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        self._open()

    def write(self, rows: slice | np.ndarray, steps: np.ndarray) -> None:
        """Put steps, int8 or int16 [n,H,W,3], in the place of these rows."""
        if self.array.dtype == np.int8 and (steps.min(initial=0) < -128 or steps.max(initial=0) > 127):
            self._widen()
        self.array[rows] = steps
        self._pages.touch(steps.size * self.array.itemsize)

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        self.array.flush()

    def _open(self) -> None:
        self.array = np.lib.format.open_memmap(self._path, mode="r+")
        self._pages = Pages(self.array)

    def _widen(self) -> None:
        wider = self._path.with_name(f".{self._path.name}.tmp")
        target = np.lib.format.open_memmap(wider, mode="w+", dtype=np.int16, shape=self.array.shape)
        pages = Pages(target)
        for rows in row_blocks(self.array.shape, 2, _CHUNK_BYTES):
            target[rows] = self.array[rows]
            pages.touch(target[rows].nbytes)
            self._pages.touch(target[rows].nbytes)
        target.flush()
        wider.replace(self._path)
        self._open()


def row_blocks(shape: tuple[int, ...], itemsize: int, nbytes: int, most: int | None = None) -> list[slice]:
    """Consecutive rows of an array [N,...], as many at a time as ``nbytes`` hold (and at most ``most``)."""
    count = max(1, nbytes // max(1, itemsize * math.prod(shape[1:])))
    count = count if most is None else min(most, count)
    return [slice(start, min(start + count, shape[0])) for start in range(0, shape[0], count)]
