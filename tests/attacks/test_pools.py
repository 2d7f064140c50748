"""Max-pooling layers of frozen networks: which ones are our op's, and that they answer the same."""

import pytest
import torch
from torch import nn

from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pools import MaxPool, can_be_replaced
from pst_fast.models import create_model


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.MaxPool2d((3, 3), stride=(1, 1))]
)
def test_it_answers_the_same(pool):
    assert can_be_replaced(pool)
    x = torch.randn(2, 5, 9, 8)
    assert torch.equal(MaxPool(pool)(x), pool(x))


@pytest.mark.parametrize(
    "module",
    [
        nn.MaxPool2d((3, 2)),
        nn.MaxPool2d(3, (2, 1)),
        nn.MaxPool2d(3, dilation=2),
        nn.MaxPool2d(3, ceil_mode=True),
        nn.MaxPool2d(3, return_indices=True),
        nn.MaxPool2d(17),
        nn.AvgPool2d(2),
    ],
)
def test_others_stay_as_they_are(module):
    assert not can_be_replaced(module)


def test_a_frozen_network_for_large_images_has_one():
    model = create_model("resnet18", num_classes=3, width=8, image_size=224)
    kinds = [type(module) for module in frozen(model).modules()]
    assert kinds.count(MaxPool) == 1 and nn.MaxPool2d not in kinds
    assert any(isinstance(module, nn.MaxPool2d) for module in model.modules())
