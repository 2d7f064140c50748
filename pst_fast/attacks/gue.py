"""GUE: the game-theoretic unlearnable example generator (Liu et al., AAAI 2024)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast.attacks.base import ATTACKS, CraftTask
from pst_fast.attacks.generated import SHARE, GeneratedAttack, warm_share
from pst_fast.attacks.generator import Generator, create_generator
from pst_fast.attacks.pgd import perturbed_inputs
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded
from pst_fast.attacks.warm_start import warm_start
from pst_fast.precision import autocast

STATE = "game.pt"
SAVES = 20
MOVE = 3
"""Work of a move of the game, in steps of the warm start: about."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the game.

    Attributes:
        epochs: Passes over the images; None: ``batches`` count.
        batches: That the players meet.
        replies: Steps of the network towards its best reply to the generator, at each batch.
        learning_rate: Of the network.
        generator_rate: Of Adam on the generator.
        barrier: How fast the network's lag behind its best reply has to shrink.
        batch_size: Images at a time.
        width: Channels of the generator at full resolution.
        warm_epochs: Passes over the images before the game, in which the generator learns to write their
            classes (ours: :mod:`pst_fast.attacks.warm_start`).
    """

    epochs: int | None
    replies: int
    batches: int = 0
    learning_rate: float = 0.1
    generator_rate: float = 1e-4
    barrier: float = 0.5
    batch_size: int = 128
    width: int = 32
    warm_epochs: int = 0


@ATTACKS.register("gue")
class GameUnlearnableExamples(GeneratedAttack):
    """The generator leads, the network follows; both move by first-order steps towards the equilibrium.

    The leader's payoff is bounded: the logarithm of one minus the probability of the right class on clean
    images. The follower's lag is its loss less that of a copy that has taken some more steps; a step goes
    along the payoff, and along the lag as far as that has to shrink (bilevel optimisation with a dynamic
    barrier: Ye et al., NeurIPS 2022).
    """

    paper = "Liu et al., AAAI 2024 (arXiv 2401.17523)"
    epsilon = 8 / 255
    recipes: ClassVar[dict[str, Recipe]] = {
        "paper": Recipe(epochs=50, replies=10),
        "fast": Recipe(epochs=None, batches=300, replies=1, batch_size=64, width=8, warm_epochs=20),
    }

    def train_generator(self, task: CraftTask, epsilon: float) -> Generator:
        """Batch by batch; the state is saved now and then."""
        recipe = self.recipe_of(task)
        generator = create_generator(task, epsilon, recipe.width)
        follower = Surrogate(task, learning_rate=recipe.learning_rate, momentum=0.9, weight_decay=5e-4)
        optimizers = (follower.optimizer, torch.optim.Adam(generator.parameters(), lr=recipe.generator_rate))
        order = BatchOrder(len(task.data), recipe.batch_size, task.seed)
        per_epoch = len(task.data) // order.batch_size
        batches = recipe.batches if recipe.epochs is None else recipe.epochs * per_epoch
        start = warm_share(recipe.warm_epochs * per_epoch, MOVE * batches)
        state = load_state(task.folder / STATE)
        if state is not None:
            generator.load_state_dict(state["generator"])
            follower.restore(state["follower"])
            optimizers[1].load_state_dict(state["optimizer"])
        elif recipe.warm_epochs:
            warm_start(task, generator, follower, recipe.warm_epochs, recipe.batch_size, start)
        for number in range(state["batches"] if state else 0, batches):
            done = start + (SHARE - start) * number / batches
            task.progress(done, f"batch {number + 1} of {batches}")
            x, labels = task.batch(order[number])
            with seeded(task.seed + 1 + number, task.device):
                move(generator.train(), follower.model.train(), optimizers, x, labels, recipe)
            if (number + 1) % max(1, batches // SAVES) == 0:
                save_state(
                    task.folder / STATE,
                    {
                        "generator": generator.state_dict(),
                        "follower": follower.state(),
                        "optimizer": optimizers[1].state_dict(),
                        "batches": number + 1,
                    },
                )
        return generator


def move(
    generator: nn.Module,
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    x: Tensor,
    labels: Tensor,
    recipe: Recipe,
) -> None:
    """One step of both players on a batch."""
    players = [*network.parameters(), *generator.parameters()]
    delta = generator(x)
    reply = best_reply(network, perturbed_inputs(x, delta.detach()), labels, recipe)
    seen = perturbed_inputs(x, delta)
    with autocast(x.device):
        lag = F.cross_entropy(network(seen), labels) - F.cross_entropy(reply(seen), labels)
        payoff = leader_loss(network(perturbed_inputs(x, torch.zeros_like(x))), labels)
    along = torch.autograd.grad(payoff, players, allow_unused=True, materialize_grads=True)
    back = torch.autograd.grad(lag, players)
    weight = barrier_weight(along, back, recipe.barrier)
    for player, one, other in zip(players, along, back, strict=True):
        player.grad = one + weight * other
    for optimizer in optimizers:
        optimizer.step()


def best_reply(network: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe) -> nn.Module:
    """A copy of the network that has taken some steps on these inputs; it takes no gradients."""
    reply = copy.deepcopy(network)
    optimizer = torch.optim.SGD(reply.parameters(), lr=recipe.learning_rate)
    for _ in range(recipe.replies):
        with autocast(inputs.device):
            loss = F.cross_entropy(reply(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reply.requires_grad_(False)


def leader_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log(1 - p), p being the probability of the right class: near 0 where it is lost."""
    logits = logits.float()
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return (logits.logsumexp(1) - others).mean()


def barrier_weight(along: Sequence[Tensor], back: Sequence[Tensor], barrier: float) -> Tensor:
    """The least weight of ``back`` with which the sum still shrinks the lag at the barrier's pace."""
    length = sum((b.square().sum() for b in back), start=back[0].new_zeros(()))
    common = sum(((a * b).sum() for a, b in zip(along, back, strict=True)), start=back[0].new_zeros(()))
    return (barrier - common / length.clamp(min=1e-12)).clamp(min=0)
