"""Writing a bank in the formats that people exchange; :mod:`pst_fast.data.published` reads them all."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pst_fast.data.bank import Bank, apply_bank, check_match, load_bank
from pst_fast.data.prepare import load_image_set
from pst_fast.data.published import whole_set
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.files import replacing
from pst_fast.manifest import read_manifest

_PARTS = 10


class Format(NamedTuple):
    """One way to write a bank: what it is called in words, whether it is a folder, and what writes it."""

    words: str
    is_folder: bool
    write: Callable[[Path, Bank, ImageSet], None]


def export(bank: Path, clean: Path, output: Path, *, form: str) -> Path:
    """Write a bank in a format that others read.

    Rows for samples are in the order of the whole data set; where the bank is for a part of it, the rows of
    the others are zero (labels: -1). Read back, each gives the same poisoned images, bit for bit.

    Args:
        bank: Folder that :func:`pst_fast.data.bank.craft` or ``import_bank`` made.
        clean: The prepared data set that it was made for.
        output: File or folder to write; must not exist. It appears when it is whole.
        form: One of :data:`FORMATS`.

    Raises:
        InputError: Unknown format, ``output`` exists, or the bank is damaged or for other images.
    """
    if form not in FORMATS:
        raise InputError(f"--format {form!r}: expected one of {', '.join(FORMATS)}")
    if output.exists() or output.is_symlink():
        raise InputError(f"{output}: expected a name that is free, but it exists")
    if not (clean / "train.beton").is_file():
        raise InputError(f"{clean}: expected the prepared data set that the bank was made for, got none")
    loaded, data = load_bank(bank), load_image_set(clean, "train")
    check_match(loaded, data, read_manifest(clean)["outputs"].get("train.beton"), clean)
    chosen = FORMATS[form]
    with (_replacing_folder if chosen.is_folder else replacing)(output) as temporary:
        chosen.write(temporary, loaded, data)
    return output


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _steps(bank: Bank, data: ImageSet) -> np.ndarray:
    """Whole steps [rows,H,W,3] by class, or in the order of the whole set."""
    if bank.class_conditional:
        return np.array(bank.perturbation)
    steps = np.zeros((whole_set(data), *bank.perturbation.shape[1:]), bank.perturbation.dtype)
    steps[data.index] = bank.perturbation
    return steps


def _images(bank: Bank, data: ImageSet) -> np.ndarray:
    """Poisoned images, uint8 [rows,H,W,3], in the order of the whole set."""
    images = np.zeros((whole_set(data), *data.images.shape[1:]), np.uint8)
    start = 0
    for _, poisoned in apply_bank(data, bank):
        images[data.index[start : start + len(poisoned)]] = poisoned
        start += len(poisoned)
    return images


def _fractions(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) / np.float32(255)


def _first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _pt(path: Path, bank: Bank, data: ImageSet) -> None:
    _save(path, torch.from_numpy(_first(_fractions(_steps(bank, data)))))


def _npy(path: Path, bank: Bank, data: ImageSet) -> None:
    _save_array(path, _fractions(_images(bank, data)))


def _npz(path: Path, bank: Bank, data: ImageSet) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, perturbation=_steps(bank, data))


def _parts(path: Path, bank: Bank, data: ImageSet) -> None:
    for number, part in enumerate(np.array_split(_first(_fractions(_steps(bank, data))), _PARTS)):
        if len(part):
            _save_array(path / f"{number}.npy", part)


def _pkl(path: Path, bank: Bank, data: ImageSet) -> None:
    with path.open("wb") as stream:
        pickle.dump(_first(_steps(bank, data)), stream, protocol=4)


def _pair(path: Path, bank: Bank, data: ImageSet) -> None:
    labels = np.full(whole_set(data), -1, np.int64)
    labels[data.index] = data.labels
    _save(path, (torch.from_numpy(_first(_fractions(_images(bank, data)))), torch.from_numpy(labels)))


def _png(path: Path, bank: Bank, data: ImageSet) -> None:
    for number, _, image in _one_by_one(bank, data):
        Image.fromarray(image).save(path / f"{number}.png")


def _imagefolder(path: Path, bank: Bank, data: ImageSet) -> None:
    for label in range(len(data.classes)):
        (path / _folder_name(data, label)).mkdir()
    for number, label, image in _one_by_one(bank, data):
        Image.fromarray(image).save(path / _folder_name(data, label) / f"{number}.png")


def _bank(path: Path, bank: Bank, data: ImageSet) -> None:
    shutil.copytree(bank.folder, path, dirs_exist_ok=True)


def _one_by_one(bank: Bank, data: ImageSet) -> Iterator[tuple[int, int, np.ndarray]]:
    at = 0
    for _, poisoned in apply_bank(data, bank):
        for image in poisoned:
            yield int(data.index[at]), int(data.labels[at]), image
            at += 1


def _folder_name(data: ImageSet, label: int) -> str:
    """The class's name, or its number where that is no name for a folder."""
    name = data.classes[label]
    return str(label) if os.sep in name or name in ("", ".", "..") or name.startswith(".") else name


def _save(path: Path, value: object) -> None:
    with path.open("wb") as stream:
        torch.save(value, stream)


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


FORMATS = {
    "pt": Format("torch tensor of perturbations, float32 NCHW in [0,1] units, as em's and tue's", False, _pt),
    "npy": Format("array of poisoned images, float32 NHWC in [0,1], as ntga's", False, _npy),
    "npz": Format("archive with one array of perturbations, integers NHWC in /255", False, _npz),
    "parts": Format(
        "folder of ten .npy of perturbations, float32 NCHW in [0,1] units, as sep's", True, _parts
    ),
    "pkl": Format("pickled array of perturbations, integers NCHW in /255, as rem's", False, _pkl),
    "pair": Format(
        "torch file of poisoned images (float32 NCHW in [0,1]) and labels, as hypo's", False, _pair
    ),
    "png": Format("folder of poisoned images with their numbers as names, as tap's and ar's", True, _png),
    "imagefolder": Format("tree of poisoned images with a folder for each class", True, _imagefolder),
    "bank": Format("a copy of the bank", True, _bank),
}
"""By the names that ``--format`` takes."""
