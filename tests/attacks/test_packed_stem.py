"""A packed stem is its convolution: outputs and input gradients, of all that can be packed."""

import pytest
import torch
from torch import nn

from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.packed_stem import PackedStem, can_be_packed
from pst_fast.models import create_model


@pytest.mark.parametrize("side", [3, 7, 11])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(16, 20), (15, 8), (2, 2)])
def test_outputs_and_gradients_are_those_of_the_convolution(side, bias, size):
    torch.manual_seed(side)
    conv = nn.Conv2d(3, 5, side, 2, side // 2, bias=bias).double()
    assert can_be_packed(conv)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected, found = conv(x), PackedStem(conv)(x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, x, weights)[0] for y in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_an_odd_number_of_columns_goes_through_the_convolution_itself():
    conv = nn.Conv2d(3, 5, 7, 2, 3)
    x = torch.randn(2, 3, 16, 15)
    assert torch.equal(PackedStem(conv)(x), conv(x))


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
    assert not can_be_packed(module)


def test_a_frozen_network_for_large_images_has_its_stem_packed():
    model = create_model("resnet18", num_classes=3, width=8, image_size=224)
    stems = [m for m in frozen(model).modules() if isinstance(m, PackedStem)]
    assert len(stems) == 1
    assert not any(isinstance(m, PackedStem) for m in model.modules())
    small = create_model("resnet18", num_classes=3, width=8, image_size=32)
    assert not any(isinstance(m, PackedStem) for m in frozen(small).modules())
