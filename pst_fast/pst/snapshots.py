"""Earlier states of a training, to go back to."""

from collections import deque
from typing import Any

import torch
from torch import nn


class Snapshots:
    """The last states of a network and its optimizer, on their device.

    Args:
        model: Its weights and buffers.
        optimizer: Its state (momentum, ...); learning rates and other settings are left alone.
        history: States that are kept; the first one is taken here.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, history: int) -> None:
        self.model = model
        self.optimizer = optimizer
        self._kept: deque[dict[str, Any]] = deque(maxlen=history)
        self.take()

    def take(self) -> None:
        """Keep the present state."""
        state = self.optimizer.state_dict()["state"]
        self._kept.append(
            {
                "model": {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()},
                "optimizer": {index: _copied(entry) for index, entry in state.items()},
            }
        )

    def go_back(self, count: int) -> None:
        """Return to the last state but ``count - 1``, or to the earliest one; later ones are forgotten."""
        for _ in range(min(count, len(self._kept)) - 1):
            self._kept.pop()
        snapshot = self._kept[-1]
        self.model.load_state_dict(snapshot["model"])
        state = self.optimizer.state_dict()
        # load_state_dict keeps tensors that need no cast: the optimizer gets copies of its own to write into
        state["state"] = {index: _copied(entry) for index, entry in snapshot["optimizer"].items()}
        self.optimizer.load_state_dict(state)

    def state(self) -> list[dict[str, Any]]:
        """All that is kept: tensors and plain values only."""
        return list(self._kept)

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Take up what :meth:`state` gave."""
        self._kept.clear()
        self._kept.extend(state)


def _copied(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in entry.items()}
