"""What plain training and pst-plus make of a data set that has test images."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from pst_fast.data.folder import has_splits
from pst_fast.data.prepare import prepare
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest
from pst_fast.train.settings import TrainSettings
from pst_fast.train.trainer import train

DEFENSES = ("erm", "pst-plus")


def recover(
    folder: Path, test_folder: Path, *, epochs: int, seed: int, progress: Callable[[float, str], None]
) -> dict[str, float]:
    """Test accuracy after the last epoch, in [0,1], by defense: ResNet-18 of width 16.

    Args:
        folder: ``train/<class>/*`` with ``test`` or ``val`` beside it, or a folder with train.beton.
        test_folder: Of the latter, a folder with test.beton.
        epochs: Of each training.
        seed: Of both.
        progress: Called with (fraction done in [0,1], a few words).

    Raises:
        InputError: There are no test images.
    """
    ours = (folder / "train.beton").is_file()
    if not ((test_folder / "test.beton").is_file() if ours else has_splits(folder)):
        raise InputError(f"{folder}: expected test images beside the training images, got none")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        train_data, test_data = folder, test_folder
        if not ours:
            train_data = test_data = prepare(
                Path(scratch, "data"), dataset="folder", data_dir=folder, image_size=None,
                num_classes=None, train_per_class=None, test_per_class=None,
            )  # fmt: skip
        for number, defense in enumerate(DEFENSES):

            def told(done: float, words: str, number: int = number, defense: str = defense) -> None:
                progress((number + done) / len(DEFENSES), f"{defense}, {words}")

            settings = TrainSettings(defense=defense, model="resnet18", width=16, epochs=epochs, seed=seed)
            trained = train(
                Path(scratch, defense), train_data=train_data, test_data=test_data, settings=settings,
                device=device, progress=told,
            )  # fmt: skip
            found[defense] = read_manifest(trained)["facts"]["last_accuracy"]
    return found
