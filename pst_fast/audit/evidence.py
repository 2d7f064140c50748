"""What learners make of the images as they are, and of a view that keeps content and little else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pst_fast import ops
from pst_fast.audit.learners import FEATURES, SmallNetwork, linear_accuracy
from pst_fast.audit.noise import noise_floor
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.ops import View

NETWORK = "network"
VIEW = View.jpeg(10)
THRESHOLD = 0.19
"""Score from which on images count as poisoned; see docs/audit.md for how often that is wrong."""
NOISY = 0.7
"""Noise, in levels of 1/255, from which on images are not as photographs are; see the same page."""
FITTED = 0.7
"""Share of the images that learners are fit to; they are asked about the others."""
MEASURED = {
    "clean": {"sets": 12, "poisoned": 0, "noisy": 1},
    "attacks": {"sets": 18, "poisoned": 15, "noisy": 3},
}
"""How often it was right, on sets of 2,000 images, with the network: docs/audit.md has each of them."""
_LEAST = 100

KINDS = {
    "pixels": "a pattern at fixed places, which a linear classifier of pixels sees",
    "residuals": "a fine pattern at fixed places, which a linear classifier of pixels sees",
    "texture": "noise or a filter, which shows in how neighbouring pixels go together",
    "patches": "small motifs, wherever they are in the image",
    NETWORK: "features that a network finds and simple statistics do not",
}
"""What kind of shortcut each learner sees."""


@dataclass(frozen=True)
class Evidence:
    """What was found.

    Attributes:
        accuracy: Learner -> accuracy on held-back images, in [0,1].
        under_view: Learner -> the same, fit to and asked about a JPEG view of the images.
        acm: Stage -> ACM after each epoch of the network on the images.
        acm_under_view: The same for the network on the view.
        samples: Images that were looked at.
        noise: In levels of 1/255, what nearly all images have where they are smoothest (:func:`noise_floor`).
    """

    accuracy: dict[str, float]
    under_view: dict[str, float]
    acm: dict[str, list[float]]
    acm_under_view: dict[str, list[float]]
    samples: int
    noise: float

    @property
    def lost(self) -> dict[str, float]:
        """Learner -> accuracy that is lost under the view."""
        return {name: value - self.under_view[name] for name, value in self.accuracy.items()}

    @property
    def score(self) -> float:
        """The most that a learner loses which, of the images as they are, beats all learners of the view."""
        best = max(self.under_view.values())
        return max((self.lost[name] for name, value in self.accuracy.items() if value >= best), default=0.0)

    @property
    def poisoned(self) -> bool:
        """Whether that is more than content loses."""
        return self.score >= THRESHOLD

    @property
    def noisy(self) -> bool:
        """Whether there is more noise in all images than there is in photographs."""
        return self.noise >= NOISY

    @property
    def kind(self) -> str:
        """Which kind of shortcut the learner sees that loses most."""
        return KINDS[max(self.lost, key=self.lost.__getitem__)]


def collect_evidence(
    data: ImageSet,
    *,
    samples: int = 2000,
    epochs: int = 12,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Evidence:
    """Fit all learners to most of the images, with and without the view, and ask about the others.

    Args:
        data: The images, poisoned or not.
        samples: How many to look at, as many of each class as of any other where there are enough.
        epochs: Of the network; 0 leaves it out.
        seed: Draws the samples and the network.
        device: Where to compute; None: on the CPU.
        progress: Called with (fraction done in [0,1], a few words).

    Raises:
        InputError: There are fewer than 100 images, or fewer than two classes.
    """
    rows = _sample(data.labels, samples, seed)
    present, labels_here = np.unique(data.labels[rows], return_inverse=True)
    if len(rows) < _LEAST or len(present) < 2:
        raise InputError(
            f"expected at least {_LEAST} images of at least two classes to audit, "
            f"got {len(rows)} of {len(present)}"
        )
    images = torch.from_numpy(np.ascontiguousarray(data.images[rows])).to(device or "cpu")
    labels = torch.from_numpy(labels_here.astype(np.int64)).to(images.device)
    fitted, classes = int(FITTED * len(rows)), len(present)
    seen = {"as they are": images, "under the view": ops.degrade(images, [VIEW], seed=seed, offset=0)}
    accuracy: dict[str, dict[str, float]] = {how: {} for how in seen}
    acm: dict[str, dict[str, list[float]]] = {how: {} for how in seen}
    jobs = [(how, name) for name in [*FEATURES, *([NETWORK] if epochs else [])] for how in seen]
    for number, (how, name) in enumerate(jobs):
        progress(number / len(jobs), f"{name}, images {how}")
        if name == NETWORK:
            network = SmallNetwork(seen[how][:fitted], labels[:fitted], classes, epochs=epochs, seed=seed)
            accuracy[how][name] = network.accuracy(seen[how][fitted:], labels[fitted:])
            acm[how] = {stage: [values[stage] for values in network.acm] for stage in network.acm[0]}
        else:
            x = seen[how].permute(0, 3, 1, 2).float() / 255
            accuracy[how][name] = linear_accuracy(FEATURES[name](x), labels, fitted, classes)
    progress(1.0, "done")
    as_is, viewed = seen
    return Evidence(
        accuracy[as_is], accuracy[viewed], acm[as_is], acm[viewed], len(rows), noise_floor(images)
    )


def _sample(labels: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Shuffled rows, int64: as many of each class as there are places for."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # of each image among those of its class
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.argsort(rank[order], kind="stable")][:samples]
    return random.permutation(chosen)
