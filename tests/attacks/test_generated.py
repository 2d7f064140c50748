"""DC and GUE: published settings, the generator, what their steps do, going on after a kill."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pst_fast.attacks import dc, gue
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.generator import Generator, create_generator
from pst_fast.attacks.pgd import perturbed_inputs
from pst_fast.attacks.surrogate import Surrogate
from pst_fast.attacks.warm_start import warm_start
from pst_fast.errors import InputError
from pst_fast.models import create_model


def test_paper_settings():
    assert ATTACKS["dc"].epsilon == 0.032
    assert (ATTACKS["dc"].recipes["paper"].trials, ATTACKS["dc"].recipes["paper"].generator_rate) == (
        500,
        1e-4,
    )
    assert ATTACKS["gue"].recipes["paper"].epochs == 50


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 3, 7, 9), (3, 3, 20, 13)])
def test_the_generator_keeps_shape_and_budget(shape):
    torch.manual_seed(0)
    generator = Generator(0.1, width=8)
    delta, context = generator.with_context(torch.rand(shape))
    assert delta.shape == shape
    assert delta.dtype == torch.float32
    assert 0.09 < delta.abs().max() <= 0.1
    assert context.shape == (shape[0], generator.context_size)


def test_the_generator_follows_from_the_seed(image_set, make_task):
    weights = [
        create_generator(make_task(image_set(), seed=seed), 0.1, 8).last[0].weight for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))


def test_dc_looks_through_a_step_of_the_network():
    """The loss is that of a network that has taken the step, and its gradient that of a finite difference."""
    network, x, labels = linear(), 0.1 + 0.8 * torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    delta = nn.ParameterList([(0.02 * torch.randn(6, 3, 4, 4))])

    class Fixed(nn.Module):
        def forward(self, x):
            return delta[0]

    stepped = linear()
    loss = F.cross_entropy(stepped(perturbed_inputs(x, delta[0].detach())), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in stepped.parameters():
            parameter -= 0.5 * parameter.grad
        expected = F.cross_entropy(stepped(perturbed_inputs(x, torch.zeros_like(x))), labels)
    found = dc.lost(network, Fixed(), x, labels, 0.5)
    torch.testing.assert_close(found, expected)
    (grad,) = torch.autograd.grad(found, delta[0])
    move = 1e-3 * grad.sign()
    with torch.no_grad():
        delta[0] += move
    after = dc.lost(network, Fixed(), x, labels, 0.5)
    assert (after - found).item() == pytest.approx((grad * move).sum().item(), rel=0.1)


def test_the_leader_loss_is_bounded_and_exact():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 5.0, 1.0]], dtype=torch.float32)
    labels = torch.tensor([0, 2])
    p = logits.softmax(1)[[0, 1], labels]
    assert gue.leader_loss(logits, labels).item() == pytest.approx(-torch.log(1 - p).mean().item(), rel=1e-5)
    far = torch.tensor([[-200.0, 200.0]])
    assert gue.leader_loss(far, torch.tensor([0])).item() == 0.0


def test_the_barrier_is_the_least_weight_that_shrinks_the_lag():
    along, back = [torch.tensor([1.0, 2.0])], [torch.tensor([2.0, 0.0])]
    assert gue.barrier_weight(along, back, 0.5) == 0, "the payoff shrinks it already: 2 / 4"
    against = [torch.tensor([-1.0, 2.0])]
    weight = gue.barrier_weight(against, back, 0.5)
    moved = against[0] + weight * back[0]
    assert (moved * back[0]).sum() == pytest.approx(0.5 * 4)


def test_a_reply_learns_and_leaves_the_network():
    network, x, labels = linear(), torch.rand(30, 3, 4, 4), torch.arange(30) % 3
    before = network[1].weight.clone()
    recipe = replace(ATTACKS["gue"].recipes["fast"], replies=5)
    reply = gue.best_reply(network, x, labels, recipe)
    assert torch.equal(network[1].weight, before)
    assert F.cross_entropy(reply(x), labels) < F.cross_entropy(network(x), labels)


def test_gue_moves_generator_and_network_towards_a_trap(image_set, make_task):
    """After some moves the follower knows the perturbed images better than the clean ones."""
    data = image_set(48, num_classes=2)
    task = make_task(data, epsilon=32 / 255)
    generator = ATTACKS["gue"]().train_generator(task, 32 / 255).eval()
    state = torch.load(task.folder / gue.STATE, weights_only=True)
    follower = create_model("resnet10", num_classes=2, width=8, image_size=16)
    follower.load_state_dict(state["follower"]["model"])
    x = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data.labels)
    follower.train()  # statistics of these very images
    with torch.no_grad():
        delta = generator(x)
        known, clean = (
            F.cross_entropy(follower(perturbed_inputs(x, change)), labels)
            for change in (delta, torch.zeros_like(x))
        )
    assert known < clean


def test_a_warm_start_writes_the_class_into_the_perturbation(image_set, make_task):
    """Random images of random labels: the mean perturbation of a class tells those of images held back."""
    data = image_set(64)
    task = make_task(data)
    x, labels = task.batch(slice(None))
    right = []
    for epochs in (0, 40):
        generator = create_generator(task, 8 / 255, 8)
        reader = Surrogate(task, learning_rate=0.05, momentum=0.9, weight_decay=0.0)
        warm_start(task, generator, reader, epochs, 16, 0.5)
        with torch.no_grad():
            delta = generator.train()(x).flatten(1)
        means = torch.stack([delta[:32][labels[:32] == k].mean(0) for k in (0, 1)])
        right.append((torch.cdist(delta[32:], means).argmin(1) == labels[32:]).float().mean().item())
    assert right[0] < 0.75, "as it starts it knows nothing"
    assert right[1] > 0.95


@pytest.mark.parametrize(
    ("name", "words"),
    [("dc", "trial 2"), ("gue", "batch 6"), ("dc", "warm start, batch 4"), ("gue", "warm start, batch 5")],
)
def test_a_killed_craft_goes_on_to_the_same_bytes(name, words, image_set, killed_and_resumed):
    killed_and_resumed(name, image_set(36), words)


@pytest.mark.parametrize("name", ["dc", "gue"])
def test_one_class(name, image_set, make_task):
    with pytest.raises(InputError, match="expected images of at least two classes, got one"):
        ATTACKS[name]().craft(make_task(image_set(8, num_classes=1)))
