"""Arrays in files of strangers: .npy, .npz, PyTorch's and pickles, told apart by content; nothing is run."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pst_fast.errors import InputError

MOST_ARRAYS, MOST_DEPTH = 4096, 8
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


def read_arrays(path: Path, *, most_bytes: int) -> dict[str, np.ndarray]:
    """Read every array of a file.

    Pickles are read by an unpickler that knows arrays and plain containers and nothing else; PyTorch's files
    by PyTorch's own for weights. Sizes are compared with ``most_bytes`` before anything is unpacked.

    Args:
        path: A file; what it is shows in its first bytes, whatever it is called.
        most_bytes: Bytes that all arrays together may have.

    Returns:
        Arrays of numbers by name: keys and positions with dots between; "" for one that stands alone.

    Raises:
        InputError: The file is missing, damaged, too large, or holds or asks for something else.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: expected a file, but there is none")
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be read, but {error.strerror}") from None
    if not head:
        raise InputError(f"{path}: expected arrays, but the file is empty")
    if size > most_bytes + (1 << 20):
        raise InputError(f"{path}: expected at most {most_bytes} bytes of arrays, got a file of {size} bytes")
    try:
        found = _reader(path, head, most_bytes)(path)
        return dict(_walk(found, path, most_bytes))
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: expected at most {most_bytes} bytes of arrays, got more") from None
    except Exception as error:  # whatever a parser raises on bytes that somebody made up
        raise InputError(f"{path}: expected whole arrays, but {_first_line(error)}") from None


def _reader(path: Path, head: bytes, most_bytes: int) -> Callable[[Path], Any]:
    if head.startswith(_NPY):
        return lambda file: np.load(file, mmap_mode="r", allow_pickle=False)
    if head.startswith(_ZIP):
        names = _check_archive(path, most_bytes)
        return _read_torch if any(name.endswith("data.pkl") for name in names) else _read_npz
    if _LEGACY_TORCH in head:
        return _read_torch
    if head[:1] == b"\x80":
        return _read_pickle
    raise InputError(
        f"{path}: expected an .npy or .npz file, one that torch.save wrote or a pickle, got something else"
    )


def _check_archive(path: Path, most_bytes: int) -> list[str]:
    """Names in a zip archive whose entries are few, small, and stay in their folder."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > MOST_ARRAYS:
        raise InputError(f"{path}: expected at most {MOST_ARRAYS} entries, got {len(entries)}")
    for entry in entries:
        if entry.filename.startswith(("/", "\\")) or ".." in Path(entry.filename).parts:
            raise InputError(f"{path}: expected entries inside the archive, got {entry.filename!r}")
    total = sum(entry.file_size for entry in entries)
    if total > most_bytes + (1 << 20):
        raise InputError(f"{path}: expected at most {most_bytes} bytes of arrays, got {total} once unpacked")
    return [entry.filename for entry in entries]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                shape, dtype = _npy_header(stream)
                expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if dtype.hasobject or not 0 <= expected <= entry.file_size:
                    raise ValueError(f"{entry.filename} is no whole array of numbers")
            with archive.open(entry) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
            arrays[entry.filename.removesuffix(".npy")] = array
    return arrays


def _npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"its format {version} is not known")
    shape, _, dtype = read[version](stream)
    return shape, dtype


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as stream:
        found = _ArrayUnpickler(stream).load()
        if stream.read(1):
            raise ValueError("there is more after the pickle's end")
        return found


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if allowed is None:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is not read")
        return allowed


class _Ndarray:
    """Stands for the class in a pickle, where it is a name and not to be called."""


def _blank(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What a pickled array starts as; its state follows, and NumPy compares that with its shape."""
    if kind is not _Ndarray or shape != (0,):
        raise pickle.UnpicklingError("the pickle holds something that is no plain array")
    return np.ndarray((0,), np.int8)


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    dtype = np.dtype(code, copy=True)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"the pickle holds an array of {code!r}, and not of numbers")
    return dtype


def _from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the pickle encodes text as {encoding!r}")
    return text.encode("latin1")


def _empty() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _blank,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,  # an array without elements, in old protocols
    ("collections", "OrderedDict"): dict,
}


def _walk(found: Any, path: Path, most_bytes: int) -> Iterator[tuple[str, np.ndarray]]:
    count, total = 0, 0
    for name, leaf in _leaves(found, "", 0):
        array = leaf
        if isinstance(leaf, torch.Tensor):
            tensor = leaf.detach()
            array = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            what = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(
                f"{path}: expected arrays of numbers, got {what}{f' in {name!r}' if name else ''}"
            )
        count, total = count + 1, total + array.nbytes
        if count > MOST_ARRAYS or total > most_bytes:
            raise InputError(
                f"{path}: expected at most {MOST_ARRAYS} arrays of {most_bytes} bytes together, got more"
            )
        yield name, array
    if count == 0:
        raise InputError(f"{path}: expected arrays, but there is none in it")


def _leaves(found: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(found, dict | list | tuple):
        yield name, found
        return
    if depth == MOST_DEPTH:
        raise ValueError(f"its containers are more than {MOST_DEPTH} deep")
    items = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in items:
        yield from _leaves(value, f"{name}.{key}" if name else str(key), depth + 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
