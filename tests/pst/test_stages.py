"""Stages are found by depth on the common shapes of network, and the classifier is never one."""

import pytest
import torch
import torchvision.models
from torch import nn

from pst_fast import ops
from pst_fast.models import create_model
from pst_fast.pst import ActivationClusterMeasurement, find_stages, spatial_lda


def names(model: nn.Module) -> list[str]:
    return [stage.name for stage in find_stages(model)]


def test_slim_resnet_has_stem_and_four_layers():
    model = create_model("resnet10", num_classes=3, width=8)
    assert names(model) == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_torchvision_resnet_groups_its_stem():
    stages = find_stages(torchvision.models.resnet18())
    assert [stage.name for stage in stages] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert stages[0].modules == ("conv1", "bn1", "relu", "maxpool")


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121", "mobilenet_v2", "vit_b_32"])
def test_other_families_give_at_most_five_stages_in_order_without_the_classifier(name):
    model = torchvision.models.get_model(name, weights=None)
    stages = find_stages(model)
    assert 3 <= len(stages) <= 5
    order = [n for n, _ in model.named_modules()]
    outputs = [order.index(stage.modules[-1]) for stage in stages]
    assert outputs == sorted(outputs)
    head = {id(p) for p in list(model.parameters())[-2:]}
    assert not head & {id(p) for stage in stages for p in stage.parameters(model)}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("timm:vit_tiny_patch16_224", 5),
        ("timm:cait_xxs24_224", 5),
        ("timm:mobilenetv2_100", 5),
        ("timm:convnext_atto", 5),
        ("timm:resnet18", 5),
    ],
)
def test_timm_models_have_five_stages_that_acm_can_measure(name, stages):
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, image_size=32)
    images, labels = torch.randn(30, 3, 32, 32), torch.arange(30) % 3
    values = ActivationClusterMeasurement(model, images, labels)()
    assert len(values) == stages and all(value > 0 for value in values.values())
    order = [n for n, _ in model.named_modules()]
    outputs = [order.index(stage.modules[-1]) for stage in find_stages(model)]
    assert outputs == sorted(outputs)


def test_a_normalisation_with_its_own_activation_is_not_a_block():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.ReLU()

    layers = [nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 8, 3), NormAct(8), nn.Flatten(), nn.Linear(8, 2)]
    assert [stage.modules for stage in find_stages(nn.Sequential(*layers))] == [("0", "1"), ("2", "3")]


def test_plain_sequential():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    assert [stage.modules for stage in find_stages(model)] == [("0", "1", "2"), ("3", "4")]


class Standardise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) / 0.25


class Classifier(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda network: nn.Sequential(Standardise(), network), "1."),
        (lambda network: Classifier(Classifier(network)), "network.network."),
    ],
)
def test_a_network_inside_a_module_without_other_parameters_has_the_stages_that_it_has_alone(wrap, path):
    network = create_model("resnet10", num_classes=3, width=8)
    alone, wrapped = find_stages(network), find_stages(wrap(network))
    assert [stage.name for stage in wrapped] == [stage.name for stage in alone]
    assert [stage.modules for stage in wrapped] == [
        tuple(path + module for module in stage.modules) for stage in alone
    ]


def test_a_plain_sequence_inside_another_module_loses_its_classifier_too():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert [stage.modules for stage in find_stages(Classifier(layers))] == [("network.0", "network.1")]


def test_a_normalisation_that_learns_does_not_make_the_network_behind_it_a_classifier():
    network = create_model("resnet10", num_classes=3, width=8)
    model = nn.Sequential(nn.BatchNorm2d(3), network)
    stages = find_stages(model, images=torch.randn(2, 3, 32, 32))
    assert len(stages) == 5 and stages[-1].measured == "1.layer4"
    watched = {id(p) for stage in stages for p in stage.parameters(model)}
    answers = {id(p) for p in list(network.parameters())[-2:]}
    assert watched == {id(p) for p in model.parameters()} - answers


