"""Stages that learn slower than the rest of the network."""

from collections.abc import Sequence

import torch
from torch import nn

from pst_fast.pst.stages import Stage


class SlowedStages:
    """Scales the learning rate of stages by ``gamma ** level``, whatever the optimizer.

    It pulls a stage's parameters back after ``optimizer.step()``: the same thing for every optimizer whose
    update is proportional to its learning rate, and parameter groups and schedulers are left alone.

    Args:
        model: The network.
        optimizer: Over its parameters.
        stages: By depth, shallow first.
        gamma: Factor on the learning rate for each level, in [0,1).
        max_level: A stage is slowed at most this many times.

    Attributes:
        levels: Stage -> how often it has been slowed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stages: Sequence[Stage],
        *,
        gamma: float,
        max_level: int,
    ) -> None:
        self.levels = {stage.name: 0 for stage in stages}
        self._gamma, self._max_level = gamma, max_level
        self._parameters = {stage.name: stage.parameters(model) for stage in stages}
        self._before: dict[str, list[torch.Tensor]] = {}
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._pull_back()),
        ]

    def may_slow(self, name: str) -> bool:
        """Whether a stage can be slowed once more."""
        return self.levels[name] < self._max_level

    def slow(self, names: Sequence[str]) -> None:
        """Raise the level of these stages by one."""
        for name in names:
            self.levels[name] = min(self.levels[name] + 1, self._max_level)

    def detach(self) -> None:
        """Take the hooks off the optimizer."""
        for hook in self._hooks:
            hook.remove()

    def _remember(self) -> None:
        slowed = (name for name, level in self.levels.items() if level)
        self._before = {name: [p.detach().clone() for p in self._parameters[name]] for name in slowed}

    @torch.no_grad()
    def _pull_back(self) -> None:
        for name, before in self._before.items():
            scale = self._gamma ** self.levels[name]
            torch._foreach_lerp_([p.data for p in self._parameters[name]], before, 1 - scale)
        self._before = {}
