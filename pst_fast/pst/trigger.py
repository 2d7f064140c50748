"""What counts as a trap: ACM over a limit, or a fall of it under views that destroy perturbations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pst_fast.pst.acm import ActivationClusterMeasurement


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        acm: The measure by stage, of the stages that are watched.
        trapped: Those that are trapped, shallow first.
    """

    acm: dict[str, float]
    trapped: tuple[str, ...]


class Trigger(Protocol):
    """Called at every check."""

    def __call__(self) -> Finding:
        """Measure now."""


class OverThreshold:
    """Trapped are stages whose ACM is over a limit of their own; deeper ones are not watched.

    Limits depend on the data, the number of classes and the network: they want a training on data that are
    known to be clean.

    Args:
        acm: The measurement.
        threshold: Limits, shallow stages first.
    """

    def __init__(self, acm: ActivationClusterMeasurement, threshold: Sequence[float]) -> None:
        self.acm = acm
        self.limits = dict(zip((stage.name for stage in acm.stages), threshold, strict=False))

    def __call__(self) -> Finding:
        acm = self.acm(depth=len(self.limits))
        return Finding(acm, tuple(name for name, limit in self.limits.items() if acm[name] > limit))


def explained(acm: float) -> float:
    """The share of variance that classes explain: ACM is their part over the rest."""
    return acm / (1 + acm)


class OverViews:
    """Trapped are stages in which classes explain less of the variance when the same probes are degraded.

    Under a view that takes perturbations away and leaves content, a network that has learned content explains
    about as much. So limits need no training on clean data, and hold for all stages: they are differences of
    shares, which are small while a network has learned little, and where it fits its training data under
    either view. (The ratio of ACM itself is neither.)

    Args:
        acm: The measurement.
        views: Probes under a view, [N,3,H,W] as the network takes them, and the fall in (0,1) that is too
            much.
        depth: How many stages are watched, shallow ones first; None: all.
    """

    def __init__(
        self,
        acm: ActivationClusterMeasurement,
        views: Sequence[tuple[torch.Tensor, float]],
        depth: int | None = None,
    ) -> None:
        self.acm, self.views, self.depth = acm, views, depth

    def __call__(self) -> Finding:
        degraded = [images for images, _ in self.views]
        acm, *floors = self.acm.under([self.acm.images, *degraded], depth=self.depth)
        trapped: set[str] = set()
        for under, (_, limit) in zip(floors, self.views, strict=True):
            trapped |= {name for name in acm if explained(acm[name]) - explained(under[name]) > limit}
        return Finding(acm, tuple(name for name in acm if name in trapped))
