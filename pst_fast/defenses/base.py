"""What a defense is: what a breaker changes about plain training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pst_fast.registry import Registry
from pst_fast.train.augmentation import PLAIN, Augmentation

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


@dataclass(frozen=True)
class Event:
    """Something a defense did, for the logs and plots.

    Attributes:
        step: Training step.
        kind: ``rollback``, ``detect``, ``view``, ...
        stages: Stages concerned, shallow first.
        words: One clause for people.
    """

    step: int
    kind: str
    stages: tuple[str, ...]
    words: str


class Defense:
    """Plain training; every defense is a subclass in a file of its own, with ``@DEFENSES.register(name)``.

    A fresh object serves one training run. It sees the (poisoned) training set and nothing else.

    Attributes:
        summary: One line for the help.
        scout_epochs: Epochs of plain training that are spent beforehand on a network that is thrown away.
    """

    summary: ClassVar[str]
    scout_epochs: ClassVar[int] = 0

    def __init__(self) -> None:
        self.events: list[Event] = []

    def scouted(self, scout: Fit) -> None:
        """Look at the scout after its last epoch, and decide."""

    def augmentation(self) -> Augmentation:
        """How training images are augmented."""
        return PLAIN

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        """Degrade a batch, uint8 [B,H,W,3], before it is augmented."""
        return images

    def start(self, fit: Fit) -> None:
        """Called once, before the first step (also of a resumed run, before ``load_state_dict``)."""

    def after_step(self) -> None:
        """Called after every optimizer step."""

    def levels(self) -> dict[str, int]:
        """How often each stage has been slowed; empty where stages are not slowed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain values only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""


DEFENSES: Registry[type[Defense]] = Registry("defense", "pst_fast.defenses")
