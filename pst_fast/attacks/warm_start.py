"""A start for generators: they learn to tell the classes, and to write them where a network can read."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pst_fast.attacks.base import CraftTask
from pst_fast.attacks.generator import Generator
from pst_fast.attacks.pgd import perturbed_inputs
from pst_fast.attacks.surrogate import BatchOrder, Surrogate, load_state, save_state, seeded
from pst_fast.precision import autocast

STATE = "warm-start.pt"
SAVES = 10
LEARNING_RATE = 1e-3
"""Of Adam on the generator."""


def warm_start(
    task: CraftTask, generator: Generator, reader: Surrogate, epochs: int, batch_size: int, share: float
) -> None:
    """Train the generator and a reader of its perturbations together.

    The reader sees each perturbation on another image of the batch, so that the perturbation is all that
    tells the class. A linear layer on the generator's context, which is dropped in the end, has it learn the
    classes sooner. The state is saved now and then, and after a kill it goes on.

    Args:
        task: Names the images, the seed and the device.
        generator: As :func:`~pst_fast.attacks.generator.create_generator` returns it.
        reader: A fresh network.
        epochs: Passes over the images.
        batch_size: Images at a time.
        share: Of the attack's progress that this is.
    """
    order = BatchOrder(len(task.data), batch_size, task.seed)
    batches = epochs * (len(task.data) // order.batch_size)
    with seeded(task.seed, task.device):
        guide = nn.Linear(generator.context_size, len(task.data.classes)).to(task.device)
    players = nn.ModuleList([generator, guide])
    optimizer = torch.optim.Adam(players.parameters(), lr=LEARNING_RATE)
    state = load_state(task.folder / STATE)
    if state is not None:
        players.load_state_dict(state["players"])
        optimizer.load_state_dict(state["optimizer"])
        reader.restore(state["reader"])
    for number in range(state["batches"] if state else 0, batches):
        task.progress(share * number / batches, f"warm start, batch {number + 1} of {batches}")
        x, labels = task.batch(order[number])
        generator.train()
        reader.model.train()
        with seeded(task.seed + number, task.device):
            others = x[torch.randperm(len(x), device=x.device)]
        delta, context = generator.with_context(x)
        with autocast(x.device):
            loss = F.cross_entropy(reader.model(perturbed_inputs(others, delta)), labels)
            loss = loss + F.cross_entropy(guide(context), labels)
        for player in (optimizer, reader.optimizer):
            player.zero_grad()
        loss.backward()
        for player in (optimizer, reader.optimizer):
            player.step()
        if (number + 1) % max(1, batches // SAVES) == 0:
            save_state(task.folder / STATE, _state(players, optimizer, reader, number + 1))


def _state(
    players: nn.Module, optimizer: torch.optim.Optimizer, reader: Surrogate, batches: int
) -> dict[str, Any]:
    return {
        "players": players.state_dict(),
        "optimizer": optimizer.state_dict(),
        "reader": reader.state(),
        "batches": batches,
    }
