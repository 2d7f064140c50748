"""pst-plus: the measure chooses the view.

Ours, a first version. A scout network is trained plainly for a few epochs and thrown away. Under the view
that destroys a perturbation, the scout's ACM falls to what content alone gives; the ratio between views
tells, without any clean image, whether there is a trap and which views are free of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pst_fast import ops
from pst_fast.defenses import views
from pst_fast.defenses.base import DEFENSES, Defense, Event
from pst_fast.train.augmentation import COLOUR, Augmentation, normalise

if TYPE_CHECKING:
    from pst_fast.train.loop import Fit

Measures = Mapping[str, Sequence[float]]  # view -> ACM by depth

#: raw / lowest beyond which a stage counts as trapped, from the stem to the deepest of five stages.
TRAPPED = (1.3, 1.3, 1.6, 1.8, 2.0)
SHARPNESS = 16.0
TOLERANCE = 1.1
GREY_TOLERANCE = 1.35


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        mix: View -> probability.
        grey_probability: Share of images that lose their colour.
        trapped: Whether a trap was found.
        words: The decision in one clause.
    """

    mix: dict[str, float]
    grey_probability: float
    trapped: bool
    words: str


def choose(acm: Measures) -> Plan:
    """Decide from the scout's ACM by depth under each of VIEWS, ``grey`` and ``grey-jpeg10``."""
    depths = len(acm["raw"])
    limits: list[float] = np.interp(np.linspace(0, 4, depths), range(5), TRAPPED).tolist()
    lowest = [min(acm[view][d] for view in views.VIEWS if view != "raw") for d in range(depths)]

    def worst(view: str, floor: Sequence[float], tolerance: Sequence[float]) -> float:
        return max(a / (low * t) for a, low, t in zip(acm[view], floor, tolerance, strict=True))

    excess = worst("raw", lowest, limits)
    if excess <= 1:
        return Plan(dict(views.STATIC_MIX), 0.7, False, "no trap found: the static mix")
    if worst("grey", acm["grey-jpeg10"], limits) <= 1:
        return Plan(dict(views.STATIC_MIX), 0.95, True, "greyscale is free of the trap: 95 % of it")

    def weight(view: str, tolerance: float) -> float:
        return math.exp(-SHARPNESS * max(0.0, math.log(worst(view, lowest, [tolerance] * depths))))

    weights = {view: share * weight(view, TOLERANCE) for view, share in views.STATIC_MIX.items()}
    total = sum(weights.values())
    mix = {view: value / total for view, value in weights.items()}
    best = max(mix, key=lambda view: mix[view])
    return Plan(mix, 0.7 * weight("grey", GREY_TOLERANCE), True, f"{best} in {mix[best]:.0%} of the images")


@DEFENSES.register("pst-plus")
class PSTPlus(Defense):
    """A scout, ACM under every view, then training under the views that are free of the trap."""

    summary: ClassVar[str] = "a scout's ACM chooses the views (JPEG, median, greyscale, ...) to train under"
    scout_epochs: ClassVar[int] = 6

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan(dict(views.STATIC_MIX), 0.7, False, "not scouted")
        self.measures: dict[str, list[float]] = {}

    def scouted(self, scout: Fit) -> None:
        for name, view in (views.VIEWS | views.PROBES).items():
            degraded = ops.degrade(scout.probe_images, [view], seed=0, offset=0)
            self.measures[name] = list(scout.acm(normalise(degraded)).values())
        self.plan = choose(self.measures)
        stages = tuple(stage.name for stage in scout.acm.stages)
        self.events.append(Event(0, "view", stages if self.plan.trapped else (), self.plan.words))

    def augmentation(self) -> Augmentation:
        return replace(COLOUR, grey_probability=self.plan.grey_probability)

    def view(self, images: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        return views.apply_mix(images, self.plan.mix, seed, step)

    def state_dict(self) -> dict[str, Any]:
        return {"plan": vars(self.plan), "measures": self.measures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plan = Plan(**state["plan"])
        self.measures = state["measures"]
