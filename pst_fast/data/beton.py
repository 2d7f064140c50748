"""Reading and writing FFCV's ``.beton`` files (format version 2) with numpy alone.

FFCV's own writer lets its workers race for pages, so that no two files of the same data are alike. This one
writes the same bytes for the same data, and its files can be read where FFCV is not installed.

Layout: header, one descriptor a field, one metadata record a sample, then (from the first page boundary on)
the pixels, none of them across a page's end, then a table of what lies where. Every image is stored raw, as
uint8 [H, W, 3] RGB, since JPEG would destroy a perturbation.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pst_fast.errors import InputError
from pst_fast.files import replacing

VERSION = 2
MIN_PAGE_SIZE = 1 << 21
MAX_PAGE_SIZE = 1 << 31
_IMAGES_PER_PAGE = 16
_TYPE_INT, _TYPE_RGB_IMAGE = 1, 2
_MODE_RAW = 1
_FIELDS = (("image", _TYPE_RGB_IMAGE), ("label", _TYPE_INT), ("index", _TYPE_INT))

_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("table", "<u8"),
    ]
)
_FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
_SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8"), ("index", "<i8")], align=True)
_ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])


@dataclass(frozen=True)
class Beton:
    """An open ``.beton`` file; its pixels are memory-mapped.

    Attributes:
        path: The file.
        labels: int64 [N].
        index: int64 [N], each sample's position in the data set it was taken from.
        heights: int64 [N], in pixels.
        widths: int64 [N], in pixels.
    """

    path: Path
    labels: np.ndarray
    index: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    _bytes: np.ndarray
    _pointers: np.ndarray

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
        """One image, uint8 [H, W, 3], a read-only view of the file."""
        height, width = int(self.heights[row]), int(self.widths[row])
        start = int(self._pointers[row])
        return self._bytes[start : start + height * width * 3].reshape(height, width, 3)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Copy the images of ``rows`` (integers [B]): uint8 [B, H, W, 3]. All images must be of one size."""
        height, width = self.shape
        # One row of this view starts at each byte of the file, so that one indexing copies whole images.
        windows = sliding_window_view(self._bytes, height * width * 3)
        return windows[self._pointers[rows]].reshape(len(rows), height, width, 3)

    def load_all(self) -> np.ndarray:
        """Copy all images: uint8 [N, H, W, 3]. All must be of one size."""
        return self.gather(np.arange(len(self)))


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
    samples = np.zeros(len(labels), _SAMPLE)
    if not len(samples):
        raise InputError(f"{path}: expected at least one image to write, got none")
    if len(index) != len(samples):
        raise InputError(f"{path}: expected as many positions as labels ({len(samples)}), got {len(index)}")
    samples["label"], samples["index"] = labels, index
    if samples["label"].min() < 0 or samples["index"].min() < 0:
        raise InputError(f"{path}: expected labels and positions from 0 on, got a negative one")
    chunks, largest = _largest(images)
    if page_size is None:
        page_size = _page_size_for(largest)
    if page_size.bit_count() != 1 or not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE:
        raise InputError(
            f"page_size: expected a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE}, got {page_size}"
        )
    with _full_disk_is_input_error(path), replacing(path) as temporary, temporary.open("wb") as stream:
        _write(stream, path, chunks, samples, page_size)


