"""The inner loop: it changes the loss as asked, stays in the ball, and leaves the network alone."""

import pytest
import torch
import torch.nn.functional as F

from pst_fast.attacks.pgd import MEAN, STD, frozen, linf_pgd_, perturbed_inputs
from pst_fast.models import create_model


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=3, width=8, image_size=16)
    x = torch.rand(6, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    x[0] = 0
    x[1] = 1
    return model, x, torch.tensor([0, 1, 2, 0, 1, 2])


def loss_of(model, x, delta, labels):
    with torch.no_grad():
        return F.cross_entropy(model(perturbed_inputs(x, delta)), labels).item()


@pytest.mark.parametrize("ascend", [False, True])
def test_loss_moves_in_the_direction_asked_for(setting, ascend):
    model, x, labels = setting
    delta = torch.zeros_like(x)
    with frozen(model):
        losses = [loss_of(model, x, delta, labels)]
        for _ in range(4):
            linf_pgd_(model, x, delta, labels, steps=3, step_size=0.005, epsilon=0.05, ascend=ascend)
            losses.append(loss_of(model, x, delta, labels))
    assert losses == sorted(losses, reverse=not ascend)
    assert abs(losses[-1] - losses[0]) > 0.1


def test_stays_in_the_ball_and_in_the_image(setting):
    model, x, labels = setting
    delta = torch.zeros_like(x)
    with frozen(model):
        returned = linf_pgd_(model, x, delta, labels, steps=5, step_size=0.02, epsilon=0.03)
    assert returned is delta
    assert delta.abs().max() <= 0.03 + 1e-6
    assert (x + delta).min() >= 0
    assert (x + delta).max() <= 1
    assert delta[2:].abs().max() > 0.0299


def test_one_step_by_hand():
    # The loss is the input's first channel, whose gradient is positive: delta falls there, and there alone.
    model = torch.nn.Identity()
    x = torch.tensor([0.5, 0.01]).view(1, 1, 1, 2).expand(1, 3, 1, 2).clone()
    delta = torch.zeros_like(x)
    with frozen(model):
        linf_pgd_(
            model, x, delta, torch.zeros(1), steps=1, step_size=0.02, epsilon=0.1,
            loss=lambda outputs, labels: outputs[:, 0].sum(),
        )  # fmt: skip
    torch.testing.assert_close(delta[0, 0, 0], torch.tensor([-0.02, -0.01]))
    assert not delta[0, 1:].any()


def test_inputs_are_clamped_then_normalised():
    inputs = perturbed_inputs(torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.3]))
    torch.testing.assert_close(inputs, (torch.tensor([0.6, 1.0]) - MEAN) / STD)


def test_network_is_as_before(setting):
    model, x, labels = setting
    model.train()
    model.layer1.eval()
    model.fc.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        linf_pgd_(model, x, torch.zeros_like(x), labels, steps=2, step_size=0.01, epsilon=0.03)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.layer1.training
    assert not model.fc.weight.requires_grad
    assert model.fc.bias.requires_grad


def test_an_exception_thaws_the_network(setting):
    model = setting[0].train()
    with pytest.raises(RuntimeError, match="stop"), frozen(model):
        raise RuntimeError("stop")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
