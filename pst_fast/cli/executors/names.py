"""The executors by name, and what each of them has to find."""

import importlib.util
import shutil
from dataclasses import dataclass

from pst_fast.errors import InputError

EXECUTORS = {"local": None, "ray": "ray", "slurm": "submitit"}
"""Name -> the package that it takes beyond ours, which is in the extra of that name."""

DEFAULT_MINUTES = 1440


@dataclass(frozen=True)
class SlurmJob:
    """Where a job goes.

    Attributes:
        partition: None: the cluster's own.
        minutes: That it may take.
    """

    partition: str | None
    minutes: int


def check_executor(name: str, slurm: str | None) -> None:
    """Raise InputError unless the executor is known, and what it takes is installed."""
    if name not in EXECUTORS:
        raise InputError(f"--executor {name!r}: expected one of {', '.join(EXECUTORS)}")
    if slurm is not None and name != "slurm":
        raise InputError(f"--slurm {slurm}: expected --executor slurm beside it, got {name}")
    package = EXECUTORS[name]
    if package is not None and importlib.util.find_spec(package) is None:
        raise InputError(
            f"--executor {name}: expected the package {package}, which is not installed "
            f"(pip install 'pst_fast[{name}]' adds it)"
        )
    if name == "slurm":
        parse_slurm(slurm)
        if shutil.which("sbatch") is None:
            raise InputError("--executor slurm: expected Slurm's sbatch on the PATH, which it is not")


def parse_slurm(text: str | None) -> SlurmJob:
    """``PARTITION``, ``PARTITION:MINUTES`` or ``:MINUTES``.

    Raises:
        InputError: Neither of them.
    """
    partition, colon, minutes = (text or "").partition(":")
    if colon and not (minutes.isascii() and minutes.isdigit() and int(minutes) > 0):
        raise InputError(f"--slurm {text!r}: expected PARTITION:MINUTES, such as gpu:240")
    return SlurmJob(partition.strip() or None, int(minutes) if colon else DEFAULT_MINUTES)
