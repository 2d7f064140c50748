"""What others publish, written here with plain NumPy, PIL and torch: images, pairs, parts, shuffled rows."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pst_fast.data
from pst_fast.data import load_perturbation
from pst_fast.data.published import fingerprint
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError

RNG = np.random.default_rng(1)
IMAGES = np.repeat(np.repeat(RNG.integers(30, 226, (24, 4, 4, 3), dtype=np.uint8), 4, 1), 4, 2)
POISONED = (IMAGES + RNG.integers(-8, 9, IMAGES.shape)).astype(np.uint8)
LABELS = np.repeat(np.arange(3), 8)
CLASSES = ("ant", "bee", "cat")
ROWS = np.array([20, 3, 9, 1, 14, 23, 6])
CHANGE = POISONED[ROWS].astype(int) - IMAGES[ROWS]


@pytest.fixture
def data() -> ImageSet:
    """Seven of a set of 24, out of order."""
    return ImageSet(IMAGES[ROWS], LABELS[ROWS], ROWS, CLASSES)


def write_numbers(root: Path, form: str = "{}.png") -> Path:
    root.mkdir()
    for number, image in enumerate(POISONED):
        Image.fromarray(image).save(root / form.format(number))
    return root


def write_tree(root: Path, name: Callable[[int], str], classes: tuple[str, ...] = CLASSES) -> Path:
    for number, image in enumerate(POISONED):
        folder = root / classes[LABELS[number]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name(number))
    return root


def test_load_perturbation_is_where_people_look() -> None:
    assert pst_fast.data.load_perturbation is load_perturbation


@pytest.mark.parametrize("form", ["{}.png", "{:05}.PNG"])
def test_images_with_numbers_as_names(form: str, data: ImageSet, tmp_path: Path) -> None:
    found = load_perturbation(write_numbers(tmp_path / "poison", form), data)
    assert str(found.layout) == "sample-last-images"
    assert np.array_equal(found.steps, CHANGE)
    assert found.findings == ()


@pytest.mark.parametrize("within", ["", "train"])
@pytest.mark.parametrize(
    "name",
    [lambda i: f"{i}.png", lambda i: f"{i % 8}.png", lambda i: f"n01_{i:03}.png"],
    ids=["number", "place", "name"],
)
def test_trees_of_poisoned_images(
    name: Callable[[int], str], within: str, data: ImageSet, tmp_path: Path
) -> None:
    write_tree(tmp_path / "poison" / within, name)
    if within:  # a test set beside it is not read
        write_tree(tmp_path / "poison" / "test", lambda i: f"{i}.png")
    assert np.array_equal(load_perturbation(tmp_path / "poison", data).steps, CHANGE)


def test_folders_named_by_label(data: ImageSet, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "poison", lambda i: f"{i}.png", ("0", "1", "2"))
    assert np.array_equal(load_perturbation(root, data).steps, CHANGE)


def test_a_tree_of_another_size_is_resized_and_told(data: ImageSet, tmp_path: Path) -> None:
    for number, image in enumerate(POISONED):
        folder = tmp_path / "poison" / CLASSES[LABELS[number]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    found = load_perturbation(tmp_path / "poison", data)
    assert found.findings == ("7 of 7 images had another size and were resized",)
    assert np.abs(found.steps).mean() < 12


def test_parts_in_a_folder_are_joined_by_number(data: ImageSet, tmp_path: Path) -> None:
    steps = (POISONED.astype(np.float32) - IMAGES).transpose(0, 3, 1, 2) / 255
    for number, part in enumerate(np.array_split(steps, 12)):
        np.save(tmp_path / f"perturbation_{number}.npy", part)  # 10 and 11 sort before 2 as text
    assert np.array_equal(load_perturbation(tmp_path, data).steps, CHANGE)


def save_pair(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    values = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    torch.save((values, torch.from_numpy(labels)), path)
    return path


def test_images_and_labels(data: ImageSet, tmp_path: Path) -> None:
    found = load_perturbation(save_pair(tmp_path / "poison", POISONED, LABELS), data)
    assert str(found.layout) == "sample-first-images"
    assert np.array_equal(found.steps, CHANGE)


def test_labels_that_are_others(data: ImageSet, tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[[9, 23]] = 0, 1
    with pytest.raises(InputError, match="others for 2 of 7 images, the first is number 9: 1 and not 0"):
        load_perturbation(save_pair(tmp_path / "poison", POISONED, labels), data)


def test_labels_that_are_too_few(data: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a label for each row, got 23 for an array \[24, 3, 16, 16\]"):
        load_perturbation(save_pair(tmp_path / "poison", POISONED, LABELS[:23]), data)


def test_shuffled_and_dropped_rows_are_told_by_content(data: ImageSet, tmp_path: Path) -> None:
    kept = np.random.default_rng(2).permutation(np.delete(np.arange(24), 9))
    found = load_perturbation(save_pair(tmp_path / "poison", POISONED[kept], LABELS[kept]), data)
    expected = CHANGE.copy()
    expected[2] = 0  # image 9 has no row
    assert np.array_equal(found.steps, expected)
    assert found.findings == (
        "rows are not in the data set's order and were told by their content: 6 images found",
        "1 of 7 images have no row and stay clean",
        "1 of 7 rows change nothing, the first is row 2",
    )


def test_of_two_rows_for_one_image_the_nearer_is_taken(data: ImageSet, tmp_path: Path) -> None:
    farther = np.clip(IMAGES.astype(int) + 12, 0, 255).astype(np.uint8)
    rows = np.concatenate([POISONED[::-1], farther])
    values = (rows / np.float32(255)).astype(np.float32)
    np.save(tmp_path / "poison.npy", values)
    assert np.array_equal(load_perturbation(tmp_path / "poison.npy", data).steps, CHANGE)


def test_images_of_something_else(data: ImageSet, tmp_path: Path) -> None:
    others = np.random.default_rng(3).integers(0, 256, IMAGES.shape, dtype=np.uint8)
    np.save(tmp_path / "poison.npy", others)
    with pytest.raises(InputError, match="or images made of those of the data set, got other images"):
        load_perturbation(tmp_path / "poison.npy", data)
    found = load_perturbation(tmp_path / "poison.npy", data, layout="sample-last-images")
    assert np.array_equal(found.steps, others[ROWS].astype(int) - IMAGES[ROWS])


def test_released_images_lose_their_fractions(data: ImageSet, tmp_path: Path) -> None:
    np.save(tmp_path / "poison.npy", POISONED + np.float32(0.75))
    found = load_perturbation(tmp_path / "poison.npy", data, apply_mode="released")
    assert np.array_equal(found.steps, CHANGE)
    assert np.array_equal(load_perturbation(tmp_path / "poison.npy", data).steps, CHANGE + 1)


def bomb(path: Path) -> None:
    """A small file whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(x)) + n + x + struct.pack(">I", zlib.crc32(n + x)) for n, x in chunks
        )
    )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def other_size(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "but 1 are missing, the first is number 9"),
        (truncate, r"9\.png: expected a whole image file"),
        (lambda path: path.write_bytes(b""), r"9\.png: expected an image file"),
        (lambda path: path.write_text("import os"), r"9\.png: expected an image file"),
        (other_size, r"9\.png: expected an image of 16x16, got one of 8x8"),
        (bomb, r"9\.png: expected an image"),
        (link, r"9\.png: expected files and folders, got a link"),
        (
            lambda path: (path.parent / "perturbation.npy").write_bytes(b"x"),
            "expected images or files of arrays",
        ),
    ],
    ids=["missing", "truncated", "empty", "code", "size", "bomb", "link", "both"],
)
def test_a_damaged_folder_gives_one_sentence(
    harm: Callable[[Path], object], words: str, data: ImageSet, tmp_path: Path
) -> None:
    root = write_numbers(tmp_path / "poison")
    harm(root / "9.png")
    with pytest.raises(InputError, match=words) as caught:
        load_perturbation(root, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_to_a_folder(seed: int, data: ImageSet, tmp_path: Path) -> None:
    """Bytes of an image, or of a part, are changed: a sentence or whole numbers, and nothing else."""
    random = np.random.default_rng(seed)
    if seed % 2:
        path = write_numbers(tmp_path / "poison") / "9.png"
    else:
        (tmp_path / "poison").mkdir()
        path = tmp_path / "poison" / "0.npy"
        np.save(path, POISONED.astype(np.int16) - IMAGES)
    content = bytearray(path.read_bytes())
    for at in random.integers(0, min(len(content), 200), 3):
        content[at] = random.integers(256)
    path.write_bytes(content[: random.integers(1, len(content) + 1)] if seed % 3 == 0 else content)
    before = sorted(os.walk(tmp_path))
    try:
        found = load_perturbation(tmp_path / "poison", data)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert found.steps.shape == (7, 16, 16, 3)
    assert sorted(os.walk(tmp_path)) == before


@pytest.mark.parametrize(
    ("classes", "name", "words"),
    [
        (("bee", "ant", "cat"), lambda i: f"{i}.png", "expected an image of class"),
        (("ant", "ant", "ant"), lambda i: f"x{i // 2}.png", "an image for each of the 24 .*, got 12"),
    ],
)
def test_a_tree_that_does_not_fit(
    classes: tuple[str, ...], name: Callable[[int], str], words: str, data: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        load_perturbation(write_tree(tmp_path / "poison", name, classes), data)


def test_a_tree_of_other_images_is_told(data: ImageSet, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "poison", lambda i: f"{i % 8}.png", ("bee", "cat", "ant"))
    (finding,) = load_perturbation(root, data).findings
    assert "like others rather than those" in finding


def test_names_without_numbers(data: ImageSet, tmp_path: Path) -> None:
    root = write_numbers(tmp_path / "poison", "cat{}.png")
    with pytest.raises(InputError, match="numbers as names, or a folder for each class"):
        load_perturbation(root, data)


def test_an_empty_folder(data: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected images or files of arrays in the folder, got neither"):
        load_perturbation(tmp_path, data)


def test_a_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    root = write_numbers(tmp_path / "poison")
    before = fingerprint(root)
    content = (root / "3.png").read_bytes()
    assert fingerprint(root) == before
    (root / "3.png").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(root) != before
