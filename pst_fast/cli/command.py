"""The command that a run's settings stand for."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from pst_fast.cli.config import RunConfig


def command_of(settings: Mapping[str, Any]) -> str:
    """The command line that repeats a run.

    Args:
        settings: ``settings`` of ``results.json``: the flags, with nothing left open.

    Returns:
        One line for a POSIX shell; flags that have their fixed default are left out.
    """
    words = ["python", "-m", "pst_fast.run"]
    for flag in dataclasses.fields(RunConfig):
        value = settings.get(flag.name)
        if value is None or value == flag.default:
            continue
        name = f"--{flag.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name[2:]}")
        elif isinstance(value, list | tuple):
            words += [name, ",".join(str(entry) for entry in value)]
        else:
            words += [name, str(value)]
    return shlex.join(words)