class OutOfOrder(nn.Module):
    """Its classifier comes first, its pooling runs twice, one head never, and its blocks are a list."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 3)
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(2))
        self.auxiliary = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(4, 3))
        self.second = nn.Conv2d(4, 8, 3, padding=1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.second(self.pool(self.first(x))))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((2, 3)))


def test_images_show_what_runs_and_in_which_order():
    stages = find_stages(OutOfOrder(), images=torch.randn(2, 3, 8, 8))
    assert [(stage.modules, stage.measured) for stage in stages] == [
        (("first", "pool", "second"), "second"),
        (("blocks.0",), "blocks.0"),
        (("blocks.1",), "blocks.1"),
    ]


def test_what_cannot_be_measured_is_refused_by_name():
    images = torch.randn(2, 3, 8, 8)
    named = find_stages(OutOfOrder(), {"early": ["first", "pool"], "late": ["second"]}, images)
    assert [stage.measured for stage in named] == ["first", "second"]
    for module in ("pool", "blocks", "auxiliary"):
        with pytest.raises(ValueError, match=f"'late': expected a submodule that runs once .* got {module}"):
            find_stages(OutOfOrder(), {"early": "first", "late": module}, images)


@pytest.mark.parametrize(
    ("name", "last", "size"), [("squeezenet1_1", "features.12", 64), ("googlenet", "inception5b", 64)]
)
def test_a_convolution_that_answers_and_heads_that_only_train_are_no_stages(name, last, size):
    options = {} if name.startswith("squeeze") else {"init_weights": False}
    model = torchvision.models.get_model(name, weights=None, **options)
    images, labels = torch.randn(6, 3, size, size), torch.arange(6) % 2
    acm = ActivationClusterMeasurement(model, images, labels)
    assert acm.stages[-1].measured == last
    assert len(acm()) == 5 and model.training


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2", "vit_b_32"])
def test_on_networks_in_order_images_change_nothing(name):
    model = torchvision.models.get_model(name, weights=None)
    state = torch.get_rng_state()
    shown = find_stages(model, images=torch.zeros(1, 3, 224, 224))
    assert [(stage.name, stage.modules) for stage in shown] == [
        (stage.name, stage.modules) for stage in find_stages(model)
    ]
    assert all(stage.measured == stage.modules[-1] for stage in shown)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_maps_with_their_channels_at_the_end_are_told_and_measured_as_others_are():
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 6, 1)
            self.block = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
            self.head = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.block(self.embed(x).movedim(1, -1))
            return self.head(x.mean((1, 2)))

    torch.manual_seed(0)
    model = ChannelsLast()
    images, labels = torch.randn(20, 3, 8, 8), torch.arange(20) % 2
    acm = ActivationClusterMeasurement(model, images, labels)
    assert [stage.channels_last for stage in acm.stages] == [False, True]
    maps = model.block(model.embed(images).movedim(1, -1)).movedim(-1, 1)
    assert list(acm().values())[1] == pytest.approx(spatial_lda(ops.grid_pool(maps, 4), labels, 2), rel=1e-4)
    swin = torchvision.models.get_model("swin_t", weights=None)
    shown = find_stages(swin, images=torch.zeros(1, 3, 64, 64))
    assert [stage.channels_last for stage in shown] == [True, True, True, True, False]


def test_names_can_be_given_and_are_checked():
    model = create_model("resnet10", num_classes=3, width=8)
    stages = find_stages(model, {"early": ["stem", "layer1"], "late": "layer4"})
    assert [(s.name, s.modules) for s in stages] == [("early", ("stem", "layer1")), ("late", ("layer4",))]
    with pytest.raises(ValueError, match="no submodule 'layer9'"):
        find_stages(model, {"early": "layer9"})


def test_a_network_without_submodules_is_refused_with_advice():
    with pytest.raises(ValueError, match="pass stages="):
        find_stages(nn.Linear(3, 2))
