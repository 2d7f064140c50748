"""Frozen subsets: the same images whatever the order, named in the manifest."""

import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pst_fast.data.beton import read_beton
from pst_fast.data.folder import FolderSource
from pst_fast.data.frozen_subsets import FIRST_100, class_labels, ids_sha256, is_taken
from pst_fast.data.prepare import prepare
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest


def test_the_first_hundred_classes_of_imagenet() -> None:
    assert len(FIRST_100) == 100
    assert list(FIRST_100) == sorted(set(FIRST_100))
    assert all(re.fullmatch(r"n01\d{6}", name) for name in FIRST_100)
    assert (FIRST_100[0], FIRST_100[-1]) == ("n01440764", "n01855672")  # tench, goose
    timm = importlib.util.find_spec("timm")
    if timm is not None and timm.origin is not None:  # its list, without importing all of it
        listed = Path(timm.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
        assert tuple(listed.read_text().split()[:100]) == FIRST_100


def test_classes_are_taken_by_name() -> None:
    classes = ["n00000001", *FIRST_100[:50], "n01600000", *FIRST_100[50:], "n09999999"]
    labels = class_labels("first-100", sorted(classes))
    assert [sorted(classes)[label] for label in labels] == list(FIRST_100)
    assert class_labels("all", ["b", "a"]).tolist() == [0, 1]
    with pytest.raises(InputError, match=r"--subset em-20: expected .*, got no n01443537 \(2 of 100"):
        class_labels("em-20", [name for name in FIRST_100 if name not in FIRST_100[1:3]])


def test_a_fifth_of_each_class_by_the_hash_of_the_ids() -> None:
    ids = [f"{name}/{name}_{k}" for name in FIRST_100[:3] for k in range(10 if name == FIRST_100[1] else 30)]
    labels = np.array([FIRST_100.index(name[:9]) for name in ids])
    taken = is_taken("em-20", "train", ids, labels)
    assert np.bincount(labels[taken]).tolist() == [6, 2, 6]
    members = sorted(
        ids[30:40], key=lambda name: hashlib.sha256(f"pst_fast em-20 {name}".encode()).hexdigest()
    )
    assert {ids[row] for row in np.flatnonzero(taken) if labels[row] == 1} == set(members[:2])
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = is_taken("em-20", "train", [ids[row] for row in order], labels[order])
    np.testing.assert_array_equal(shuffled, taken[order])
    assert is_taken("em-20", "test", ids, labels).all()
    assert not is_taken("em-20", "train", ids, np.full(len(ids), -1)).any()


def test_the_hash_is_of_a_set() -> None:
    assert ids_sha256(["b", "a"]) == ids_sha256(["a", "b"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert ids_sha256(["a"]) != ids_sha256(["b"])


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first hundred classes and two others, five training images each."""
    root = tmp_path_factory.mktemp("imagenet")
    for number, name in enumerate(["n00000001", *FIRST_100, "n09999999"]):
        for split, count in (("train", 5), ("val", 1)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (4, 4), (number, k, 0)).save(folder / f"{name}_{k}.png")
    return root


def _prepared(output: Path, root: Path, subset: str, **changes: object) -> Path:
    open_arguments = dict.fromkeys(("image_size", "num_classes", "train_per_class", "test_per_class"))
    return prepare(
        output, dataset="imagenet-mini", data_dir=root, subset=subset, **{**open_arguments, **changes}
    )


def test_prepare_takes_a_subset_and_names_it(imagenet: Path, tmp_path: Path) -> None:
    out = _prepared(tmp_path / "em-20", imagenet, "em-20")
    facts = read_manifest(out)["facts"]
    assert facts["classes"] == list(FIRST_100)
    assert facts["counts"] == {"train": [1] * 100, "test": [1] * 100}
    assert facts["subset"]["name"] == "em-20"
    train = read_beton(out / "train.beton")
    ids = FolderSource(imagenet, "imagenet-mini").ids("train")
    assert facts["subset"]["sha256"]["train"] == ids_sha256([ids[row] for row in train.index])
    # Colours say where an image is from: class number (from 1 on) and number in the class.
    np.testing.assert_array_equal(train.load_all()[:, 0, 0, 0], train.labels + 1)
    np.testing.assert_array_equal(train.load_all()[:, 0, 0, 1], train.index % 5)


def test_the_other_flags_take_a_part_of_it(imagenet: Path, tmp_path: Path) -> None:
    out = _prepared(tmp_path / "part", imagenet, "first-100", num_classes=3, train_per_class=2)
    facts = read_manifest(out)["facts"]
    assert facts["classes"] == list(FIRST_100[:3])
    assert facts["counts"] == {"train": [2, 2, 2], "test": [1, 1, 1]}
    whole = _prepared(tmp_path / "whole", imagenet, "first-100")
    assert read_manifest(whole)["facts"]["counts"]["train"] == [5] * 100
    assert read_manifest(whole)["facts"]["subset"]["sha256"] != facts["subset"]["sha256"]
    with pytest.raises(InputError, match="--num-classes: expected 1 to 100, got 101"):
        _prepared(tmp_path / "more", imagenet, "first-100", num_classes=101)
