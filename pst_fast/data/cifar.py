"""CIFAR-10 and CIFAR-100: a local copy, as python batches or as image folders, or torchvision's download.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from pst_fast.data.datasets import DATASETS, Source, Split
from pst_fast.data.folder import FolderSource, has_splits
from pst_fast.errors import InputError

IMAGE_SIZE = 32
DOWNLOAD_DIR = Path("data")


class CifarSource:
    """The python batches, read through torchvision, which unpickles them only after their MD5s matched.

    Args:
        folder: Holds (or will hold) the extracted batches.
        num_classes: 10 or 100.
        download: Whether torchvision may fetch what is missing.
    """

    image_size = IMAGE_SIZE
    converted = 0

    def __init__(self, folder: Path, num_classes: int, download: bool) -> None:
        self._folder = folder
        self._num_classes = num_classes
        self._download = download

    @cached_property
    def _splits(self) -> dict[Split, Any]:
        from torchvision import datasets

        dataset = datasets.CIFAR10 if self._num_classes == 10 else datasets.CIFAR100
        try:
            return {
                "train": dataset(str(self._folder), train=True, download=self._download),
                "test": dataset(str(self._folder), train=False, download=False),
            }
        except (OSError, RuntimeError) as error:
            expected = "a reachable download" if self._download else "batches with the published MD5 sums"
            raise InputError(
                f"{self._folder}: expected CIFAR-{self._num_classes} from {expected}, got '{error}'"
            ) from error

    @property
    def has_to_be_fetched(self) -> bool:
        """Whether the first look at the images downloads them."""
        name = "cifar-10-batches-py" if self._num_classes == 10 else "cifar-100-python"
        return self._download and not (self._folder / name).is_dir()

    @property
    def classes(self) -> tuple[str, ...]:
        """See :class:`~pst_fast.data.datasets.Source`."""
        return tuple(self._splits["train"].classes)

    def labels(self, split: Split) -> np.ndarray:
        """See :class:`~pst_fast.data.datasets.Source`."""
        return np.asarray(self._splits[split].targets, np.int64)

    def ids(self, split: Split) -> Sequence[str]:
        """See :class:`~pst_fast.data.datasets.Source`: positions in the published batches."""
        return [str(row) for row in range(len(self._splits[split].targets))]

    def load(self, split: Split, rows: np.ndarray, image_size: int) -> np.ndarray:
        """See :class:`~pst_fast.data.datasets.Source`. Other sizes than 32 are resized (bicubic)."""
        images = self._splits[split].data[rows]
        if image_size == IMAGE_SIZE:
            return images
        from PIL import Image

        from pst_fast.data.decode import fit

        resized = [np.asarray(fit(Image.fromarray(image), image_size)) for image in images]
        return np.stack(resized) if resized else np.empty((0, image_size, image_size, 3), np.uint8)

    def fingerprint(self) -> Any:
        """See :class:`~pst_fast.data.datasets.Source`. The MD5 check leaves only one possible content."""
        return f"cifar{self._num_classes}-python-batches"


def _cifar(data_dir: Path | None, num_classes: int) -> Source:
    stem = "cifar-10" if num_classes == 10 else "cifar-100"
    batches = "cifar-10-batches-py" if num_classes == 10 else "cifar-100-python"
    folder = DOWNLOAD_DIR if data_dir is None else data_dir
    if (folder / batches).is_dir():
        return CifarSource(folder, num_classes, download=False)
    if data_dir is not None and data_dir.name == batches and data_dir.is_dir():
        return CifarSource(data_dir.parent, num_classes, download=False)
    if data_dir is not None and has_splits(data_dir):
        source = FolderSource(data_dir, stem, image_size=IMAGE_SIZE)
        if len(source.classes) != num_classes:
            raise InputError(
                f"{data_dir / 'train'}: expected the {num_classes} classes of {stem}, "
                f"got {len(source.classes)}"
            )
        return source
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"{data_dir}: expected a folder with {stem}, or an empty one, got no folder")
    archive = folder / f"{stem}-python.tar.gz"
    if data_dir is None or archive.is_file() or not any(data_dir.iterdir()):
        return CifarSource(folder, num_classes, download=True)
    raise InputError(
        f"{data_dir}: expected {batches}, or train and test folders of images, "
        f"or an empty folder to download into, got something else"
    )


DATASETS.register("cifar10")(partial(_cifar, num_classes=10))
DATASETS.register("cifar100")(partial(_cifar, num_classes=100))
