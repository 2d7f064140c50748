"""Steps in a file: they come back in another process, grow wider when they must, and go on after a kill."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pst_fast.attacks import rows
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.steps import StepsFile, row_blocks

SHAPE = (10, 4, 5, 3)


def test_what_is_written_is_there_again(tmp_path: Path) -> None:
    steps = StepsFile(tmp_path / "steps.npy", SHAPE)
    assert steps.is_new and not steps.array.any()
    values = np.random.default_rng(0).integers(-128, 128, SHAPE).astype(np.int16)
    steps.write(np.array([7, 2]), values[[7, 2]])
    steps.write(slice(8, 10), values[8:])
    again = StepsFile(tmp_path / "steps.npy", SHAPE)
    assert not again.is_new and again.array.dtype == np.int8
    for row in range(10):
        np.testing.assert_array_equal(again.array[row], values[row] if row in (2, 7, 8, 9) else 0)


@pytest.mark.parametrize("value", [128, -129])
def test_a_value_that_does_not_fit_widens_the_file(value: int, tmp_path: Path) -> None:
    steps = StepsFile(tmp_path / "steps.npy", SHAPE)
    steps.write(slice(0, 10), np.full(SHAPE, 5, np.int8))
    steps.write(slice(3, 4), np.full((1, *SHAPE[1:]), value, np.int16))
    assert steps.array.dtype == np.int16
    assert steps.array[:, 0, 0, 0].tolist() == [5, 5, 5, value, 5, 5, 5, 5, 5, 5]
    assert np.array_equal(np.load(tmp_path / "steps.npy"), steps.array)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.npy"]


def test_blocks_cover_all_rows() -> None:
    assert row_blocks((10, 2), 4, 32) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert row_blocks((3, 100), 4, 8) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert row_blocks((4, 1), 1, 100, most=3) == [slice(0, 3), slice(3, 4)]
    assert row_blocks((0, 2), 4, 32) == []


@pytest.mark.parametrize(("name", "itemsize"), [("lsp", 8), ("ar", 8), ("ops", 2), ("cuda", 4)])
def test_blocks_of_any_size_give_the_same_bytes_also_after_a_kill(
    name, itemsize, image_set, make_task, tmp_path, monkeypatch
):
    data = image_set(40, num_classes=3)
    whole = np.array(ATTACKS[name]().craft(make_task(data)))
    module = __import__(f"pst_fast.attacks.{name}", fromlist=["_CHUNK_BYTES"])
    monkeypatch.setattr(module, "_CHUNK_BYTES", 7 * itemsize * 16 * 16 * 3)
    monkeypatch.setattr(rows, "SAVES", 100)
    told = []

    def stop(fraction, words):
        told.append(words)
        if words.startswith("block 3"):
            raise KeyboardInterrupt

    task = make_task(data, folder=tmp_path, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        ATTACKS[name]().craft(task)
    assert 4 < int(told[-1].split()[-1]) < 20
    told.clear()
    again = ATTACKS[name]().craft(
        replace(task, progress=lambda fraction, words: told.append(words) if "block" in words else None)
    )
    assert told[0].startswith("block 3")
    np.testing.assert_array_equal(again, whole)
    assert again.dtype == whole.dtype
    (tmp_path / "steps.npy").unlink()
    np.testing.assert_array_equal(ATTACKS[name]().craft(replace(task, progress=lambda *_: None)), whole)
