"""A rearranged stem is its convolution: outputs and input gradients, of all that can be rearranged."""

import pytest
import torch
from torch import nn

from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.stem import Blocks, Filled, by_blocks, can_be_blocks, filled
from pst_fast.models import create_model


def assert_same(expected, found, x):
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, x, weights)[0] for y in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("side", [3, 7, 11])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(16, 20), (15, 8), (16, 15), (2, 2), (1, 3)])
def test_by_blocks_it_has_the_outputs_and_gradients_of_the_convolution(side, bias, size):
    torch.manual_seed(side)
    conv = nn.Conv2d(3, 5, side, 2, side // 2, bias=bias).double()
    assert can_be_blocks(conv)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    blocks = by_blocks(conv)
    assert_same(conv(x), blocks(x), x)
    assert blocks[1].in_channels == 12 and tuple(blocks[1].stride) == (1, 1)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "dilation": 2, "bias": False}])
def test_filled_with_zeros_it_has_the_outputs_and_gradients_of_the_convolution(options):
    conv = nn.Conv2d(3, 5, 3, **options).double()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    wide = filled(conv, 5)
    assert_same(conv(x), wide(x), x)
    assert wide[1].in_channels == 8


def test_rearranging_draws_nothing():
    conv = nn.Conv2d(3, 5, 7, 2, 3)
    before = torch.get_rng_state()
    by_blocks(conv), filled(conv, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(5, 8, 7, 2, 3),  # many channels
        nn.Conv2d(3, 8, 7, 1, 3),
        nn.Conv2d(3, 8, 7, 2, 2),
        nn.Conv2d(3, 8, 5, 2, 2),  # its first tap is at an even place
        nn.Conv2d(3, 8, (7, 3), 2, (3, 1)),
        nn.Conv2d(3, 9, 3, 2, 1, groups=3),
        nn.Conv2d(3, 8, 3, 2, 1, dilation=2),
        nn.Conv2d(3, 8, 3, 2, 1, padding_mode="reflect"),
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.Linear(3, 8),
    ],
)
def test_others_stay_as_they_are(module):
    assert not can_be_blocks(module)


def test_a_frozen_network_for_large_images_sees_blocks():
    model = create_model("resnet18", num_classes=3, width=8, image_size=224)
    assert count(frozen(model), Blocks) == 1 and count(model, Blocks) == 0
    small = frozen(create_model("resnet18", num_classes=3, width=8, image_size=32))
    assert count(small, Blocks) == count(small, Filled) == 0  # zeros are for tensor cores


@pytest.mark.gpu
@pytest.mark.parametrize(("size", "kind", "channels"), [(224, Blocks, 16), (32, Filled, 8)])
def test_on_cuda_a_frozen_network_has_channels_by_eights(size, kind, channels):
    model = frozen(create_model("resnet18", num_classes=3, width=8, image_size=size).cuda())
    assert count(model, kind) == 1
    assert max(p.shape[1] for name, p in model.named_parameters() if name.startswith("stem")) >= channels


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())
