"""Convolutions together with what follows them: a bias, the sum with a shortcut, a ReLU.

One after the other, each of these reads and writes the whole map, which on a GPU takes longer than most
convolutions of a small network. cuDNN does them as it writes the convolution's result. The backward pass
needs that result alone: where it is zero, so is the gradient.
"""

import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

aten = torch.ops.aten

_Where = tuple[Any, Any, Any]
"""A convolution's stride, padding and dilation, by side."""


class ActivatedConv(nn.Module):
    """``relu(conv(x))``, or ``relu(conv(x) + shortcut)``; gradients reach ``x`` and ``shortcut`` alone.

    Args:
        conv: One for which :func:`can_be_activated` holds.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.where: _Where = (conv.stride, conv.padding, conv.dilation)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        x = x.to(self.weight.dtype)
        if shortcut is not None:
            shortcut = shortcut.to(x.dtype)
            if shortcut.shape != self._shape(x):  # one that is broadcast
                return torch.relu(F.conv2d(x, self.weight, self.bias, *self.where) + shortcut)
        activated: Tensor = _Activated.apply(x, shortcut, self.weight, self.bias, self.where)
        return activated

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Of the result."""
        stride, padding, dilation = self.where
        sides = zip(x.shape[2:], self.weight.shape[2:], stride, padding, dilation, strict=True)
        return (
            len(x),
            len(self.weight),
            *((side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in sides),
        )


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shortcut: Tensor | None, weight: Tensor, bias: Tensor | None, where: _Where
    ) -> Tensor:
        if x.is_cuda and shortcut is None:
            out = aten.cudnn_convolution_relu(x, weight, bias, *where, 1)
        elif x.is_cuda:
            out = aten.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, bias, *where, 1)
        else:
            out = F.conv2d(x, weight, bias, *where)
            out = (out if shortcut is None else out.add_(shortcut)).relu_()
        ctx.save_for_backward(x, weight, out)
        ctx.where = where
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        grad = aten.threshold_backward(grad, out, 0)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x, _, _ = aten.convolution_backward(
                grad, x, weight, None, *ctx.where, False, (0, 0), 1, (True, False, False)
            )
        return of_x, grad if ctx.needs_input_grad[1] else None, None, None, None


def can_be_activated(module: nn.Module) -> bool:
    """Whether it is a convolution as PyTorch makes it, padded with zeros, of all channels with all.

    For those with groups PyTorch has kernels of its own.
    """
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
    )


def activate(traced: fx.GraphModule) -> fx.GraphModule:
    """Put an :class:`ActivatedConv` where a ReLU follows a convolution, or the sum of one."""
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")

    def is_conv(node: fx.Node) -> bool:
        return (
            node.op == "call_module"
            and can_be_activated(modules[str(node.target)])
            and len(node.args) == 1
            and len(node.users) == calls[node.target] == 1
        )

    for relu in list(traced.graph.nodes):
        if not _is_relu(relu, modules):
            continue
        conv, replaced = relu.args[0], [relu]
        shortcut: list[fx.Node] = []
        if _is_sum(conv) and len(conv.users) == 1:
            replaced.append(conv)
            first, second = conv.args
            conv, shortcut = (first, [second]) if is_conv(first) else (second, [first])
        if not is_conv(conv):
            continue
        traced.set_submodule(conv.target, ActivatedConv(modules[conv.target]))
        with traced.graph.inserting_before(relu):
            relu.replace_all_uses_with(traced.graph.call_module(conv.target, (*conv.args, *shortcut)))
        for node in (*replaced, conv):
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return node.op == "call_function" and node.target in (torch.relu, torch.relu_, F.relu)


def _is_sum(node: fx.Node) -> bool:
    """Of two results: of a number and one it is none."""
    return (
        node.op == "call_function"
        and node.target in (operator.add, operator.iadd, torch.add)
        and len(node.args) == 2
        and not node.kwargs
        and all(isinstance(argument, fx.Node) for argument in node.args)
    )
