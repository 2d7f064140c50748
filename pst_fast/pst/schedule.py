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
from pst_fast.pst.stages import StageNames

THRESHOLD = (0.45, 0.50, 0.65)
INTERVAL, GROWTH = 13, 32


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

    Now and then (:class:`~pst_fast.pst.cadence.Cadence`) ACM is measured on the probes. While all watched
    stages are under their thresholds, a snapshot is kept. When one is over, weights, buffers and optimizer
    state go back ``rollback`` snapshots, and every stage up to the deepest one that is over is slowed: its
    learning rate is the optimizer's times ``gamma ** level`` (see
    :class:`~pst_fast.pst.slowing.SlowedStages`). Step counters and schedules go on.

    Args:
        model: Any network.
        optimizer: Any ``torch.optim`` optimizer over its parameters.
        images: Probe images [N,3,H,W] from the training set, as the model takes them (700 are enough).
        labels: int64 [N].
        threshold: ACM limits, shallow first; deeper stages than there are limits are never slowed.
        gamma: Factor on the learning rate for each level.
        max_level: A stage is slowed at most this many times.
        interval: Steps between checks at first.
        growth: Later a check is made when a ``growth``-th of the steps so far have passed since the last one.
        rollback: Snapshots to go back.
        history: Snapshots that are kept.
        stages: Stage name -> submodule name(s), shallow first; found by depth if None.
        acm: A measurement to use in place of ``ActivationClusterMeasurement(model, images, labels)``.

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
        gamma: float = 0.1,
        max_level: int = 3,
        interval: int = INTERVAL,
        growth: int = GROWTH,
        rollback: int = 4,
        history: int = 24,
        stages: StageNames | None = None,
        acm: ActivationClusterMeasurement | None = None,
    ) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma: expected a factor in [0,1), got {gamma}")
        for name, value in (("rollback", rollback), ("history", history)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.acm = acm or ActivationClusterMeasurement(model, images, labels, stages=stages)
        self.cadence = Cadence(interval, growth)
        self.rollback = rollback
        self.watched = dict(zip((stage.name for stage in self.acm.stages), threshold, strict=False))
        self.events: list[StageEvent] = []
        self.last_acm: dict[str, float] = {}
        self._slowed = SlowedStages(model, optimizer, self.acm.stages, gamma=gamma, max_level=max_level)
        self._snapshots = Snapshots(model, optimizer, history)

    @property
    def levels(self) -> dict[str, int]:
        """Stage -> how often it has been slowed."""
        return self._slowed.levels

    def step(self) -> StageEvent | None:
        """Call after every ``optimizer.step()``; returns the event if this step ended in a roll-back."""
        return self.check() if self.cadence.step() else None

    def check(self) -> StageEvent | None:
        """Measure now and act on it."""
        self.last_acm = self.acm(depth=len(self.watched))
        names = list(self.levels)
        bad = [
            depth
            for depth, name in enumerate(names)
            if name in self.watched
            and self.last_acm[name] > self.watched[name]
            and self._slowed.may_slow(name)
        ]
        if not bad:
            self._snapshots.take()
            return None
        self._snapshots.go_back(self.rollback)
        slowed = tuple(names[: bad[-1] + 1])
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
