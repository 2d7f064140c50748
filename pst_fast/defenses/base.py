"""What a defense is: what a breaker changes about plain training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pst_fast.data.task import ImageTask
from pst_fast.ops import View
from pst_fast.registry import Registry
from pst_fast.train.augmentation import PLAIN, Augmentation
from pst_fast.train.following import Following

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


@dataclass(frozen=True, kw_only=True)
class Purification(ImageTask):
    """A training set to purify.

    Attributes:
        width: Channels of the first stage of the network that is to learn from it.
    """

    width: int


class Defense:
    """Plain training; every defense is a subclass in a file of its own, with ``@DEFENSES.register(name)``.

    A fresh object serves one training run. It sees the (poisoned) training set and nothing else.

    Attributes:
        summary: One line for the help.
        held_out: Share of the training images, (at least) one of each class, that the network does not learn
            from; its accuracy on them is in each epoch's row.
        snapshots: Copies of weights and momentum that it keeps, at most.
    """

    summary: ClassVar[str]
    held_out: ClassVar[float] = 0.0
    snapshots: ClassVar[int] = 0

    def __init__(self) -> None:
        self.events: list[Event] = []

    def purify(self, task: Purification) -> Iterable[np.ndarray]:
        """Change the training images once, before all else; the main process of a run alone is asked to.

        Returns:
            All images in their order, chunks of uint8 [n,H,W,3]. They are gone through once.
        """
        raise NotImplementedError

    @property
    def purifies(self) -> bool:
        """Whether it does."""
        return type(self).purify is not Defense.purify

    def augmentation(self) -> Augmentation:
        """How training images are augmented from now on."""
        return PLAIN

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        """Degrade a batch, uint8 [B,H,W,3], before it is augmented."""
        return images

    def following(self) -> Following | None:
        """Whether, and how, images are seen a second time, without their labels."""
        return None

    @property
    def whole_images(self) -> bool:
        """Whether it has to have images before they are cropped at random: it degrades or follows them."""
        kind = type(self)
        return kind.view is not Defense.view or kind.following is not Defense.following

    def looks(self) -> tuple[View, ...]:
        """Views through which the finished network looks: its answer is their mean. None: at the image."""
        return ()

    def transform(self, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change an augmented batch.

        Args:
            inputs: What the network would see, normalised fp32 [B,3,H,W].
            labels: int64 [B].

        Returns:
            What it sees, and what the cross-entropy is taken with: int64 [B], or probabilities fp32 [B,K].
        """
        return inputs, labels

    def start(self, fit: Fit) -> None:
        """Called once, before the first step (also of a resumed run, before ``load_state_dict``)."""

    def after_step(self) -> None:
        """Called after every optimizer step."""

    def checks(self, steps: int) -> int:
        """How often :meth:`after_step` does more than count, in so many steps: what a run costs follows."""
        return 0

    def after_epoch(self, row: Mapping[str, Any]) -> None:
        """Called after every epoch with its row of the metrics."""

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Called after the last epoch: the number, from 1, of the epoch whose network is the result.

        If that is not the last one, its weights have to be in the network by then.
        """
        return len(rows)

    def levels(self) -> dict[str, int]:
        """How often each stage has been slowed; empty where stages are not slowed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain values only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""


DEFENSES: Registry[type[Defense]] = Registry("defense", "pst_fast.defenses")
