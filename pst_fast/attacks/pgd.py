"""Signed gradient steps on the input of a frozen network: the inner loop of most attacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast import ops
from pst_fast.precision import autocast, computes_in_bf16

# Surrogates see (x - MEAN) / STD. One scale for all channels keeps the gradient's direction that of x.
MEAN = 0.5
STD = 0.25

Loss = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside, both as they were afterwards.

    Without parameter gradients the backward pass saves about a third of a step's arithmetic. Batch norm uses
    its running statistics, so that a sample's perturbation does not depend on its neighbours in the batch.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def perturbed_inputs(x: Tensor, delta: Tensor) -> Tensor:
    """The surrogate's input (clamp(x + delta, 0, 1) - MEAN) / STD, in the layout of ``x``."""
    dtype = torch.bfloat16 if computes_in_bf16(x.device) else torch.float32
    return (x + delta).clamp_(0, 1).sub_(MEAN).div_(STD).to(dtype)


def linf_pgd_(
    model: nn.Module,
    x: Tensor,
    delta: Tensor,
    labels: Tensor,
    *,
    steps: int,
    step_size: float,
    epsilon: float,
    ascend: bool = False,
    loss: Loss = F.cross_entropy,
) -> Tensor:
    """Move ``delta`` in place by signed gradient steps inside an Linf ball, and return it.

    Args:
        model: A network under :func:`frozen`.
        x: Clean images, fp32 [B,3,H,W] in [0,1].
        delta: Where to start, fp32 like ``x``; afterwards x + delta is in [0,1] too.
        labels: int64 [B], handed to ``loss``.
        steps: Gradient steps.
        step_size: Of a step, on [0,1] images.
        epsilon: The ball's radius, on [0,1] images.
        ascend: Whether to increase the loss instead of reducing it.
        loss: From (logits, labels) to a scalar.
    """
    inputs = perturbed_inputs(x, delta)
    mean, std = (torch.full((x.shape[1],), value, device=x.device) for value in (MEAN, STD))
    for _ in range(steps):
        leaf = inputs.detach().requires_grad_()
        with autocast(x.device):
            value = loss(model(leaf), labels)
        (grad,) = torch.autograd.grad(value, leaf)
        ops.linf_step_(
            delta,
            grad,
            x,
            step_size=step_size,
            epsilon=epsilon,
            ascend=ascend,
            mean=mean,
            std=std,
            out=inputs,
        )
    return delta
