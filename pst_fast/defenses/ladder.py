"""The stages of pst-plus: views that take perturbations away, and what shows a trap under each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pst_fast.defenses.views import STATIC_MIX, VIEWS
from pst_fast.ops import View
from pst_fast.pst.trigger import explained
from pst_fast.train.augmentation import COLOUR, PLAIN, Augmentation
from pst_fast.train.following import Following

Measured = Mapping[View, Sequence[float]]
"""ACM by depth, stem first, of the probes under views."""

RAW, GREY = View(), View().in_grey()
JPEG, GREY_JPEG = View.jpeg(10), View.jpeg(10).in_grey()
MEDIAN, GREY_MEDIAN = View.median(), View.median().in_grey()
SMOOTH = View.down_up()


@dataclass(frozen=True)
class Sign:
    """A share of the activations' variance that classes explain under one view, and not under another.

    The fall from view to view is what :class:`~pst_fast.pst.trigger.OverViews` goes by, too.

    Attributes:
        seen: What training sees.
        floors: Views of which each takes some perturbations away, and little content; the least of what
            classes explain under them counts.
        limit: Of the difference, in a depth.
    """

    seen: View
    floors: tuple[View, ...]
    limit: float

    @property
    def views(self) -> tuple[View, ...]:
        """What has to be measured."""
        return (self.seen, *self.floors)

    def depths(self, measured: Measured) -> list[int]:
        """Where it shows, shallow first."""
        floor = [min(values) for values in zip(*(measured[view] for view in self.floors), strict=True)]
        pairs = zip(measured[self.seen], floor, strict=True)
        falls = (explained(seen) - explained(least) for seen, least in pairs)
        return [depth for depth, fall in enumerate(falls) if fall > self.limit]


@dataclass(frozen=True)
class Stage:
    """How to train, and what would show that training is trapped.

    Attributes:
        name: For events.
        signs: One is enough; none: nothing is known that would show it.
        entry: A network that is trapped under other views is so under this one where this shows.
        mix: View -> probability; empty: images stay as they are.
        mirrors_edges: Whether images lose their outermost pixels before that.
        augmentation: What follows.
        following: What is learned from the images as they are.
        looks: Views through which the finished network looks; none: at the images as they are.
    """

    name: str
    signs: tuple[Sign, ...]
    entry: Sign | None = None
    mix: Mapping[str, float] = field(default_factory=dict)
    mirrors_edges: bool = False
    augmentation: Augmentation = PLAIN
    following: Following | None = None
    looks: tuple[View, ...] = ()

    @property
    def views(self) -> list[View]:
        """What its signs need measured."""
        return list(dict.fromkeys(view for sign in self.signs for view in sign.views))

    def trapped(self, measured: Measured) -> list[int]:
        """Depths, shallow first, at which a sign shows."""
        return sorted({depth for sign in self.signs for depth in sign.depths(measured)})


# Limits of falls. Clean training comes to at most .09 (median; .12 after 50 epochs), .07 (greyscale, colours
# jittered) and .14 (greyscale, else), at any depth, on sets that the limits were chosen on. What JPEG takes
# from greyscale is no sign: of content it takes the more the longer the training: docs/method.md.
SHARP = 0.15
COLOUR_ALONE = 0.1
COLOUR_OF_JPEG = 0.15
COLOUR_OF_PLAIN = 0.2
TRACE = 0.15
REMEDIES = (JPEG, MEDIAN, SMOOTH)
"""The least of what classes explain under them is about what content explains."""


def raw_signs(colour: float) -> tuple[Sign, ...]:
    """Of a trap while images are as they are; ``colour`` limits what greyscale takes away."""
    return (Sign(RAW, (MEDIAN,), SHARP), Sign(RAW, (GREY,), colour))


JPEG_MIX = {"jpeg10": 1.0}
SMOOTH_MIX = {"median": 1 / 3, "blur": 1 / 3, "down-up": 1 / 3}
PLAINLY = Following(0.5, COLOUR)

#: From what costs nothing to the strongest views.
STAGES = (
    Stage("colour", raw_signs(COLOUR_ALONE), augmentation=COLOUR),
    Stage(
        "grey",
        (Sign(GREY, (GREY_MEDIAN,), SHARP),),
        entry=Sign(GREY, REMEDIES, TRACE),
        mix=STATIC_MIX,
        augmentation=replace(COLOUR, grey_probability=0.95),
    ),
    Stage(
        "jpeg",
        (Sign(JPEG, (GREY_JPEG,), COLOUR_OF_JPEG),),
        entry=Sign(JPEG, REMEDIES, TRACE),
        mix=JPEG_MIX,
        augmentation=COLOUR,
        following=PLAINLY,
    ),
    Stage(
        "smooth",
        (),
        entry=Sign(SMOOTH, REMEDIES, TRACE),
        mix=SMOOTH_MIX,
        mirrors_edges=True,
        augmentation=COLOUR,
        following=PLAINLY,
        looks=tuple(VIEWS[name] for name in SMOOTH_MIX),
    ),
    Stage("jpeg-grey", (), mix=JPEG_MIX, augmentation=replace(COLOUR, grey_probability=0.95)),
)


def next_stage(stages: Sequence[Stage], number: int, measure: Callable[[Sequence[View]], Measured]) -> int:
    """The first stage after ``number`` under whose view a trapped network shows no trace of the trap."""
    for later in range(number + 1, len(stages)):
        entry = stages[later].entry
        if entry is None or not entry.depths(measure(entry.views)):
            return later
    return number
