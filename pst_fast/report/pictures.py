"""The samples as PNGs in data URIs, for a page that has to stand alone."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pst_fast.manifest import read_manifest
from pst_fast.report.samples import AMPLIFICATION, NUM_SAMPLES, amplified, read_samples

MAX_SIDE = 96
"""Of larger images the middle is shown: scaling would change what was added."""

MAX_BYTES = 4_000_000
"""Of all pictures together, uncompressed (noise hardly shrinks); to stay below, fewer samples are shown."""


def pictures(out: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The samples that a run's attacks are shown by: those of samples.png, or fewer where they are large.

    Args:
        out: The run's folder (see :func:`pst_fast.report.samples.read_samples`).
        rows: The rows of ``results.json``.

    Returns:
        ``classes`` (of each sample), ``clean`` (a data URI for each), ``attacks``: a list of ``attack``,
        ``seed``, ``budget``, ``poisoned`` and ``added`` (data URIs); ``side`` in pixels, ``cropped_from``
        (the images' own size where the middle is shown, else None), ``amplification``.
    """
    first = {row["attack"]: row for row in reversed(rows)}
    samples = read_samples(out, rows, _count(out, len(first)))
    names = read_manifest(out / "clean")["facts"]["classes"]
    clean = _middle(samples.clean)
    size, side = max(samples.clean.shape[1:3]), max(clean.shape[1:3])
    return {
        "classes": [names[label] for label in samples.labels],
        "clean": [data_uri(image) for image in clean],
        "attacks": [
            {
                "attack": attack,
                "seed": first[attack]["seed"],
                "budget": first[attack]["budget"],
                "poisoned": [data_uri(image) for image in _middle(poisoned)],
                "added": [data_uri(image) for image in amplified(clean, _middle(poisoned))],
            }
            for attack, poisoned in samples.poisoned.items()
        ],
        "side": side,
        "cropped_from": size if size > side else None,
        "amplification": AMPLIFICATION,
    }


def data_uri(image: np.ndarray) -> str:
    """A uint8 image [H, W, 3] as a PNG (lossless: JPEG would destroy a perturbation) in a data URI."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _middle(images: np.ndarray) -> np.ndarray:
    top, left = (max(size - MAX_SIDE, 0) // 2 for size in images.shape[1:3])
    return images[:, top : top + MAX_SIDE, left : left + MAX_SIDE]


def _count(out: Path, attacks: int) -> int:
    size = min(read_manifest(out / "clean")["facts"]["image_size"], MAX_SIDE)
    return min(NUM_SAMPLES, max(2, MAX_BYTES // ((1 + 2 * attacks) * size * size * 3)))
