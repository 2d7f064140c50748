"""The prepare stage: what it writes, when it works again, and what goes on after a kill."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pst_fast.data import prepare as module
from pst_fast.data.beton import read_beton
from pst_fast.data.folder import FolderSource
from pst_fast.data.frozen_subsets import ids_sha256
from pst_fast.data.loaders import Kind, make_loader
from pst_fast.data.prepare import load_image_set, map_image_set, prepare
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest

Tree = Callable[..., Path]


def _prepare(output: Path, data_dir: Path, **changes: Any) -> Path:
    arguments = {
        "dataset": "folder",
        "data_dir": data_dir,
        "image_size": None,
        "num_classes": None,
        "train_per_class": None,
        "test_per_class": None,
        **changes,
    }
    return prepare(output, **arguments)


def test_the_whole_set(image_tree: Tree, tmp_path: Path) -> None:
    root = image_tree()
    Image.new("L", (8, 8), 99).save(root / "test" / "emu" / "zz.png")
    out = _prepare(tmp_path / "out", root)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test.beton", "train.beton"]
    assert read_manifest(out)["facts"] == {
        "classes": ["cat", "dog", "emu"],
        "image_size": 8,
        "counts": {"train": [5, 5, 5], "test": [3, 3, 4]},
        "converted": {"train": 0, "test": 1},
        "subset": {
            "name": "all",
            "sha256": {
                "train": ids_sha256([f"{name}/{k:02}" for name in ("cat", "dog", "emu") for k in range(5)]),
                "test": ids_sha256(
                    ["emu/zz", *(f"{name}/{k:02}" for name in ("emu", "dog", "cat") for k in range(3))]
                ),
            },
        },
    }
    train, test = load_image_set(out, "train"), load_image_set(out, "test")
    assert train.classes == ("cat", "dog", "emu")
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], np.arange(15))
    np.testing.assert_array_equal(train.labels, np.repeat([0, 1, 2], 5))
    np.testing.assert_array_equal(train.index, np.arange(15))
    np.testing.assert_array_equal(test.images[:, 0, 0, 0], [*range(15, 24), 99])


def test_a_subset_keeps_positions_of_the_whole_set(image_tree: Tree, tmp_path: Path) -> None:
    root = image_tree()
    out = _prepare(tmp_path / "out", root, num_classes=2, train_per_class=2, test_per_class=1, image_size=4)
    train = load_image_set(out, "train")
    assert train.images.shape == (4, 4, 4, 3)
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1, 1]
    # Image k of the tree has value k, and training images come first.
    np.testing.assert_array_equal(train.images[:, 0, 0, 0], train.index)
    assert read_manifest(out)["facts"]["counts"] == {"train": [2, 2], "test": [1, 1]}
    other = _prepare(tmp_path / "other", root, train_per_class=2, data_seed=1)
    assert load_image_set(other, "train").index.tolist() != train.index.tolist()


def test_it_is_done_once_unless_the_images_change(
    image_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_tree()
    out = _prepare(tmp_path / "out", root)
    first = (out / "train.beton").read_bytes()

    def fail(*arguments: Any) -> None:
        raise AssertionError("loaded again")

    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "load", fail)
        _prepare(out, root)
    Image.new("RGB", (8, 8), (255, 255, 255)).save(root / "train" / "cat" / "zz.png")
    _prepare(out, root)
    assert len(read_beton(out / "train.beton")) == 16
    (root / "train" / "cat" / "zz.png").unlink()
    _prepare(out, root)
    assert (out / "train.beton").read_bytes() == first


def test_a_finished_split_outlives_a_kill(
    image_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_tree()
    load = FolderSource.load
    loaded = []

    def interrupted(self: FolderSource, split: str, rows: np.ndarray, image_size: int) -> np.ndarray:
        loaded.append(split)
        if split == "test" and loaded.count("test") == 1:
            raise KeyboardInterrupt
        return load(self, split, rows, image_size)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderSource, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _prepare(tmp_path / "out", root)
    assert not (tmp_path / "out").exists()
    out = _prepare(tmp_path / "out", root)
    assert loaded == ["train", "test", "test"]
    assert read_manifest(out)["facts"]["counts"] == {"train": [5, 5, 5], "test": [3, 3, 3]}
    assert len(load_image_set(out, "test")) == 9


@pytest.mark.parametrize("kind", ["device", "torch", pytest.param("ffcv", marks=pytest.mark.slow)])
def test_test_images_as_jpeg(
    kind: Kind, image_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training images are the same, test images near the raw ones, whichever loader reads them."""
    if kind == "ffcv":
        pytest.importorskip("ffcv")
    root = image_tree()
    raw = _prepare(tmp_path / "raw", root, image_size=32)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 32 * 32 * 3)
    out = _prepare(tmp_path / "out", root, image_size=32, test_jpeg=90)
    assert (out / "train.beton").read_bytes() == (raw / "train.beton").read_bytes()
    stored = read_beton(out / "test.beton")
    assert stored.compressed.all()
    before = read_beton(raw / "test.beton").load_all().astype(int)
    loader = make_loader(
        out / "test.beton", batch_size=4, seed=0, shuffle=False, drop_last=False, device=torch.device("cpu"),
        kind=kind,
    )  # fmt: skip
    found = np.concatenate([batch.images.numpy().copy() for batch in loader.epoch(0)])
    assert np.abs(found - before).max() < 3
    np.testing.assert_allclose(found, load_image_set(out, "test").images, atol=0 if kind != "ffcv" else 8)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_there_is_not(quality: int, image_tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--test-jpeg: expected a quality from 1 to 100, got {quality}"):
        _prepare(tmp_path / "out", image_tree(), test_jpeg=quality)
    assert not list(tmp_path.glob("out*"))


def test_images_stream_in_chunks(image_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image_tree()
    whole = _prepare(tmp_path / "whole", root)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 8 * 8 * 3)
    chunks = _recorded_loads(monkeypatch)
    fractions = []
    out = _prepare(tmp_path / "out", root, progress=lambda fraction, words: fractions.append(fraction))
    assert [len(rows) for rows in chunks] == [4, 4, 4, 3, 4, 4, 1]
    assert (out / "train.beton").read_bytes() == (whole / "train.beton").read_bytes()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_half_written_file_goes_on_where_it_was(
    image_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image_tree()
    Image.new("L", (8, 8), 99).save(root / "train" / "cat" / "00.png")
    whole = _prepare(tmp_path / "whole", root)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 4 * 8 * 8 * 3)

    def stop(fraction: float, words: str) -> None:
        if fraction > 0.3:  # of 24 images 8 are written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _prepare(tmp_path / "out", root, progress=stop)
    chunks = _recorded_loads(monkeypatch)
    out = _prepare(tmp_path / "out", root)
    assert [rows[0] for rows in chunks] == [8, 12, 0, 4, 8], "only what was missing is read"
    for name in ("train.beton", "test.beton"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert read_manifest(out)["facts"] == read_manifest(whole)["facts"]
    assert read_manifest(out)["facts"]["converted"] == {"train": 1, "test": 0}
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test.beton", "train.beton"]


def _recorded_loads(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The rows of each chunk that is read from now on."""
    chunks = []
    load = FolderSource.load

    def recorded(self: FolderSource, split: str, rows: np.ndarray, image_size: int) -> np.ndarray:
        chunks.append(rows)
        return load(self, split, rows, image_size)  # type: ignore[arg-type]

    monkeypatch.setattr(FolderSource, "load", recorded)
    return chunks


def test_mapped_images_are_those_in_memory(image_tree: Tree, tmp_path: Path) -> None:
    out = _prepare(tmp_path / "out", image_tree())
    loaded, mapped = load_image_set(out, "train"), map_image_set(out, "train")
    assert isinstance(loaded.images, np.ndarray)
    images = mapped.images
    assert not isinstance(images, np.ndarray)
    assert (images.shape, images.nbytes, len(images)) == (loaded.images.shape, loaded.images.nbytes, 15)
    for rows in (3, slice(2, 9), slice(None, None, 4), np.array([7, 0, 7]), np.arange(15) % 2 == 0):
        np.testing.assert_array_equal(images[rows], loaded.images[rows])
    np.testing.assert_array_equal(np.asarray(images), loaded.images)
    images[np.array([1])][:] = 0
    np.testing.assert_array_equal(images[1], loaded.images[1])


def test_a_truncated_image_is_named_and_nothing_is_left(image_tree: Tree, tmp_path: Path) -> None:
    root = image_tree()
    broken = root / "train" / "dog" / "02.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:150])
    with pytest.raises(InputError, match=r"dog/02\.png: expected a whole image file"):
        _prepare(tmp_path / "out", root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 2}, "--image-size: expected 4 to 4096, got 2"),
        ({"data_seed": -1}, "--data-seed: expected 0 or more, got -1"),
        ({"num_classes": 9}, "--num-classes: expected 1 to 3, got 9"),
        ({"train_per_class": 6}, "--train-per-class: expected at most the 5 train images of class 'cat'"),
        ({"dataset": "nothing"}, "unknown data set 'nothing'"),
    ],
)
def test_bad_arguments(image_tree: Tree, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _prepare(tmp_path / "out", image_tree(), **changes)


def test_loading_what_was_not_prepared(image_tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a prepared data set with its manifest"):
        load_image_set(tmp_path, "train")
    out = _prepare(tmp_path / "out", image_tree())
    few = _prepare(tmp_path / "few", tmp_path / "images", num_classes=1)
    (out / "train.beton").replace(few / "train.beton")
    with pytest.raises(InputError, match="expected labels below 1, the number of classes"):
        load_image_set(few, "train")
    with pytest.raises(InputError, match=r"train.beton: expected a .beton file, got 'No such file"):
        load_image_set(out, "train")
