"""kill -9, twenty times, in prepare, craft, apply and train: the files and figures of an unbroken run."""

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pst_fast.files import sha256
from tests.killed_runs import SIZE, run_in_pieces

STAGES = ("clean", "attacks/em-seed0/bank", "attacks/em-seed0/poisoned", "train/em/pst-seed0")
KILLS_EACH = 5


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of different brightness, 80 training and 10 test images each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 80), ("test", 10)):
        for label in range(3):
            folder = tmp_path / "images" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(40 * label, 120 + 40 * label, (64, 64, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return tmp_path / "images"


@pytest.mark.slow
def test_twenty_kills_change_nothing(images: Path, tmp_path: Path) -> None:
    arguments = [
        "--dataset", "folder", "--data-dir", str(images), "--image-size", str(SIZE), "--attacks", "em",
        "--defenses", "pst", "--preset", "fast", "--model", "resnet10", "--width", "8", "--epochs", "4",
        "--batch-size", "32", "--ema", "0.9", "--device", "cpu", "--threads", "1", "--out",
    ]  # fmt: skip
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_runs", "pst_fast.cli.pipeline", "pst_fast.train.trainer"])

    def start(out: Path) -> Any:
        process = context.Process(target=run_in_pieces, args=([*arguments, str(out)],))
        process.start()
        return process

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished = start(whole)
    finished.join()
    assert finished.exitcode == 0

    moments, kills = random.Random(0), dict.fromkeys(STAGES, 0)
    for stage in STAGES:
        partial = (broken / stage).with_name((broken / stage).name + ".partial")
        for _ in range(KILLS_EACH):
            process = start(broken)
            while process.is_alive() and not (partial.is_dir() or (broken / stage).is_dir()):
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.4))
            kills[stage] += process.is_alive()
            process.kill()
            process.join()
            assert process.exitcode in (-signal.SIGKILL, 0)
    assert sum(kills.values()) == KILLS_EACH * len(STAGES), kills
    last = start(broken)
    last.join()
    assert last.exitcode == 0

    assert _files(broken) == _files(whole)
    assert _figures(broken) == _figures(whole)
    left = [path for path in broken.rglob("*") if path.suffix in (".partial", ".tmp", ".ckpt")]
    assert left == []
    assert {path.name for path in broken.rglob("*") if path.is_dir()} == {
        path.name for path in whole.rglob("*") if path.is_dir()
    }


def _files(out: Path) -> dict[str, str]:
    """Hashes of what does not tell the time."""
    names = ("*.beton", "perturbation.npy", "model.pt")
    return {
        path.relative_to(out).as_posix(): sha256(path) for name in names for path in sorted(out.rglob(name))
    }


def _figures(out: Path) -> list[Any]:
    rows = json.loads((out / "results.json").read_text())["rows"]
    found: list[Any] = [(row["last_accuracy"], row["clean_accuracy"], row["budget"]) for row in rows]
    for path in sorted(out.rglob("metrics.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found.append({k: v for k, v in row.items() if k not in ("seconds", "images_per_second")})
    return found
