"""Files written in pieces: the bytes of one written at once, wherever the writing was stopped."""

import errno
import io
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pst_fast.data.beton import read_beton, write_beton
from pst_fast.data.beton_stream import BetonStream
from pst_fast.data.ffcv_loader import FFCVLoader
from pst_fast.data.jpeg import encode
from pst_fast.data.loaders import Order, ffcv_installed
from pst_fast.errors import InputError

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def _large() -> Arrays:
    """Images of which two fit on a page of 2 MiB: six pages."""
    images = np.random.default_rng(0).integers(0, 256, (11, 500, 500, 3), np.uint8)
    return images, np.arange(11) % 3, 5 * np.arange(11)


def _stream(folder: Path, data: Arrays) -> BetonStream:
    images, labels, index = data
    return BetonStream(folder / "x.beton", folder / "working", labels, index, images.shape[1:3])


@pytest.mark.parametrize("stops", [[11], [1, 4, 5, 11], [3, 11]])
def test_pieces_make_the_same_bytes(
    stops: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pst_fast.data.beton_format._IMAGES_PER_PAGE", 2)
    data = _large()
    write_beton(tmp_path / "whole.beton", *data)
    assert not (tmp_path / "working").exists(), "nothing is left by a writer that has written nothing"
    for stop in stops:
        stream = _stream(tmp_path, data)  # as a process that starts anew
        stream.write(data[0][stream.done : stop], note={"until": stop})
    assert not (tmp_path / "x.beton").exists()
    again = _stream(tmp_path, data)
    assert (again.done, again.note) == (11, {"until": 11})
    again.finish()
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()
    finished = _stream(tmp_path, data)
    finished.finish()
    assert (finished.done, finished.note) == (11, {"until": 11})


def test_what_was_written_after_the_last_record_is_written_again(tmp_path: Path) -> None:
    data = _large()
    write_beton(tmp_path / "whole.beton", *data)
    stream = _stream(tmp_path, data)
    stream.write(data[0][:4])
    record = (tmp_path / "working" / "x.beton.json").read_bytes()
    stream.write(255 - data[0][4:7])
    (tmp_path / "working" / "x.beton.json").write_bytes(record)
    again = _stream(tmp_path, data)
    assert again.done == 4
    again.write(data[0][4:])
    again.finish()
    assert (tmp_path / "x.beton").read_bytes() == (tmp_path / "whole.beton").read_bytes()


def test_a_lost_file_is_begun_again(tmp_path: Path) -> None:
    data = _large()
    _stream(tmp_path, data).write(data[0][:4])
    (tmp_path / "working" / "x.beton").unlink()
    assert _stream(tmp_path, data).done == 0


def test_what_does_not_fit(tmp_path: Path) -> None:
    data = _large()
    stream = _stream(tmp_path, data)
    with pytest.raises(InputError, match=r"expected 11 images of \(500, 500\), got 1 of \(8, 8\)"):
        stream.write(np.zeros((1, 8, 8, 3), np.uint8))
    stream.write(data[0][:8])
    with pytest.raises(InputError, match="expected 11 images, got 8"):
        stream.finish()
    with pytest.raises(InputError, match=r"expected 11 images of .*, got 12"):
        stream.write(data[0][:4])


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _large()
    stream = _stream(tmp_path, data)
    stream.write(data[0][:4])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(InputError, match=r"x.beton: expected room on the disk, got 'No space left on"):
            stream.write(data[0][4:8])
    again = _stream(tmp_path, data)
    assert again.done == 4


def _photographs(count: int = 9, side: int = 40) -> Arrays:
    """Images that JPEG keeps: a few blurred spots each."""
    coarse = np.random.default_rng(1).integers(0, 256, (count, 5, 5, 3), np.uint8)
    images = np.stack([np.asarray(Image.fromarray(c).resize((side, side))) for c in coarse])
    return images, np.arange(count) % 3, np.arange(count)


def test_jpegs_in_pieces_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, index = data = _photographs()

    def stream(name: str) -> BetonStream:
        return BetonStream(
            tmp_path / name, tmp_path / "working", labels, index, images.shape[1:3], quality=90
        )

    for name, stops in (("whole", [9]), ("pieces", [2, 3, 9])):
        for stop in stops:
            one = stream(name)
            one.write(images[one.done : stop], note=stop)
        stream(name).finish()
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()
    beton = read_beton(tmp_path / "whole")
    assert beton.compressed.all() and beton.shape == (40, 40)
    assert np.abs(beton.load_all().astype(int) - images).mean() < 3
    np.testing.assert_array_equal(beton.labels, labels)
    # libjpeg's own pixels
    stored = io.BytesIO(encode(images[4:5], 90)[0])
    np.testing.assert_array_equal(beton.gather(np.array([4]))[0], np.asarray(Image.open(stored)))
    assert data[0] is images


def test_no_jpeg_lies_across_the_end_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 2 MiB, of which a file of noise fills two thirds."""
    images = np.random.default_rng(0).integers(0, 256, (3, 1100, 1100, 3), np.uint8)
    monkeypatch.setattr("pst_fast.data.beton_format._IMAGES_PER_PAGE", 0)
    stream = BetonStream(
        tmp_path / "x", tmp_path / "working", np.arange(3), np.arange(3), (1100, 1100), quality=95
    )
    stream.write(images)
    stream.finish()
    sizes = [len(file) for file in encode(images, 95)]
    assert all(2 * size > 1 << 21 > size for size in sizes)
    assert (tmp_path / "x").stat().st_size > 3 * (1 << 21)
    assert read_beton(tmp_path / "x").load_all().shape == images.shape


def test_a_damaged_jpeg_is_named(tmp_path: Path) -> None:
    images, labels, index = _photographs()
    stream = BetonStream(tmp_path / "x", tmp_path / "working", labels, index, (40, 40), quality=90)
    stream.write(images)
    stream.finish()
    size = len(encode(images[:1], 90)[0])
    other = encode(images[:1, :8, :8], 90)[0]
    whole = (tmp_path / "x").read_bytes()
    start = whole.index(b"\xff\xd8")
    truncated = whole[start : start + 200]
    for damage, is_in_header in ((b"", True), (other, True), (truncated, False)):
        (tmp_path / "x").write_bytes(whole[:start] + damage.ljust(size, b"\0") + whole[start + size :])
        beton = read_beton(tmp_path / "x")
        message = r"x: expected a JPEG of 40x40, got '"
        with pytest.raises(InputError, match=message):
            beton.gather(np.arange(3))
        with pytest.raises(InputError, match=message) if is_in_header else nullcontext():
            beton.check_headers()
        if is_in_header and ffcv_installed():
            with pytest.raises(InputError, match=message):
                FFCVLoader(beton, Order(np.arange(9), 4, 0, False, False), torch.device("cpu"))
        assert beton.gather(np.arange(1, 9)).shape == (8, 40, 40, 3)
