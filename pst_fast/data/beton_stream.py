"""Writing a ``.beton`` file in pieces, so that a killed process costs no more than the last of them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pst_fast.data.beton_format import (
    ALLOCATION,
    FIELD,
    FIELDS,
    HEADER,
    MODE_RAW,
    checked_chunk,
    full_disk_is_input_error,
    page_size_for,
    sample_records,
    write_records,
)
from pst_fast.errors import InputError
from pst_fast.files import write_json


class BetonStream:
    """Writes images of one size to a ``.beton`` file in pieces, and goes on where a killed process stopped.

    The bytes are those that :func:`write_beton` gives for the same images.

    Args:
        path: The file; it is there once it is whole.
        working: Folder for what there is until then, and for the record of how far it has come.
        labels: Integers [N], not negative.
        index: Integers [N], not negative: positions in the data set.
        shape: Height and width of every image.

    Attributes:
        done: How many images, from the first one on, are on the disk.
        note: What was handed to the last :meth:`write` (a JSON value), or None.

    Raises:
        InputError: Labels and positions do not fit together.
    """

    def __init__(
        self, path: Path, working: Path, labels: np.ndarray, index: np.ndarray, shape: tuple[int, int]
    ) -> None:
        self.path = path
        self.done, self.note = 0, None
        self._samples = sample_records(path, labels, index)
        self._shape, self._size = shape, shape[0] * shape[1] * 3
        self._page_size = page_size_for(self._size)
        self._working, self._record = working / path.name, working / f"{path.name}.json"
        rows = np.arange(len(self._samples))
        header_size = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + self._samples.nbytes
        first = -(-header_size // self._page_size)
        pages, places = np.divmod(rows, self._page_size // self._size)
        self._pointers = (first + pages) * self._page_size + places * self._size
        if self._record.is_file() and (path.is_file() or self._working.is_file()):
            record = json.loads(self._record.read_text(encoding="utf-8"))
            self.done, self.note = record["done"], record["note"]

    def write(self, images: np.ndarray, note: Any = None) -> None:
        """Append uint8 [n, H, W, 3]. When this returns they are on the disk, and so is ``note``.

        Raises:
            InputError: The disk is full.
        """
        chunk = checked_chunk(images)
        stop = self.done + len(chunk)
        if chunk.shape[1:3] != self._shape or stop > len(self._samples):
            raise InputError(
                f"{self.path}: expected {len(self._samples)} images of {self._shape}, "
                f"got {stop} of {chunk.shape[1:3]}"
            )
        pointers = self._pointers[self.done : stop]
        with full_disk_is_input_error(self.path):
            if not self.done:
                self._working.parent.mkdir(exist_ok=True)
                self._working.write_bytes(b"")
            with self._working.open("rb+") as stream:
                # One write for all images that follow each other without the slack of a page's end.
                breaks = np.flatnonzero(np.diff(pointers) != self._size) + 1
                for rows in np.split(np.arange(len(chunk)), breaks):
                    if len(rows):
                        stream.seek(int(pointers[rows[0]]))
                        stream.write(np.ascontiguousarray(chunk[rows[0] : rows[-1] + 1]).data)
                stream.flush()
                os.fdatasync(stream.fileno())
            self.done, self.note = stop, note
            write_json(self._record, {"done": self.done, "note": note})

    def finish(self) -> None:
        """Complete the file, and give it its name.

        Raises:
            InputError: Images are missing, or the disk is full.
        """
        if self.done != len(self._samples):
            raise InputError(f"{self.path}: expected {len(self._samples)} images, got {self.done}")
        if not self._working.is_file():
            return
        image = self._samples["image"]
        image["mode"], image["pointer"] = MODE_RAW, self._pointers
        image["height"], image["width"] = self._shape
        allocations = np.zeros(len(self._samples), ALLOCATION)
        allocations["sample"] = np.arange(len(self._samples))
        allocations["pointer"], allocations["size"] = self._pointers, self._size
        table = int(self._pointers[-1]) + self._size
        with full_disk_is_input_error(self.path):
            with self._working.open("rb+") as stream:
                write_records(stream, self._samples, allocations, self._page_size, table)
                stream.flush()
                os.fsync(stream.fileno())
            self._working.replace(self.path)
