"""Attacks that train a generator against a network and then ask it for every sample's perturbation."""

from abc import abstractmethod

import numpy as np
from torch import Tensor

from pst_fast import distributed
from pst_fast.attacks.base import Attack, CraftTask
from pst_fast.attacks.generator import Generator
from pst_fast.attacks.rows import Crafted, craft_rows
from pst_fast.errors import InputError

SHARE = 0.9
"""Of the progress that training the generator is."""


def warm_share(warm: float, rest: float) -> float:
    """The progress that the warm start is, from its work and the work that follows, in one unit."""
    return SHARE * warm / (warm + rest)


class GeneratedAttack(Attack):
    """What the generator is trained for, a subclass says."""

    norm = "linf"
    uses_model = True
    shared = True

    @abstractmethod
    def train_generator(self, task: CraftTask, epsilon: float) -> Generator:
        """The generator, trained; after a kill it goes on."""

    def craft(self, task: CraftTask) -> np.ndarray:
        """Train the generator, then take what it makes of each image, batch by batch."""
        if len(task.data.classes) < 2:
            raise InputError(f"{type(self).__name__}: expected images of at least two classes, got one")
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        generator = distributed.on_main(lambda: self.train_generator(task, epsilon).cpu())
        generator = generator.to(task.device).eval().requires_grad_(False)

        def perturb(x: Tensor, labels: Tensor) -> Crafted:
            return generator(x), labels.new_tensor(len(labels))

        steps, _ = craft_rows(task, epsilon, generator, perturb, after=SHARE)
        task.progress(1.0, "all images perturbed")
        return steps
