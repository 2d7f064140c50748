"""Progressive Staged Training: go back when a stage is trapped, and slow it and all before it.

The paper (arXiv 2306.02064) describes a self-adaptive, layer-wise learning-rate schedule that ACM steers;
it publishes no constants. The rule and the constants here are our reading, found by experiment.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pst_fast.pst.acm import ActivationClusterMeasurement
from pst_fast.pst.cadence import Cadence
from pst_fast.pst.slowing import SlowedStages
from pst_fast.pst.snapshots import Snapshots
from pst_fast.pst.stages import StageNames, unwrapped
from pst_fast.pst.trigger import OverThreshold, Trigger

HISTORY = 24
THRESHOLD = (0.45, 0.50, 0.65)
INTERVAL, GROWTH = 13, 7
"""Of the checks' cadence, in `pst` and `pst-plus`; a loop of one's own has no growth unless it is given."""


@dataclass(frozen=True)
class StageEvent:
    """A roll-back.

    Attributes:
        step: Training step at which the check was made.
        stages: The stages that are slowed from now on, shallow first.
        acm: The measure at the check, by watched stage.
    """

    step: int
    stages: tuple[str, ...]
    acm: dict[str, float]


class ProgressiveStagedTraining:
    """The staged schedule, on top of any model, optimizer and learning-rate schedule.

    >>> pst = ProgressiveStagedTraining(model, optimizer, probe_images, probe_labels)
    >>> ...; loss.backward(); optimizer.step()
    >>> pst.step()

    Now and then (:class:`~pst_fast.pst.cadence.Cadence`) ACM is measured on the probes. While no stage is
    trapped (:mod:`~pst_fast.pst.trigger`), a snapshot is kept. When one is, at more than ``patience`` checks
    in a row, weights, buffers and optimizer state go back ``rollback`` snapshots, and every stage up to the
    deepest one that is trapped is slowed: its learning rate is the optimizer's times ``gamma ** level`` (see
    :class:`~pst_fast.pst.slowing.SlowedStages`). Step counters and schedules go on.

    Args:
        model: Any network, compiled and wrapped or not.
        optimizer: Any ``torch.optim`` optimizer over its parameters.
        images: Probe images [N,3,H,W] from the training set, as the model takes them (700 are enough).
        labels: int64 [N].
        threshold: ACM limits, shallow first; deeper stages than there are limits are never slowed.
        trigger: What counts as a trap, in the place of ``OverThreshold(acm, threshold)``.
        gamma: Factor on the learning rate for each level.
        max_level: A stage is slowed at most this many times.
        interval: Steps between checks.
        growth: If given, fewer checks later: one when a ``growth``-th of the steps so far have passed.
        patience: Checks in a row that may find a trap before anything is done.
        rollback: Snapshots to go back; 0: none, the stages are slowed and that is all.
        history: Snapshots that are kept.
        stages: Stage name -> submodule name(s), shallow first; found by depth if None.
        acm: A measurement of the same network to use in place of ``ActivationClusterMeasurement(model,
            images, labels)``. Under DistributedDataParallel give one with ``distributed=True``, so that all
            processes decide alike.
        kept: A module that goes back in the model's place: one that holds the model and, say, an average of
            its weights.

    Raises:
        ValueError: As ActivationClusterMeasurement does; or a setting is out of its range.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        threshold: Sequence[float] = THRESHOLD,
        trigger: Trigger | None = None,
        gamma: float = 0.1,
        max_level: int = 3,
        interval: int = INTERVAL,
        growth: int | None = None,
        patience: int = 0,
        rollback: int = 4,
        history: int = HISTORY,
        stages: StageNames | None = None,
        acm: ActivationClusterMeasurement | None = None,
        kept: nn.Module | None = None,
    ) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma: expected a factor in [0,1], got {gamma}")
        for name, value, least in (("rollback", rollback, 0), ("history", history, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.acm = acm or ActivationClusterMeasurement(model, images, labels, stages=stages)
        self.cadence = Cadence(interval, growth, patience)
        self.rollback = rollback
        self.trigger = trigger or OverThreshold(self.acm, threshold)
        self.events: list[StageEvent] = []
        self.last_acm: dict[str, float] = {}
        self._slowed = SlowedStages(
            unwrapped(model), optimizer, self.acm.stages, gamma=gamma, max_level=max_level
        )
        self._snapshots = Snapshots(kept or model, optimizer, history)

    @property
    def levels(self) -> dict[str, int]:
        """Stage -> how often it has been slowed."""
        return self._slowed.levels

    def step(self) -> StageEvent | None:
        """Call after every ``optimizer.step()``; returns the event if this step ended in a roll-back."""
        return self.check() if self.cadence.step() else None

    def check(self) -> StageEvent | None:
        """Measure now and act on it."""
        found = self.trigger()
        self.last_acm = found.acm
        names = list(self.levels)
        trapped = [name for name in found.trapped if self._slowed.may_slow(name)]
        if not trapped:
            self._snapshots.take()
        if not self.cadence.confirms(bool(trapped)):
            return None
        if self.rollback:
            self._snapshots.go_back(self.rollback)
        slowed = tuple(names[: names.index(trapped[-1]) + 1])
        self._slowed.slow(slowed)
        event = StageEvent(self.cadence.steps, slowed, dict(self.last_acm))
        self.events.append(event)
        return event

    def detach(self) -> None:
        """Take the schedule off the optimizer."""
        self._slowed.detach()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: tensors and plain values only."""
        return {
            "cadence": self.cadence.state_dict(),
            "levels": dict(self.levels),
            "events": [asdict(event) for event in self.events],
            "last_acm": dict(self.last_acm),
            "snapshots": self._snapshots.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state from :meth:`state_dict` of the same model and optimizer."""
        self.cadence.load_state_dict(state["cadence"])
        self._slowed.levels = dict(state["levels"])
        self.events = [StageEvent(e["step"], tuple(e["stages"]), e["acm"]) for e in state["events"]]
        self.last_acm = dict(state["last_acm"])
        self._snapshots.restore(state["snapshots"])
