"""The images that an audit is asked about, from a folder of any of the kinds that people have."""

from pathlib import Path

import numpy as np

from pst_fast.data.decode import load_images, size_of
from pst_fast.data.folder import images_below
from pst_fast.data.prepare import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, load_image_set
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError


def read_training_images(folder: Path, image_size: int | None = None) -> ImageSet:
    """The training images of a folder that a run made, or of a tree with a folder for each class.

    Args:
        folder: With ``train.beton``; with ``train/<class>/*``; or with ``<class>/*``.
        image_size: Side to bring a tree's images to; None: their own, where they are squares of one size.

    Raises:
        InputError: There is none of these, or an image is damaged or of another size.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with a data set, got no folder")
    if (folder / "train.beton").is_file():
        return load_image_set(folder, "train")
    root = folder / "train" if (folder / "train").is_dir() else folder
    classes = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    files = [[path for path, _ in images_below(child)] for child in classes]
    paths = [path for of_class in files for path in of_class]
    if not paths:
        raise InputError(f"{root}: expected a folder of images for each class, or train.beton, got neither")
    empty = next((child for child, of_class in zip(classes, files, strict=True) if not of_class), None)
    if empty is not None:
        raise InputError(f"{empty}: expected at least one image, got none")
    size = _common_size(paths) if image_size is None else image_size
    if not MIN_IMAGE_SIZE <= size <= MAX_IMAGE_SIZE:
        raise InputError(
            f"{root}: expected images of {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels, got {size}"
        )
    images, _ = load_images(paths, size)
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(of_class) for of_class in files])
    return ImageSet(images, labels, np.arange(len(paths)), tuple(child.name for child in classes))


def _common_size(paths: list[Path]) -> int:
    first = size_of(paths[0])
    odd = next((path for path in paths if size_of(path) != first or first[0] != first[1]), None)
    if odd is None:
        return first[0]
    raise InputError(
        f"{odd}: expected square images of one size, or --image-size to bring them to one, "
        f"got {'x'.join(map(str, size_of(odd)))}"
    )
