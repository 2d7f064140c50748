"""A frozen copy: the network's function and input gradients, with fewer operations, and nothing shared."""

import logging

import pytest
import torch
from torch import nn

from pst_fast.attacks.frozen import frozen
from pst_fast.models import create_model
from pst_fast.precision import computes_in_bf16

CLOSE = (
    {"rtol": 5e-2, "atol": 5e-2} if computes_in_bf16(torch.device("cpu")) else {"rtol": 1e-4, "atol": 1e-5}
)


def randomise(model):
    """Batch norm's statistics and weights as training leaves them: folding has something to get wrong."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return model


def outputs_and_gradient(model, x):
    leaf = x.clone().to(next(model.parameters()).dtype).requires_grad_()
    outputs = model(leaf).float()
    (gradient,) = torch.autograd.grad(outputs.square().sum(), leaf)
    return outputs.detach(), gradient.float()


class NormFirst(nn.Module):
    """Of its norms, only the last can be folded: one precedes its convolution, one shares it with a skip."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x):
        y = self.convs[0](torch.relu(self.norms[0](x)))
        z = torch.relu(self.norms[1](y)) + y
        return self.norms[2](self.convs[1](z))


class Twice(nn.Module):
    """One convolution with two norms: neither is folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.second(self.conv(torch.relu(self.first(self.conv(x)))))


class Untraceable(nn.Module):
    """What it does depends on values, which torch.fx cannot record."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else self.conv(x)


@pytest.mark.parametrize(
    ("model", "channels", "norms_left"),
    [
        (create_model("resnet10", num_classes=3, width=8, image_size=16), 3, 0),
        (NormFirst(), 8, 2),
        (Twice(), 8, 2),
        (Untraceable(), 8, 1),
    ],
)
def test_same_function(model, channels, norms_left):
    randomise(model).eval()
    x = torch.rand(4, channels, 16, 16)
    copy = frozen(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == norms_left
    for expected, value in zip(outputs_and_gradient(model, x), outputs_and_gradient(copy, x), strict=True):
        torch.testing.assert_close(value / expected.abs().max(), expected / expected.abs().max(), **CLOSE)


def test_network_stays_as_it_is():
    model = randomise(create_model("resnet10", num_classes=3, width=8, image_size=16)).train()
    model.layer1.eval()
    model.fc.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = frozen(model)
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    outputs_and_gradient(copy, torch.rand(2, 3, 16, 16))
    for parameter in copy.parameters():
        parameter.data.zero_()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.layer1.training
    assert not model.fc.weight.requires_grad
    assert model.fc.bias.requires_grad


def test_what_cannot_be_folded_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        frozen(Untraceable())
    assert "torch.fx cannot trace it" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        frozen(NormFirst())
    assert not caplog.text
