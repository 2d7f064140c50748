"""Small image folders and ``.beton`` files to test on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pst_fast.data.beton import write_beton


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Importing FFCV sets torch's threads to one, for the rest of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def image_tree(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes ``<split>/<class>/NN.png`` and returns the folder; image k of all has value k."""

    def make(
        classes: tuple[str, ...] = ("cat", "dog", "emu"),
        train: int = 5,
        test: int = 3,
        size: tuple[int, int] = (8, 8),
        test_name: str = "test",
    ) -> Path:
        root = tmp_path / "images"
        value = 0
        for split, count in (("train", train), (test_name, test)):
            for name in classes:
                (root / split / name).mkdir(parents=True)
                for number in range(count):
                    pixels = np.full((*size, 3), value, np.uint8)
                    Image.fromarray(pixels).save(root / split / name / f"{number:02}.png")
                    value += 1
        return root

    return make


@pytest.fixture
def random_set() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """103 random images of 20x20 with labels in range(7) and a shuffled index."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (103, 20, 20, 3), np.uint8)
    return images, random.integers(0, 7, 103), random.permutation(1000)[:103]


@pytest.fixture
def beton_file(tmp_path: Path, random_set: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Path:
    """``random_set`` written to a file."""
    path = tmp_path / "set.beton"
    write_beton(path, *random_set)
    return path
