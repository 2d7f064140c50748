"""Progressive Staged Training: go back when a stage is trapped, and slow it and all before it.

The paper (arXiv 2306.02064) describes a self-adaptive, layer-wise learning-rate schedule that ACM steers;
it publishes no constants. The rule and the constants here are our reading, found by experiment.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pst_fast.pst.acm import ActivationClusterMeasurement
from pst_fast.pst.stages import StageNames

THRESHOLD = (0.45, 0.50, 0.65)


@dataclass(frozen=True)
class StageEvent:
    """A roll-back.

    Attributes:
        step: Training step at which the check was made.
        stages: The stages that are slowed from now on, shallow first.
        acm: The measure at the check, by stage.
    """

    step: int
    stages: tuple[str, ...]
    acm: dict[str, float]


class ProgressiveStagedTraining:
    """The staged schedule, on top of any model, optimizer and learning-rate schedule.

    >>> pst = ProgressiveStagedTraining(model, optimizer, probe_images, probe_labels)
    >>> ...; loss.backward(); optimizer.step()
    >>> pst.step()

    Every ``interval`` steps ACM is measured on the probes. While all watched stages are under their
    thresholds, a snapshot is kept. When one is over, weights, buffers and optimizer state go back
    ``rollback`` snapshots, and every stage up to the deepest one that is over is slowed: its learning rate
    is the optimizer's times ``gamma ** level``. Step counters and schedules go on.

    The learning rate of a stage is scaled by pulling its parameters back after ``optimizer.step()``, which
    is the same thing for every optimizer whose update is proportional to its learning rate, and leaves
    parameter groups and schedulers alone.

    Args:
        model: Any network.
        optimizer: Any ``torch.optim`` optimizer over its parameters.
        images: Probe images [N,3,H,W] from the training set, as the model takes them (700 are enough).
        labels: int64 [N].
        threshold: ACM limits, shallow first; deeper stages than there are limits are never slowed.
        gamma: Factor on the learning rate for each level.
        max_level: A stage is slowed at most this many times.
        interval: Steps between checks.
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
        interval: int = 13,
        rollback: int = 4,
        history: int = 24,
        stages: StageNames | None = None,
        acm: ActivationClusterMeasurement | None = None,
    ) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma: expected a factor in [0,1), got {gamma}")
        for name, value in (("interval", interval), ("rollback", rollback), ("history", history)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.acm = acm or ActivationClusterMeasurement(model, images, labels, stages=stages)
        self.model = model
        self.optimizer = optimizer
        self.gamma = gamma
        self.max_level = max_level
        self.interval = interval
        self.rollback = rollback
        self.watched = dict(zip((stage.name for stage in self.acm.stages), threshold, strict=False))
        self.levels = {stage.name: 0 for stage in self.acm.stages}
        self.events: list[StageEvent] = []
        self.last_acm: dict[str, float] = {}
        self.steps = 0
        self._parameters = {stage.name: stage.parameters(model) for stage in self.acm.stages}
        self._before: dict[str, list[torch.Tensor]] = {}
        self._snapshots: deque[dict[str, Any]] = deque(maxlen=history)
        self._snapshots.append(self._snapshot())
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._pull_back()),
        ]

    def step(self) -> StageEvent | None:
        """Call after every ``optimizer.step()``; returns the event if this step ended in a roll-back."""
        self.steps += 1
        return self.check() if self.steps % self.interval == 0 else None

    def check(self) -> StageEvent | None:
        """Measure now and act on it."""
        self.last_acm = self.acm()
        names = list(self.levels)
        bad = [
            depth
            for depth, name in enumerate(names)
            if name in self.watched
            and self.last_acm[name] > self.watched[name]
            and self.levels[name] < self.max_level
        ]
        if not bad:
            self._snapshots.append(self._snapshot())
            return None
        for _ in range(min(self.rollback, len(self._snapshots)) - 1):
            self._snapshots.pop()
        self._restore(self._snapshots[-1])
        slowed = tuple(names[: bad[-1] + 1])
        for name in slowed:
            self.levels[name] = min(self.levels[name] + 1, self.max_level)
        event = StageEvent(self.steps, slowed, dict(self.last_acm))
        self.events.append(event)
        return event

    def detach(self) -> None:
        """Take the schedule off the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: tensors and plain values only."""
        return {
            "steps": self.steps,
            "levels": dict(self.levels),
            "events": [asdict(event) for event in self.events],
            "last_acm": dict(self.last_acm),
            "snapshots": list(self._snapshots),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state from :meth:`state_dict` of the same model and optimizer."""
        self.steps = state["steps"]
        self.levels = dict(state["levels"])
        self.events = [StageEvent(e["step"], tuple(e["stages"]), e["acm"]) for e in state["events"]]
        self.last_acm = dict(state["last_acm"])
        self._snapshots.clear()
        self._snapshots.extend(state["snapshots"])

    def _slowed(self) -> dict[str, list[nn.Parameter]]:
        return {name: self._parameters[name] for name, level in self.levels.items() if level}

    def _remember(self) -> None:
        self._before = {name: [p.detach().clone() for p in ps] for name, ps in self._slowed().items()}

    @torch.no_grad()
    def _pull_back(self) -> None:
        for name, before in self._before.items():
            scale = self.gamma ** self.levels[name]
            torch._foreach_lerp_([p.data for p in self._parameters[name]], before, 1 - scale)
        self._before = {}

    def _snapshot(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()["state"]
        return {
            "model": {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()},
            "optimizer": {
                index: {
                    key: value.clone() if isinstance(value, torch.Tensor) else value
                    for key, value in entry.items()
                }
                for index, entry in state.items()
            },
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self.model.load_state_dict(snapshot["model"])
        state = self.optimizer.state_dict()
        state["state"] = {index: dict(entry) for index, entry in snapshot["optimizer"].items()}
        self.optimizer.load_state_dict(state)
        # load_state_dict keeps tensors that need no cast: give the optimizer copies of its own to write into
        for entry in self.optimizer.state.values():
            for key, value in entry.items():
                if isinstance(value, torch.Tensor):
                    entry[key] = value.clone()
