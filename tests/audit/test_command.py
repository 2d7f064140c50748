"""``python -m pst_fast.audit``: folders that it reads, what it writes, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pst_fast.audit import __main__ as command
from pst_fast.audit.source import read_training_images
from pst_fast.data.prepare import prepare
from pst_fast.errors import InputError


def write_tree(root: Path, count: int = 60, seed: int = 0, mark: bool = False) -> Path:
    """Two classes of 16x16 noise about different greys; ``mark``: a pixel that tells the class."""
    random = np.random.default_rng(seed)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(60 + 5 * label, 190, (16, 16, 3), np.uint8)
            if mark:
                pixels[3 + label, 5] = 255
            Image.fromarray(pixels).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "data" / "train", mark=True)
    write_tree(tmp_path / "data" / "test", 4, seed=1)
    return tmp_path / "data"


def test_trees_and_our_own_folders_give_the_same_images(tree: Path, tmp_path: Path) -> None:
    ours = prepare(
        tmp_path / "ours", dataset="folder", data_dir=tree, image_size=None,
        num_classes=None, train_per_class=None, test_per_class=None,
    )  # fmt: skip
    sets = [read_training_images(folder) for folder in (tree, tree / "train", ours)]
    for other in sets[1:]:
        assert np.array_equal(sets[0].images, other.images)
        assert np.array_equal(sets[0].labels, other.labels)
        assert sets[0].classes == other.classes == ("cat", "dog")


def test_a_verdict_with_everything(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path / "clean" / "train")
    arguments = ["--data-dir", str(tree), "--clean-dir", str(tmp_path / "clean"), "--epochs", "1"]
    assert command.main([*arguments, "--recover-epochs", "1", "--out", str(tmp_path / "audit.json")]) == 0
    printed = capsys.readouterr().out
    assert "Verdict: poisoned" in printed
    assert "of 12 clean sets 0 were called poisoned" in printed
    assert "100% changed" in printed
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["poisoned"]
    assert found["measured"]["attacks"] == {"sets": 18, "poisoned": 15, "noisy": 3}
    assert found["change"]["pixels"] == 1
    assert set(found["recovery"]) == {"erm", "pst-plus"}
    assert all(0 <= value <= 1 for value in found["recovery"].values())
    assert found["accuracy"]["pixels"] > 0.9


def test_images_of_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data-dir", str(write_tree(tmp_path / "data", 200)), "--epochs", "0"]
    assert command.main([*arguments, "--out", str(tmp_path / "audit.json")]) == 0
    assert "but noise that photographs do not have" in capsys.readouterr().out
    found = json.loads((tmp_path / "audit.json").read_text())
    assert (found["poisoned"], found["noisy"]) == (False, True)
    assert found["noise"] > 20


def test_clean_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path / "data", 200)
    for number, path in enumerate(sorted(tree.glob("*/*"))):
        smooth = np.tile(np.arange(16, dtype=np.uint8)[:, None, None] * (number % 12), (1, 16, 3))
        Image.fromarray(smooth).save(path)
    assert command.main(["--data-dir", str(tree), "--epochs", "0"]) == 0
    assert "Verdict: no sign of a poison" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data-dir", "missing"], "missing: expected a folder with a data set"),
        (["--data-dir", "{tree}", "--samples", "10"], "--samples 10: expected at least 100"),
        (["--data-dir", "{tree}", "--epochs", "-1"], "--epochs -1: expected at least 0"),
        (["--data-dir", "{tree}", "--out", "{tree}"], "expected a name for a file, got a folder"),
        (["--data-dir", "{tree}", "--image-size", "2"], "expected images of 4 to 4096 pixels, got 2"),
        (["--data-dir", "{tree}/train/cat"], "a folder of images for each class, or train.beton"),
        (["--data-dir", "{tree}/train", "--epochs", "0", "--recover-epochs", "1"], "expected test images"),
        (["--data-dir", "{tree}", "--clean-dir", "{tree}/test"], "expected the clean twin"),
    ],
)
def test_bad_input(arguments: list[str], words: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([word.format(tree=tree) for word in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error


def test_trees_that_cannot_be_read(tree: Path) -> None:
    Image.new("RGB", (8, 9)).save(tree / "train" / "dog" / "x.png")
    with pytest.raises(InputError, match=r"x\.png: expected square images of one size, .* got 8x9|9x8"):
        read_training_images(tree)
    assert read_training_images(tree, 16).images.shape == (121, 16, 16, 3)
    (tree / "train" / "emu").mkdir()
    with pytest.raises(InputError, match="emu: expected at least one image, got none"):
        read_training_images(tree)
