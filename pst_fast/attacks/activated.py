"""Convolutions together with what follows them: a bias, the sum with a shortcut, a ReLU.

One after the other, each of these reads and writes the whole map, which on a GPU takes longer than most
convolutions of a small network. cuDNN and oneDNN do them as they write the convolution's result. The backward
pass needs that result alone: where it is zero, so is the gradient.
"""

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pst_fast.attacks.packed import PackedConv, Where, can_be_packed, input_gradient
from pst_fast.attacks.pools import MaxPool

aten = torch.ops.aten


class ActivatedConv(nn.Module):
    """``relu(conv(x))``, or ``relu(conv(x) + shortcut)``; gradients reach ``x`` and ``shortcut`` alone.

    Args:
        conv: One for which :func:`can_be_activated` holds.

    Attributes:
        masked: Whether gradients of the result come with zeros where the result has them.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.where: Where = (conv.stride, conv.padding, conv.dilation)
        self.masked = False
        self._packed: PackedConv | None = None

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        x = x.to(self.weight.dtype)
        if shortcut is not None:
            shortcut = shortcut.to(x.dtype)
            if shortcut.shape != self.shape(x.shape):  # one that is broadcast
                return torch.relu(F.conv2d(x, self.weight, self.bias, *self.where) + shortcut)
        activated: Tensor = _Activated.apply(x, shortcut, (self,), False)
        return activated

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the result for inputs of this shape."""
        stride, padding, dilation = self.where
        sides = zip(shape[2:], self.weight.shape[2:], stride, padding, dilation, strict=True)
        return (
            shape[0],
            len(self.weight),
            *((side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in sides),
        )

    def compute(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        """The result, which no gradient will go through."""
        if can_be_packed(x):
            return self._packed_for(x).activated(x, self.bias, shortcut)
        if x.is_cuda and shortcut is None:
            out = aten.cudnn_convolution_relu(x, self.weight, self.bias, *self.where, 1)
        elif x.is_cuda:
            out = aten.cudnn_convolution_add_relu(x, self.weight, shortcut, 1.0, self.bias, *self.where, 1)
        else:
            out = F.conv2d(x, self.weight, self.bias, *self.where)
            out = (out if shortcut is None else out.add_(shortcut)).relu_()
        return out

    def input_gradient(self, grad: Tensor, x: Tensor, more: Tensor | None = None) -> Tensor:
        """The gradient of ``x``, and ``more`` of it; ``grad`` is that of the convolution's result."""
        if can_be_packed(x):
            return self._packed_for(x).input_gradient(grad, x, more)
        return input_gradient(grad, x, self.weight, self.where, more)

    def _packed_for(self, x: Tensor) -> PackedConv:
        if self._packed is None or not self._packed.fits(self.weight, x):
            self._packed = PackedConv(self.weight, self.where, x)
        return self._packed


class ActivatedChain(nn.Module):
    """One convolution with its ReLU after the other; the last one's result is added to ``x``, if so wished.

    Then the gradients of ``x`` from both sides are summed as the first convolution's is written.
    """

    def __init__(self, convs: Sequence[ActivatedConv], *, residual: bool) -> None:
        super().__init__()
        self.convs, self.residual = nn.ModuleList(convs), residual

    def forward(self, x: Tensor) -> Tensor:
        convs = cast(tuple[ActivatedConv, ...], tuple(self.convs))
        if self.residual and self._shape(x) != x.shape:  # one that is broadcast
            y = x
            for conv in convs[:-1]:
                y = conv(y)
            return cast(Tensor, convs[-1](y, x))
        activated: Tensor = _Activated.apply(x.to(convs[0].weight.dtype), None, convs, self.residual)
        return activated

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        shape: tuple[int, ...] = x.shape
        for conv in self.convs:
            shape = cast(ActivatedConv, conv).shape(shape)
        return shape


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shortcut: Tensor | None, convs: tuple[ActivatedConv, ...], residual: bool
    ) -> Tensor:
        maps = [x]
        for conv in convs[:-1]:
            maps.append(conv.compute(maps[-1], None))
        out = convs[-1].compute(maps[-1], x if residual else shortcut)
        ctx.save_for_backward(*maps, out)
        ctx.convs, ctx.residual = convs, residual
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *maps, out = ctx.saved_tensors
        if not ctx.convs[-1].masked:
            grad = aten.threshold_backward(grad, out, 0)
        of_x, of_map = None, grad
        for conv, read in zip(reversed(ctx.convs[1:]), reversed(maps), strict=True):
            of_map = conv.input_gradient(of_map, read)
            aten.threshold_backward.grad_input(of_map, read, 0, grad_input=of_map)
        if ctx.needs_input_grad[0]:
            of_x = ctx.convs[0].input_gradient(of_map, x, grad if ctx.residual else None)
        return of_x, grad if ctx.needs_input_grad[1] else None, None, None


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
    """Put an :class:`ActivatedConv` where a ReLU follows a convolution, or the sum of one.

    Those that nothing else reads become an :class:`ActivatedChain`.
    """
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
    _mask_maxima(traced)
    _chain(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _chain(traced: fx.GraphModule) -> None:
    """Join convolutions of which each is all that reads the one before.

    One that adds what the first of them reads is the last of its chain; one that adds something else is left
    alone.
    """
    modules = dict(traced.named_modules())
    single = [node for node in traced.graph.nodes if isinstance(modules.get(str(node.target)), ActivatedConv)]
    while single:
        chain = [single.pop()]
        shortcut = chain[0].args[1:]
        while (before := chain[0].args[0]) in single and len(before.args) == len(before.users) == 1:
            chain.insert(0, before)
        if len(chain) == 1 or shortcut not in ((), chain[0].args):
            continue
        single = [node for node in single if node not in chain]
        last = chain[-1]
        convs = [modules[str(node.target)] for node in chain]
        traced.set_submodule(str(last.target), ActivatedChain(convs, residual=bool(shortcut)))
        with traced.graph.inserting_before(last):
            last.replace_all_uses_with(traced.graph.call_module(last.target, chain[0].args))
        for node in reversed(chain):
            traced.graph.erase_node(node)


def _mask_maxima(traced: fx.GraphModule) -> None:
    """Have maxima of activated maps take the zeros out of their own gradients, of which there are fewer.

    A maximum above zero was above zero in the map, so nothing is left for the convolution to take out.
    """
    modules = dict(traced.named_modules())
    for pool in list(traced.graph.nodes):
        conv = pool.args[0] if isinstance(modules.get(str(pool.target)), MaxPool) else None
        activated = modules.get(str(conv.target)) if conv is not None and len(conv.users) == 1 else None
        if isinstance(activated, ActivatedConv):
            activated.masked = True
            with traced.graph.inserting_after(pool):
                relu = traced.graph.call_function(torch.relu, (pool,))
            pool.replace_all_uses_with(relu, delete_user_cb=lambda user, relu=relu: user is not relu)


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
