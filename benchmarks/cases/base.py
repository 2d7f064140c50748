"""One row of the table of ops."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import Arguments

Shape = tuple[int, ...]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Case:
    """One op on one kind of arguments.

    Attributes:
        op: Its name.
        shape: The arguments in words.
        native: The op.
        twin: Its twin, which takes the same arguments.
        make: A new set of arguments; the caller has set the seed.
        nbytes: What the op must move at least: each input read once, each output written once.
        compiles: Whether torch.compile of the twin comes to an end in minutes.
    """

    op: str
    shape: str
    native: Callable[..., object]
    twin: Callable[..., object]
    make: Callable[[], Arguments]
    nbytes: int
    compiles: bool = True


def words(shape: Shape, *more: str) -> str:
    """ "[128,3,32,32] channels_last"."""
    return " ".join([str(list(shape)).replace(" ", ""), *more])


def elements(shape: Shape) -> int:
    """How many there are."""
    return torch.Size(shape).numel()


def channel_constants(device: torch.device) -> dict[str, Tensor]:
    """``mean`` and ``std``."""
    values = {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
    return {name: torch.tensor(value, device=device) for name, value in values.items()}
