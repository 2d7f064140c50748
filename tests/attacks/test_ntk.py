"""Tangent kernels against wide networks that are drawn, predictions against gradient descent step by step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pst_fast.attacks.ntk import BIAS, WEIGHT, convolutional_kernel, dense_kernel, predictions_at

X = torch.randn(5, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Drawn:
    """A network with weights of N(0,1), which are kept so that its gradients can be taken."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.parameters: list[Tensor] = []

    def draw(self, *shape: int) -> Tensor:
        drawn = torch.randn(*shape, dtype=torch.float64, generator=self.random).requires_grad_()
        self.parameters.append(drawn)
        return drawn

    def dense(self, x: Tensor, outputs: int) -> Tensor:
        inputs = x.shape[1]
        return x @ self.draw(inputs, outputs) * (WEIGHT / inputs**0.5) + BIAS * self.draw(outputs)

    def conv(self, x: Tensor, outputs: int) -> Tensor:
        inputs = x.shape[1]
        weight = self.draw(outputs, inputs, 3, 3) * (WEIGHT / (9 * inputs) ** 0.5)
        return F.conv2d(x, weight, BIAS * self.draw(outputs), padding=1)

    def kernel(self, outputs: Tensor) -> Tensor:
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(y, self.parameters, retain_graph=True)])
            for y in outputs
        ]
        gradients = torch.stack(rows)
        return gradients @ gradients.T


def empirical(name: str) -> Tensor:
    total = torch.zeros(len(X), len(X), dtype=torch.float64)
    for seed in range(8):
        network, x = Drawn(seed), X
        if name == "dense":
            x = network.dense(x.flatten(1), 512).relu()
            x = network.dense(x, 512).relu()
        else:
            x = network.conv(x, 128).relu()
            x = network.conv(x, 128).relu()
            x = network.dense(x.flatten(1), 128).relu()
        total += network.kernel(network.dense(x, 1)[:, 0]) / 8
    return total


@pytest.mark.parametrize("name", ["dense", "convolutional"])
def test_kernels_are_those_of_wide_networks(name: str) -> None:
    if name == "dense":
        kernel = dense_kernel(X, X, hidden=2)
    else:
        kernel = convolutional_kernel(X, X, convolutions=2, hidden=1)
    torch.testing.assert_close(empirical(name), kernel, rtol=0.16, atol=0)
    torch.testing.assert_close(kernel, kernel.T)
    assert torch.linalg.eigvalsh(kernel).min() > 0


@pytest.mark.parametrize("kernel", [dense_kernel, convolutional_kernel])
def test_kernels_of_pairs_and_their_gradients(kernel) -> None:
    whole = kernel(X, X)
    torch.testing.assert_close(kernel(X[:2], X[2:]), whole[:2, 2:])
    z = X[2:4].clone()
    assert torch.autograd.gradcheck(lambda x: kernel(x, z), X[:2].clone().requires_grad_())


def test_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convolutional_kernel(X, X)
    monkeypatch.setattr("pst_fast.attacks.ntk._PIXELS_AT_ONCE", 1)
    torch.testing.assert_close(convolutional_kernel(X, X), whole)


@pytest.mark.parametrize("time", [0.5, 8.0])
def test_predictions_are_those_of_gradient_descent(time: float) -> None:
    kernel = dense_kernel(X, X)
    targets = torch.eye(5, dtype=torch.float64)[:, :3]
    learned, steps = torch.zeros_like(targets), 20000
    for _ in range(steps):
        learned = learned - kernel @ (learned - targets) * (time / targets.numel() / steps)
    torch.testing.assert_close(predictions_at(time, kernel, kernel, targets), learned, rtol=1e-3, atol=1e-4)
