"""Reading and writing FFCV's ``.beton`` files (format version 2) with numpy alone.

FFCV's own writer lets its workers race for pages, so that no two files of the same data are alike. This one
writes the same bytes for the same data, and its files can be read where FFCV is not installed.

Images that carry a perturbation, or will, are stored raw, as uint8 [H, W, 3] RGB; JPEG would destroy it, and
is for test images. The layout is in :mod:`pst_fast.data.beton_format`.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pst_fast.data.beton_format import (
    ALLOCATION,
    FIELD,
    FIELDS,
    HEADER,
    MAX_PAGE_SIZE,
    MIN_PAGE_SIZE,
    MODE_JPEG,
    MODE_RAW,
    SAMPLE,
    VERSION,
    checked_chunk,
    full_disk_is_input_error,
    page_size_for,
    sample_records,
    write_records,
)
from pst_fast.data.jpeg import check_header, decode_into
from pst_fast.data.mapped import Pages
from pst_fast.errors import InputError
from pst_fast.files import replacing


@dataclass(frozen=True)
class Beton:
    """An open ``.beton`` file; its images are memory-mapped.

    Attributes:
        path: The file.
        labels: int64 [N].
        index: int64 [N], each sample's position in the data set it was taken from.
        heights: int64 [N], in pixels.
        widths: int64 [N], in pixels.
        compressed: bool [N], whether an image is stored as JPEG.
    """

    path: Path
    labels: np.ndarray
    index: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    compressed: np.ndarray
    _bytes: np.ndarray
    _pointers: np.ndarray
    _sizes: np.ndarray
    _pages: Pages

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every image; InputError where they differ."""
        height, width = int(self.heights[0]), int(self.widths[0])
        if (self.heights != height).any() or (self.widths != width).any():
            raise InputError(f"{self.path}: expected images of one size, got several")
        return height, width

    @property
    def image_size(self) -> int:
        """Side of every image, in pixels; InputError where they are not squares of one size."""
        height, width = self.shape
        if height != width:
            raise InputError(f"{self.path}: expected square images, got {height}x{width}")
        return height

    def image(self, row: int) -> np.ndarray:
        """One image, uint8 [H, W, 3]; where it is raw, a read-only view of the file."""
        shape = int(self.heights[row]), int(self.widths[row]), 3
        if self.compressed[row]:
            return self._decoded(np.array([row]), shape)[0]
        return self._stored(row).reshape(shape)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Copy the images of ``rows`` (integers [B]): uint8 [B, H, W, 3]. All images must be of one size.

        Raises:
            InputError: Images are of several sizes, or one of them is a damaged JPEG.
        """
        shape = (*self.shape, 3)
        compressed = self.compressed[rows]
        if compressed.any():
            images = np.empty((len(rows), *shape), np.uint8)
            images[compressed] = self._decoded(rows[compressed], shape)
            images[~compressed] = self._copied(rows[~compressed], shape)
        else:
            images = self._copied(rows, shape)
        self._pages.touch(int(self._sizes[rows].sum()))
        return images

    def load_all(self) -> np.ndarray:
        """Copy all images: uint8 [N, H, W, 3]. All must be of one size."""
        return self.gather(np.arange(len(self)))

    def check_headers(self) -> None:
        """Raise InputError unless every image that is stored as JPEG begins as one of its size."""
        for row in np.flatnonzero(self.compressed).tolist():
            try:
                check_header(self._stored(row), (int(self.heights[row]), int(self.widths[row])))
            except ValueError as error:
                raise InputError(f"{self.path}: {error}") from error

    def _stored(self, row: int) -> np.ndarray:
        return self._bytes[self._pointers[row] : self._pointers[row] + self._sizes[row]]

    def _copied(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        # One row of this view starts at each byte of the file, so that one indexing copies whole images.
        windows = sliding_window_view(self._bytes, math.prod(shape))
        return windows[self._pointers[rows]].reshape(len(rows), *shape)

    def _decoded(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        images = np.empty((len(rows), *shape), np.uint8)
        try:
            decode_into([self._stored(row) for row in rows], images)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}") from error
        return images


class MappedImages:
    """The images of a file, all of one size, like an array uint8 [N, H, W, 3] that memory need not hold.

    An index (a number, a slice, an array of numbers) copies the images that it names.

    Args:
        beton: The file.

    Raises:
        InputError: The images are of several sizes.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, beton: Beton) -> None:
        self._beton = beton
        self.shape = (len(beton), *beton.shape, 3)
        self.nbytes = math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._beton)

    def __getitem__(self, rows: int | np.integer | slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, int | np.integer):
            return self._beton.image(int(rows)).copy()
        return self._beton.gather(np.arange(len(self))[rows])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All images in memory."""
        return self._beton.load_all().astype(self.dtype if dtype is None else dtype, copy=False)


def write_beton(
    path: Path,
    images: np.ndarray | Iterable[np.ndarray],
    labels: np.ndarray,
    index: np.ndarray,
    *,
    page_size: int | None = None,
) -> None:
    """Write a ``.beton`` file with the fields image, label and index.

    The same arguments give the same bytes. The file takes its name only when it is whole.

    Args:
        path: Where to.
        images: uint8 [N, H, W, 3], or an iterable of single images [H, W, 3] and chunks [n, H, W, 3], read
            once and never held as a whole. Sizes may differ (such a file is for FFCV's cropping decoders).
        labels: Integers [N], not negative.
        index: Integers [N], not negative: positions in the data set.
        page_size: A power of two from 2 MiB on that holds the largest image; None chooses one for the
            largest image of an array or list, or for the first of an iterator.

    Raises:
        InputError: What is given does not fit together, or the disk is full.
    """
    path = Path(path)
    samples = sample_records(path, labels, index)
    chunks, largest = _largest(images)
    if page_size is None:
        page_size = page_size_for(largest)
    if page_size.bit_count() != 1 or not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE:
        raise InputError(
            f"page_size: expected a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE}, got {page_size}"
        )
    with full_disk_is_input_error(path), replacing(path) as temporary, temporary.open("wb") as stream:
        _write(stream, path, chunks, samples, page_size)


def beton_bytes(count: int, image_size: int) -> int:
    """Size of a file of so many square images, as :func:`write_beton` writes it."""
    size = 3 * image_size**2
    page = page_size_for(size)
    header = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + count * SAMPLE.itemsize
    each = page // size
    whole, rest = divmod(count, each)
    pixels = whole * page + rest * size if rest else (whole - 1) * page + each * size
    return -(-header // page) * page + pixels + count * ALLOCATION.itemsize


def _write(
    stream: IO[bytes], path: Path, chunks: Iterator[np.ndarray], samples: np.ndarray, page_size: int
) -> None:
    header_size = HEADER.itemsize + len(FIELDS) * FIELD.itemsize + samples.nbytes
    offset = -(-header_size // page_size) * page_size
    allocations = np.zeros(len(samples), ALLOCATION)
    allocations["sample"] = np.arange(len(samples))
    written = 0
    for chunk in chunks:
        count, height, width, _ = chunk.shape
        size = height * width * 3
        if size > page_size:
            raise InputError(
                f"page_size: expected at least the {size} bytes of a {height}x{width} image, got {page_size}"
            )
        if written + count > len(samples):
            raise InputError(f"{path}: expected {len(samples)} images, one a label, got more")
        start = 0
        while start < count:
            fitting = (page_size - offset % page_size) // size
            if not fitting:
                offset += page_size - offset % page_size
                continue
            stop = min(start + fitting, count)
            rows = slice(written, written + stop - start)
            pointers = offset + size * np.arange(stop - start, dtype=np.uint64)
            image = samples["image"]
            image["mode"][rows], image["height"][rows], image["width"][rows] = MODE_RAW, height, width
            image["pointer"][rows] = allocations["pointer"][rows] = pointers
            allocations["size"][rows] = size
            stream.seek(offset)
            stream.write(np.ascontiguousarray(chunk[start:stop]).data)
            offset += size * (stop - start)
            written += stop - start
            start = stop
    if written != len(samples):
        raise InputError(f"{path}: expected {len(samples)} images, one a label, got {written}")
    write_records(stream, samples, allocations, page_size, offset)


def _largest(images: np.ndarray | Iterable[np.ndarray]) -> tuple[Iterator[np.ndarray], int]:
    """The chunks, and the bytes of the largest image as far as it is known before they are read."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return iter([checked_chunk(images)]), int(np.prod(images.shape[1:]))
    if isinstance(images, Sequence):
        sizes = [int(np.prod(image.shape[-3:])) for image in images]
        return map(checked_chunk, images), max(sizes, default=0)
    iterator = map(checked_chunk, images)
    first = next(iterator, None)
    if first is None:
        return iter([]), 0

    def again() -> Iterator[np.ndarray]:
        yield first
        yield from iterator

    return again(), int(np.prod(first.shape[1:]))


def read_beton(path: Path) -> Beton:
    """Open a ``.beton`` file that has the fields image, label and index, and check all its records.

    Raises:
        InputError: The file is missing, cut short, damaged (as far as its records tell: images carry no
            checksum), or something else.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER.itemsize + len(FIELDS) * FIELD.itemsize)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: expected a .beton file, got '{error.strerror}'") from error
    num_samples, table = _check_start(path, start, size)
    with path.open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapping, np.uint8)
    samples = np.frombuffer(data, SAMPLE, num_samples, len(start))
    allocations = np.frombuffer(data, ALLOCATION, num_samples, table)
    image = samples["image"]
    order = np.argsort(allocations["sample"], kind="stable")
    allocations = allocations[order]
    beton = Beton(
        path=path,
        labels=samples["label"].astype(np.int64),
        index=samples["index"].astype(np.int64),
        heights=image["height"].astype(np.int64),
        widths=image["width"].astype(np.int64),
        compressed=image["mode"] == MODE_JPEG,
        _bytes=data,
        _pointers=np.minimum(image["pointer"], np.uint64(size)).astype(np.int64),
        _sizes=np.minimum(allocations["size"], np.uint64(size)).astype(np.int64),
        _pages=Pages(mapping),
    )
    pixels = beton.heights * beton.widths * 3
    first = len(start) + samples.nbytes
    _expect(path, bool(np.isin(image["mode"], (MODE_RAW, MODE_JPEG)).all()), "raw images or JPEG", "others")
    _expect(
        path,
        bool(((beton._sizes == pixels) | beton.compressed).all()),
        "raw images as large as they say",
        "one of another size",
    )
    inside = (beton._pointers >= first) & (beton._pointers + beton._sizes <= table)
    _expect(
        path,
        bool(((pixels > 0) & (beton._sizes > 0) & inside).all()),
        "every image inside the file",
        "an image outside of it",
    )
    # FFCV finds an image's size by its pointer in this table, and reads wherever a wrong one leads it.
    matches = (allocations["sample"] == np.arange(num_samples, dtype=np.uint64)).all() and (
        allocations["pointer"] == image["pointer"]
    ).all()
    _expect(path, bool(matches), "an allocation table that matches the images", "another one")
    _expect(
        path,
        bool(beton.labels.min() >= 0 and beton.index.min() >= 0),
        "labels and positions from 0 on",
        "a negative one",
    )
    return beton


def _check_start(path: Path, start: bytes, size: int) -> tuple[int, int]:
    """Check header and field descriptors against the file's size; number of samples and the table's place."""
    _expect(
        path, len(start) >= HEADER.itemsize, "a .beton file", f"{size} bytes" if size else "an empty file"
    )
    header = np.frombuffer(start, HEADER, 1)[0]
    version, num_fields = int(header["version"]), int(header["num_fields"])
    num_samples, table, page_size = int(header["num_samples"]), int(header["table"]), int(header["page_size"])
    _expect(
        path, version == VERSION, f"a .beton file of version {VERSION}", f"version {version} or no .beton"
    )
    _expect(
        path, num_fields == len(FIELDS), "the three fields image, label and index", f"{num_fields} field(s)"
    )
    _expect(path, size > len(start), "a whole .beton file", f"one cut short at {size} bytes")
    fields = np.frombuffer(start, FIELD, len(FIELDS), HEADER.itemsize)
    found = tuple((field["name"].decode("ascii", "replace"), int(field["type"])) for field in fields)
    _expect(
        path,
        found == FIELDS,
        "the fields image (RGB), label and index (integers)",
        ", ".join(f"{name!r} of type {kind}" for name, kind in found),
    )
    _expect(
        path,
        page_size.bit_count() == 1 and MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE,
        "a page size that is a power of two from 2 MiB on",
        f"{page_size}",
    )
    _expect(path, num_samples > 0, "at least one image", "none")
    records_end = len(start) + num_samples * SAMPLE.itemsize
    whole = records_end <= table and table + num_samples * ALLOCATION.itemsize == size
    _expect(
        path,
        whole,
        f"a .beton file of {num_samples} images with its table at byte {table}",
        f"a file of {size} bytes, cut short or damaged",
    )
    return num_samples, table


def _expect(path: Path, holds: bool, expected: str, came: str) -> None:
    if not holds:
        raise InputError(f"{path}: expected {expected}, got {came}")


def check_beton(path: Path, *, classes: int, image_size: int) -> None:
    """Raise InputError unless ``path`` is a sound file of that many classes and that image size (pixels)."""
    beton = read_beton(path)
    found = (int(beton.labels.max()) + 1, *beton.shape)
    if found != (classes, image_size, image_size):
        raise InputError(
            f"{path}: holds {found[0]} classes at {found[1]}x{found[2]}, "
            f"expected {classes} classes at {image_size}x{image_size}"
        )
