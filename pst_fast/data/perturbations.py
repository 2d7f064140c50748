"""Perturbations that others have published, as whole steps of 1/255 for the images at hand.

What a file holds is found from its shape, its type and its values beside the clean images; where two readings
fit, the caller has to say which one it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pst_fast.attacks.integers import narrowest
from pst_fast.data.arrays import read_arrays
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError

FILE = "file"
"""Stands for an attack where the perturbations are somebody else's."""

ApplyMode = Literal["paper", "released"]

_CHUNK = 1024
_MOST_BYTES_A_VALUE = 16
"""Twice those of float64: a file may hold rows for images that the data set leaves out."""


@dataclass(frozen=True)
class Layout:
    """One way to read an array of four dimensions.

    Attributes:
        rows: ``sample``: in the order of the whole data set; ``class``: by label.
        channels: ``first``: NCHW; ``last``: NHWC.
        content: ``perturbation``, or poisoned ``images``.
    """

    rows: Literal["sample", "class"]
    channels: Literal["first", "last"]
    content: Literal["perturbation", "images"]

    def __str__(self) -> str:
        return f"{self.rows}-{self.channels}-{self.content}"


LAYOUTS = {
    str(layout): layout
    for layout in (
        Layout(rows, channels, content)
        for rows in ("sample", "class")
        for channels in ("first", "last")
        for content in ("perturbation", "images")
        if (rows, content) != ("class", "images")
    )
}
"""By the names that ``--layout`` takes."""


@dataclass(frozen=True)
class Perturbation:
    """What was found in a file.

    Attributes:
        steps: int8 or int16 [N,H,W,3], a row for each image, or [K,H,W,3], a row for each class.
        class_conditional: Whether the rows are for classes.
        layout: How the file was read.
        findings: What looks wrong but can be used: sentences.
    """

    steps: np.ndarray
    class_conditional: bool
    layout: Layout
    findings: tuple[str, ...]


def load_perturbation(
    path: Path, data: ImageSet, *, layout: str | None = None, apply_mode: ApplyMode = "paper"
) -> Perturbation:
    """Read perturbations, or poisoned images, that fit ``data``.

    Args:
        path: ``.npy``, ``.npz``, a file of torch.save, or a pickle of arrays, whatever it is called; several
            arrays (parts of one) are joined in their order. Float values are in [0,1] units, or, where they
            exceed 1, in /255; whole numbers are in /255.
        data: The clean training images. Rows of the file that are for samples are taken by ``data.index``.
        layout: One of :data:`LAYOUTS`; None: found out.
        apply_mode: ``paper``: perturbations are rounded to whole steps; ``released``: as the loader that was
            published with error-minimising noise has it, negative values are lost and fractions cut off.

    Raises:
        InputError: The file is damaged or hostile, fits the images in no way or in several, or holds NaN or
            values beyond 255.
    """
    most = (1 << 20) + _MOST_BYTES_A_VALUE * max(_whole_set(data), len(data.classes)) * _values(data)
    array = _joined(path, read_arrays(path, most_bytes=most))
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    candidates = [LAYOUTS[layout]] if layout else list(LAYOUTS.values())
    shaped = [candidate for candidate in candidates if _fits(array.shape, candidate, data)]
    if not shaped:
        raise InputError(
            f"{path}: expected rows for {_whole_set(data)} samples or {len(data.classes)} classes, each "
            f"[3,{_side(data)}] or [{_side(data)},3], got {list(array.shape)}"
        )
    scale = _scale(path, array)
    plausible = shaped if layout else [one for one in shaped if _is_plausible(array, scale, one, data)]
    if len(plausible) != 1:
        names = ", ".join(str(one) for one in plausible or shaped)
        raise InputError(
            f"{path}: expected an array that can be read in one way; choose with --layout: {names}"
        )
    chosen = plausible[0]
    steps = narrowest(_steps(array, scale, chosen, data, apply_mode))
    return Perturbation(steps, chosen.rows == "class", chosen, tuple(_findings(steps, chosen, data)))


