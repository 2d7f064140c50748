"""Convolutions with their ReLUs: which ones, and the same function and gradients as one by one."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn

from pst_fast.attacks.activated import ActivatedChain, ActivatedConv, activate
from pst_fast.attacks.frozen import _Tracer, frozen
from pst_fast.attacks.pools import MaxPool
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


class Pooled(nn.Module):
    """Two stems with a pool each; something else reads the second, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.pool = conv(), conv(), MaxPool(nn.MaxPool2d(3, 2, 1))

    def forward(self, x):
        y = torch.relu(self.second(x))
        return self.pool(torch.relu(self.first(x))) + self.pool(y) + y.mean((2, 3), keepdim=True)


class NoResidual(nn.Module):
    """A chain whose result has one value a channel, added to all of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), nn.Conv2d(4, 4, 16)

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + x)


class Broadcast(nn.Module):
    """A sum with one value a channel, whose gradient is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = conv(), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return torch.relu(self.conv(x) + self.gate(x.mean((2, 3), keepdim=True)))


def traced(model: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(model, _Tracer().trace(model))


def count(model: nn.Module) -> int:
    return sum(isinstance(module, ActivatedConv) for module in model.modules())


def chains(model: nn.Module) -> list[tuple[int, bool]]:
    """How many convolutions each has, and whether what it reads is added."""
    return [(len(m.convs), m.residual) for m in model.modules() if isinstance(m, ActivatedChain)]


@pytest.mark.parametrize(
    ("model", "activated"),
    [
        (Block(conv_first=True, inplace=False), 3),
        (Block(conv_first=False, inplace=True), 3),
        (Neither(), 0),
        (Broadcast(), 1),
        (Pooled(), 2),
        (NoResidual(), 2),
        (nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), MaxPool(nn.MaxPool2d(2)), conv(), nn.ReLU()), 3),
    ],
)
def test_one_by_one_they_give_the_same_bits(model, activated, monkeypatch):
    monkeypatch.setattr("pst_fast.attacks.activated.can_be_packed", lambda x: False)
    randomise(model).eval().requires_grad_(False)
    x = torch.randn(2, 4, 16, 16)
    expected = outputs_and_gradient(model, x)
    faster = activate(traced(model))
    assert count(faster) == activated
    for one_by_one, together in zip(expected, outputs_and_gradient(faster, x), strict=True):
        assert torch.equal(one_by_one, together)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "model", [Block(conv_first=True, inplace=False), Block(conv_first=False, inplace=True)]
)
def test_onednn_computes_the_same(model, layout, dtype, bound):
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN does not compute in bf16 on these cores")
    randomise(model).eval().requires_grad_(False)
    x = torch.randn(5, 4, 33, 17).to(dtype).contiguous(memory_format=layout)
    exact = outputs_and_gradient(copy.deepcopy(model).to(dtype).double(), x.double())
    packed = activate(fx.symbolic_trace(copy.deepcopy(model).to(dtype)))
    found = outputs_and_gradient(packed, x)
    assert all(m._packed is not None for m in packed.modules() if isinstance(m, ActivatedConv))
    for expected, value in zip(exact, found, strict=True):
        assert (value - expected).norm() < bound * expected.norm()


def test_weights_are_laid_out_anew_for_other_inputs_and_when_they_change():
    model = activate(fx.symbolic_trace(Block(conv_first=True, inplace=False).requires_grad_(False)))
    first = model.second.convs[0]
    for batch in (2, 3, 2):
        model(torch.randn(batch, 4, 16, 16))
        laid_out = first._packed
        model(torch.randn(batch, 4, 16, 16))
        assert first._packed is laid_out
    x = torch.randn(2, 4, 16, 16)
    before = outputs_and_gradient(model, x)
    with torch.no_grad():
        model.stem.weight.neg_()
        first.weight.data = 2 * first.weight
    for old, new in zip(before, outputs_and_gradient(model, x), strict=True):
        assert not torch.allclose(old, new, atol=1e-3)
    expected = outputs_and_gradient(copy.deepcopy(model).double(), x.double())
    for exact, new in zip(expected, outputs_and_gradient(model, x), strict=True):
        assert (exact - new).norm() < 1e-6 * exact.norm()


def test_a_network_that_has_run_can_be_copied_and_pickled():
    model = activate(fx.symbolic_trace(Block(conv_first=True, inplace=False).requires_grad_(False)))
    x = torch.randn(2, 4, 16, 16)
    before = outputs_and_gradient(model, x)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for old, new in zip(before, outputs_and_gradient(again, x), strict=True):
            assert torch.equal(old, new)


def test_values_of_another_precision_are_taken_at_that_of_the_weights():
    model = activate(fx.symbolic_trace(Block(conv_first=True, inplace=False).requires_grad_(False))).double()
    x = torch.randn(2, 4, 16, 16, requires_grad=True)
    outputs = model(x)
    outputs.sum().backward()
    assert outputs.dtype == torch.float64 and x.grad.dtype == torch.float32


def test_blocks_are_chains_and_other_sums_are_not():
    assert chains(activate(traced(Block(conv_first=True, inplace=False)))) == [(2, True)]
    assert chains(activate(traced(Block(conv_first=False, inplace=False)))) == [(2, True)]
    assert chains(activate(traced(Broadcast()))) == chains(activate(traced(Neither()))) == []
    # in each of three stages one block has a convolution in its shortcut, and is none
    assert chains(frozen(create_model("resnet18", num_classes=3, width=8, image_size=16))) == [(2, True)] * 5
    vgg = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), nn.MaxPool2d(2), conv(), nn.ReLU(), conv())
    assert chains(activate(traced(vgg))) == [(2, False)]


def test_the_gradient_of_maxima_comes_masked_where_nothing_else_reads_the_map():
    model = activate(traced(Pooled()))
    assert (model.first.masked, model.second.masked) == (True, False)
    vgg = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), MaxPool(nn.MaxPool2d(2)), conv(), nn.ReLU())
    assert [m.masked for m in activate(traced(vgg)).modules() if isinstance(m, ActivatedConv)] == [
        False,
        True,
        False,
    ]


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
