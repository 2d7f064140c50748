"""The layout of FFCV's ``.beton`` files (format version 2), shared by all that reads and writes them here.

Header, one descriptor a field, one metadata record a sample, then (from the first page boundary on) the
images, none of them across a page's end, then a table of what lies where.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from pst_fast.errors import InputError

VERSION = 2
MIN_PAGE_SIZE = 1 << 21
MAX_PAGE_SIZE = 1 << 31
_IMAGES_PER_PAGE = 16
TYPE_INT, TYPE_RGB_IMAGE = 1, 2
MODE_JPEG, MODE_RAW = 0, 1
FIELDS = (("image", TYPE_RGB_IMAGE), ("label", TYPE_INT), ("index", TYPE_INT))

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("table", "<u8"),
    ]
)
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
SAMPLE = np.dtype([("image", _IMAGE), ("label", "<i8"), ("index", "<i8")], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])


def sample_records(path: Path, labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Records of the samples, without their images."""
    samples = np.zeros(len(labels), SAMPLE)
    if not len(samples):
        raise InputError(f"{path}: expected at least one image to write, got none")
    if len(index) != len(samples):
        raise InputError(f"{path}: expected as many positions as labels ({len(samples)}), got {len(index)}")
    samples["label"], samples["index"] = labels, index
    if samples["label"].min() < 0 or samples["index"].min() < 0:
        raise InputError(f"{path}: expected labels and positions from 0 on, got a negative one")
    return samples


def write_records(
    stream: IO[bytes], samples: np.ndarray, allocations: np.ndarray, page_size: int, table: int
) -> None:
    """Write what stands before and after the pixels; the table of allocations starts at byte ``table``."""
    stream.seek(table)
    stream.write(allocations.tobytes())
    header = np.array((VERSION, len(FIELDS), page_size, len(samples), table), HEADER)
    fields = np.zeros(len(FIELDS), FIELD)
    fields["type"] = [kind for _, kind in FIELDS]
    fields["name"] = [name for name, _ in FIELDS]
    stream.seek(0)
    stream.write(header.tobytes() + fields.tobytes() + samples.tobytes())


def checked_chunk(images: np.ndarray) -> np.ndarray:
    chunk = images[None] if images.ndim == 3 else images
    if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[3] != 3 or 0 in chunk.shape[1:]:
        raise InputError(
            f"images: expected uint8 of shape [H, W, 3] or [N, H, W, 3], got {images.dtype} {images.shape}"
        )
    if max(chunk.shape[1:3]) > np.iinfo(np.uint16).max:
        raise InputError(f"images: expected sides of at most 65535 pixels, got {chunk.shape[1:3]}")
    return chunk


def page_size_for(image_bytes: int) -> int:
    """The smallest page that wastes at most about a sixteenth at its end."""
    wanted = max(MIN_PAGE_SIZE, _IMAGES_PER_PAGE * image_bytes)
    return max(MIN_PAGE_SIZE, min(MAX_PAGE_SIZE, 1 << (wanted - 1).bit_length()))


@contextmanager
def full_disk_is_input_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{path}: expected room on the disk, got '{error.strerror}'") from error
