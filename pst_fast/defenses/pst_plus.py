"""pst-plus: the measure tells that there is a trap, and under which view there is none.

Ours. Training starts with colour jitter alone, and is its own scout. Under a view that destroys a
perturbation, a trapped network's ACM falls to what content alone gives, so that the fall tells of a trap
without any clean image. Then training goes back to before it, and on under the first view free of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pst_fast import ops
from pst_fast.defenses import views
from pst_fast.defenses.base import DEFENSES, Defense, Event
from pst_fast.defenses.ladder import STAGES, Measured, Stage, next_stage
from pst_fast.ops import View
from pst_fast.pst.cadence import Cadence
from pst_fast.pst.schedule import GROWTH, INTERVAL
from pst_fast.pst.snapshots import Snapshots
from pst_fast.train.augmentation import Augmentation, normalise
from pst_fast.train.following import Following

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit


@DEFENSES.register("pst-plus")
class PSTPlus(Defense):
    """Training as ``cg`` until it is trapped; then back to two calm checks before, and on under another view.

    A trap is told when two checks in a row show it; the second comes soon. A young network may show something
    at one check that is gone at the next.

    Checks come ever more rarely, so that their cost is a small share of a long training, and going back loses
    about a quarter of the steps so far.
    """

    summary: ClassVar[str] = "cg until ACM tells of a trap; then back, and on under a view free of it"
    stages: ClassVar[tuple[Stage, ...]] = STAGES
    patience: ClassVar[int] = 1
    """Checks in a row that may show a trap before anything is done."""
    rollback: ClassVar[int] = 2
    """Checks to go back: to the calm one before the last."""
    snapshots: ClassVar[int] = rollback + 1

    def start(self, fit: Fit) -> None:
        self._fit = fit
        self._stage = 0
        self._cadence = Cadence(INTERVAL, GROWTH, self.patience)
        self._snapshots = Snapshots(fit.averaged.everything, fit.optimizer, self.rollback + 1)

    def after_step(self) -> None:
        if self._cadence.step():
            self._check()

    def checks(self, steps: int) -> int:
        return self._cadence.checks(steps)

    def augmentation(self) -> Augmentation:
        return self.stages[self._stage].augmentation

    def following(self) -> Following | None:
        return self.stages[self._stage].following

    def looks(self) -> tuple[View, ...]:
        return self.stages[self._stage].looks

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        stage = self.stages[self._stage]
        if stage.mirrors_edges:
            images = views.mirror_edges(images)
        return views.apply_mix(images, stage.mix, seed, step) if stage.mix else images

    def _check(self) -> None:
        stage = self.stages[self._stage]
        trapped = stage.trapped(self._measure(stage.views))
        if not trapped:
            self._snapshots.take()
        if not self._cadence.confirms(bool(trapped)):
            return
        self._stage = next_stage(self.stages, self._stage, self._measure)
        if self.rollback:
            self._snapshots.go_back(self.rollback)
        names = [stage.name for stage in self._fit.acm.stages]
        concerned = tuple(names[depth] for depth in trapped)
        words = f"trapped: went back, and on under {self.stages[self._stage].name!r}"
        self.events.append(Event(self._cadence.steps, "view", concerned, words))

    def _measure(self, measured: Sequence[View]) -> Measured:
        probes = self._fit.probe_images
        seen = [normalise(ops.degrade(probes, [view], seed=0, offset=0)) for view in measured]
        by_stage = self._fit.acm.under(seen)
        return {view: list(acm.values()) for view, acm in zip(measured, by_stage, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage": self._stage,
            "cadence": self._cadence.state_dict(),
            "snapshots": self._snapshots.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._stage = state["stage"]
        self._cadence.load_state_dict(state["cadence"])
        self._snapshots.restore(state["snapshots"])
