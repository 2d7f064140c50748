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
from pst_fast.data.matching import FARTHEST, match_rows
from pst_fast.data.published import Published, read_published, whole_set
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError

FILE = "file"
"""Stands for an attack where the perturbations are somebody else's."""

ApplyMode = Literal["paper", "released"]

_CHUNK = 1024
_DARKEST_IMAGES = 32
"""Mean in /255; what nobody would call a perturbation."""


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
        path: ``.npy``, ``.npz``, a file of torch.save, or a pickle of arrays, whatever it is called, or a
            folder of such files or of images; see :func:`pst_fast.data.published.read_published`. Floats are
            in [0,1] units, or, where they exceed 1, in /255; whole numbers are in /255. Labels beside them
            have to be the data set's.
        data: The clean training images. Rows for samples are taken by ``data.index``; poisoned images in
            another order are told by their content, and images without a row stay clean.
        layout: One of :data:`LAYOUTS`; None: found out.
        apply_mode: ``paper``: values are rounded to whole steps; ``released``: fractions are cut off, and
            negative perturbations are lost, as in the loader that was published with error-minimising noise.

    Raises:
        InputError: The file is damaged or hostile, fits the images in no way or in several, or holds NaN or
            values beyond 255.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    found = read_published(path, data)
    array = found.array
    candidates = [LAYOUTS[layout]] if layout else list(LAYOUTS.values())
    shaped = [candidate for candidate in candidates if _fits(found, candidate, data)]
    if not shaped:
        raise _wrong_rows(path, array, data)
    scale = _scale(path, array)
    readings = {one: _rows(found, scale, one, data, told=layout is not None) for one in shaped}
    plausible = {one: rows for one, rows in readings.items() if rows is not None}
    if not plausible:
        if layout or all(one.content == "images" for one in shaped):
            raise _wrong_rows(path, array, data)
        raise InputError(
            f"{path}: expected perturbations, or images made of those of the data set, got other images; "
            f"choose with --layout if they are: {', '.join(map(str, shaped))}"
        )
    if len(plausible) > 1:
        names = ", ".join(map(str, plausible))
        raise InputError(
            f"{path}: expected an array that can be read in one way; choose with --layout: {names}"
        )
    chosen, rows = next(iter(plausible.items()))
    if found.labels is not None and chosen.rows == "sample":
        _check_labels(path, found.labels, rows, data)
    steps = narrowest(_steps(array, scale, chosen, rows, data, apply_mode))
    findings = (*found.findings, *_moved(rows, chosen, found, data), *_findings(steps, chosen, data))
    return Perturbation(steps, chosen.rows == "class", chosen, findings)


def _wrong_rows(path: Path, array: np.ndarray, data: ImageSet) -> InputError:
    height, width = data.images.shape[1:3]
    return InputError(
        f"{path}: expected rows for {whole_set(data)} samples or {len(data.classes)} classes, each "
        f"[3,{height},{width}] or [{height},{width},3], got {list(array.shape)}"
    )


def _fits(found: Published, layout: Layout, data: ImageSet) -> bool:
    shape, (height, width) = found.array.shape, data.images.shape[1:3]
    image = (3, height, width) if layout.channels == "first" else (height, width, 3)
    if len(shape) != 4 or shape[1:] != image or shape[0] == 0:
        return False
    if found.rows is not None:  # images, told by their names
        return layout.content == "images"
    if layout.rows == "class":
        return shape[0] == len(data.classes)
    return layout.content == "images" or shape[0] >= whole_set(data)


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


def _rows(found: Published, scale: float, layout: Layout, data: ImageSet, told: bool) -> np.ndarray | None:
    """The row of each image at hand, or of each class, -1 where there is none; None: not to be read so.

    ``told``: the layout was asked for, whatever the values are like.
    """
    if found.rows is not None:
        return found.rows
    by_class = np.arange(len(data.classes))
    in_order = by_class if layout.rows == "class" else data.index
    if told and layout.content == "perturbation":
        return in_order
    values = _picked(found.array, scale, layout, data)
    if layout.content == "perturbation":
        return None if _are_images(values) or _are_near(values, data) else in_order
    complete = len(found.array) >= whole_set(data)
    if complete and _are_near(values, data):
        return in_order
    if told or _are_images(values):
        rows = match_rows(
            lambda some: _last(np.asarray(found.array[some], np.float64) * scale, layout),
            len(found.array),
            np.asarray(data.images),
        )
        if 2 * int((rows >= 0).sum()) >= len(data):
            return rows
    return in_order if told and complete else None


def _picked(array: np.ndarray, scale: float, layout: Layout, data: ImageSet) -> np.ndarray:
    """The values, float [n,H,W,3] in /255, that some images at hand would get."""
    some = _some(data)
    rows = (data.labels if layout.rows == "class" else data.index)[some] % len(array)
    return _last(np.asarray(array[rows], dtype=np.float64) * scale, layout)


def _some(data: ImageSet) -> np.ndarray:
    return np.linspace(0, len(data) - 1, min(64, len(data))).astype(np.int64)


def _are_near(values: np.ndarray, data: ImageSet) -> bool:
    """Whether they are the images at hand: hardly changed, or nearer to them than to their neighbours."""
    clean = data.images[_some(data)].astype(np.float64)
    apart = np.abs(values - clean).mean()
    from_others = np.abs(values - np.roll(clean, 1, 0)).mean()
    return bool(values.min(initial=0) >= 0 and (apart <= FARTHEST or apart < 0.8 * from_others))


def _are_images(values: np.ndarray) -> bool:
    """Whether they are too bright for changes of one."""
    return bool(values.min(initial=0) >= 0 and values.mean() > _DARKEST_IMAGES)


def _check_labels(path: Path, labels: np.ndarray, rows: np.ndarray, data: ImageSet) -> None:
    present = np.flatnonzero(rows >= 0)
    wrong = present[labels[rows[present]] != data.labels[present]]
    if len(wrong):
        first = wrong[0]
        raise InputError(
            f"{path}: expected the data set's labels, got others for {len(wrong)} of {len(present)} images, "
            f"the first is number {data.index[first]}: {data.labels[first]} and not {labels[rows[first]]}"
        )


def _moved(rows: np.ndarray, layout: Layout, found: Published, data: ImageSet) -> Iterator[str]:
    if found.rows is not None and not _are_near(found.array[_some(data)], data):
        yield "the images are like others rather than those that have their names or places"
    if layout.rows == "class" or found.rows is not None or np.array_equal(rows, data.index):
        return
    present = rows >= 0
    found_rows = int(present.sum())
    yield f"rows are not in the data set's order and were told by their content: {found_rows} images found"
    if not present.all():
        yield f"{int((~present).sum())} of {len(rows)} images have no row and stay clean"


def _steps(
    array: np.ndarray, scale: float, layout: Layout, rows: np.ndarray, data: ImageSet, apply_mode: ApplyMode
) -> np.ndarray:
    whole = np.trunc if apply_mode == "released" else np.rint
    steps = np.empty((len(rows), *data.images.shape[1:]), np.int16)
    for start in range(0, len(rows), _CHUNK):
        some = slice(start, start + _CHUNK)
        values = _last(np.asarray(array[rows[some]], dtype=np.float64) * scale, layout)
        if layout.content == "images":
            steps[some] = whole(values).astype(np.int16) - data.images[some]
        elif apply_mode == "released":
            steps[some] = np.trunc(np.clip(values, 0, 255))
        else:
            steps[some] = np.rint(values)
    steps[rows < 0] = 0
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
