"""The command that a run's settings stand for."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from pst_fast.cli.flags import RunConfig

LINE = 90


def command_of(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a run.

    Args:
        settings: ``settings`` of ``results.json``: the flags, with nothing left open.

    Returns:
        Words for a POSIX shell, on several lines where they are many; flags that have their fixed default are
        left out.
    """
    lines = ["python -m pst_fast.run"]
    for flag in dataclasses.fields(RunConfig):
        value = settings.get(flag.name)
        if value is None or value == flag.default:
            continue
        name = f"--{flag.name.replace('_', '-')}"
        if isinstance(flag.default, bool):
            words = name if value else f"--no-{name[2:]}"
        else:
            entries = value if isinstance(value, list | tuple) else [value]
            separator = ":" if flag.name == "progressive" else ","
            words = shlex.join([name, separator.join(str(entry) for entry in entries)])
        if len(lines[-1]) + len(words) > LINE:
            lines.append(f"    {words}")
        else:
            lines[-1] += f" {words}"
    return " \\\n".join(lines)
