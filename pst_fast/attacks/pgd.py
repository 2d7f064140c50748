"""Gradient steps on the input of a frozen network: the inner loop of most attacks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pst_fast import ops
from pst_fast.precision import autocast, computes_in_bf16

# Surrogates see (x - MEAN) / STD. One scale for all channels keeps the gradient's direction that of x.
MEAN = 0.5
STD = 0.25

Loss = Callable[[Tensor, Tensor], Tensor]
Transform = Callable[[Tensor], Tensor]


def perturbed_inputs(x: Tensor, delta: Tensor) -> Tensor:
    """The surrogate's input (clamp(x + delta, 0, 1) - MEAN) / STD, in the layout of ``x``."""
    dtype = torch.bfloat16 if computes_in_bf16(x.device) else torch.float32
    return (x + delta).clamp_(0, 1).sub_(MEAN).div_(STD).to(dtype)


class PGD(ABC):
    """Moves perturbations by gradient steps inside a ball about the images; which ball, a subclass says.

    On CUDA a step is captured as a graph at the first batch, and replayed for all batches of its shape.

    Args:
        model: What :func:`~pst_fast.attacks.frozen.frozen` returned; or a network in evaluation mode whose
            weights may change between calls, which is slower.
        step_size: Of a step, on [0,1] images.
        epsilon: The ball's radius, on [0,1] images.
        ascend: Whether to increase the loss instead of reducing it.
        loss: From (fp32 logits, labels) to a scalar, without waiting for the device. How large its gradient
            is does not count.
        transform: Differentiable, of the network's inputs, drawn anew in each step.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        step_size: float,
        epsilon: float,
        ascend: bool = False,
        loss: Loss = F.cross_entropy,
        transform: Transform | None = None,
    ) -> None:
        self.model, self.loss, self.transform = model, loss, transform
        self.step_size, self.epsilon, self.ascend = step_size, epsilon, ascend
        self._captured: _CapturedStep | None = None

    def run_(self, x: Tensor, delta: Tensor, labels: Tensor, *, steps: int) -> Tensor:
        """Take the steps on ``delta`` in place, and return it.

        Args:
            x: Clean images, fp32 [B,3,H,W] in [0,1].
            delta: Where to start, fp32 like ``x``; afterwards x + delta is in [0,1] too.
            labels: int64 [B], handed to the loss.
            steps: Gradient steps.
        """
        if x.device.type == "cuda":
            self._captured = self._captured or _CapturedStep(self, x, labels)
            if self._captured.takes(x, labels):
                return self._captured.run_(x, delta, labels, steps)
        inputs = perturbed_inputs(x, delta)
        for _ in range(steps):
            self.step_(x, delta, labels, inputs)
        return delta

    def step_(self, x: Tensor, delta: Tensor, labels: Tensor, inputs: Tensor) -> None:
        """One step on ``delta``; ``inputs`` holds the network's inputs, and then the next step's."""
        leaf = inputs.detach().requires_grad_()
        seen = leaf if self.transform is None else self.transform(leaf)
        with autocast(x.device):
            outputs = self.model(seen)
        (grad,) = torch.autograd.grad(self.loss(outputs.float(), labels), leaf)
        mean, std = (x.new_full((x.shape[1],), value) for value in (MEAN, STD))
        self.move_(
            delta, grad, x, step_size=self.step_size, epsilon=self.epsilon,
            ascend=self.ascend, mean=mean, std=std, out=inputs,
        )  # fmt: skip

    @abstractmethod
    def move_(self, delta: Tensor, grad: Tensor, x: Tensor, **options: Any) -> None:
        """A step along ``grad``, as one of the ops takes it."""

    @abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """A random perturbation in the ball, with x + delta in [0,1]."""


class LinfPGD(PGD):
    """Signed steps inside an Linf ball."""

    def move_(self, delta: Tensor, grad: Tensor, x: Tensor, **options: Any) -> None:
        ops.linf_step_(delta, grad, x, **options)

    def start(self, x: Tensor) -> Tensor:
        """Normal noise with the radius as standard deviation, cut off at it."""
        delta = (self.epsilon * torch.randn_like(x)).clamp_(-self.epsilon, self.epsilon)
        return (x + delta).clamp_(0, 1).sub_(x)


class L2PGD(PGD):
    """Steps along each sample's gradient, of length ``step_size``, inside an L2 ball."""

    def move_(self, delta: Tensor, grad: Tensor, x: Tensor, **options: Any) -> None:
        ops.l2_step_(delta, grad, x, **options)

    def start(self, x: Tensor) -> Tensor:
        """A direction at random, of the radius' length before what leaves [0,1] is cut off."""
        delta = torch.randn_like(x)
        delta *= self.epsilon / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return (x + delta).clamp_(0, 1).sub_(x)


class _CapturedStep:
    """One step as a CUDA graph, on its own buffers: a small network's kernels are shorter than a launch."""

    def __init__(self, pgd: PGD, x: Tensor, labels: Tensor) -> None:
        self.x, self.delta, self.labels = x.clone(), torch.zeros_like(x), labels.clone()
        self.inputs = perturbed_inputs(self.x, self.delta)
        arguments = (self.x, self.delta, self.labels, self.inputs)
        # What libraries set up at a first call cannot be captured.
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                pgd.step_(*arguments)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            pgd.step_(*arguments)

    def takes(self, x: Tensor, labels: Tensor) -> bool:
        same_images = (x.shape, x.stride(), x.device) == (self.x.shape, self.x.stride(), self.x.device)
        return same_images and (labels.shape, labels.dtype) == (self.labels.shape, self.labels.dtype)

    def run_(self, x: Tensor, delta: Tensor, labels: Tensor, steps: int) -> Tensor:
        self.x.copy_(x)
        self.delta.copy_(delta)
        self.labels.copy_(labels)
        self.inputs.copy_(perturbed_inputs(x, delta))
        for _ in range(steps):
            self.graph.replay()
        return delta.copy_(self.delta)


def crafting_batch(model: nn.Module, height: int, width: int, device: torch.device) -> int:
    """How many images to craft at a time: a power of two, and a matter of speed alone.

    A frozen network treats every image on its own. On a CPU a batch's activations should stay in the cache;
    on CUDA it is what fits half of the free memory, which a batch of eight shows.
    """
    if device.type != "cuda":
        return _power_of_two(128 * 32 * 32 / (height * width), least=8)
    probe = torch.zeros(8, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    pgd = LinfPGD(model, step_size=0.0, epsilon=1.0, loss=lambda logits, _: logits.sum())
    pgd.step_(probe, probe.clone(), probe, perturbed_inputs(probe, probe))
    each = (torch.cuda.max_memory_allocated(device) - before) / len(probe)
    return _power_of_two(torch.cuda.mem_get_info(device)[0] / 2 / each, least=1)


def _power_of_two(count: float, least: int) -> int:
    return max(least, 1 << int(min(count, 1024)).bit_length() - 1) if count >= 1 else least