def _joined(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    parts = list(arrays.values())
    if len({part.shape[1:] for part in parts}) > 1 or len({part.dtype for part in parts}) > 1:
        raise InputError(f"{path}: expected one array, or parts of one, got {', '.join(arrays)}")
    if parts[0].ndim == 3 and len(parts) > 1:  # one a class or sample, by itself
        parts = [part[None] for part in parts]
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if array.dtype.kind == "b":
        raise InputError(f"{path}: expected numbers, got truth values")
    return array


def _whole_set(data: ImageSet) -> int:
    """How many samples the set has at least, of which ``data`` may be a part."""
    return int(data.index.max(initial=-1)) + 1


def _values(data: ImageSet) -> int:
    return int(np.prod(data.images.shape[1:]))


def _side(data: ImageSet) -> str:
    return f"{data.images.shape[1]},{data.images.shape[2]}"


def _fits(shape: tuple[int, ...], layout: Layout, data: ImageSet) -> bool:
    height, width = data.images.shape[1:3]
    image = (3, height, width) if layout.channels == "first" else (height, width, 3)
    if len(shape) != 4 or shape[1:] != image:
        return False
    return shape[0] >= _whole_set(data) if layout.rows == "sample" else shape[0] == len(data.classes)


def _scale(path: Path, array: np.ndarray) -> float:
    """What makes steps of 1/255 of the values."""
    low, high = 0.0, 0.0
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK]
        if array.dtype.kind == "f" and not np.isfinite(part).all():
            row = start + int(np.flatnonzero(~np.isfinite(part).all((1, 2, 3)))[0])
            raise InputError(f"{path}: expected finite values, got NaN or infinity in row {row}")
        low, high = min(low, float(part.min(initial=0))), max(high, float(part.max(initial=0)))
    most = max(-low, high)
    if most > 255:
        raise InputError(f"{path}: expected values up to 255 in /255 or up to 1 in [0,1], got {most:g}")
    return 255.0 if array.dtype.kind == "f" and most <= 1 + 1e-6 else 1.0


def _is_plausible(array: np.ndarray, scale: float, layout: Layout, data: ImageSet) -> bool:
    """Poisoned images are near the clean ones; perturbations have both signs, or are far from any image."""
    rows = np.linspace(0, len(data) - 1, min(64, len(data))).astype(np.int64)
    clean = data.images[rows].astype(np.float64)
    picked = data.index[rows] if layout.rows == "sample" else data.labels[rows]
    values = _last(np.asarray(array[picked], dtype=np.float64) * scale, layout)
    as_image = np.abs(values - clean).mean()
    as_change = np.abs(values).mean()
    is_image = values.min(initial=0) >= 0 and as_image < 0.5 * as_change
    return is_image == (layout.content == "images")


def _steps(
    array: np.ndarray, scale: float, layout: Layout, data: ImageSet, apply_mode: ApplyMode
) -> np.ndarray:
    rows = data.index if layout.rows == "sample" else np.arange(len(data.classes))
    steps = np.empty((len(rows), *data.images.shape[1:]), np.int16)
    for start in range(0, len(rows), _CHUNK):
        some = slice(start, start + _CHUNK)
        values = _last(np.asarray(array[rows[some]], dtype=np.float64) * scale, layout)
        if layout.content == "images":
            steps[some] = np.rint(values).astype(np.int16) - data.images[some]
        elif apply_mode == "released":
            steps[some] = np.trunc(np.clip(values, 0, 255))
        else:
            steps[some] = np.rint(values)
    return steps


def _last(values: np.ndarray, layout: Layout) -> np.ndarray:
    return values.transpose(0, 2, 3, 1) if layout.channels == "first" else values


def _findings(steps: np.ndarray, layout: Layout, data: ImageSet) -> Iterator[str]:
    if not steps.any():
        yield "all perturbations are zero"
        return
    empty = ~steps.any((1, 2, 3))
    if empty.any():
        first = int(empty.argmax())
        yield f"{int(empty.sum())} of {len(steps)} rows change nothing, the first is row {first}"
    if layout.rows == "class":
        return
    for label in range(len(data.classes)):
        members = np.flatnonzero(data.labels == label)
        if len(members) and not any(
            (data.images[some].astype(np.int16) + steps[some] > 0).any()
            for some in np.array_split(members, max(1, len(members) // _CHUNK))
        ):
            yield f"all images of class {data.classes[label]!r} come out black"
    seen: dict[bytes, int] = {}
    twice = 0
    for row in range(len(steps)):
        twice += seen.setdefault((steps[row] + data.images[row]).tobytes(), row) != row
    if twice:
        yield f"{twice} of {len(steps)} poisoned images stand there more than once"
