"""Convolutions with their ReLUs: which ones, and the same function and gradients as one by one."""

import pytest
import torch
from torch import fx, nn

from pst_fast.attacks.activated import ActivatedConv, activate
from pst_fast.attacks.frozen import frozen
from pst_fast.models import create_model
from tests.attacks.test_frozen import outputs_and_gradient, randomise


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


class Block(nn.Module):
    """A stem, and a block whose sum can have its convolution first or second."""

    def __init__(self, *, conv_first: bool, inplace: bool) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(4, 4, 3, stride=2, dilation=2, bias=False), nn.ReLU(inplace)
        self.first, self.second, self.conv_first = conv(), conv(), conv_first

    def forward(self, x):
        x = self.relu(self.stem(x))
        y = self.second(self.first(x).relu())
        return torch.relu(y + x if self.conv_first else torch.add(x, y))


class Neither(nn.Module):
    """ReLUs of a convolution that is read twice, runs twice, has a number added, or groups; or of none."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.runs_twice, self.moved, self.norm = conv(), conv(), conv(), nn.BatchNorm2d(4)
        self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)

    def forward(self, x):
        y = self.read_twice(x)
        y = torch.relu(y) + y
        y = torch.relu(self.runs_twice(torch.relu(self.runs_twice(y))))
        y = torch.relu(self.moved(y) + 1)
        y = torch.relu(self.norm(torch.relu(self.circular(y))))
        return torch.relu(self.grouped(y))


class Broadcast(nn.Module):
    """A sum with one value a channel, whose gradient is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = conv(), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return torch.relu(self.conv(x) + self.gate(x.mean((2, 3), keepdim=True)))


def count(model: nn.Module) -> int:
    return sum(isinstance(module, ActivatedConv) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "activated"),
    [
        (Block(conv_first=True, inplace=False), 3),
        (Block(conv_first=False, inplace=True), 3),
        (Neither(), 0),
        (Broadcast(), 1),
    ],
)
def test_one_by_one_they_give_the_same_bits(model, activated):
    randomise(model).eval().requires_grad_(False)
    x = torch.randn(2, 4, 16, 16)
    expected = outputs_and_gradient(model, x)
    traced = activate(fx.symbolic_trace(model))
    assert count(traced) == activated
    for one_by_one, together in zip(expected, outputs_and_gradient(traced, x), strict=True):
        assert torch.equal(one_by_one, together)


def test_values_of_another_precision_are_taken_at_that_of_the_weights():
    model = activate(fx.symbolic_trace(Block(conv_first=True, inplace=False).requires_grad_(False))).double()
    x = torch.randn(2, 4, 16, 16, requires_grad=True)
    outputs = model(x)
    outputs.sum().backward()
    assert outputs.dtype == torch.float64 and x.grad.dtype == torch.float32


def test_frozen_resnets_have_them_wherever_there_is_a_relu():
    small = frozen(create_model("resnet10", num_classes=3, width=8, image_size=16))
    assert count(small) == 1 + 4 * 2
    large = frozen(create_model("resnet50", num_classes=3, width=8, image_size=112))
    assert count(large) == 1 + 16 * 3


@pytest.mark.gpu
@pytest.mark.parametrize("conv_first", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_cudnn_computes_the_same(conv_first, dtype, bound, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = Block(conv_first=conv_first, inplace=True).requires_grad_(False)
    x = torch.randn(64, 4, 33, 33)
    exact = outputs_and_gradient(model.double(), x)
    copy = activate(fx.symbolic_trace(model)).to("cuda", dtype).to(memory_format=torch.channels_last)
    found = outputs_and_gradient(copy, x.cuda().contiguous(memory_format=torch.channels_last))
    assert count(copy) == 3
    for expected, value in zip(exact, found, strict=True):
        assert (value.cpu() - expected).norm() < bound * expected.norm()


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("resnet18", 112), ("resnet50", 32)])
def test_frozen_networks_on_cuda_have_the_outputs_of_the_network(name, size):
    model = create_model(name, num_classes=10, width=16, image_size=size)
    with torch.no_grad():  # batch norm's statistics as training leaves them
        for _ in range(10):
            model(torch.randn(8, 3, size, size))
    x = torch.randn(8, 3, size, size)
    expected, _ = outputs_and_gradient(model.eval(), x)
    found, _ = outputs_and_gradient(
        frozen(model.cuda()), x.cuda().contiguous(memory_format=torch.channels_last)
    )
    assert (found.cpu() - expected).norm() < 0.05 * expected.norm()
