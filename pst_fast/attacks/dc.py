"""DeepConfuse: a generator that confuses whoever learns from what it makes (Feng et al., NeurIPS 2019)."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.generated import SHARE, GeneratedAttack, warm_share
from pst_fast.attacks.generator import Generator, create_generator
from pst_fast.attacks.pgd import perturbed_inputs
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded
from pst_fast.attacks.warm_start import warm_start
from pst_fast.precision import autocast

STATE = "generator.pt"
STEP = 5
"""Work of a step of the generator and the network, in steps of the warm start: about."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the training.

    Attributes:
        trials: Trainings of a fresh network, each against the generator as the one before left it.
        batches: That a network learns from in a trial; None: an epoch of them.
        learning_rate: Of the network, in its training and in the step that the generator looks through.
        generator_rate: Of Adam on the generator.
        batch_size: Images at a time.
        width: Channels of the generator at full resolution.
        warm_epochs: Passes over the images before the trials, in which the generator learns to write their
            classes (ours: :mod:`pst_fast.attacks.warm_start`).
    """

    trials: int
    batches: int | None
    learning_rate: float = 0.01
    generator_rate: float = 1e-4
    batch_size: int = 64
    width: int = 32
    warm_epochs: int = 0


@ATTACKS.register("dc")
class DeepConfuse(GeneratedAttack):
    """Along a network's training on perturbed images, each step is bent so that clean images are lost.

    The network's training in a trial sees the generator as it was at the trial's start, so that what the
    generator learns from is one training and not a moving one.
    """

    paper = "Feng et al., NeurIPS 2019 (arXiv 1905.09027)"
    epsilon = 0.032
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(trials=500, batches=None),
        "fast": Recipe(trials=2, batches=40, learning_rate=0.1, width=8, warm_epochs=20),
    }

    def train_generator(self, task: CraftTask, epsilon: float) -> Generator:
        """Trial by trial; the state is saved after each."""
        recipe = self.recipe_of(task)
        generator = create_generator(task, epsilon, recipe.width)
        optimizer = torch.optim.Adam(generator.parameters(), lr=recipe.generator_rate)
        order = BatchOrder(len(task.data), recipe.batch_size, task.seed)
        per_epoch = len(task.data) // order.batch_size
        batches = recipe.batches or per_epoch
        start = warm_share(recipe.warm_epochs * per_epoch, STEP * recipe.trials * batches)
        state = load_state(task.folder / STATE)
        if state is not None:
            generator.load_state_dict(state["generator"])
            optimizer.load_state_dict(state["optimizer"])
        elif recipe.warm_epochs:
            reader = Surrogate(task, learning_rate=0.1, momentum=0.9, weight_decay=5e-4)
            warm_start(task, generator, reader, recipe.warm_epochs, recipe.batch_size, start)
        for trial in range(state["trials"] if state else 0, recipe.trials):
            learner = Surrogate(
                replace(task, seed=task.seed + trial),
                learning_rate=recipe.learning_rate, momentum=0.0, weight_decay=0.0,
            )  # fmt: skip
            before = copy.deepcopy(generator).train()
            with seeded(task.seed + 1 + trial, task.device):
                for number in range(batches):
                    done = start + (SHARE - start) * (trial + number / batches) / recipe.trials
                    task.progress(done, f"trial {trial + 1} of {recipe.trials}")
                    x, labels = task.batch(order[trial * batches + number])
                    loss = lost(learner.model.train(), generator.train(), x, labels, recipe.learning_rate)
                    optimizer.zero_grad()
                    (-loss).backward()
                    optimizer.step()
                    with torch.no_grad():
                        seen = perturbed_inputs(x, before(x))
                    learner.train_step(seen, labels)
            save_state(
                task.folder / STATE,
                {
                    "generator": generator.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "trials": trial + 1,
                },
            )
        return generator


def lost(network: nn.Module, generator: nn.Module, x: Tensor, labels: Tensor, rate: float) -> Tensor:
    """Cross-entropy on clean images after a step of the network on perturbed ones; differentiable by both."""
    parameters = dict(network.named_parameters())
    with autocast(x.device):
        taught = F.cross_entropy(network(perturbed_inputs(x, generator(x))), labels)
    grads = torch.autograd.grad(taught, list(parameters.values()), create_graph=True)
    moved = {name: value - rate * grad for (name, value), grad in zip(parameters.items(), grads, strict=True)}
    with autocast(x.device):
        return F.cross_entropy(
            functional_call(network, moved, (perturbed_inputs(x, torch.zeros_like(x)),)), labels
        )
