"""Progressive Staged Training (arXiv 2306.02064), in our reading of its first round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pst_fast.defenses.base import DEFENSES, Defense, Event
from pst_fast.pst import OverThreshold, ProgressiveStagedTraining
from pst_fast.pst.schedule import HISTORY, INTERVAL, THRESHOLD
from pst_fast.pst.trigger import Trigger

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit

CHECKS_AN_EPOCH = 6
"""At most: the thresholds were found with a check every 13 steps of 78."""


@DEFENSES.register("pst")
class PST(Defense):
    """Plain training under the staged schedule: ACM, roll-back, slowed shallow stages."""

    summary: ClassVar[str] = "Progressive Staged Training: ACM, roll-back, slowed shallow stages"
    options: ClassVar[dict[str, Any]] = {}
    """Of the schedule, where they are not its defaults."""
    snapshots: ClassVar[int] = HISTORY

    def start(self, fit: Fit) -> None:
        self._schedule = ProgressiveStagedTraining(
            fit.model, fit.optimizer, fit.acm.images, fit.acm.labels,
            acm=fit.acm, trigger=self.trigger(fit), kept=fit.averaged.everything,
            interval=max(INTERVAL, len(fit.loader) // CHECKS_AN_EPOCH), **self.options,
        )  # fmt: skip

    def trigger(self, fit: Fit) -> Trigger:
        """What counts as a trap."""
        return OverThreshold(fit.acm, THRESHOLD)

    def after_step(self) -> None:
        event = self._schedule.step()
        if event:
            acm = ", ".join(f"{name} {value:.2f}" for name, value in event.acm.items())
            self.events.append(Event(event.step, "rollback", event.stages, f"went back; ACM {acm}"))

    def checks(self, steps: int) -> int:
        return self._schedule.cadence.checks(steps)

    def levels(self) -> dict[str, int]:
        return dict(self._schedule.levels)

    def state_dict(self) -> dict[str, Any]:
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._schedule.load_state_dict(state)
