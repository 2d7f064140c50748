"""Reading ``metrics.jsonl``, what a training run says of each of its epochs."""

import json
from pathlib import Path
from typing import Any

from pst_fast.errors import InputError

Epoch = dict[str, Any]


def read_metrics(folder: Path) -> list[Epoch]:
    """The epochs of a finished training run, first to last (fields: docs/pipeline.md).

    Raises:
        InputError: The file is missing, empty, or holds a line that is not an epoch.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected one JSON object an epoch, found {_defect(error)}") from error
    if not lines:
        raise InputError(f"{path}: expected one JSON object an epoch, found an empty file")
    return [_epoch(path, number, line) for number, line in enumerate(lines, start=1)]


def _epoch(path: Path, number: int, line: str) -> Epoch:
    try:
        epoch = json.loads(line)
    except ValueError:
        epoch = None
    if not isinstance(epoch, dict) or not isinstance(epoch.get("test_accuracy"), (int, float)):
        raise InputError(f"{path} line {number}: expected an epoch as a JSON object, found {line[:40]!r}")
    return epoch


def _defect(error: Exception) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else "bytes that are not UTF-8"
