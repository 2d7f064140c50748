"""What the benchmarks share: their options, their tables, and the JSON that holds them."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pst_fast.cli.checks import resolve_device
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.manifest import environment
from pst_fast.memory import keep_freed_memory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads, for all sides (default: PyTorch's)")
    parser.add_argument("--seconds", type=float, help="time for each row (default: 1, networks 20)")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (it is slow to start)"
    )
    parser.add_argument(
        "--best", action="store_true", help="fastest repetition, not the median (on a machine in use)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="an earlier --json, to set beside these figures"
    )


def prepare(args: argparse.Namespace) -> torch.device:
    """The device that the options name, with the threads that they ask for."""
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"--threads: expected at least 1, got {args.threads}")
        torch.set_num_threads(args.threads)
    keep_freed_memory()  # as runs do, and so for the baselines too
    return resolve_device(args.device)


@dataclass(frozen=True)
class Column:
    """One column: its title, its width, the row's entry, and the form of that."""

    title: str
    width: int
    key: str
    form: str = "{}"

    def cell(self, row: dict[str, Any]) -> str:
        """The row's entry; a hyphen where there is none."""
        value = row.get(self.key)
        return "-" if value is None else self.form.format(value)


TIMES = "{:.2f}x"
_EARLIER = Column("earlier/now", 11, "earlier_ratio", TIMES)


@dataclass
class Documents:
    """The figures of some benchmarks, and a file that has what there is of them.

    Args:
        path: The file, written anew with every row; None: there is none.
        tables: Figures by the benchmark's name.
    """

    path: Path | None
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put(self, name: str, document: dict[str, Any]) -> None:
        """Keep a benchmark's figures in the place of those that it had."""
        self.tables[name] = document
        if self.path:
            date = datetime.now(UTC).date().isoformat()
            write_json(self.path, {"date": date, "environment": environment(), "benchmarks": self.tables})


@dataclass
class Table:
    """Rows, printed and written as they come.

    Args:
        name: The benchmark's.
        device: Where it runs.
        columns: What is printed of a row. Names, which tell rows apart, have the format ``{}``.
        args: The benchmark's options, and beside them ``earlier``, what ``--compare`` has, by name, and
            ``documents``.
        facts: Whatever belongs to all rows: roofs.
    """

    name: str
    device: torch.device
    columns: Sequence[Column]
    args: argparse.Namespace
    facts: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        earlier = self.args.earlier.get(self.name, {"rows": []})["rows"]
        if not all(isinstance(row, dict) and isinstance(row.get("native_ms"), float) for row in earlier):
            raise InputError(
                f"{self.args.compare}: expected a file that --json wrote, but rows of {self.name} have no "
                "native_ms"
            )
        self._earlier = {self._key(row): row["native_ms"] for row in earlier}
        if self.args.compare:
            self.columns = [*self.columns, _EARLIER]
        is_cuda = self.device.type == "cuda"
        self.where = torch.cuda.get_device_name() if is_cuda else f"{torch.get_num_threads()} threads"
        roofs = "".join(f"; {key.replace('_', ' ')}: {value:.1f}" for key, value in self.facts.items())
        print(f"{self.name}: {self.where}; torch {torch.__version__}{roofs}\n")
        self._print(column.title for column in self.columns)

    def add(self, row: dict[str, Any]) -> None:
        """Print a row and keep it; its ``native_ms`` is what an earlier run is compared by."""
        self.rows.append(row)
        self.args.documents.put(self.name, self.document())
        before = self._earlier.get(self._key(row))
        earlier = None if before is None else before / row["native_ms"]
        self._print(column.cell({**row, "earlier_ratio": earlier}) for column in self.columns)

    def document(self) -> dict[str, Any]:
        """All figures."""
        return {
            "device": self.where,
            "threads": torch.get_num_threads(),
            "statistic": "best" if self.args.best else "median",
            **self.facts,
            "rows": self.rows,
        }

    def _key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(column.key) for column in self.columns if column.form == "{}")

    def _print(self, cells: Any) -> None:
        pairs = zip(cells, self.columns, strict=True)
        print("  ".join(f"{c:{'<' if o.form == '{}' else '>'}{o.width}}" for c, o in pairs), flush=True)


def read_documents(path: Path) -> dict[str, dict[str, Any]]:
    """What :class:`Documents` wrote.

    Raises:
        InputError: The file is something else.
    """
    try:
        documents = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {name: {**document, "rows": list(document["rows"])} for name, document in documents.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected a file that --json wrote ({error!r})") from error
