"""The stages of pst-plus: ever stronger views, and what shows a trap under each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pst_fast.defenses.views import STATIC_MIX
from pst_fast.ops import View
from pst_fast.train.augmentation import COLOUR, PLAIN, Augmentation

Measure = Callable[[View], Sequence[float]]
"""ACM by depth, stem first, of the probes under a view."""

RAW, GREY = View(), View().in_grey()
MILD, GREY_MILD = View.jpeg(40), View.jpeg(40).in_grey()
JPEG, GREY_JPEG = View.jpeg(10), View.jpeg(10).in_grey()


@dataclass(frozen=True)
class Sign:
    """ACM that falls too far from one view to a stronger one, at any depth.

    Attributes:
        seen: What training sees.
        floor: The view that takes a perturbation away, and little content.
        limit: Of ACM under ``seen`` over ACM under ``floor``.
    """

    seen: View
    floor: View
    limit: float


# On clean CIFAR-10 the ratios stay at 1.0 to 1.14 (JPEG-40), 1.1 to 1.5 (greyscale) and 1.1 to 1.4 (greyscale
# of JPEG-10), at all depths, early and late.
FINE = 1.4
COLOUR_OF_RAW = 2.0
COLOUR_OF_JPEG = 1.7
ENTRY = 0.5
"""A stage is entered where its ratios are below this power of their limits: a trap that has just sprung shows
faintly, and a view that is no remedy for it shows it about as much as plain images do."""


@dataclass(frozen=True)
class Stage:
    """How to train, and what would show that training is trapped.

    Attributes:
        name: For events.
        signs: One is enough; none: nothing is known that would show it.
        mix: View -> probability; empty: images stay as they are.
        augmentation: What follows.
    """

    name: str
    signs: tuple[Sign, ...]
    mix: Mapping[str, float] = field(default_factory=dict)
    augmentation: Augmentation = PLAIN

    def trapped(self, measure: Measure, power: float = 1.0) -> list[int]:
        """Depths, shallow first, whose ratio under this stage's view is over the power of its limit."""
        depths: set[int] = set()
        for sign in self.signs:
            pairs = zip(measure(sign.seen), measure(sign.floor), strict=True)
            depths |= {depth for depth, (seen, floor) in enumerate(pairs) if seen > sign.limit**power * floor}
        return sorted(depths)


JPEG_MIX = {"jpeg10": 0.7, "jpeg20": 0.3}

#: From plain training to the strongest views.
STAGES = (
    Stage("plain", (Sign(RAW, MILD, FINE), Sign(RAW, GREY, COLOUR_OF_RAW))),
    Stage("grey", (Sign(GREY, GREY_MILD, FINE),), STATIC_MIX, replace(COLOUR, grey_probability=0.95)),
    Stage("jpeg", (Sign(JPEG, GREY_JPEG, COLOUR_OF_JPEG),), JPEG_MIX, replace(COLOUR, grey_probability=0.5)),
    Stage("jpeg-grey", (), JPEG_MIX, replace(COLOUR, grey_probability=0.95)),
)


def next_stage(stages: Sequence[Stage], number: int, measure: Measure) -> int:
    """The first stage after ``number`` under whose view a trapped network shows no trace of the trap."""
    for later in range(number + 1, len(stages)):
        if not stages[later].trapped(measure, ENTRY):
            return later
    return number
