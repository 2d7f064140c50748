"""How much memory crafting and applying take on sets larger than it: sparse files of black images."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pst_fast.data import bank
from pst_fast.data.beton_format import (
    ALLOCATION,
    FIELD,
    FIELDS,
    HEADER,
    MODE_RAW,
    page_size_for,
    sample_records,
    write_records,
)
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import MANIFEST, environment

SIDE, CLASSES = 224, 100
_WORKER = """
import json, sys
from pathlib import Path
from benchmarks.memory import measure
print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the images, and of a bank")
    parser.add_argument("--attacks", default="lsp", help="names, comma-separated")
    parser.add_argument("--folder", type=Path, help="where there is room for two to four times as much")
    parser.add_argument("--json", type=Path, help="file for the figures")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure each attack in a process of its own, print a table, and return (and write) the figures."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        sparse_set(Path(folder) / "clean", round(args.gigabytes * 1e9 / (3 * SIDE**2)))
        for attack in args.attacks.split(","):
            command = [sys.executable, "-c", _WORKER, folder, attack]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                raise InputError(f"{attack} failed: {found.stderr.strip().splitlines()[-1]}")
            rows += json.loads(found.stdout.splitlines()[-1])
            shutil.rmtree(Path(folder) / attack)
    for row in rows:
        print(
            f"{row['attack']:6} {row['stage']:6} {row['seconds']:8.0f} s   peak above the start: "
            f"{row['anonymous'] / 1e6:6.0f} MB of its own, {row['resident'] / 1e6:6.0f} MB with mapped files"
        )
    report = {"gigabytes": args.gigabytes, "results": rows, "environment": environment()}
    if args.json:
        write_json(args.json, report)
    return report


def sparse_set(folder: Path, count: int) -> None:
    """A folder as ``prepare`` leaves it, of black training images that take no room on the disk."""
    folder.mkdir(parents=True)
    path, size = folder / "train.beton", 3 * SIDE**2
    labels = np.arange(count) * CLASSES // count
    samples, page = sample_records(path, labels, np.arange(count)), page_size_for(size)
    start = -(-(HEADER.itemsize + len(FIELDS) * FIELD.itemsize + samples.nbytes) // page)
    pages, places = np.divmod(np.arange(count), page // size)
    allocations = np.zeros(count, ALLOCATION)
    image = samples["image"]
    image["mode"], image["height"], image["width"] = MODE_RAW, SIDE, SIDE
    image["pointer"] = allocations["pointer"] = (start + pages) * page + places * size
    allocations["sample"], allocations["size"] = np.arange(count), size
    with path.open("wb") as stream:
        write_records(stream, samples, allocations, page, int(image["pointer"][-1]) + size)
    facts = {"classes": [f"class {k}" for k in range(CLASSES)], "image_size": SIDE}
    write_json(
        folder / MANIFEST,
        {
            "kind": "prepare",
            "parameters": {},
            "inputs": {},
            "outputs": {"train.beton": "sparse"},
            "facts": facts,
        },
    )


def measure(folder: Path, attack: str) -> list[dict[str, Any]]:
    """Craft and apply in this process: seconds, and bytes at the peak above those at the start."""
    with Peak() as crafting:
        bank.craft(
            folder / attack / "bank",
            folder / "clean",
            attack=attack,
            epsilon=None,
            preset="fast",
            model="resnet10",
            width=8,
            seed=0,
            device=torch.device("cpu"),
            progress=lambda fraction, words: None,
        )
    with Peak() as applying:
        bank.apply(folder / attack / "poisoned", folder / "clean", folder / attack / "bank")
    return [
        {"attack": attack, "stage": "craft", **crafting.found},
        {"attack": attack, "stage": "apply", **applying.found},
    ]


class Peak:
    """Samples this process's memory every 20 ms within a block.

    Attributes:
        found: ``seconds``; ``anonymous``, what the process has of its own, and ``resident``, with the pages
            of mapped files, which the system may take back at any time: bytes above those at the start.
    """

    def __enter__(self) -> "Peak":
        self.found: dict[str, float] = {"anonymous": 0, "resident": 0}
        self._before, self._started, self._over = memory(), time.perf_counter(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.found["seconds"] = time.perf_counter() - self._started

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for key, value in memory().items():
                self.found[key] = max(self.found[key], value - self._before[key])


def memory() -> dict[str, int]:
    """Bytes of this process: its own, and with the pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        key: int(fields[name].split()[0]) << 10
        for key, name in (("anonymous", "RssAnon"), ("resident", "VmRSS"))
    }
