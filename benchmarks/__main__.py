"""``python -m benchmarks [NAME]``: one benchmark, or without a name the three tables of the README."""

import argparse
import importlib
import sys

from benchmarks import table
from pst_fast.cli.exits import exit_code
from pst_fast.errors import InputError

TABLES = {
    "ops": "the fused ops against PyTorch eager and torch.compile of their twins",
    "crafting": "the inner loop of the attacks against the loop of published code",
    "training": "whole training steps against a PIL and torchvision pipeline",
}
OTHERS = {
    "loaders": "images a second of the data loaders",
    "memory": "peak memory of crafting and applying on sets larger than it",
    "ablations": "pst and pst-plus with one part changed at a time",
    "plot": "a figure of what --json wrote",
}
"""What is measured; ``benchmarks/<name>.py`` is imported only when it is asked for."""


def main() -> int:
    """Parse the command line and run; the exit code is that of :func:`pst_fast.cli.exits.exit_code`."""
    others = set(OTHERS) & set(sys.argv[1:2])
    words = "stopped; nothing was written" if others else "stopped; the file of --json has the rows so far"
    return exit_code(lambda: _run(sys.argv[1:]), words)


def _run(rest: list[str]) -> None:
    name = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if name not in (None, *TABLES, *OTHERS):
        raise InputError(f"expected one of {', '.join([*TABLES, *OTHERS])}, got {name!r}")
    if name in OTHERS:
        module = importlib.import_module(f"benchmarks.{name}")
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=module.__doc__)
        module.add_arguments(parser)
        module.run(parser.parse_args(rest))
    else:
        _tables([name] if name else list(TABLES), rest)


def _tables(names: list[str], rest: list[str]) -> None:
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    words = "; ".join(f"{name}: {summary}" for name, summary in {**TABLES, **OTHERS}.items())
    parser = argparse.ArgumentParser(
        prog=" ".join(["python -m benchmarks", *(names if len(names) == 1 else [])]),
        description=modules[names[0]].__doc__ if len(names) == 1 else f"{__doc__} Names: {words}.",
    )
    table.add_options(parser)
    for module in modules.values():
        module.add_arguments(parser)
    args = parser.parse_args(rest)
    args.earlier = table.read_documents(args.compare) if args.compare else {}
    args.documents = table.Documents(args.json)
    for name, module in modules.items():
        args.documents.put(name, module.run(args))
        print()


if __name__ == "__main__":
    sys.exit(main())
