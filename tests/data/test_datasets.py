"""Data sets: what is read from folders and CIFAR's files, and what is refused."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pst_fast.data import cifar
from pst_fast.data.datasets import DATASETS, ArraySource
from pst_fast.data.decode import decode, fit, load_images
from pst_fast.data.subset import Part, subset_rows
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError

Tree = Callable[..., Path]


def test_the_registry_knows_the_data_sets() -> None:
    assert {"cifar10", "cifar100", "demo", "folder", "imagenet-mini"} <= set(DATASETS.names())
    with pytest.raises(InputError, match="unknown data set 'mnist': expected one of cifar10, cifar100"):
        DATASETS["mnist"]


def test_a_folder_is_read_in_imagefolders_order(image_tree: Tree) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    root = image_tree()
    (root / "train" / "cat" / "more").mkdir()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(root / "train" / "cat" / "more" / "a.PNG")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / ".hidden.png").write_text("no image")
    (root / "train" / ".cache").mkdir()
    source = DATASETS["folder"](root)
    (root / "train" / "cat" / ".hidden.png").unlink()
    (root / "train" / ".cache").rmdir()
    theirs = datasets.ImageFolder(str(root / "train"))
    assert source.classes == tuple(theirs.classes) == ("cat", "dog", "emu")
    assert source.image_size == 8
    np.testing.assert_array_equal(source.labels("train"), theirs.targets)
    images = source.load("train", np.arange(16), 8)
    assert images.shape == (16, 8, 8, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.stack([np.asarray(image) for image, _ in theirs]))
    np.testing.assert_array_equal(source.load("test", np.array([4, 0]), 8)[:, 0, 0, 0], [19, 15])
    assert source.converted == 0


def test_val_stands_for_test_where_there_is_no_test(image_tree: Tree) -> None:
    root = image_tree(test_name="val")
    assert len(DATASETS["folder"](root).labels("test")) == 9
    assert len(DATASETS["imagenet-mini"](root).labels("test")) == 9


def test_mixed_sizes_need_an_image_size(image_tree: Tree) -> None:
    root = image_tree()
    Image.new("RGB", (12, 6)).save(root / "test" / "emu" / "zz.png")
    source = DATASETS["folder"](root)
    with pytest.raises(InputError, match=r"or --image-size .* got 6x12 in test/emu/zz.png"):
        source.image_size  # noqa: B018
    assert source.load("test", np.arange(10), 8).shape == (10, 8, 8, 3)
    assert DATASETS["imagenet-mini"](root).image_size == 224


def test_oblong_images_need_an_image_size(image_tree: Tree) -> None:
    with pytest.raises(InputError, match=r"expected square images .* got 6x12 in train/cat/00.png"):
        DATASETS["folder"](image_tree(size=(6, 12))).image_size  # noqa: B018


def test_what_is_wrong_with_a_folder_is_said_in_one_sentence(image_tree: Tree, tmp_path: Path) -> None:
    root = image_tree()

    def refused(message: str, folder: Path | None = root) -> None:
        with pytest.raises(InputError, match=message) as caught:
            DATASETS["folder"](folder)
        assert "\n" not in str(caught.value)

    refused("--data-dir: expected the folder", None)
    refused("nowhere: expected the folder of the data set's images, got no folder", tmp_path / "nowhere")
    (root / "train" / "yak").mkdir()
    refused(r"images/test: expected every class that .*train holds, got no class 'yak'")
    (root / "test" / "yak").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "yak" / "0.png")
    refused("train/yak: expected at least one image, got none")
    (root / "train" / "yak").rmdir()
    refused(r"test/yak: expected only classes that .*train holds, got class 'yak'")
    (root / "test").rename(root / "later")
    refused("images: expected a folder test or val in it, got none")
    (root / "train").rename(root / "earlier")
    refused("images: expected a folder train in it, got none")
    (root / "train").mkdir()
    (root / "test").mkdir()
    refused("train: expected a folder of images for each class, got no folder")


def test_the_fingerprint_follows_names_and_sizes(image_tree: Tree) -> None:
    root = image_tree()
    prints = [DATASETS["folder"](root).fingerprint()]
    assert DATASETS["folder"](root).fingerprint() == prints[0]
    (root / "train" / "cat" / "00.png").rename(root / "train" / "cat" / "99.png")
    prints.append(DATASETS["folder"](root).fingerprint())
    with (root / "train" / "cat" / "99.png").open("ab") as stream:
        stream.write(b"0")
    prints.append(DATASETS["folder"](root).fingerprint())
    assert len(set(prints)) == 3


def _pixel(path: Path) -> tuple[tuple[int, ...], bool]:
    image, converted = decode(path)
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel), converted


def test_other_colour_modes_become_rgb(tmp_path: Path) -> None:
    cases = {
        "rgb.png": (Image.new("RGB", (4, 4), (9, 8, 7)), (9, 8, 7), False),
        "grey.png": (Image.new("L", (4, 4), 77), (77, 77, 77), True),
        "alpha.png": (Image.new("RGBA", (4, 4), (9, 8, 7, 0)), (9, 8, 7), True),
        "palette.png": (Image.new("RGB", (4, 4), (9, 8, 7)).convert("P"), None, True),
        "grey16.png": (Image.fromarray(np.full((4, 4), 25700, np.uint16)), (100, 100, 100), True),
        "cmyk.jpg": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0), True),
        "grey.jpg": (Image.new("L", (8, 8), 128), (128, 128, 128), True),
    }
    for name, (image, expected, converted) in cases.items():
        image.save(tmp_path / name)
        pixel, was_converted = _pixel(tmp_path / name)
        assert was_converted == converted, name
        if expected is not None:
            assert np.abs(np.subtract(pixel, expected)).max() <= 2, name
    paths = [tmp_path / name for name in cases]
    images, count = load_images(paths, 4)
    assert images.shape == (7, 4, 4, 3)
    assert count == 6


def test_an_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg")[0].size == (8, 4)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.bmp", "x.webp"])
def test_a_damaged_image_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=f"{name}: expected a whole image file, got"):
            decode(path)
    with pytest.raises(InputError, match="absent: expected a whole image file, got 'No such file"):
        decode(tmp_path / "absent")


def test_the_first_damaged_image_in_order_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    for number in (7, 13):
        paths[number].write_bytes(b"")
    with pytest.raises(InputError, match=r"/7\.png"):
        load_images(paths, 4)


def test_fit_is_torchvisions_resize_and_centre_crop() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    noise = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    for image in (Image.fromarray(noise), Image.fromarray(noise).rotate(90, expand=True)):
        for size in (16, 50, 64):
            theirs = transforms.Compose(
                [
                    transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
                    transforms.CenterCrop(size),
                ]
            )(image)
            ours = fit(image, size)
            assert ours.size == (size, size)
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(fit(Image.fromarray(noise), 9)), noise)


def test_array_source() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1], np.int32)
    whole = ImageSet(images, labels, np.arange(6), ("a", "b"))
    source = ArraySource(whole, whole, "1")
    assert (source.image_size, source.classes, source.converted) == (4, ("a", "b"), 0)
    assert source.labels("train").dtype == np.int64
    np.testing.assert_array_equal(source.load("test", np.array([5, 1]), 4), images[[5, 1]])
    assert source.fingerprint() != ArraySource(whole, whole, "2").fingerprint()
    with pytest.raises(InputError, match="--image-size: expected 4"):
        source.load("test", np.array([0]), 8)
    with pytest.raises(ValueError, match="same classes"):
        ArraySource(whole, ImageSet(images, labels, np.arange(6), ("a", "c")), "1")


LABELS = np.random.default_rng(2).integers(0, 4, 200)
NAMES = ("ant", "bee", "cow", "dog")


@settings(max_examples=30, deadline=None)
@given(num_classes=st.integers(1, 4), per_class=st.integers(1, 30), seed=st.integers(0, 5))
def test_a_subset_is_stratified_ascending_and_nested(num_classes: int, per_class: int, seed: int) -> None:
    def rows(classes: int, count: int, split: str = "train") -> np.ndarray:
        return subset_rows(LABELS, NAMES, split, num_classes=classes, per_class=count, seed=seed)  # type: ignore[arg-type]

    taken = rows(num_classes, per_class)
    assert (np.diff(taken) > 0).all()
    assert np.bincount(LABELS[taken]).tolist() == [per_class] * num_classes
    np.testing.assert_array_equal(taken, rows(num_classes, per_class))
    assert set(taken) <= set(rows(4, per_class + 1))
    np.testing.assert_array_equal(taken, [r for r in rows(4, per_class) if LABELS[r] < num_classes])


def test_seeds_and_splits_draw_differently() -> None:
    draws = {
        tuple(subset_rows(LABELS, NAMES, split, num_classes=None, per_class=10, seed=seed))
        for split in ("train", "test")
        for seed in (0, 1)
    }
    assert len(draws) == 4


def test_a_subset_of_nothing_but_classes_takes_all_of_them() -> None:
    taken = subset_rows(LABELS, NAMES, "train", num_classes=2, per_class=None, seed=0)
    np.testing.assert_array_equal(taken, np.flatnonzero(LABELS < 2))


@given(seed=st.integers(0, 5), per_class=st.integers(1, 20))
def test_the_halves_share_nothing_and_a_part_of_all_is_in_the_one_for_choices(
    seed: int, per_class: int
) -> None:
    def rows(part: Part, count: int | None = None) -> set[int]:
        return set(
            subset_rows(LABELS, NAMES, "test", num_classes=3, per_class=count, seed=seed, part=part).tolist()
        )

    assert not rows("choose") & rows("report")
    assert rows("choose") | rows("report") == set(np.flatnonzero(LABELS < 3).tolist())
    assert rows("choose", per_class) == rows("all", per_class)
    assert rows("report", per_class) < rows("report")


@pytest.mark.parametrize(
    ("num_classes", "per_class", "message"),
    [
        (0, None, "--num-classes: expected 1 to 4, got 0"),
        (5, None, "--num-classes: expected 1 to 4, got 5"),
        (None, 0, "--test-per-class: expected at least 1, got 0"),
        (None, 190, "--test-per-class: expected at most the .* test images of class 'ant', got 190"),
    ],
)
def test_a_subset_that_cannot_be_had(num_classes: int | None, per_class: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        subset_rows(LABELS, NAMES, "test", num_classes=num_classes, per_class=per_class, seed=0)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_cifar_from_image_folders(image_tree: Tree) -> None:
    source = DATASETS["cifar10"](image_tree(CIFAR10, train=1, test=1, size=(32, 32)))
    assert source.classes == CIFAR10
    assert source.image_size == 32


def test_cifar_with_another_number_of_classes(image_tree: Tree) -> None:
    with pytest.raises(InputError, match="train: expected the 100 classes of cifar-100, got 3"):
        DATASETS["cifar100"](image_tree())


def test_a_folder_without_cifar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").mkdir()
    with pytest.raises(InputError, match="expected cifar-10-batches-py, or train and test folders"):
        DATASETS["cifar10"](tmp_path)
    with pytest.raises(InputError, match="nowhere: expected a folder with cifar-10"):
        DATASETS["cifar10"](tmp_path / "nowhere")


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("unpickled"),)  # type: ignore[return-value]


def test_batches_that_are_not_cifars_are_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ):
        (folder / name).write_bytes(pickle.dumps(_Bomb()))
    source = DATASETS["cifar10"](tmp_path)
    with pytest.raises(InputError, match="from batches with the published MD5 sums, got"):
        source.labels("train")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("given_folder", ["parent", "batches", "default"])
def test_cifar_from_python_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_folder: str
) -> None:
    """On batches of six images whose sums stand in for the published ones."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)

    def write(name: str, content: object) -> tuple[str, str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return name, hashlib.md5(data).hexdigest()

    batch = {"data": pixels.reshape(6, -1), "labels": [3, 1, 4, 1, 5, 9]}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [write("test_batch", batch)])
    name, digest = write("batches.meta", {"label_names": list(CIFAR10)})
    meta = {"filename": name, "key": "label_names", "md5": digest}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(cifar, "DOWNLOAD_DIR", tmp_path)
    source = DATASETS["cifar10"]({"parent": tmp_path, "batches": folder, "default": None}[given_folder])
    assert source.classes == CIFAR10
    np.testing.assert_array_equal(source.labels("train"), [3, 1, 4, 1, 5, 9])
    np.testing.assert_array_equal(
        source.load("test", np.array([5, 0]), 32), pixels[[5, 0]].transpose(0, 2, 3, 1)
    )
    assert source.load("train", np.arange(2), 16).shape == (2, 16, 16, 3)
    assert source.load("train", np.arange(0), 16).shape == (0, 16, 16, 3)


def test_an_empty_folder_is_downloaded_into_and_a_failure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def unreachable(self: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", unreachable)
    source = DATASETS["cifar10"](tmp_path)
    with pytest.raises(InputError, match="from a reachable download, got 'no route to host'"):
        source.labels("train")
