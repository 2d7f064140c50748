"""Write a perturbation bank in a format that others read: ``python -m pst_fast.export``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pst_fast.cli.exits import exit_code, write_failure
from pst_fast.errors import InputError


@dataclass(frozen=True)
class ExportConfig:
    """The flags."""

    bank: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BANK")]
    """Folder of the bank, such as runs/demo/attacks/em-seed0/bank."""
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """File or folder to write."""
    format: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """One of the formats above."""
    clean: Annotated[
        Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: that of the bank's run)")
    ] = None
    """The prepared data set that the bank was made for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The flags; None takes the process's own.

    Returns:
        Exit code: 0, 2 for input that cannot be used (one sentence on stderr), 130 when interrupted.
    """

    def work() -> None:
        _export(tyro.cli(ExportConfig, prog="python -m pst_fast.export", description=_help(), args=arguments))

    return exit_code(work, "stopped; nothing was written")


def _export(config: ExportConfig) -> None:
    from pst_fast.data.export import export

    clean = config.bank / "../../../clean" if config.clean is None else config.clean
    try:
        written = export(config.bank, clean, config.out, form=config.format)
    except (OSError, RuntimeError) as error:
        sentence = write_failure(error, config.out)
        if sentence is None:
            raise
        raise InputError(sentence) from error
    print(f"{written}: python -m pst_fast.run --perturbation reads it")


def _help() -> str:
    from pst_fast.data.export import FORMATS

    formats = "; ".join(f"{name}: {form.words}" for name, form in FORMATS.items())
    return f"Write a perturbation bank in a format that others read.\n\nFormats: {formats}."


if __name__ == "__main__":
    sys.exit(main())
