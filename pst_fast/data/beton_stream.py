"""Writing a ``.beton`` file in pieces, so that a killed process costs no more than the last of them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pst_fast.data.beton_format import (
    ALLOCATION,
    FIELD,
    FIELDS,
    HEADER,
    MODE_JPEG,
    MODE_RAW,
    checked_chunk,
    full_disk_is_input_error,
    page_size_for,
    sample_records,
    write_records,
)
from pst_fast.data.jpeg import encode
from pst_fast.errors import InputError
from pst_fast.files import write_json


class BetonStream:
    """Writes images of one size to a ``.beton`` file in pieces, and goes on where a killed process stopped.

    The bytes of raw images are those that :func:`write_beton` gives for the same ones.

    Args:
        path: The file; it is there once it is whole.
        working: Folder for what there is until then, and for the record of how far it has come.
        labels: Integers [N], not negative.
        index: Integers [N], not negative: positions in the data set.
        shape: Height and width of every image.
        quality: Store the images as JPEG of this quality (1 to 100), with colours at half the resolution;
            None: raw.

    Attributes:
        done: How many images, from the first one on, are on the disk.
        note: What was handed to the last :meth:`write` (a JSON value), or None.

    Raises:
        InputError: Labels and positions do not fit together.
    """

    def __init__(
        self,
        path: Path,
        working: Path,
        labels: np.ndarray,
        index: np.ndarray,
        shape: tuple[int, int],
        quality: int | None = None,
    ) -> None:
        self.path = path
        self.done, self.note = 0, None
        self._samples = sample_records(path, labels, index)
        self._shape, self._quality = shape, quality
        self._page_size = page_size_for(shape[0] * shape[1] * 3)
        self._working, self._record = working / path.name, working / f"{path.name}.json"
        header_size = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + self._samples.nbytes
        self._end = -(-header_size // self._page_size) * self._page_size
        self._allocations = np.zeros(len(self._samples), ALLOCATION)
        self._allocations["sample"] = np.arange(len(self._samples))
        if self._record.is_file() and (path.is_file() or self._working.is_file()):
            record = json.loads(self._record.read_text(encoding="utf-8"))
            self.note = record["note"]
            self._place(record.get("sizes") or [shape[0] * shape[1] * 3] * record["done"])

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
        files = self._encoded(chunk)
        with full_disk_is_input_error(self.path):
            if not self.done:
                self._working.parent.mkdir(exist_ok=True)
                self._working.write_bytes(b"")
            pointers = self._place([len(file) for file in files])
            with self._working.open("rb+") as stream:
                place = 0
                for pointer, file in zip(pointers, files, strict=True):
                    if pointer != place:
                        stream.seek(pointer)
                    place = pointer + stream.write(file)
                stream.flush()
                os.fdatasync(stream.fileno())
            self.note = note
            sizes = None if self._quality is None else self._allocations["size"][: self.done].tolist()
            write_json(self._record, {"done": self.done, "sizes": sizes, "note": note})

    def _encoded(self, chunk: np.ndarray) -> Sequence[bytes | memoryview]:
        if self._quality is not None:
            return encode(chunk, self._quality)
        return [image.data.cast("B") for image in np.ascontiguousarray(chunk)]

    def _place(self, sizes: Sequence[int]) -> list[int]:
        """Give the next images of so many bytes their places, none of them across a page's end."""
        pointers = []
        for size in sizes:
            if self._end % self._page_size + size > self._page_size:
                self._end += -self._end % self._page_size
            pointers.append(self._end)
            self._end += size
        rows = slice(self.done, self.done + len(pointers))
        self._allocations["pointer"][rows], self._allocations["size"][rows] = pointers, sizes
        self.done = rows.stop
        return pointers

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
        image["mode"] = MODE_RAW if self._quality is None else MODE_JPEG
        image["pointer"] = self._allocations["pointer"]
        image["height"], image["width"] = self._shape
        with full_disk_is_input_error(self.path):
            with self._working.open("rb+") as stream:
                write_records(stream, self._samples, self._allocations, self._page_size, self._end)
                stream.flush()
                os.fsync(stream.fileno())
            self._working.replace(self.path)
