"""Published perturbations: all layouts and units give the same steps; what reads in several ways is asked."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast.data.perturbations import LAYOUTS, load_perturbation
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(40, 216, (20, 6, 8, 3), dtype=np.uint8)
STEPS = RNG.integers(-8, 9, IMAGES.shape)
BY_CLASS = RNG.integers(-8, 9, (4, 6, 8, 3))
LABELS = np.arange(20) % 4
CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def data() -> ImageSet:
    """Every other image of a set of 20, out of order."""
    rows = np.array([18, 0, 2, 4, 6, 8, 10, 12, 14, 16])
    return ImageSet(IMAGES[rows], LABELS[rows], rows, CLASSES)


def first(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def save(path: Path, how: str, array: np.ndarray) -> Path:
    if how == "npy":
        with path.open("wb") as stream:
            np.save(stream, array)
    elif how == "pt":
        torch.save(torch.from_numpy(array), path)
    else:
        path.write_bytes(pickle.dumps(array))
    return path


@pytest.mark.parametrize("how", ["npy", "pt", "pkl"])
@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("unit", ["float", "float 255", "int8", "int16"])
def test_samples(how: str, channels: str, unit: str, data: ImageSet, tmp_path: Path) -> None:
    array = {
        "float": (STEPS / 255).astype(np.float32),
        "float 255": STEPS.astype(np.float32),
        "int8": STEPS.astype(np.int8),
        "int16": STEPS.astype(np.int16),
    }[unit]
    path = save(tmp_path / "noise", how, first(array) if channels == "first" else array)
    found = load_perturbation(path, data)
    assert str(found.layout) == f"sample-{channels}-perturbation"
    assert not found.class_conditional
    assert found.steps.dtype == np.int8
    assert np.array_equal(found.steps, STEPS[data.index])
    assert found.findings == ()


@pytest.mark.parametrize("channels", ["first", "last"])
def test_classes(channels: str, data: ImageSet, tmp_path: Path) -> None:
    array = (BY_CLASS / 255).astype(np.float32)
    found = load_perturbation(
        save(tmp_path / "noise", "pt", first(array) if channels == "first" else array), data
    )
    assert found.class_conditional
    assert np.array_equal(found.steps, BY_CLASS)


@pytest.mark.parametrize("unit", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_poisoned_images(unit: type, channels: str, data: ImageSet, tmp_path: Path) -> None:
    poisoned = IMAGES + STEPS
    array = poisoned.astype(np.uint8) if unit is np.uint8 else (poisoned / 255).astype(unit)
    path = save(tmp_path / "noise", "npy", first(array) if channels == "first" else array)
    found = load_perturbation(path, data)
    assert str(found.layout) == f"sample-{channels}-images"
    assert np.array_equal(found.steps, STEPS[data.index])


def test_parts_are_joined_in_their_order(data: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "noise.npz"
    np.savez(path, a=STEPS[:12].astype(np.int8), b=STEPS[12:].astype(np.int8))
    assert np.array_equal(load_perturbation(path, data).steps, STEPS[data.index])
    by_label = {label: torch.from_numpy(first(BY_CLASS / 255)[label]) for label in range(4)}
    torch.save(by_label, path)
    assert np.array_equal(load_perturbation(path, data).steps, BY_CLASS)


def test_as_the_released_loader_applies_them(data: ImageSet, tmp_path: Path) -> None:
    path = save(tmp_path / "noise", "npy", (np.full(IMAGES.shape, 2.7) * np.sign(STEPS) / 255))
    released = load_perturbation(path, data, apply_mode="released").steps
    assert np.array_equal(released, 2 * (STEPS[data.index] > 0))
    assert np.array_equal(load_perturbation(path, data).steps, 3 * np.sign(STEPS[data.index]))


def test_two_readings_are_asked_about(tmp_path: Path) -> None:
    square = ImageSet(RNG.integers(0, 256, (4, 3, 3, 3), dtype=np.uint8), np.arange(4), np.arange(4), CLASSES)
    array = RNG.integers(-8, 9, (4, 3, 3, 3)).astype(np.int8)
    path = save(tmp_path / "noise", "npy", array)
    with pytest.raises(
        InputError, match="--layout: sample-first-perturbation, sample-last-perturbation, class"
    ):
        load_perturbation(path, square)
    assert np.array_equal(load_perturbation(path, square, layout="class-last-perturbation").steps, array)
    found = load_perturbation(path, square, layout="sample-first-perturbation").steps
    assert np.array_equal(found, array.transpose(0, 2, 3, 1))
    with pytest.raises(InputError, match="--layout 'nchw': expected one of sample-first-perturbation, "):
        load_perturbation(path, square, layout="nchw")
    assert len(LAYOUTS) == 6


def test_what_looks_wrong_is_told(data: ImageSet, tmp_path: Path) -> None:
    steps = STEPS.astype(np.int16)
    steps[4] = 0
    steps[LABELS == 0] = -IMAGES[LABELS == 0].astype(np.int16)
    findings = " | ".join(load_perturbation(save(tmp_path / "noise", "npy", steps), data).findings)
    assert "all images of class 'a' come out black" in findings
    assert "poisoned images stand there more than once" in findings
    nothing = load_perturbation(save(tmp_path / "noise", "npy", 0 * steps), data)
    assert nothing.findings == ("all perturbations are zero",)
    steps = STEPS.astype(np.int8)
    steps[6] = 0
    (finding,) = load_perturbation(save(tmp_path / "noise", "npy", steps), data).findings
    assert finding == "1 of 10 rows change nothing, the first is row 4"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (STEPS[:18].astype(np.int8), r"expected rows for 19 samples or 4 classes, .* got \[18, 6, 8, 3\]"),
        (np.zeros((20, 8, 6, 3), np.int8), r"each \[3,6,8\] or \[6,8,3\], got \[20, 8, 6, 3\]"),
        (np.zeros((20, 6, 8)), r"got \[20, 6, 8\]"),
        (np.where(STEPS == 8, np.nan, 0.0), "expected finite values, got NaN or infinity in row 0"),
        (np.full(IMAGES.shape, 2.35e7), "got 2.35e\\+07"),
        (np.zeros(IMAGES.shape, bool), "expected numbers, got truth values"),
    ],
)
def test_what_does_not_fit(array: np.ndarray, words: str, data: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load_perturbation(save(tmp_path / "noise", "npy", array), data)


def test_arrays_that_are_no_parts(data: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "noise.npz"
    np.savez(path, x=STEPS, y=STEPS[:, :3])
    with pytest.raises(InputError, match="expected one array, or parts of one, got x, y"):
        load_perturbation(path, data)
