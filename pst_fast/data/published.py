"""What lies at a path that somebody has published: one array of rows, and what is known of them."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pst_fast.data.arrays import read_arrays
from pst_fast.data.decode import EXTENSIONS, load_images, size_of
from pst_fast.data.folder import images_below
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.files import sha256

_ARRAYS = frozenset({".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle"})
_MOST_BYTES_A_VALUE = 16
"""Twice those of float64: a file may hold rows for images that the data set leaves out."""
_LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Published:
    """Rows as they stand in the files.

    Attributes:
        array: Numbers, [rows, ...].
        rows: int64 [N], the row of each image at hand, where the names of files say it; else None.
        labels: Whole numbers [rows], where they lie beside the array; else None.
        findings: What looks wrong but can be used: sentences.
    """

    array: np.ndarray
    rows: np.ndarray | None = None
    labels: np.ndarray | None = None
    findings: tuple[str, ...] = ()


def read_published(path: Path, data: ImageSet) -> Published:
    """Read a file of arrays, a folder of them, or a folder of images.

    Arrays are joined in the order that they have in their file or, of several files, by name (10 after 9).
    One array of whole numbers beside one of four dimensions is its labels. Images are told by the numbers
    that are their names, or by their place among all images of a tree with a folder for each class.

    Args:
        path: The file or folder; links in a folder are not followed.
        data: The clean images.

    Raises:
        InputError: Something is damaged, missing, of another class or too large.
    """
    most = (1 << 20) + _MOST_BYTES_A_VALUE * max(whole_set(data), len(data.classes)) * _values(data)
    if not path.is_dir():
        return _joined(path, read_arrays(path, most_bytes=most))
    files = _files(path)
    images = [file for file in files if file.suffix.lower() in EXTENSIONS]
    arrays = [file for file in files if file.suffix.lower() in _ARRAYS]
    if bool(images) == bool(arrays):
        came = "both" if images else "neither"
        raise InputError(f"{path}: expected images or files of arrays in the folder, got {came}")
    if images:
        return _from_images(path, images, data)
    parts: dict[str, np.ndarray] = {}
    for file in sorted(arrays, key=_natural):
        found = read_arrays(file, most_bytes=most - sum(part.nbytes for part in parts.values()))
        parts |= {f"{file.name}:{name}": array for name, array in found.items()}
    return _joined(path, parts)


def fingerprint(path: Path) -> str:
    """A hash of a file, or of the names and contents of a folder's files."""
    if not path.is_dir():
        return sha256(path)
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def whole_set(data: ImageSet) -> int:
    """How many samples the set has at least, of which ``data`` may be a part."""
    return int(data.index.max(initial=-1)) + 1


def _files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        for name in sorted(folders + names):
            path = Path(parent, name)
            if path.is_symlink():
                raise InputError(f"{path}: expected files and folders, got a link")
            if name in names and not name.startswith("."):
                found.append(path)
    return sorted(found)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"([0-9]+)", path.name)]


def _joined(path: Path, arrays: dict[str, np.ndarray]) -> Published:
    labels = {name: array for name, array in arrays.items() if array.ndim == 1 and array.dtype.kind in "iu"}
    images = {name: array for name, array in arrays.items() if name not in labels}
    if len(labels) > 1 or not images:
        images, labels = arrays, {}
    parts = list(images.values())
    if len({part.shape[1:] for part in parts}) > 1 or len({part.dtype for part in parts}) > 1:
        raise InputError(f"{path}: expected one array, or parts of one, got {', '.join(images)}")
    if parts[0].ndim == 3 and len(parts) > 1:  # one a class or sample, by itself
        parts = [part[None] for part in parts]
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if array.dtype.kind == "b":
        raise InputError(f"{path}: expected numbers, got truth values")
    beside = next(iter(labels.values()), None)
    if beside is not None and (array.ndim == 0 or len(beside) != len(array)):
        raise InputError(
            f"{path}: expected a label for each row, got {len(beside)} for an array {list(array.shape)}"
        )
    return Published(array, labels=beside)


def _from_images(path: Path, files: Sequence[Path], data: ImageSet) -> Published:
    root = path / "train" if (path / "train").is_dir() else path
    files = [file for file in files if file.is_relative_to(root)]
    numbers = [int(file.stem) for file in files if file.stem.isascii() and file.stem.isdigit()]
    if len(set(numbers)) == len(files):
        chosen = _by_number(root, dict(zip(numbers, files, strict=True)), data)
    else:
        chosen = _by_place(root, data)
    in_tree = any(file.parent != root for file in chosen)
    if in_tree:
        _check_classes(root, chosen, data)
    height, width = data.images.shape[1:3]
    if height != width:
        raise InputError(f"{path}: expected a data set of square images to read it for, got {height}x{width}")
    resized = 0
    for file in chosen:
        size = size_of(file)
        if max(size) > _LARGEST_SIDE or (size != (height, width) and not in_tree):
            raise InputError(
                f"{file}: expected an image of {height}x{width}, got one of {'x'.join(map(str, size))}"
            )
        resized += size != (height, width)
    images, _ = load_images(chosen, height)
    findings = (f"{resized} of {len(chosen)} images had another size and were resized",) if resized else ()
    return Published(images, rows=np.arange(len(chosen)), findings=findings)


def _by_number(root: Path, files: dict[int, Path], data: ImageSet) -> list[Path]:
    missing = [int(number) for number in data.index if int(number) not in files]
    if missing:
        raise InputError(
            f"{root}: expected an image for each of the {len(data)} at hand, "
            f"but {len(missing)} are missing, the first is number {min(missing)}"
        )
    return [files[int(number)] for number in data.index]


def _by_place(root: Path, data: ImageSet) -> list[Path]:
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    files = [file for folder in folders for file, _ in images_below(folder)]
    if not files:
        raise InputError(f"{root}: expected images with numbers as names, or a folder for each class")
    if len(files) < whole_set(data):
        raise InputError(
            f"{root}: expected an image for each of the {whole_set(data)} of the data set, got {len(files)}"
        )
    return [files[int(place)] for place in data.index]


def _check_classes(root: Path, files: Sequence[Path], data: ImageSet) -> None:
    for file, label in zip(files, data.labels, strict=True):
        folder = file.relative_to(root).parts[0]
        if folder not in (data.classes[label], str(label)):
            raise InputError(
                f"{file}: expected an image of class {data.classes[label]!r} there, in the data set's order"
            )


def _values(data: ImageSet) -> int:
    return int(np.prod(data.images.shape[1:]))
