"""Arrays in files of strangers: every format comes back; what is damaged or hostile is refused, not run."""

import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pst_fast.data.arrays import read_arrays
from pst_fast.errors import InputError

MOST = 1 << 20
ARRAY = np.arange(-60, 60, dtype=np.int8).reshape(2, 3, 4, 5)


def write(path: Path, how: str, value: Any) -> Path:
    if how == "npy":
        with path.open("wb") as stream:
            np.save(stream, value)
    elif how == "npz":
        with path.open("wb") as stream:
            np.savez_compressed(stream, x=value)
    elif how == "torch":
        torch.save(torch.from_numpy(value), path)
    elif how == "legacy torch":
        torch.save(torch.from_numpy(value), path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(value, protocol=int(how[-1])))
    return path


FORMATS = ("npy", "npz", "torch", "legacy torch", "pickle 2", "pickle 3", "pickle 4", "pickle 5")


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float32, np.float64, np.int16])
def test_every_format_comes_back(how: str, dtype: type, tmp_path: Path) -> None:
    array = ARRAY.astype(dtype)
    for value in (array, np.asfortranarray(array), array[:0]):
        (found,) = read_arrays(write(tmp_path / "noise", how, value), most_bytes=MOST).values()
        assert found.dtype == array.dtype
        assert np.array_equal(found, value)


def test_containers(tmp_path: Path) -> None:
    path = tmp_path / "noise.pkl"
    value = {"x": [ARRAY, ARRAY + 1], "deep": OrderedDict(y=(ARRAY.astype(">f4"),))}
    path.write_bytes(pickle.dumps(value))
    found = read_arrays(path, most_bytes=MOST)
    assert list(found) == ["x.0", "x.1", "deep.y.0"]
    assert np.array_equal(found["deep.y.0"], ARRAY)
    torch.save({"perturbation": torch.ones(3, dtype=torch.bfloat16)}, path)
    assert read_arrays(path, most_bytes=MOST)["perturbation"].tolist() == [1.0, 1.0, 1.0]


class Hostile:
    """Unpickled by pickle itself, it would leave a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.target}",)


class Calls:
    """A pickle that calls what it names."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_nothing_is_executed(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "noise"
    for value in (Hostile(target), [ARRAY, Hostile(target)], {"x": Hostile(target)}):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match=r"the pickle asks for posix\.system, which is not read"):
            read_arrays(path, most_bytes=MOST)
        torch.save(value, path)
        with pytest.raises(InputError, match="expected whole arrays"):
            read_arrays(path, most_bytes=MOST)
    np.save(path.with_suffix(".npy"), np.array([Hostile(target)], dtype=object))
    with pytest.raises(InputError, match="expected whole arrays"):
        read_arrays(path.with_suffix(".npy"), most_bytes=MOST)
    assert not target.exists()


@pytest.mark.parametrize(
    "call",
    [
        Calls(eval, "1"),
        Calls(getattr, "text", "upper"),
        Calls(np.ndarray, (10**12,)),
        Calls(np.dtype, "O"),
        Calls(np.frombuffer, b"1234"),
        Calls(bytearray, 10**12),
    ],
    ids=lambda call: str(call.call[0].__name__),
)
def test_calls_that_are_refused(call: Calls, tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(pickle.dumps(call))
    with pytest.raises(InputError):
        read_arrays(path, most_bytes=MOST)


def test_an_array_that_claims_more_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**11, 3, 32, 32)}
    )
    for content in (header.getvalue(), header.getvalue() + b"0" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected whole arrays"):
            read_arrays(path, most_bytes=MOST)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(InputError, match="expected whole arrays"):
            read_arrays(path, most_bytes=MOST)
    state = pickle.dumps(ARRAY, protocol=2).replace(b"K\x02K\x03K\x04K\x05", b"K\x7fK\x7fK\x7fK\x7f")
    path.write_bytes(state)
    with pytest.raises(InputError, match="expected whole arrays"):
        read_arrays(path, most_bytes=MOST)


def test_bombs(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + bytes(1 << 25))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(InputError, match="once unpacked"):
        read_arrays(path, most_bytes=MOST)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5000):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(InputError, match="expected at most 4096 entries, got 5000"):
        read_arrays(path, most_bytes=MOST)
    laughs: Any = [ARRAY] * 10
    for _ in range(7):
        laughs = [laughs] * 10
    path.write_bytes(pickle.dumps(laughs))
    assert path.stat().st_size < 2000
    with pytest.raises(InputError, match=r"got more|deep"):
        read_arrays(path, most_bytes=MOST)
    path.write_bytes(bytes(3 << 20))
    with pytest.raises(InputError, match="got a file of 3145728 bytes"):
        read_arrays(path, most_bytes=MOST)


def test_entries_that_leave_the_archive(tmp_path: Path) -> None:
    for name in ("../x.npy", "/x.npy", "a/../../x.npy"):
        with zipfile.ZipFile(tmp_path / "noise", "w") as archive:
            archive.writestr(name, b"")
        with pytest.raises(InputError, match="expected entries inside the archive"):
            read_arrays(tmp_path / "noise", most_bytes=MOST)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n", "got something else"),
        (b"\x93NUMPY", "expected whole arrays"),
        (b"PK\x03\x04", "expected whole arrays"),
        (b"\x80", "expected whole arrays"),
        (pickle.dumps({}), "there is none in it"),
        (pickle.dumps("text"), "expected arrays of numbers, got str"),
        (pickle.dumps({"a": 1}), "got int in 'a'"),
        (pickle.dumps(ARRAY) + b"more", "there is more after the pickle's end"),
        (pickle.dumps(np.array(["text"])), "not of numbers"),
        (pickle.dumps(np.array([1j])), "not of numbers"),
    ],
)
def test_what_is_no_array(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_arrays(tmp_path / "noise", most_bytes=MOST)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match="expected a file, but there is none"):
            read_arrays(path, most_bytes=MOST)


@pytest.mark.parametrize("how", FORMATS)
def test_damage_gives_one_error_or_numbers(how: str, tmp_path: Path) -> None:
    """Cut short and with bytes changed at random: never another exception, never more memory than allowed."""
    whole = write(tmp_path / "noise", how, ARRAY.astype(np.float32)).read_bytes()
    rng, refused = random.Random(how), 0
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: rng.randrange(len(damaged))]
        else:
            for _ in range(rng.choice((1, 3, 20))):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "noise").write_bytes(bytes(damaged))
        try:
            found = read_arrays(tmp_path / "noise", most_bytes=MOST)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert sum(array.nbytes for array in found.values()) <= MOST
    assert refused >= 20


def test_a_forged_length(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"0")
    with pytest.raises(InputError):
        read_arrays(path, most_bytes=MOST)
