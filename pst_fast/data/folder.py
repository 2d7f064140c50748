"""Data sets that are folders of images: ``<data-dir>/train/<class>/*`` and ``test`` or ``val`` beside it."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pst_fast.data.datasets import DATASETS, SPLITS, Split
from pst_fast.data.decode import EXTENSIONS, load_images, size_of
from pst_fast.errors import InputError

IMAGENET_SIZE = 224


class FolderSource:
    """The images of ``train/<class>/`` and of ``test/<class>/`` or, where there is no test, ``val/<class>/``.

    Classes and files are sorted by name, so that labels and dataset order are those of torchvision's
    ``ImageFolder``; hidden files are passed over.

    Args:
        folder: Holds train and test or val.
        name: Of the data set, for messages.
        image_size: Side in pixels to keep images at. None: their own, where they are squares of one size.
        mixed_size: What None falls back to where they are not. None: the user has to say.

    Raises:
        InputError: A folder is missing, a class is empty, or train and test have not the same classes.
    """

    def __init__(
        self, folder: Path, name: str, image_size: int | None = None, mixed_size: int | None = None
    ) -> None:
        self.converted = 0
        self._folder = folder
        self._image_size = image_size
        self._mixed_size = mixed_size
        roots = {split: _split_folder(folder, split, name) for split in SPLITS}
        self._roots = roots
        self.classes = _classes(roots["train"])
        _same_classes(self.classes, roots["train"], roots["test"])
        self._files: dict[Split, list[Path]] = {}
        self._labels: dict[Split, np.ndarray] = {}
        digest = hashlib.sha256()
        for split, root in roots.items():
            files: list[Path] = []
            counts: list[int] = []
            for label in self.classes:
                found = images_below(root / label)
                if not found:
                    raise InputError(f"{root / label}: expected at least one image, got none")
                files += [path for path, _ in found]
                counts.append(len(found))
                for path, size in found:
                    digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\n".encode())
            self._files[split] = files
            self._labels[split] = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        self._fingerprint = digest.hexdigest()

    @cached_property
    def image_size(self) -> int:
        """See :class:`~pst_fast.data.datasets.Source`. Unless it was given, reads the images' headers."""
        if self._image_size is not None:
            return self._image_size
        paths = [path for split in SPLITS for path in self._files[split]]
        height, width = size_of(paths[0])
        if height == width:
            others = (path for path in paths if size_of(path) != (height, width))
            odd = next(others, None)
        else:
            odd = paths[0]
        if odd is None:
            return height
        if self._mixed_size is not None:
            return self._mixed_size
        raise InputError(
            f"{self._folder}: expected square images of one size, or --image-size to bring them to one, "
            f"got {'x'.join(map(str, size_of(odd)))} in {odd.relative_to(self._folder)}"
        )

    def labels(self, split: Split) -> np.ndarray:
        """See :class:`~pst_fast.data.datasets.Source`."""
        return self._labels[split]

    def ids(self, split: Split) -> Sequence[str]:
        """See :class:`~pst_fast.data.datasets.Source`: ``<class>/<file name without its ending>``."""
        root = self._roots[split]
        return [path.relative_to(root).with_suffix("").as_posix() for path in self._files[split]]

    def load(self, split: Split, rows: np.ndarray, image_size: int) -> np.ndarray:
        """See :class:`~pst_fast.data.datasets.Source`. Other sizes are resized (bicubic), centre-cropped."""
        files = self._files[split]
        images, converted = load_images([files[row] for row in rows], image_size)
        self.converted += converted
        return images

    def fingerprint(self) -> Any:
        """See :class:`~pst_fast.data.datasets.Source`: a hash of all files' names and sizes."""
        return self._fingerprint


def has_splits(folder: Path) -> bool:
    """Whether ``folder`` looks like an ImageFolder with train and test (or val)."""
    return (folder / "train").is_dir() and any((folder / name).is_dir() for name in ("test", "val"))


def _split_folder(folder: Path, split: Split, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of {name}'s images, got no folder")
    names = ("train",) if split == "train" else ("test", "val")
    for candidate in names:
        if (folder / candidate).is_dir():
            return folder / candidate
    raise InputError(f"{folder}: expected a folder {' or '.join(names)} in it, got none")


def _classes(root: Path) -> tuple[str, ...]:
    classes = tuple(sorted(x.name for x in root.iterdir() if x.is_dir() and not x.name.startswith(".")))
    if not classes:
        raise InputError(f"{root}: expected a folder of images for each class, got no folder")
    return classes


def _same_classes(classes: Sequence[str], train: Path, test: Path) -> None:
    found = _classes(test)
    for label in sorted(set(found) - set(classes)):
        raise InputError(f"{test / label}: expected only classes that {train} holds, got class {label!r}")
    for label in sorted(set(classes) - set(found)):
        raise InputError(f"{test}: expected every class that {train} holds, got no class {label!r}")


def images_below(root: Path) -> list[tuple[Path, int]]:
    """All images below a class's folder with their sizes in bytes, in ImageFolder's order."""
    images = []
    for folder, _, names in sorted(os.walk(root, followlinks=True)):
        for name in sorted(names):
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                path = Path(folder, name)
                images.append((path, path.stat().st_size))
    return images


def required_folder(data_dir: Path | None, name: str) -> Path:
    """``data_dir``; InputError where it was not given."""
    if data_dir is None:
        raise InputError(f"--data-dir: expected the folder of {name}'s images, got nothing")
    return data_dir


@DATASETS.register("folder")
def folder(data_dir: Path | None) -> FolderSource:
    """Any ImageFolder; images of mixed sizes need --image-size."""
    return FolderSource(required_folder(data_dir, "the data set"), "the data set")


@DATASETS.register("imagenet-mini")
def imagenet_mini(data_dir: Path | None) -> FolderSource:
    """``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``: as they are where all have one size, else at 224."""
    return FolderSource(required_folder(data_dir, "imagenet-mini"), "imagenet-mini", mixed_size=IMAGENET_SIZE)
