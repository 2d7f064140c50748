"""The stages of pst-plus: ever stronger views, and how a trap under each of them is told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pst_fast.defenses.views import STATIC_MIX
from pst_fast.ops import View
from pst_fast.train.augmentation import COLOUR, PLAIN, Augmentation

Measure = Callable[[View], Sequence[float]]
"""ACM by depth, stem first, of the probes under a view."""

JPEG = View.jpeg(10)
GREY = View().in_grey()
GREY_JPEG = View.jpeg(10).in_grey()

COARSE = (1.3, 1.5, 1.8, 2.2, 2.8)
"""Limits for what JPEG leaves of the measure: on clean images deep stages lose more, and more so late."""
COLOUR_LOST = (1.7,) * 5
"""Limits for what greyscale leaves of it: on clean images 1.1 to 1.4 at all depths, early and late."""


@dataclass(frozen=True)
class Stage:
    """How to train, and what would show that training is trapped.

    Attributes:
        name: For events.
        seen: The view whose measure is too high in a trap; None: nothing is known that would show it.
        floor: The stronger view that it is compared with.
        limits: ``seen`` over ``floor`` beyond which a depth is trapped, from the stem to the last of five.
        mix: View -> probability; empty: images stay as they are.
        augmentation: What follows.
    """

    name: str
    seen: View | None
    floor: View
    limits: Sequence[float]
    mix: Mapping[str, float] = field(default_factory=dict)
    augmentation: Augmentation = PLAIN

    def trapped(self, measure: Measure) -> list[int]:
        """Depths that are trapped under this stage's view, shallow first."""
        if self.seen is None:
            return []
        seen, floor = measure(self.seen), measure(self.floor)
        limits = np.interp(np.linspace(0, 4, len(seen)), range(5), self.limits)
        return [
            depth
            for depth, (a, low, limit) in enumerate(zip(seen, floor, limits, strict=True))
            if a > low * limit
        ]


JPEG_MIX = {"jpeg10": 0.7, "jpeg20": 0.3}

#: From plain training to the strongest views.
STAGES = (
    Stage("plain", View(), JPEG, COARSE),
    Stage("grey", GREY, GREY_JPEG, COARSE, STATIC_MIX, replace(COLOUR, grey_probability=0.95)),
    Stage("jpeg", JPEG, GREY_JPEG, COLOUR_LOST, JPEG_MIX, replace(COLOUR, grey_probability=0.5)),
    Stage("jpeg-grey", None, GREY_JPEG, (), JPEG_MIX, replace(COLOUR, grey_probability=0.95)),
)


def next_stage(number: int, measure: Measure) -> int:
    """The first stage after ``number`` under whose view a trapped network shows no trap."""
    for later in range(number + 1, len(STAGES)):
        if not STAGES[later].trapped(measure):
            return later
    return number
