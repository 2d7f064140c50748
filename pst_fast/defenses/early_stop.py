"""Early stopping on held-out training images, which are as poisoned as the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pst_fast.defenses.base import DEFENSES, Defense

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


@DEFENSES.register("early-stop")
class EarlyStop(Defense):
    """Plain training; the result is the epoch that was best on a tenth of the training images.

    All epochs are trained, so that its curve can be compared. Of epochs that are equally good, the first one.
    """

    summary: ClassVar[str] = "plain training; the epoch that is best on held-out (poisoned) images counts"
    held_out: ClassVar[float] = 0.1
    snapshots: ClassVar[int] = 1

    def start(self, fit: Fit) -> None:
        self._model = fit.averaged.result
        self._best: dict[str, Any] = {"epoch": 0, "accuracy": -1.0, "weights": {}}

    def after_epoch(self, row: Mapping[str, Any]) -> None:
        if row["held_out_accuracy"] > self._best["accuracy"]:
            weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
            self._best = {"epoch": row["epoch"], "accuracy": row["held_out_accuracy"], "weights": weights}

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> int:
        self._model.load_state_dict(self._best["weights"])
        return self._best["epoch"]

    def state_dict(self) -> dict[str, Any]:
        return self._best

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best = {**state, "weights": {name: torch.clone(v) for name, v in state["weights"].items()}}
