"""NTGA: neural tangent generalisation attacks (Yuan and Wu, ICML 2021)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pst_fast import ops
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask
from pst_fast.attacks.ntk import Kernel, convolutional_kernel, dense_kernel, predictions_at
from pst_fast.attacks.pgd import MEAN, STD
from pst_fast.attacks.rows import Crafted, craft_blocks
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """Settings of the attack.

    Attributes:
        kernel: Of the infinitely wide network.
        time: Learning rate times steps of its training.
        block: Images that it is trained on, which are perturbed together.
        steps: Gradient steps.
        relative_step: Size of one of them as a fraction of epsilon.
    """

    kernel: Kernel
    time: float
    block: int = 512
    steps: int = 10
    relative_step: float = 0.11


@ATTACKS.register("ntga")
class NeuralTangentGeneralization(Attack):
    """Blocks of images on which infinitely wide networks learn what is wrong for other, clean images."""

    paper = "Yuan and Wu, ICML 2021 (arXiv 2105.08889)"
    norm = "linf"
    epsilon = 8 / 255
    shared = True
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(convolutional_kernel, time=8.0),
        "fast": Recipe(dense_kernel, time=64.0),
    }

    def craft(self, task: CraftTask) -> np.ndarray:
        """Perturb shuffled blocks, one after another; goes on after a kill. In double precision."""
        recipe = self.recipe_of(task)
        epsilon = self.resolve_epsilon(task.epsilon, *task.data.images.shape[1:3])
        count = len(task.data)
        if count < 2:
            raise InputError("NeuralTangentGeneralization: expected at least two images, got one")
        block = min(recipe.block, count // 2)
        order = np.random.default_rng(task.seed).permutation(count)
        data = task.data
        shuffled = ImageSet(data.images[order], data.labels[order], data.index[order], data.classes)
        learned = _Learner(shuffled, recipe, block, task.device)

        def perturb(x: Tensor, labels: Tensor, start: int) -> Crafted:
            return learned.perturb(x, labels, start, epsilon)

        steps, error = craft_blocks(replace(task, data=shuffled), epsilon, block, perturb, after=0.0)
        task.facts["error_on_clean_images"] = error
        task.progress(1.0, f"the wide network errs on {error:.1%} of the clean images")
        restored = np.empty_like(steps)
        restored[order] = steps
        return restored


class _Learner:
    """Steps that make a wide network, trained on a block, fail on the block after it."""

    def __init__(self, data: ImageSet, recipe: Recipe, block: int, device: torch.device) -> None:
        self.data, self.recipe, self.block, self.device = data, recipe, block, device

    def perturb(self, x: Tensor, labels: Tensor, start: int, epsilon: float) -> Crafted:
        rows = (start + len(x) + np.arange(self.block)) % len(self.data)
        rows = rows[: len(self.data) - len(x)]  # none of the block itself
        others = (
            torch.from_numpy(self.data.images[rows]).to(self.device).permute(0, 3, 1, 2).double().div_(255)
        )
        truth = torch.from_numpy(self.data.labels[rows]).to(self.device)
        others = (others - MEAN) / STD
        delta = torch.zeros_like(x)
        for _ in range(self.recipe.steps):
            leaf = (x + delta).double().requires_grad_()
            loss = F.cross_entropy(self._say(leaf, labels, others), truth)
            (grad,) = torch.autograd.grad(loss, leaf)
            # Signs alone count, and in single precision the smallest gradients would have none.
            ops.linf_step_(
                delta, grad.sign().to(x.dtype), x,
                step_size=self.recipe.relative_step * epsilon, epsilon=epsilon, ascend=True,
            )  # fmt: skip
        with torch.no_grad():
            wrong = self._say((x + delta).double(), labels, others).argmax(1) != truth
        # Counted as a share of the block, which the last one need not fill.
        return delta, (wrong.double().mean() * len(x)).round()

    def _say(self, x: Tensor, labels: Tensor, others: Tensor) -> Tensor:
        """What the network that was trained on ``x`` says of the others, [M,K]."""
        inputs = (x - MEAN) / STD
        classes = len(self.data.classes)
        targets = F.one_hot(labels, classes).to(inputs.dtype) - 1 / classes
        kernel = self.recipe.kernel
        return predictions_at(self.recipe.time, kernel(inputs, inputs), kernel(others, inputs), targets)
