"""The network that an attack trains: its weights, its optimizer, its batches, and their state on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast.attacks.base import CraftTask
from pst_fast.data.types import epoch_order
from pst_fast.errors import InputError
from pst_fast.files import replacing
from pst_fast.models import create_model
from pst_fast.precision import autocast


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's global generators start from ``seed`` inside, and go on where they were afterwards."""
    cuda = (
        [torch.cuda.current_device() if device.index is None else device.index]
        if device.type == "cuda"
        else []
    )
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


class Surrogate:
    """The task's network and its SGD.

    Args:
        task: Names the network, its width, the seed and the device.
        learning_rate: Of SGD.
        momentum: Of SGD.
        weight_decay: Of SGD.
        adapt: From the task's network, with an output for each class, to the one that is trained.
    """

    def __init__(
        self,
        task: CraftTask,
        *,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        adapt: Callable[[nn.Module], nn.Module] = lambda network: network,
    ) -> None:
        with seeded(task.seed, task.device):
            network = create_model(
                task.model,
                num_classes=len(task.data.classes),
                width=task.width,
                image_size=max(task.data.images.shape[1:3]),
            )
            self.model = adapt(network)
        self.model.to(task.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay
        )

    def train_step(self, inputs: Tensor, labels: Tensor) -> None:
        """One step of SGD on the cross-entropy of normalised images [B,3,H,W]."""
        self.descend(inputs, lambda outputs: F.cross_entropy(outputs, labels))

    def descend(self, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> None:
        """One step of SGD on a loss of the outputs for normalised images [B,3,H,W]."""
        self.model.train()
        with autocast(inputs.device):
            loss = loss_of(self.model(inputs))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Weights, buffers and momentum."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class BatchOrder:
    """Endless shuffled batches of full size; batch ``number`` depends on nothing but the seed."""

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        self.num_samples = num_samples
        self.batch_size = min(batch_size, num_samples)
        self.seed = seed

    def __getitem__(self, number: int) -> np.ndarray:
        """The rows, int64 [batch_size], of batch ``number``."""
        epoch, position = divmod(number, self.num_samples // self.batch_size)
        order = epoch_order(self.num_samples, self.seed, epoch)
        return order[position * self.batch_size : (position + 1) * self.batch_size]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: Path) -> dict[str, Any] | None:
    """What :func:`save_state` wrote, in main memory; None if there is nothing.

    Raises:
        InputError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: expected the state of unfinished work, but it is damaged: remove the file"
        ) from error
