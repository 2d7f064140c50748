"""Progressive Staged Training (arXiv 2306.02064), in our reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pst_fast import ops
from pst_fast.defenses.base import DEFENSES, Defense, Event
from pst_fast.defenses.ladder import COLOUR_OF_PLAIN, raw_signs
from pst_fast.pst import OverViews, ProgressiveStagedTraining
from pst_fast.pst.schedule import GROWTH
from pst_fast.pst.trigger import Trigger
from pst_fast.train.augmentation import normalise

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


@DEFENSES.register("pst")
class PST(Defense):
    """Plain training under the staged schedule: ACM, roll-back, slowed stages.

    What tells of a trap is what tells ``pst-plus`` of one in its first stage, at every depth
    (but that a network which has never seen colours change relies on them more).
    """

    summary: ClassVar[str] = "Progressive Staged Training: ACM, roll-back, slowed stages"
    options: ClassVar[dict[str, Any]] = {"growth": GROWTH, "patience": 1, "rollback": 2, "history": 3}
    """Of the schedule, where they are not its defaults."""
    snapshots: ClassVar[int] = options["history"]

    def start(self, fit: Fit) -> None:
        self._schedule = ProgressiveStagedTraining(
            fit.model, fit.optimizer, fit.acm.images, fit.acm.labels,
            acm=fit.acm, trigger=self.trigger(fit), kept=fit.averaged.everything, **self.options,
        )  # fmt: skip

    def trigger(self, fit: Fit) -> Trigger:
        """What counts as a trap."""
        limits = {view: sign.limit for sign in raw_signs(COLOUR_OF_PLAIN) for view in sign.floors}
        seen = {view: ops.degrade(fit.probe_images, [view], seed=0, offset=0) for view in limits}
        return OverViews(fit.acm, [(normalise(seen[view]), limit) for view, limit in limits.items()])

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
