"""D-VAE: purification by rate-constrained autoencoders (Yu et al., ICML 2024, arXiv 2405.01460)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast.attacks.surrogate import BatchOrder, load_state, save_state, seeded
from pst_fast.data.beton import MappedImages, read_beton, write_beton
from pst_fast.defenses.base import DEFENSES, Defense, Purification
from pst_fast.defenses.d_vae_network import Disentangled, DisentanglingVAE

RATES = 1.0, 3.0
"""Nats at a position of the code that cost nothing, by network."""
RATE_WEIGHT = 0.01
POWER = 0.002
"""Mean square of a perturbation of images in [0,1] that costs nothing."""
UNBOUNDED_EPOCHS = 11
"""At first, in which a perturbation's power costs nothing at all."""
BATCH = 128
LEARNING_RATE = 0.005
MAX_NORM = 5.0
BLOCK = 512
"""Images that are purified at a time."""


@DEFENSES.register("d-vae")
class DVAE(Defense):
    """Plain training on images that two autoencoders with short codes have purified.

    A short code keeps content rather than a perturbation, and a second decoder, which is told the class,
    learns to add what the code loses. What the first network's adds is taken from the images; the second
    network learns from the result, and what its code keeps, after the same, is trained on.
    """

    summary: ClassVar[str] = "rate-constrained autoencoders take out what a code loses and the class tells"
    epochs: ClassVar[int] = 60
    """Of each of the two."""

    def purify(self, task: Purification) -> Iterator[np.ndarray]:
        rough = self._train(task, 0)
        path = task.folder / "first.beton"
        if not path.is_file():
            blocks = _blocks(task, lambda x, labels: _without(rough, x, labels))
            write_beton(path, blocks, task.data.labels, task.data.index)
        task = replace(task, data=replace(task.data, images=MappedImages(read_beton(path))))
        fine = self._train(task, 1)
        return _blocks(task, lambda x, labels: fine(_without(fine, x, labels), labels).image)

    def _train(self, task: Purification, number: int) -> DisentanglingVAE:
        """The first or the second network; after a kill it goes on from the last whole epoch."""
        size = max(task.data.images.shape[1:3])
        with seeded(task.seed + number, task.device):
            network = DisentanglingVAE(len(task.data.classes), task.width, size)
        network.to(task.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        order = BatchOrder(len(task.data), BATCH, task.seed + number)
        steps = len(task.data) // order.batch_size
        path = task.folder / f"network-{number}.pt"
        state = load_state(path)
        if state is not None:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        for epoch in range(state["epochs"] if state else 0, self.epochs):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
            for step in range(epoch * steps, (epoch + 1) * steps):
                done = (number + step / (self.epochs * steps)) / len(RATES)
                task.progress(done, f"autoencoder {number + 1} of {len(RATES)}, epoch {epoch + 1}")
                x, labels = task.batch(order[step])
                with seeded(task.seed + step, task.device):
                    seen = network(x, labels)
                objective = loss(seen, x, RATES[number], bounded=epoch >= UNBOUNDED_EPOCHS)
                optimizer.zero_grad()
                objective.backward()
                nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
                optimizer.step()
            network_state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(path, {**network_state, "epochs": epoch + 1})
        return network.eval()


def loss(seen: Disentangled, x: Tensor, free_rate: float, *, bounded: bool) -> Tensor:
    """What an autoencoder minimises.

    Args:
        seen: Images x, taken apart.
        x: fp32 [B,3,H,W] in [0,1].
        free_rate: Nats at a position of the code that cost nothing.
        bounded: Whether the power of the perturbations costs anything.
    """
    kept = F.mse_loss(seen.image, x)
    whole = F.mse_loss((seen.image + seen.perturbation).clamp(0, 1), x)
    total = kept + whole + RATE_WEIGHT * seen.rate.clamp(min=free_rate)
    return total + seen.perturbation.square().mean().clamp(min=POWER) if bounded else total


def _without(network: DisentanglingVAE, x: Tensor, labels: Tensor) -> Tensor:
    return (x - network(x, labels).perturbation).clamp(0, 1)


@torch.no_grad()
def _blocks(task: Purification, purified: Callable[[Tensor, Tensor], Tensor]) -> Iterator[np.ndarray]:
    """All images, block by block, uint8 [n,H,W,3]."""
    for start in range(0, len(task.data), BLOCK):
        x, labels = task.batch(slice(start, start + BLOCK))
        with seeded(task.seed + start, task.device):
            images = purified(x, labels)
        yield images.mul(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
