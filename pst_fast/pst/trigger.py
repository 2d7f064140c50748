"""What counts as a trap: ACM over a limit, or over what it is under views that destroy perturbations."""

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


class OverViews:
    """Trapped are stages whose ACM has come over a multiple of what it is when the same probes are degraded.

    Under a view that takes perturbations away and leaves content, ACM of a network that has learned content
    hardly falls, so that limits are ratios, and no training on clean data is needed. Some perturbations show
    in a fresh network already, before anything is learned: ratios count by how much they have grown since.

    Args:
        acm: The measurement, of a network that has not been trained yet.
        views: Probes under a view, [N,3,H,W] as the network takes them, and the growth that is too much.
        depth: How many stages are watched, shallow ones first; None: all.
    """

    def __init__(
        self,
        acm: ActivationClusterMeasurement,
        views: Sequence[tuple[torch.Tensor, float]],
        depth: int | None = None,
    ) -> None:
        self.acm, self.views, self.depth = acm, views, depth
        self._fresh = self._ratios()[1]

    def __call__(self) -> Finding:
        acm, ratios = self._ratios()
        trapped = {
            name
            for (_, limit), now, fresh in zip(self.views, ratios, self._fresh, strict=True)
            for name in acm
            if now[name] > limit * fresh[name]
        }
        return Finding(acm, tuple(name for name in acm if name in trapped))

    def _ratios(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """ACM by stage, and for each view how many times as high it is as under that."""
        acm = self.acm(depth=self.depth)
        floors = [self.acm(images, depth=self.depth) for images, _ in self.views]
        return acm, [{name: acm[name] / max(floor[name], 1e-9) for name in acm} for floor in floors]
