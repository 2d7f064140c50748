"""Crafting and applying hold a small part of a set that is larger than what they may take."""

import mmap
import time
from pathlib import Path

import pytest

from benchmarks.memory import SIDE, Peak, measure, sparse_set
from pst_fast.data.beton import read_beton

COUNT = 5000
SET_BYTES = COUNT * 3 * SIDE**2
"""753 MB of images, and as much of perturbations."""
LIMIT = SET_BYTES // 2


def test_a_sparse_set_is_one(tmp_path: Path) -> None:
    sparse_set(tmp_path / "clean", 300)
    path = tmp_path / "clean" / "train.beton"
    beton = read_beton(path)
    assert (len(beton), beton.image_size, int(beton.labels.max())) == (300, SIDE, 99)
    assert not beton.image(299).any()
    assert path.stat().st_size > 300 * 3 * SIDE**2
    assert path.stat().st_blocks * 512 < 1 << 20


def test_the_peak_is_seen() -> None:
    # Pages of its own: the heap may have some left that an earlier test has freed.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with Peak() as peak, mmap.mmap(-1, 64 << 20, flags=private) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.2)
    assert 60 << 20 < peak.found["anonymous"] < 80 << 20
    assert peak.found["resident"] >= peak.found["anonymous"]


@pytest.mark.slow
def test_a_set_is_never_held(tmp_path: Path) -> None:
    """The process's own memory: pages of mapped files come on top, which the system may take at any time."""
    sparse_set(tmp_path / "clean", COUNT)
    for stage in measure(tmp_path, "lsp"):
        assert stage["anonymous"] < LIMIT, stage
