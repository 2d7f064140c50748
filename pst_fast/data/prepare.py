"""The first stage: from a data set by name to a folder with ``train.beton`` and ``test.beton``."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pst_fast.data.beton import MappedImages, read_beton
from pst_fast.data.beton_stream import BetonStream
from pst_fast.data.datasets import DATASETS, SPLITS, Source, Split
from pst_fast.data.frozen_subsets import Subset, class_labels, ids_sha256, is_taken
from pst_fast.data.subset import Part, subset_rows
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.manifest import WORKING, build_stage, read_manifest

T = TypeVar("T")

_CHUNK_BYTES = 32 << 20
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 4096


@dataclass(frozen=True)
class Samples:
    """What is taken of a split: rows of the source, their labels (int64 [N] both), their ids."""

    rows: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]


def choose(
    source: Source,
    *,
    subset: Subset,
    num_classes: int | None,
    train_per_class: int | None,
    test_per_class: int | None,
    data_seed: int,
    test_part: Part,
) -> tuple[list[str], dict[Split, Samples]]:
    """The classes by name, and the samples of each split, that :func:`prepare` takes of a source.

    Raises:
        InputError: More is asked for than there is.
    """
    kept = class_labels(subset, source.classes)
    classes = [source.classes[label] for label in kept]
    chosen: dict[Split, Samples] = {}
    for split in SPLITS:
        labels = np.full(len(source.classes), -1)
        labels[kept] = np.arange(len(kept))
        labels, ids = labels[source.labels(split)], source.ids(split)
        rows = np.flatnonzero(is_taken(subset, split, ids, labels))
        part = subset_rows(
            labels[rows],
            classes,
            split,
            num_classes=num_classes,
            per_class=train_per_class if split == "train" else test_per_class,
            seed=data_seed,
            part="all" if split == "train" else test_part,
        )
        chosen[split] = Samples(rows[part], labels[rows[part]], [ids[row] for row in rows[part]])
    return classes[:num_classes], chosen


def prepare(
    output: Path,
    *,
    dataset: str,
    data_dir: Path | None,
    image_size: int | None,
    num_classes: int | None,
    train_per_class: int | None,
    test_per_class: int | None,
    data_seed: int = 0,
    test_part: Part = "all",
    subset: Subset = "all",
    test_jpeg: int | None = None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Path:
    """Write a data set, or a stratified subset of it, as RGB images of one size.

    The folder holds ``train.beton``, ``test.beton`` and a manifest whose facts are ``classes``,
    ``image_size``, ``counts`` (split -> images of each class), ``converted`` (split -> images that were
    not RGB) and ``subset`` (its name, and for each split the SHA-256 of the ids of the images taken).
    Images stream through, some megabytes at a time, decoded on all cores; after a kill it goes on with the
    next ones.

    Args:
        output: Folder to make.
        dataset: Name in the registry ``DATASETS``.
        data_dir: Where its images are, for those that are not drawn.
        image_size: Side in pixels; None: the data set's own.
        num_classes: Take the first so many classes (of the subset); None: all.
        train_per_class: Training images of each class; None: all.
        test_per_class: Test images of each class; None: all.
        data_seed: Draws the subsets, and the halves of the test images.
        test_part: Take all test images, or the half for choices or for reported figures.
        subset: A frozen subset of ImageNet (see :mod:`pst_fast.data.frozen_subsets`); the other arguments
            take a part of it.
        test_jpeg: Store the test images as JPEG of this quality; None: raw, as training images always are,
            for they will carry perturbations.
        progress: Called with (fraction done in [0,1], a few words).

    Raises:
        InputError: Whatever is wrong with the arguments, the images or the disk, in one sentence.
    """
    if image_size is not None and not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise InputError(f"--image-size: expected {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}, got {image_size}")
    if data_seed < 0:
        raise InputError(f"--data-seed: expected 0 or more, got {data_seed}")
    if test_jpeg is not None and not 1 <= test_jpeg <= 100:
        raise InputError(f"--test-jpeg: expected a quality from 1 to 100, got {test_jpeg}")
    source = DATASETS[dataset](data_dir)

    def build(folder: Path) -> Mapping[str, Any]:
        size = source.image_size if image_size is None else image_size
        classes, chosen = choose(
            source, subset=subset, num_classes=num_classes, train_per_class=train_per_class,
            test_per_class=test_per_class, data_seed=data_seed, test_part=test_part,
        )  # fmt: skip
        total = sum(len(of_split.rows) for of_split in chosen.values())
        converted, done = {}, 0
        for split, samples in chosen.items():

            def advance(count: int, before: int = done, split: Split = split) -> None:
                progress((before + count) / total, f"{split} images")

            quality = test_jpeg if split == "test" else None
            converted[split] = _write_split(folder, source, split, samples, size, quality, advance)
            done += len(samples.rows)
        return {
            "classes": classes,
            "image_size": size,
            "counts": {split: np.bincount(of_split.labels).tolist() for split, of_split in chosen.items()},
            "converted": converted,
            "subset": {
                "name": subset,
                "sha256": {split: ids_sha256(of_split.ids) for split, of_split in chosen.items()},
            },
        }

    parameters = {
        "dataset": dataset,
        "source": source.fingerprint(),
        "image_size": image_size,
        "num_classes": num_classes,
        "train_per_class": train_per_class,
        "test_per_class": test_per_class,
        "data_seed": data_seed,
        "test_part": test_part,
        "subset": subset,
        "test_jpeg": test_jpeg,
    }
    return build_stage(output, "prepare", parameters, {}, build)


def load_image_set(folder: Path, split: str) -> ImageSet:
    """All images of one split (``train`` or ``test``) of a folder that holds ``.beton`` files and a manifest.

    Raises:
        InputError: The folder is not such a one, or its file does not fit the manifest.
    """
    mapped = map_image_set(folder, split)
    return replace(mapped, images=np.asarray(mapped.images))


def map_image_set(folder: Path, split: str) -> ImageSet:
    """The same, with the images left in their file.

    Raises:
        InputError: As :func:`load_image_set`.
    """
    try:
        classes = tuple(read_manifest(folder)["facts"]["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: expected a prepared data set with its manifest, got no class names there"
        ) from error
    beton = read_beton(folder / f"{split}.beton")
    if beton.labels.max() >= len(classes):
        raise InputError(
            f"{beton.path}: expected labels below {len(classes)}, the number of classes in the manifest, "
            f"got {beton.labels.max()}"
        )
    return ImageSet(MappedImages(beton), beton.labels, beton.index, classes)


def _write_split(
    folder: Path,
    source: Source,
    split: Split,
    samples: Samples,
    image_size: int,
    quality: int | None,
    advance: Callable[[int], None],
) -> int:
    """Write a split's file, from where a killed process left off; how many of its images were not RGB."""
    stream = BetonStream(
        folder / f"{split}.beton", folder / WORKING, samples.labels, samples.rows, (image_size, image_size),
        quality,
    )  # fmt: skip
    per_chunk = max(1, _CHUNK_BYTES // (3 * image_size**2))

    def load(start: int) -> tuple[np.ndarray, int]:
        before = source.converted
        images = source.load(split, samples.rows[start : start + per_chunk], image_size)
        return images, source.converted - before

    converted = stream.note or 0
    for images, count in _one_ahead(load, range(stream.done, len(samples.rows), per_chunk)):
        converted += count
        stream.write(images, note=converted)
        advance(stream.done)
    stream.finish()
    return converted


def _one_ahead(load: Callable[[int], T], starts: Iterable[int]) -> Iterator[T]:
    """What ``load`` gives, in order; the next is loaded while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending: Future[T] | None = None
        for start in starts:
            following = pool.submit(load, start)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
