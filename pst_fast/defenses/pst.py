"""Progressive Staged Training (arXiv 2306.02064), in our reading of its first round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pst_fast import ops
from pst_fast.defenses.base import DEFENSES, Defense, Event
from pst_fast.defenses.ladder import FINE, MILD
from pst_fast.pst import OverViews, ProgressiveStagedTraining
from pst_fast.pst.schedule import HISTORY
from pst_fast.pst.trigger import Trigger
from pst_fast.train.augmentation import normalise

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


@DEFENSES.register("pst")
class PST(Defense):
    """Plain training under the staged schedule: ACM, roll-back, slowed shallow stages."""

    summary: ClassVar[str] = "Progressive Staged Training: ACM, roll-back, slowed shallow stages"
    depth: ClassVar[int | None] = None
    """How many stages are watched, shallow ones first; None: all."""
    options: ClassVar[dict[str, Any]] = {"growth": 8, "rollback": 2}
    """Of the schedule, where they are not its defaults: a check measures every stage, twice."""
    snapshots: ClassVar[int] = HISTORY

    def start(self, fit: Fit) -> None:
        self._schedule = ProgressiveStagedTraining(
            fit.model, fit.optimizer, fit.acm.images, fit.acm.labels,
            acm=fit.acm, trigger=self.trigger(fit), kept=fit.averaged.everything, **self.options,
        )  # fmt: skip

    def trigger(self, fit: Fit) -> Trigger:
        """ACM falls under the JPEG whose fall tells `pst-plus` of a trap.

        The greyscale that `pst-plus` looks at too is left out: colour separates classes in a fresh network by
        itself, and stages that are slowed before there is content in them stay without.
        """
        degraded = ops.degrade(fit.probe_images, [MILD], seed=0, offset=0)
        return OverViews(fit.acm, [(normalise(degraded), FINE)], depth=self.depth)

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
