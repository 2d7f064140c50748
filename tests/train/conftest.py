"""Small folders to train on: 3 classes at 16x16, with or without coloured tiles for each class."""

from pathlib import Path

import numpy as np
import pytest

from pst_fast.data.beton import write_beton
from pst_fast.manifest import build_stage

CLASSES, SIZE = 3, 16


def make_folder(
    path: Path,
    *,
    seed: int = 0,
    pattern: int = 0,
    step: int = 20,
    train: int = 60,
    test: int = 30,
    classes: int = CLASSES,
    relabel: int = 0,
) -> Path:
    """Write train.beton (with ``pattern`` levels of class-wise tiles, which keep its grey) and test.beton.

    Classes are ``step`` levels of brightness apart. ``relabel`` shifts the test labels: other labels, the
    same images.
    """
    rng = np.random.default_rng(seed)
    tiles = rng.choice([-1, 1], (classes, 4, 4, 1)).repeat(SIZE // 4, 1).repeat(SIZE // 4, 2)
    patterns = tiles * np.array([0.114, 0, -0.299]) / 0.114

    def images(labels: np.ndarray, strength: int) -> np.ndarray:
        content = rng.integers(60, 190, (len(labels), SIZE, SIZE, 3))
        content[:, :, 4 : 4 + SIZE // 2] += (labels * step)[:, None, None, None]
        return (content + strength * patterns[labels]).clip(0, 255).astype(np.uint8)

    def build(folder: Path) -> dict:
        labels = np.arange(train) % classes
        write_beton(folder / "train.beton", images(labels, pattern), labels, np.arange(train))
        labels = np.arange(test) % classes
        write_beton(folder / "test.beton", images(labels, 0), (labels + relabel) % classes, np.arange(test))
        return {"classes": [str(k) for k in range(classes)], "image_size": SIZE}

    settings = {
        "seed": seed,
        "pattern": pattern,
        "step": step,
        "train": train,
        "test": test,
        "relabel": relabel,
    }
    return build_stage(path, "prepare", settings, {}, build)


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "clean")


@pytest.fixture(scope="session")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "trapped", pattern=12, step=2, train=180)
