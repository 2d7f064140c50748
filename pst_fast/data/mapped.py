"""int8 arrays on the disk, larger than memory if need be, whose rows are read and written by index."""

import logging
import math
import mmap
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from pst_fast.errors import InputError

try:
    from pst_fast import _host  # type: ignore[attr-defined]
except ImportError:
    _host = None

_log = logging.getLogger(__name__)


RESIDENT_BYTES = 1 << 28
"""How much of a mapped file may stay in a process's memory."""


class Pages:
    """Gives the pages of a mapped file back to the system, which writes them to the disk in its own time.

    Pages that were touched stay mapped, and count as the process's memory, until somebody does.

    Args:
        mapping: Of the file, shared, or an array in one; there is nothing to do for other arrays.
        resident_bytes: How much may stay.
    """

    def __init__(self, mapping: mmap.mmap | np.ndarray, resident_bytes: int = RESIDENT_BYTES) -> None:
        found = mapping.base if isinstance(mapping, np.ndarray) else mapping
        self._mapping = found if isinstance(found, mmap.mmap) else None
        self._resident_bytes, self._touched = resident_bytes, 0

    def touch(self, nbytes: int) -> None:
        """Say that so much was read or written."""
        self._touched += nbytes
        if self._mapping is not None and self._touched > self._resident_bytes:
            self._touched = 0
            self._mapping.madvise(mmap.MADV_DONTNEED)


def whole_file(array: np.ndarray) -> Path | None:
    """The file that is an array's and nothing else's, or None."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
        return None
    path = Path(str(array.filename))
    return path if path.stat().st_size == array.offset + array.nbytes else None


class _Rows(Protocol):
    def gather(self, index: np.ndarray, values: np.ndarray, threads: int) -> None: ...
    def scatter(self, index: np.ndarray, values: np.ndarray, threads: int) -> None: ...
    def flush(self) -> None: ...


class MappedRows:
    """The rows of an int8 .npy file, mapped into memory.

    Args:
        path: The file.
        writable: Whether :meth:`scatter` may be called.
        resident_bytes: How much of the file may stay in this process's memory.

    Raises:
        InputError: The file is missing, damaged, or no array of int8 in C order.
    """

    def __init__(self, path: Path, *, writable: bool = False, resident_bytes: int = RESIDENT_BYTES) -> None:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InputError(f"{path}: expected an .npy file, but there is none") from None
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{path}: expected a whole .npy file of int8, but {error}") from None
        if not isinstance(array, np.memmap) or array.dtype != np.int8 or not array.flags.c_contiguous:
            raise InputError(f"{path}: expected an .npy file of int8 in C order")
        self.shape = array.shape
        self._rows: _Rows
        if _host is None:
            _warn()
            self._rows = _NumpyRows(path, writable)
        else:
            row_bytes = math.prod(array.shape[1:])
            self._rows = _host.MappedRows(
                str(path), array.offset, len(array), row_bytes, resident_bytes, writable
            )

    @classmethod
    def create(
        cls, path: Path, shape: tuple[int, ...], *, resident_bytes: int = RESIDENT_BYTES
    ) -> "MappedRows":
        """Write a file of zeros, and open it for writing. The disk's space is taken at once.

        Raises:
            InputError: The disk is full.
        """
        path.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=shape)
        size = array.offset + math.prod(shape)
        try:
            with path.open("rb+") as stream:
                os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            path.unlink()
            raise InputError(f"{path}: {size} bytes are needed, but {error.strerror}") from error
        return cls(path, writable=True, resident_bytes=resident_bytes)

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, index: np.ndarray, *, threads: int = 1) -> np.ndarray:
        """The rows, int8 [B, ...], at ``index``, int64 [B]; IndexError for one that is not there."""
        values = np.empty((len(index), *self.shape[1:]), np.int8)
        self._rows.gather(index, values, threads)
        return values

    def scatter(self, index: np.ndarray, values: np.ndarray, *, threads: int = 1) -> None:
        """Write ``values``, int8 [B, ...], to the rows at ``index``, int64 [B], each of them at most once."""
        self._rows.scatter(index, values, threads)

    def flush(self) -> None:
        """Wait until everything written is on the disk."""
        self._rows.flush()


class _NumpyRows:
    """The native class in NumPy: one thread, under Python's lock."""

    def __init__(self, path: Path, writable: bool) -> None:
        self.array = np.load(path, mmap_mode="r+" if writable else "r", allow_pickle=False)

    def gather(self, index: np.ndarray, values: np.ndarray, threads: int) -> None:
        self._check(index)
        np.take(self.array, index, axis=0, out=values)

    def scatter(self, index: np.ndarray, values: np.ndarray, threads: int) -> None:
        self._check(index)
        self.array[index] = values

    def flush(self) -> None:
        self.array.flush()

    def _check(self, index: np.ndarray) -> None:
        wrong = index[(index < 0) | (index >= len(self.array))]
        if len(wrong):
            raise IndexError(f"index must be in [0, {len(self.array)}), got {wrong[0]}")


_warned = False


def _warn() -> None:
    global _warned
    if not _warned:
        _warned = True
        _log.warning(
            "Banks on the disk are read and written by NumPy, one thread at a time, because pst_fast._host "
            "has not been built."
        )
