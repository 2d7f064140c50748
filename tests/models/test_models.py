"""Networks by name: shapes at every size, and clear refusals."""

import pytest
import torch
from torch import nn

from pst_fast.errors import InputError
from pst_fast.models import create_model, list_models
from pst_fast.models.resnet import Pointwise


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


SMALL_STEMS = {
    "torchvision:resnet50": 32,
    "torchvision:densenet121": 32,
    "torchvision:mobilenet_v2": 32,
    "torchvision:vgg11_bn": 32,
    "timm:resnet18": 32,
    "timm:mobilenetv2_100": 32,
    "timm:vit_tiny_patch16_224": 8,
    "timm:cait_xxs24_224": 8,
    "timm:convnext_atto": 8,
}


@pytest.mark.parametrize(("name", "first_map"), SMALL_STEMS.items())
def test_networks_from_elsewhere_see_small_images_at_full_size_or_in_eighths(name, first_map):
    model = create_model(name, num_classes=3, image_size=32).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    sides = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    pooled = [m for m in model.modules() if isinstance(m, nn.MaxPool2d) and m.kernel_size == 3]
    model(torch.zeros(1, 3, 32, 32))
    assert sides == [first_map] and not pooled


def test_networks_from_elsewhere_keep_their_stem_for_large_images():
    model = create_model("torchvision:resnet18", num_classes=3, image_size=96)
    assert model.conv1.kernel_size == (7, 7) and isinstance(model.maxpool, nn.MaxPool2d)


def test_the_mode_and_the_running_statistics_are_those_of_a_fresh_network():
    model = create_model("torchvision:resnet18", num_classes=3, image_size=32)
    assert model.training and int(model.bn1.num_batches_tracked) == 0


def test_a_network_whose_first_layers_go_together_keeps_them_and_that_is_said(caplog):
    model = create_model("timm:repvgg_a0", num_classes=3, image_size=32).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert [record.getMessage() for record in caplog.records] == [
        "timm:repvgg_a0 keeps its stem, which is made for larger images: no other fits it."
    ]


@pytest.mark.parametrize("name", ["torchvision:inception_v3", "timm:bat_resnext26ts"])
def test_sizes_that_a_network_cannot_take_are_refused_by_name(name):
    with pytest.raises(InputError, match=rf"^{name} takes no images of 32x32 pixels: ."):
        create_model(name, num_classes=3, image_size=32)


@pytest.mark.parametrize("name", ["resnet11", "torchvision:nothing", "torchvision:", "vit"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError):
        create_model(name, num_classes=3)


def test_resnet50_has_as_many_weights_as_torchvisions():
    torchvision = pytest.importorskip("torchvision")
    ours = create_model("resnet50", num_classes=10, width=64, image_size=224)
    theirs = torchvision.models.resnet50(num_classes=10)
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs)]
    assert count[0] == count[1]
    with torch.no_grad():
        assert ours.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize("channels", [8, 16])
def test_a_pointwise_convolution_is_the_plain_one_with_any_number_of_channels(channels):
    torch.manual_seed(0)
    conv = Pointwise(channels, 24, 1, 2, bias=False)
    plain = nn.Conv2d(channels, 24, 1, 2, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(4, channels, 10, 10)
    torch.testing.assert_close(conv(x), plain(x))


def test_narrow_networks_train_on_odd_batches_in_channels_last():
    """This wrote past oneDNN's buffers, with two threads and vectors of 16."""
    model = create_model("resnet10", num_classes=3, width=8, image_size=16)
    model.to(memory_format=torch.channels_last)
    for _ in range(40):
        x = torch.randn(15, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        model(x).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
