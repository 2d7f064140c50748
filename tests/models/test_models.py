"""Networks by name: shapes at every size, and clear refusals."""

import pytest
import torch

from pst_fast.errors import InputError
from pst_fast.models import create_model, list_models


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize(("image_size", "first_map"), [(32, 32), (64, 32), (128, 32)])
def test_own_networks(name, image_size, first_map):
    model = create_model(name, num_classes=7, width=8, image_size=image_size).eval()
    images = torch.zeros(2, 3, image_size, image_size)
    assert model(images).shape == (2, 7)
    assert model.stem(images).shape == (2, 8, first_map, first_map)


def test_standard_resnet18_has_the_known_number_of_parameters():
    model = create_model("resnet18", num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


def test_widths_that_convolutions_cannot_take_are_refused():
    with pytest.raises(InputError, match="--width: expected a multiple of 8, got 4"):
        create_model("resnet10", num_classes=2, width=4)


def test_torchvision_on_demand():
    model = create_model("torchvision:mobilenet_v2", num_classes=3).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("name", ["resnet11", "torchvision:nothing", "torchvision:", "vit"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError):
        create_model(name, num_classes=3)
