"""Progressive Staged Training (arXiv 2306.02064), in our reading of its first round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pst_fast.defenses.base import DEFENSES, Defense, Event
from pst_fast.pst import ProgressiveStagedTraining

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


@DEFENSES.register("pst")
class PST(Defense):
    """Plain training under the staged schedule: ACM, roll-back, slowed shallow stages."""

    summary: ClassVar[str] = "Progressive Staged Training: ACM, roll-back, slowed shallow stages"

    def start(self, fit: Fit) -> None:
        self._schedule = ProgressiveStagedTraining(
            fit.model, fit.optimizer, fit.acm.images, fit.acm.labels, acm=fit.acm
        )

    def after_step(self) -> None:
        event = self._schedule.step()
        if event:
            over = ", ".join(f"{name} {event.acm[name]:.2f}" for name in event.stages)
            self.events.append(Event(event.step, "rollback", event.stages, f"went back; ACM {over}"))

    def levels(self) -> dict[str, int]:
        return dict(self._schedule.levels)

    def state_dict(self) -> dict[str, Any]:
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._schedule.load_state_dict(state)
