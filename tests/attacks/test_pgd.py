"""The inner loop: it changes the loss as asked, stays in the ball, and fits its batches to the image."""

import pytest
import torch
import torch.nn.functional as F

from pst_fast.attacks.frozen import frozen
from pst_fast.attacks.pgd import L2PGD, MEAN, STD, LinfPGD, crafting_batch, perturbed_inputs
from pst_fast.attacks.transforms import contrastive, shift_and_flip
from pst_fast.models import create_model


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=3, width=8, image_size=16)
    x = torch.rand(6, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    x[0] = 0
    x[1] = 1
    return frozen(model), x, torch.tensor([0, 1, 2, 0, 1, 2])


def loss_of(model, x, delta, labels):
    with torch.no_grad():
        return F.cross_entropy(model(perturbed_inputs(x, delta)).float(), labels).item()


@pytest.mark.parametrize("ascend", [False, True])
def test_loss_moves_in_the_direction_asked_for(setting, ascend):
    model, x, labels = setting
    delta = torch.zeros_like(x)
    pgd = LinfPGD(model, step_size=0.005, epsilon=0.05, ascend=ascend)
    losses = [loss_of(model, x, delta, labels)]
    for _ in range(4):
        pgd.run_(x, delta, labels, steps=3)
        losses.append(loss_of(model, x, delta, labels))
    assert losses == sorted(losses, reverse=not ascend)
    assert abs(losses[-1] - losses[0]) > 0.1


def test_stays_in_the_ball_and_in_the_image(setting):
    model, x, labels = setting
    delta = torch.zeros_like(x)
    returned = LinfPGD(model, step_size=0.02, epsilon=0.03).run_(x, delta, labels, steps=5)
    assert returned is delta
    assert delta.abs().max() <= 0.03 + 1e-6
    assert (x + delta).min() >= 0
    assert (x + delta).max() <= 1
    assert delta[2:].abs().max() > 0.0299


@pytest.mark.parametrize("ascend", [False, True])
def test_in_an_l2_ball(setting, ascend):
    """Steps of a length: the loss moves as asked, to the ball's surface and within [0,1]."""
    model, x, labels = setting
    pgd = L2PGD(model, step_size=0.2, epsilon=0.5, ascend=ascend)
    delta = torch.zeros_like(x)
    before = loss_of(model, x, delta, labels)
    pgd.run_(x, delta, labels, steps=8)
    norms = delta.flatten(1).norm(dim=1)
    assert norms.max() <= 0.5 + 1e-5
    assert norms.max() > 0.49
    assert (x + delta).min() >= 0 and (x + delta).max() <= 1
    after = loss_of(model, x, delta, labels)
    assert after > before + 0.1 if ascend else after < before - 0.1


@pytest.mark.parametrize(("kind", "order"), [(LinfPGD, float("inf")), (L2PGD, 2)])
def test_starts_are_random_and_in_the_ball(setting, kind, order):
    model, x, _ = setting
    pgd = kind(model, step_size=0.0, epsilon=0.4)
    first, second = pgd.start(x), pgd.start(x)
    assert not torch.equal(first, second)
    norms = first.flatten(1).norm(p=order, dim=1)
    assert norms.min() > 0.2 and norms.max() <= 0.4 + 1e-5
    assert (x + first).min() >= 0 and (x + first).max() <= 1


def test_one_step_by_hand():
    # The loss is the input's first channel, whose gradient is positive: delta falls there, and there alone.
    x = torch.tensor([0.5, 0.01]).view(1, 1, 1, 2).expand(1, 3, 1, 2).clone()
    delta = torch.zeros_like(x)
    pgd = LinfPGD(
        torch.nn.Identity(),
        step_size=0.02,
        epsilon=0.1,
        loss=lambda outputs, labels: outputs[:, 0].sum(),
    )
    pgd.run_(x, delta, torch.zeros(1), steps=1)
    torch.testing.assert_close(delta[0, 0, 0], torch.tensor([-0.02, -0.01]))
    assert not delta[0, 1:].any()


def test_inputs_are_clamped_then_normalised():
    inputs = perturbed_inputs(torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.3]))
    torch.testing.assert_close(inputs.float(), (torch.tensor([0.6, 1.0]) - MEAN) / STD, rtol=8e-3, atol=0)


def test_batches_keep_the_pixels_within_the_cache(setting):
    cpu = torch.device("cpu")
    sizes = [crafting_batch(setting[0], side, side, cpu) for side in (16, 32, 64, 100, 224, 1024)]
    assert sizes == [512, 128, 32, 8, 8, 8]


@pytest.mark.gpu
def test_replayed_steps_are_the_eager_ones(setting):
    device = torch.device("cuda")
    model, x, labels = (part.to(device) for part in setting)
    model = frozen(model)
    pgd = LinfPGD(model, step_size=0.005, epsilon=0.03)
    for batch in (x, x.flip(0), x[:4]):
        delta, inputs = torch.zeros_like(batch), perturbed_inputs(batch, torch.zeros_like(batch))
        for _ in range(3):
            pgd.step_(batch, delta, labels[: len(batch)], inputs)
        replayed = pgd.run_(batch, torch.zeros_like(batch), labels[: len(batch)], steps=3)
        torch.testing.assert_close(replayed, delta)


@pytest.mark.gpu
@pytest.mark.parametrize("transform", [shift_and_flip, contrastive(0.6)])
def test_random_views_are_drawn_anew_in_each_replay(setting, transform):
    device = torch.device("cuda")
    _, x, labels = (part.to(device) for part in setting)
    seen = []

    def watched(inputs):
        view = transform(inputs)
        seen.append(view)  # the graph's own memory: its last replay's views
        return view

    pgd = LinfPGD(frozen(setting[0].to(device)), step_size=0.0, epsilon=0.03, transform=watched)
    views = []
    for _ in range(3):
        pgd.run_(x, torch.zeros_like(x), labels, steps=1)
        views.append(seen[-1].clone())
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])


@pytest.mark.gpu
def test_batches_fit_the_memory(setting):
    device = torch.device("cuda")
    batch = crafting_batch(frozen(setting[0].to(device)), 16, 16, device)
    assert batch == 1024  # a tiny network on any GPU
