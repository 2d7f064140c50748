"""The ``.beton`` format: our reader and writer against each other, against FFCV's, and against damage."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pst_fast.data.beton import MIN_PAGE_SIZE, check_beton, read_beton, write_beton
from pst_fast.data.ffcv_loader import FFCVLoader
from pst_fast.data.loaders import Order
from pst_fast.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

HEADER_BYTES = 24
FIELD_BYTES = 1041
RECORDS_START = HEADER_BYTES + 3 * FIELD_BYTES
RECORD_BYTES = 32


def test_reads_back_what_was_written(beton_file: Path, random_set: Arrays) -> None:
    images, labels, index = random_set
    beton = read_beton(beton_file)
    assert len(beton) == 103
    assert beton.image_size == 20
    assert beton.labels.dtype == beton.index.dtype == np.int64
    np.testing.assert_array_equal(beton.labels, labels)
    np.testing.assert_array_equal(beton.index, index)
    np.testing.assert_array_equal(beton.load_all(), images)
    rows = np.array([100, 3, 3, 0])
    np.testing.assert_array_equal(beton.gather(rows), images[rows])
    np.testing.assert_array_equal(beton.image(17), images[17])
    assert beton.gather(np.array([], np.int64)).shape == (0, 20, 20, 3)


def test_the_same_data_give_the_same_bytes_however_they_come(tmp_path: Path, random_set: Arrays) -> None:
    images, labels, index = random_set
    write_beton(tmp_path / "a", images, labels, index)
    write_beton(tmp_path / "b", (images[i : i + 10] for i in range(0, 103, 10)), labels, index)
    write_beton(tmp_path / "c", list(images), labels, index)
    first = (tmp_path / "a").read_bytes()
    assert (tmp_path / "b").read_bytes() == first
    assert (tmp_path / "c").read_bytes() == first


def test_no_image_crosses_the_end_of_a_page(tmp_path: Path) -> None:
    side = 500  # 750,000 bytes: two images a page of 2 MiB
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(side, 1).repeat(side, 2).repeat(3, 3)
    write_beton(tmp_path / "x", images, np.zeros(5), np.arange(5), page_size=MIN_PAGE_SIZE)
    raw = (tmp_path / "x").read_bytes()
    pointers = [
        int.from_bytes(
            raw[RECORDS_START + RECORD_BYTES * i + 5 : RECORDS_START + RECORD_BYTES * i + 13], "little"
        )
        for i in range(5)
    ]
    page = MIN_PAGE_SIZE
    size = side * side * 3
    assert pointers == [page, page + size, 2 * page, 2 * page + size, 3 * page]
    np.testing.assert_array_equal(read_beton(tmp_path / "x").load_all(), images)


@settings(max_examples=15, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=20),
    seed=st.integers(0, 99),
)
def test_images_of_any_sizes_come_back(
    tmp_path_factory: pytest.TempPathFactory, sides: list[tuple[int, int]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    images = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in sides]
    path = tmp_path_factory.mktemp("sizes") / "x.beton"
    write_beton(path, images, np.zeros(len(images)), np.arange(len(images)))
    beton = read_beton(path)
    for row, image in enumerate(images):
        np.testing.assert_array_equal(beton.image(row), image)
    if len(set(sides)) > 1:
        with pytest.raises(InputError, match="images of one size"):
            beton.gather(np.arange(1))


def test_ffcv_finds_everything_where_it_looks(tmp_path: Path) -> None:
    """FFCV's own reader, without its compiler; the loaders' tests run the rest of it."""
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.memory_managers import OSCacheManager
    from ffcv.reader import Reader

    random = np.random.default_rng(0)
    # 768 KB an image on pages of 2 MiB, so that page ends come into it.
    images = random.integers(0, 256, (5, 512, 512, 3), np.uint8)
    labels, index = np.array([4, 0, 2, 2, 1]), np.array([9, 8, 7, 6, 5])
    write_beton(tmp_path / "x", images, labels, index, page_size=MIN_PAGE_SIZE)
    reader = Reader(str(tmp_path / "x"))
    assert {name: type(field) for name, field in reader.handlers.items()} == {
        "image": RGBImageField,
        "label": IntField,
        "index": IntField,
    }
    sizes = OSCacheManager(reader).ptr_to_size
    raw = np.fromfile(tmp_path / "x", np.uint8)
    for row, (image, label, position) in enumerate(reader.metadata.tolist()):
        mode, width, height, pointer = image
        assert (mode, width, height, sizes[pointer]) == (1, 512, 512, 512 * 512 * 3)
        np.testing.assert_array_equal(raw[pointer:][: sizes[pointer]], images[row].ravel())
        assert (label, position) == (labels[row], index[row])


def _write_with_ffcv(path: Path, data: Arrays, names: tuple[str, ...], write_mode: str = "raw") -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {name: RGBImageField(write_mode=write_mode) if name == "image" else IntField() for name in names}
    rows = [(image, int(label), int(index))[: len(names)] for image, label, index in zip(*data, strict=True)]
    DatasetWriter(str(path), fields, num_workers=2).from_indexed_dataset(rows, chunksize=10)


def test_reads_what_ffcv_writes(tmp_path: Path, random_set: Arrays) -> None:
    pytest.importorskip("ffcv")
    _write_with_ffcv(tmp_path / "x", random_set, ("image", "label", "index"))
    beton = read_beton(tmp_path / "x")
    np.testing.assert_array_equal(beton.load_all(), random_set[0])
    np.testing.assert_array_equal(beton.labels, random_set[1])
    np.testing.assert_array_equal(beton.index, random_set[2])


def test_reads_the_jpegs_that_ffcv_writes(tmp_path: Path, random_set: Arrays) -> None:
    """As FFCV itself reads them, but for its quicker and coarser DCT; with raw ones among them too."""
    pytest.importorskip("ffcv")
    images = np.repeat(np.repeat(random_set[0][:, ::8, ::8], 8, 1), 8, 2)
    data = (images, *random_set[1:])
    for mode in ("jpg", "proportion"):
        _write_with_ffcv(tmp_path / mode, data, ("image", "label", "index"), mode)
        beton = read_beton(tmp_path / mode)
        assert beton.compressed.all() if mode == "jpg" else 0 < beton.compressed.sum() < len(beton)
        found = beton.load_all()
        off = np.abs(found.astype(int) - images)
        assert off[beton.compressed].mean() < 12 and not off[~beton.compressed].any()
        order = Order(np.arange(len(beton)), 16, seed=0, shuffle=False, drop_last=False)
        loader = FFCVLoader(beton, order, torch.device("cpu"))
        theirs = np.concatenate([batch.images.numpy().copy() for batch in loader.epoch(0)])
        apart = np.abs(theirs.astype(int) - found)
        assert (
            apart.max() <= 8 and apart[beton.compressed].mean() < 1.5 and not apart[~beton.compressed].any()
        )
        for row in (0, 1):
            np.testing.assert_array_equal(beton.image(row), found[row])


def test_refuses_ffcv_files_that_lack_fields(tmp_path: Path, random_set: Arrays) -> None:
    pytest.importorskip("ffcv")
    _write_with_ffcv(tmp_path / "two", random_set, ("image", "label"))
    with pytest.raises(InputError, match=r"fields image, label and index, got 2"):
        read_beton(tmp_path / "two")


@pytest.mark.parametrize("kept", [0, 1, 23, 24, 500, 3146, 3147, 4000, -1, -24, -3000])
def test_refuses_a_file_cut_short(beton_file: Path, kept: int) -> None:
    size = beton_file.stat().st_size
    os.truncate(beton_file, kept if kept >= 0 else size + kept)
    with pytest.raises(InputError, match=r"set.beton: expected .* got "):
        read_beton(beton_file)


def test_refuses_a_file_with_something_after_its_end(beton_file: Path) -> None:
    with beton_file.open("ab") as stream:
        stream.write(b"\0" * 24)
    with pytest.raises(InputError, match="cut short or damaged"):
        read_beton(beton_file)


@pytest.mark.parametrize("place", range(HEADER_BYTES))
def test_refuses_any_flipped_bit_in_the_header(beton_file: Path, place: int) -> None:
    raw = bytearray(beton_file.read_bytes())
    for bit in range(8):
        damaged = raw.copy()
        damaged[place] ^= 1 << bit
        beton_file.write_bytes(damaged)
        if place == 6 and damaged[4:8].count(0) == 3 and bin(damaged[6]).count("1") == 1:
            continue  # another page size that is possible: it changes nothing that is read
        with pytest.raises(InputError, match=r"set.beton: expected"):
            read_beton(beton_file)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_records_never_do_more_than_raise(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.beton"
    images = np.zeros((3, 4, 4, 3), np.uint8)
    write_beton(path, images, np.array([0, 1, 2]), np.arange(3))
    raw = bytearray(path.read_bytes())
    records = range(HEADER_BYTES, RECORDS_START + 3 * RECORD_BYTES)
    table = range(len(raw) - 3 * 24, len(raw))
    places = st.sampled_from([*records, *table])
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        beton = read_beton(path)
    except InputError:
        return
    for row in range(3):
        assert beton.image(row).size == beton.heights[row] * beton.widths[row] * 3


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (RECORDS_START, 2, "raw images or JPEG"),  # mode
        (RECORDS_START + 12, 255, "inside the file"),  # highest byte of the first image's pointer
        (RECORDS_START + 5, 7, "allocation table"),  # its lowest byte
        (RECORDS_START + 23, 255, "labels and positions from 0 on"),  # sign of its label
        (HEADER_BYTES, 0, "image .RGB., label and index"),  # type of the first field
    ],
)
def test_says_what_is_damaged(beton_file: Path, place: int, value: int, message: str) -> None:
    raw = bytearray(beton_file.read_bytes())
    raw[place] = value
    beton_file.write_bytes(raw)
    with pytest.raises(InputError, match=message):
        read_beton(beton_file)


def test_refuses_what_is_no_beton(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("label,path\n" * 1000)
    with pytest.raises(InputError, match=r"text: expected a \.beton file of version 2"):
        read_beton(tmp_path / "text")
    with pytest.raises(InputError, match=r"absent: expected a .beton file, got 'No such file"):
        read_beton(tmp_path / "absent")
    with pytest.raises(InputError, match=r"expected a .beton file, got 'Is a directory"):
        read_beton(tmp_path)


def test_check_beton_compares_classes_and_size(beton_file: Path) -> None:
    check_beton(beton_file, classes=7, image_size=20)
    with pytest.raises(InputError, match="holds 7 classes at 20x20, expected 10 classes at 32x32"):
        check_beton(beton_file, classes=10, image_size=32)


def test_the_writer_refuses_what_does_not_fit_together(tmp_path: Path, random_set: Arrays) -> None:
    images, labels, index = random_set
    path = tmp_path / "x.beton"
    for arguments, message in (
        ((images[:0], labels[:0], index[:0]), "at least one image"),
        ((images[:5], labels, index), "expected 103 images, one a label, got 5"),
        ((images, labels[:5], index[:5]), "expected 5 images, one a label, got more"),
        ((images, labels, index[:5]), "as many positions as labels"),
        ((images, labels - 7, index), "got a negative one"),
        ((images.astype(np.float32), labels, index), "expected uint8 .* got float32"),
        ((images[..., :1], labels, index), r"got uint8 \(103, 20, 20, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            write_beton(path, *arguments)
    with pytest.raises(InputError, match="page_size: expected a power of two"):
        write_beton(path, images, labels, index, page_size=3_000_000)
    big = np.zeros((1, 1000, 1000, 3), np.uint8)
    with pytest.raises(InputError, match="at least the 3000000 bytes of a 1000x1000 image"):
        write_beton(path, big, labels[:1], index[:1], page_size=MIN_PAGE_SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(beton_file: Path, random_set: Arrays) -> None:
    before = beton_file.read_bytes()

    def failing():  # type: ignore[no-untyped-def]
        yield random_set[0][:50]
        raise InputError("a truncated image")

    with pytest.raises(InputError, match="a truncated image"):
        write_beton(beton_file, failing(), random_set[1], random_set[2])
    assert beton_file.read_bytes() == before
    assert [path.name for path in beton_file.parent.iterdir()] == ["set.beton"]


def test_a_full_disk_is_an_input_error(tmp_path: Path, random_set: Arrays) -> None:
    def full():  # type: ignore[no-untyped-def]
        yield random_set[0][:50]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"x.beton: expected room on the disk, got 'No space left"):
        write_beton(tmp_path / "x.beton", full(), random_set[1], random_set[2])
