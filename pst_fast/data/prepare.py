"""The first stage: from a data set by name to a folder with ``train.beton`` and ``test.beton``."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pst_fast.data.beton import read_beton, write_beton
from pst_fast.data.datasets import DATASETS, SPLITS, Source, Split
from pst_fast.data.subset import Part, subset_rows
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import build_stage, read_manifest

_CHUNK_BYTES = 32 << 20
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 4, 4096


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
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Path:
    """Write a data set, or a stratified subset of it, as raw RGB images of one size.

    The folder holds ``train.beton``, ``test.beton`` and a manifest whose facts are ``classes``,
    ``image_size``, ``counts`` (split -> images of each class) and ``converted`` (split -> images that were
    not RGB). Images stream through; no more than a few megabytes of them are in memory.

    Args:
        output: Folder to make.
        dataset: Name in the registry ``DATASETS``.
        data_dir: Where its images are, for those that are not drawn.
        image_size: Side in pixels; None: the data set's own.
        num_classes: Take the first so many classes; None: all.
        train_per_class: Training images of each class; None: all.
        test_per_class: Test images of each class; None: all.
        data_seed: Draws the subsets, and the halves of the test images.
        test_part: Take all test images, or the half for choices or for reported figures.
        progress: Called with (fraction done in [0,1], a few words).

    Raises:
        InputError: Whatever is wrong with the arguments, the images or the disk, in one sentence.
    """
    if image_size is not None and not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise InputError(f"--image-size: expected {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE}, got {image_size}")
    if data_seed < 0:
        raise InputError(f"--data-seed: expected 0 or more, got {data_seed}")
    source = DATASETS[dataset](data_dir)

    def build(folder: Path) -> Mapping[str, Any]:
        size = source.image_size if image_size is None else image_size
        rows = {
            split: subset_rows(
                source.labels(split),
                source.classes,
                split,
                num_classes=num_classes,
                per_class=train_per_class if split == "train" else test_per_class,
                seed=data_seed,
                part="all" if split == "train" else test_part,
            )
            for split in SPLITS
        }
        total = sum(len(of_split) for of_split in rows.values())
        facts: dict[Split, Any] = {}
        done = 0
        for split in SPLITS:

            def advance(count: int, before: int = done, split: Split = split) -> None:
                progress((before + count) / total, f"{split} images")

            facts[split] = _write_split(folder, source, split, rows[split], size, advance)
            done += len(rows[split])
        for split in SPLITS:
            _facts_file(folder, split).unlink()
        return {
            "classes": list(source.classes[:num_classes]),
            "image_size": size,
            "counts": {split: facts[split]["counts"] for split in SPLITS},
            "converted": {split: facts[split]["converted"] for split in SPLITS},
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
    }
    return build_stage(output, "prepare", parameters, {}, build)


def load_image_set(folder: Path, split: str) -> ImageSet:
    """All images of one split (``train`` or ``test``) of a folder that holds ``.beton`` files and a manifest.

    Raises:
        InputError: The folder is not such a one, or its file does not fit the manifest.
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
    return ImageSet(beton.load_all(), beton.labels, beton.index, classes)


def _write_split(
    folder: Path,
    source: Source,
    split: Split,
    rows: np.ndarray,
    image_size: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    # Written after the images: a stage that goes on after a kill does not write a finished split again.
    facts_file = _facts_file(folder, split)
    if facts_file.is_file():
        return json.loads(facts_file.read_text(encoding="utf-8"))
    labels = source.labels(split)[rows]
    converted = source.converted
    per_chunk = max(1, _CHUNK_BYTES // (3 * image_size**2))

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), per_chunk):
            yield source.load(split, rows[start : start + per_chunk], image_size)
            advance(min(start + per_chunk, len(rows)))

    write_beton(folder / f"{split}.beton", chunks(), labels, rows)
    facts = {"counts": np.bincount(labels).tolist(), "converted": source.converted - converted}
    write_json(facts_file, facts)
    return facts


def _facts_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}.facts.json"