def _write(
    stream: IO[bytes], path: Path, chunks: Iterator[np.ndarray], samples: np.ndarray, page_size: int
) -> None:
    header_size = _HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize + samples.nbytes
    offset = -(-header_size // page_size) * page_size
    allocations = np.zeros(len(samples), _ALLOCATION)
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
            image["mode"][rows], image["height"][rows], image["width"][rows] = _MODE_RAW, height, width
            image["pointer"][rows] = allocations["pointer"][rows] = pointers
            allocations["size"][rows] = size
            stream.seek(offset)
            stream.write(np.ascontiguousarray(chunk[start:stop]).data)
            offset += size * (stop - start)
            written += stop - start
            start = stop
    if written != len(samples):
        raise InputError(f"{path}: expected {len(samples)} images, one a label, got {written}")
    stream.seek(offset)
    stream.write(allocations.tobytes())
    header = np.array((VERSION, len(_FIELDS), page_size, len(samples), offset), _HEADER)
    fields = np.zeros(len(_FIELDS), _FIELD)
    fields["type"] = [kind for _, kind in _FIELDS]
    fields["name"] = [name for name, _ in _FIELDS]
    stream.seek(0)
    stream.write(header.tobytes() + fields.tobytes() + samples.tobytes())


def _largest(images: np.ndarray | Iterable[np.ndarray]) -> tuple[Iterator[np.ndarray], int]:
    """The chunks, and the bytes of the largest image as far as it is known before they are read."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return iter([_chunk(images)]), int(np.prod(images.shape[1:]))
    if isinstance(images, Sequence):
        sizes = [int(np.prod(image.shape[-3:])) for image in images]
        return map(_chunk, images), max(sizes, default=0)
    iterator = map(_chunk, images)
    first = next(iterator, None)
    if first is None:
        return iter([]), 0

    def again() -> Iterator[np.ndarray]:
        yield first
        yield from iterator

    return again(), int(np.prod(first.shape[1:]))


def _chunk(images: np.ndarray) -> np.ndarray:
    chunk = images[None] if images.ndim == 3 else images
    if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[3] != 3 or 0 in chunk.shape[1:]:
        raise InputError(
            f"images: expected uint8 of shape [H, W, 3] or [N, H, W, 3], got {images.dtype} {images.shape}"
        )
    if max(chunk.shape[1:3]) > np.iinfo(np.uint16).max:
        raise InputError(f"images: expected sides of at most 65535 pixels, got {chunk.shape[1:3]}")
    return chunk


def _page_size_for(image_bytes: int) -> int:
    """The smallest page that wastes at most about a sixteenth at its end."""
    wanted = max(MIN_PAGE_SIZE, _IMAGES_PER_PAGE * image_bytes)
    return max(MIN_PAGE_SIZE, min(MAX_PAGE_SIZE, 1 << (wanted - 1).bit_length()))


@contextmanager
def _full_disk_is_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{path}: expected room on the disk, got '{error.strerror}'") from error


def read_beton(path: Path) -> Beton:
    """Open a ``.beton`` file that has the fields image (raw), label and index, and check all its records.

    Raises:
        InputError: The file is missing, cut short, damaged (as far as its records tell: pixels carry no
            checksum), compressed, or something else.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: expected a .beton file, got '{error.strerror}'") from error
    num_samples, table = _check_start(path, start, size)
    # A plain array: indexing np.memmap objects costs several times more per call.
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    samples = np.frombuffer(data, _SAMPLE, num_samples, len(start))
    allocations = np.frombuffer(data, _ALLOCATION, num_samples, table)
    image = samples["image"]
    beton = Beton(
        path=path,
        labels=samples["label"].astype(np.int64),
        index=samples["index"].astype(np.int64),
        heights=image["height"].astype(np.int64),
        widths=image["width"].astype(np.int64),
        _bytes=data,
        _pointers=np.minimum(image["pointer"], np.uint64(size)).astype(np.int64),
    )
    sizes = beton.heights * beton.widths * 3
    first = len(start) + samples.nbytes
    _expect(path, bool((image["mode"] == _MODE_RAW).all()), "raw pixels", "compressed or damaged ones")
    _expect(
        path,
        bool(((sizes > 0) & (beton._pointers >= first) & (beton._pointers + sizes <= table)).all()),
        "every image inside the file",
        "an image outside of it",
    )
    _expect(
        path,
        bool(beton.labels.min() >= 0 and beton.index.min() >= 0),
        "labels and positions from 0 on",
        "a negative one",
    )
    # FFCV finds an image's size by its pointer in this table, and reads wherever a wrong one leads it.
    order = np.argsort(allocations["sample"], kind="stable")
    matches = (
        (allocations["sample"][order] == np.arange(num_samples, dtype=np.uint64)).all()
        and (allocations["pointer"][order] == image["pointer"]).all()
        and (allocations["size"][order] == sizes.astype(np.uint64)).all()
    )
    _expect(path, bool(matches), "an allocation table that matches the images", "another one")
    return beton


def _check_start(path: Path, start: bytes, size: int) -> tuple[int, int]:
    """Check header and field descriptors against the file's size; number of samples and the table's place."""
    _expect(
        path, len(start) >= _HEADER.itemsize, "a .beton file", f"{size} bytes" if size else "an empty file"
    )
    header = np.frombuffer(start, _HEADER, 1)[0]
    version, num_fields = int(header["version"]), int(header["num_fields"])
    num_samples, table, page_size = int(header["num_samples"]), int(header["table"]), int(header["page_size"])
    _expect(
        path, version == VERSION, f"a .beton file of version {VERSION}", f"version {version} or no .beton"
    )
    _expect(
        path, num_fields == len(_FIELDS), "the three fields image, label and index", f"{num_fields} field(s)"
    )
    _expect(path, size > len(start), "a whole .beton file", f"one cut short at {size} bytes")
    fields = np.frombuffer(start, _FIELD, len(_FIELDS), _HEADER.itemsize)
    found = tuple((field["name"].decode("ascii", "replace"), int(field["type"])) for field in fields)
    _expect(
        path,
        found == _FIELDS,
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
    records_end = len(start) + num_samples * _SAMPLE.itemsize
    whole = records_end <= table and table + num_samples * _ALLOCATION.itemsize == size
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
