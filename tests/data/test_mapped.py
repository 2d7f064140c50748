"""MappedRows: what is written comes back, by either implementation; damaged files; memory that is bounded."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pst_fast.data import mapped
from pst_fast.data.mapped import MappedRows
from pst_fast.errors import InputError

needs_host = pytest.mark.skipif(mapped._host is None, reason="pst_fast._host has not been built")


@pytest.fixture(params=["native", "numpy"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(mapped, "_host", None)
    elif mapped._host is None:
        pytest.skip("pst_fast._host has not been built")


@pytest.mark.usefixtures("implementation")
def test_rows_come_back(tmp_path: Path) -> None:
    path, shape = tmp_path / "rows.npy", (50, 5, 4, 3)
    rows = MappedRows.create(path, shape)
    assert (rows.shape, len(rows)) == (shape, 50)
    assert not rows.gather(np.arange(50)).any()
    expected = np.zeros(shape, np.int8)
    rng = np.random.default_rng(0)
    for _ in range(5):
        index = rng.permutation(50)[:20]
        values = rng.integers(-128, 128, (20, *shape[1:]), dtype=np.int8)
        rows.scatter(index, values, threads=2)
        expected[index] = values
        picked = rng.integers(0, 50, 31)
        assert np.array_equal(rows.gather(picked, threads=2), expected[picked])
    rows.flush()
    assert np.array_equal(np.load(path), expected)
    assert np.array_equal(MappedRows(path).gather(np.array([3, 3])), expected[[3, 3]])


@pytest.mark.usefixtures("implementation")
def test_no_rows(tmp_path: Path) -> None:
    rows = MappedRows.create(tmp_path / "rows.npy", (0, 2, 2, 3))
    assert rows.gather(np.zeros(0, np.int64)).shape == (0, 2, 2, 3)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("wrong", [-1, 4])
def test_rows_that_are_not_there(tmp_path: Path, wrong: int) -> None:
    rows = MappedRows.create(tmp_path / "rows.npy", (4, 2, 2, 3))
    with pytest.raises(IndexError, match=rf"index must be in \[0, 4\), got {wrong}"):
        rows.gather(np.array([0, wrong]))
    with pytest.raises(IndexError, match=rf"got {wrong}"):
        rows.scatter(np.array([wrong]), np.zeros((1, 2, 2, 3), np.int8))


@pytest.mark.usefixtures("implementation")
def test_reading_does_not_write(tmp_path: Path) -> None:
    MappedRows.create(tmp_path / "rows.npy", (4, 3))
    with pytest.raises(ValueError):
        MappedRows(tmp_path / "rows.npy").scatter(np.array([1]), np.ones((1, 3), np.int8))


@needs_host
def test_threads_share_the_rows(tmp_path: Path) -> None:
    """Enough bytes for each of four threads to get a part of them."""
    rows = MappedRows.create(tmp_path / "rows.npy", (40, 1 << 20))
    index = np.random.default_rng(0).permutation(40)
    rows.scatter(index, np.repeat(np.arange(40, dtype=np.int8)[:, None], 1 << 20, 1), threads=4)
    found = rows.gather(np.arange(40), threads=4)
    assert np.array_equal(found[:, 0], found[:, -1])
    assert np.array_equal(found[index, 77], np.arange(40))


@needs_host
def test_memory_is_bounded(tmp_path: Path) -> None:
    def resident() -> int:
        fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["RssFile"].split()[0]) << 10

    rows = MappedRows.create(tmp_path / "rows.npy", (96, 1 << 20), resident_bytes=8 << 20)
    values, before = np.ones((4, 1 << 20), np.int8), resident()
    for start in range(0, 96, 4):
        rows.scatter(np.arange(start, start + 4), values)
        assert resident() - before < 32 << 20
    assert rows.gather(np.arange(96))[:, ::4096].all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected an .npy file, but there is none"),
        (b"", "expected a whole .npy file of int8"),
        (b"\x93NUMPY\x01\x00", "expected a whole .npy file of int8"),
        (b"something else entirely", "expected a whole .npy file of int8"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "rows.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        MappedRows(path)


def test_truncated_and_other_arrays(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((4, 8), np.int8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"expected a whole \.npy file of int8"):
        MappedRows(path)
    for other in (np.zeros((4, 8), np.uint8), np.asfortranarray(np.zeros((4, 8), np.int8))):
        np.save(path, other)
        with pytest.raises(InputError, match=r"expected an \.npy file of int8 in C order"):
            MappedRows(path)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped.os, "posix_fallocate", refuse)
    with pytest.raises(InputError, match=r"rows.npy: \d+ bytes are needed, but No space left on device"):
        MappedRows.create(tmp_path / "rows.npy", (10, 10))
    assert not list(tmp_path.iterdir())


def test_numpy_instead_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mapped, "_host", None)
    monkeypatch.setattr(mapped, "_warned", False)
    with caplog.at_level(logging.WARNING):
        for name in ("a.npy", "b.npy"):
            MappedRows.create(tmp_path / name, (1, 1))
    assert [record.message for record in caplog.records] == [
        "Banks on the disk are read and written by NumPy, one thread at a time, because pst_fast._host "
        "has not been built."
    ]
