"""Small folders to train on: 3 classes at 16x16, with or without a pattern for each class."""

from pathlib import Path

import numpy as np
import pytest

from pst_fast.data.beton import write_beton
from pst_fast.manifest import build_stage

CLASSES, SIZE = 3, 16


def make_folder(
    path: Path, *, seed: int = 0, pattern: int = 0, train: int = 60, classes: int = CLASSES, relabel: int = 0
) -> Path:
    """Write train.beton (with ``pattern`` levels of a class-wise pattern) and test.beton.

    ``relabel`` shifts the test labels: other labels, the same images.
    """
    rng = np.random.default_rng(seed)
    patterns = rng.choice([-1, 1], (classes, SIZE, SIZE, 3))

    def images(labels: np.ndarray, strength: int) -> np.ndarray:
        content = rng.integers(60, 190, (len(labels), SIZE, SIZE, 3))
        content[:, :, 4 : 4 + SIZE // 2] += (labels * 20)[:, None, None, None]
        return (content + strength * patterns[labels]).clip(0, 255).astype(np.uint8)

    def build(folder: Path) -> dict:
        labels = np.arange(train) % classes
        write_beton(folder / "train.beton", images(labels, pattern), labels, np.arange(train))
        labels = np.arange(30) % classes
        write_beton(folder / "test.beton", images(labels, 0), (labels + relabel) % classes, np.arange(30))
        return {"classes": [str(k) for k in range(classes)], "image_size": SIZE}

    return build_stage(path, "prepare", {"seed": seed, "pattern": pattern, "relabel": relabel}, {}, build)


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "clean")


@pytest.fixture(scope="session")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "trapped", pattern=40)
