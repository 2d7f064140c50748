"""Max-pooling layers by our op: PyTorch's gradient of them takes long on CUDA."""

from typing import TypeGuard

from torch import Tensor, nn

from pst_fast import ops


class MaxPool(nn.Module):
    """What ``pool`` computes, one for which :func:`can_be_replaced` holds."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.windows = tuple(_side(value) for value in (pool.kernel_size, pool.stride, pool.padding))

    def forward(self, x: Tensor) -> Tensor:
        return ops.max_pool(x, *self.windows)


def can_be_replaced(module: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    """Whether its windows are square, of at most 16 pixels a side, and its answer is the maxima alone."""
    return (
        type(module) is nn.MaxPool2d
        and all(len(set(_pair(v))) == 1 for v in (module.kernel_size, module.stride, module.padding))
        and _pair(module.dilation) == (1, 1)
        and _side(module.kernel_size) <= 16
        and not module.ceil_mode
        and not module.return_indices
    )


def replace_max_pools(model: nn.Module) -> None:
    """Put a :class:`MaxPool` in the place of every layer that can be replaced."""
    for name, module in list(model.named_modules()):
        if can_be_replaced(module):
            model.set_submodule(name, MaxPool(module))


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _side(value: int | tuple[int, ...]) -> int:
    return _pair(value)[0]
