"""Make unlearnable data, trap a plain trainer with it, and learn it anyway: ``python -m pst_fast.run``."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console

from pst_fast.cli.config import RunConfig, resolve
from pst_fast.errors import InputError

BAD_INPUT = 2
STOPPED = 130

_SHORT_WRITES = ("inline_container.cc", "PytorchStreamWriter", "requested and")
"""torch.save and numpy report a full disk in words of their own, without the system's error number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The flags; None takes the process's own.

    Returns:
        Exit code: 0, 2 for input that cannot be used (one sentence on stderr), 130 when interrupted.
    """
    try:
        return _run(tyro.cli(RunConfig, prog="python -m pst_fast.run", description=_help(), args=arguments))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _run(config: RunConfig) -> int:
    from pst_fast.cli.pipeline import run
    from pst_fast.cli.terminal import Terminal
    from pst_fast.report.table import print_table

    plan = resolve(config)
    terminal = Terminal(Console(stderr=True))
    try:
        rows = run(plan, terminal)
    except (OSError, RuntimeError) as error:
        sentence = _write_failure(error, plan.out)
        if sentence is None:
            raise
        raise InputError(sentence) from error
    print_table(Console(width=None if sys.stdout.isatty() else 100), rows)
    print(f"{plan.out}: results.json, table.md, curves.png, samples.png")
    return 0


def _write_failure(error: OSError | RuntimeError, out: Path) -> str | None:
    """One sentence where the disk or a permission is in the way; None for what is not the user's to mend."""
    number = error.errno if isinstance(error, OSError) else None
    where = (error.filename if isinstance(error, OSError) else None) or out
    if any(words in str(error) for words in _SHORT_WRITES):
        number = errno.ENOSPC
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where}: {os.strerror(number).lower()}; expected room for the run under {out}"
    if isinstance(error, PermissionError):
        return f"{where}: permission denied; expected a path that this user may read and write"
    if number == errno.EROFS:
        return f"{where}: the file system is read-only; expected a place to write to"
    return None


def _help() -> str:
    from pst_fast.attacks.base import ATTACKS
    from pst_fast.cli.recipes import describe_recipes
    from pst_fast.data.datasets import DATASETS
    from pst_fast.defenses.base import DEFENSES
    from pst_fast.models import list_models

    return "\n\n".join(
        (
            "Make unlearnable data with each attack, train on them with each defense, compare the results.",
            f"Datasets: {', '.join(DATASETS.names())}.",
            "Attacks: " + "; ".join(f"{name} ({ATTACKS[name].paper})" for name in ATTACKS.names()) + ".",
            f"Defenses: {', '.join(DEFENSES.names())}.",
            f"Models: {', '.join(list_models())}, timm:NAME, torchvision:NAME.",
            f"Defaults by data set: {describe_recipes()}.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
