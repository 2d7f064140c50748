"""The measure: a hand-computed value, its invariances, and that a shortcut raises it."""

import pytest
import torch
from torch import nn

from pst_fast.pst import ActivationClusterMeasurement, spatial_lda


def test_hand_computed_value_in_one_dimension():
    # classes {0,2} and {10,12}: Sw = 1, Sb = 25, so 25 / (1 + 1e-3 * 1 + 1e-8) / (2 - 1)
    value = spatial_lda(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]), 2)
    assert value == pytest.approx(25 / 1.00100001, rel=1e-5)


def test_two_dimensions_against_the_formula():
    torch.manual_seed(0)
    x, y = torch.randn(60, 2, dtype=torch.float64), torch.arange(60) % 3
    x += y[:, None] * torch.tensor([1.0, -0.5])
    mean = x.mean(0)
    sb = sum((x[y == k].mean(0) - mean).outer(x[y == k].mean(0) - mean) * 20 for k in range(3)) / 60
    sw = (x - mean).T @ (x - mean) / 60 - sb
    # the ridge is a multiple of the identity, so the basis does not matter
    ridge = (1e-3 * sw.diagonal().mean() + 1e-8) * torch.eye(2, dtype=torch.float64)
    expected = torch.trace(torch.linalg.inv(sw + ridge) @ sb) / 2
    assert spatial_lda(x, y, 3) == pytest.approx(float(expected), rel=1e-4)


def test_shift_and_scale_do_not_change_it_and_more_features_than_samples_work():
    torch.manual_seed(1)
    x, y = torch.randn(40, 100), torch.arange(40) % 4
    value = spatial_lda(x, y, 4)
    assert spatial_lda(5 * x + 3, y, 4) == pytest.approx(value, rel=1e-3)
    assert spatial_lda(x[:, torch.randperm(100)], y, 4) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("dimensions", [50, 300])
def test_the_randomised_basis_is_as_good_as_the_exact_one(dimensions):
    """A decaying spectrum, as activations have, with the classes' means among the leading directions."""
    torch.manual_seed(4)
    spectrum = torch.arange(1, dimensions + 1) ** -0.5
    x, y = torch.randn(200, dimensions) * spectrum, torch.arange(200) % 5
    x += torch.randn(5, dimensions)[y] * spectrum
    basis = torch.linalg.svd(x - x.mean(0), full_matrices=False)[2][:32].T
    exact = spatial_lda((x - x.mean(0)) @ basis, y, 5)
    assert spatial_lda(x, y, 5) == pytest.approx(exact, rel=0.02)
    assert spatial_lda(x, y, 5) == spatial_lda(x, y, 5)


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def test_a_class_wise_pattern_raises_every_stage_and_the_model_is_left_as_it_was():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = torch.randn(80, 3, 12, 12), torch.arange(80) % 4
    patterns = torch.randn(4, 3, 12, 12)
    acm = ActivationClusterMeasurement(model, images, labels)
    plain, trapped = acm(), acm(images + patterns[labels])
    assert list(plain) == [stage.name for stage in acm.stages]
    assert all(trapped[name] > 2 * plain[name] for name in plain)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_batches_do_not_change_it():
    model = network()
    images, labels = torch.randn(30, 3, 12, 12), torch.arange(30) % 4
    whole = ActivationClusterMeasurement(model, images, labels)()
    parts = ActivationClusterMeasurement(model, images, labels, batch_size=7)()
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("batch_size", [7, 350])
def test_views_measured_together_have_the_values_that_each_has_alone(batch_size):
    model = network()
    images, labels = torch.randn(30, 3, 12, 12), torch.arange(30) % 4
    acm = ActivationClusterMeasurement(model, images, labels, batch_size=batch_size)
    views = [images, images.flip(3), 0.1 * images]
    together = acm.under(views)
    for found, view in zip(together, views, strict=True):
        assert found == pytest.approx(acm(view), rel=1e-4)
    assert len({tuple(found.values()) for found in together}) == 3
    assert acm.under([]) == [] and acm.under(views, depth=0) == [{}, {}, {}]


def test_views_share_the_passes_of_the_network():
    model = network()
    images, labels = torch.randn(30, 3, 12, 12), torch.arange(30) % 4
    passes: list[int] = []
    model[0].register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    for batch_size, expected in ((90, [60]), (59, [30, 30]), (20, [20, 10, 20, 10])):
        acm = ActivationClusterMeasurement(model, images, labels, batch_size=batch_size)
        passes.clear()
        acm.under([images, -images])
        assert passes == expected


def test_shallow_stages_are_measured_without_running_the_deep_ones():
    model = network()
    x, y = torch.randn(20, 3, 8, 8), torch.arange(20) % 2
    acm = ActivationClusterMeasurement(model, x, y, batch_size=7)
    whole, names = acm(), [stage.name for stage in acm.stages]
    ran: list[str] = []
    for stage in acm.stages:
        stage.output(model).register_forward_hook(lambda *_, name=stage.name: ran.append(name))
    assert acm(depth=1) == {names[0]: whole[names[0]]}
    assert ran == names[:1] * 3 and model.training
    assert acm(depth=0) == {}


def test_bf16_is_asked_of_the_network_alone():
    model = network()
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 2
    measures = [ActivationClusterMeasurement(model, x, y, bf16=bf16) for bf16 in (False, True)]
    kinds: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    exact, rounded = [measure() for measure in measures]
    assert kinds == [torch.float32, torch.bfloat16]
    assert list(rounded.values()) == pytest.approx(list(exact.values()), rel=0.05)


def test_another_measure_can_be_put_in():
    acm = ActivationClusterMeasurement(
        network(), torch.randn(8, 3, 12, 12), torch.arange(8) % 2, measure=lambda pooled, labels, k: float(k)
    )
    assert set(acm().values()) == {2.0}


def test_another_measure_may_leave_its_values_on_the_device(monkeypatch):
    reads = []
    monkeypatch.setattr(torch.Tensor, "__float__", lambda self: reads.append(self))
    images, labels = torch.randn(8, 3, 12, 12), torch.arange(8) % 2
    acm = ActivationClusterMeasurement(network(), images, labels, measure=lambda pooled, y, k: y.sum() + k)
    assert set(acm().values()) == {6.0}
    assert not reads


def test_tokens_are_pooled_along_their_order():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(x.flatten(2).transpose(1, 2)).mean(1))

    acm = ActivationClusterMeasurement(Tokens(), torch.randn(10, 3, 4, 4), torch.arange(10) % 2)
    assert list(acm()) == ["embed"]


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="differ in length: 4 and 3"):
        ActivationClusterMeasurement(network(), torch.randn(4, 3, 8, 8), torch.zeros(3).long())
    with pytest.raises(ValueError, match="at least two classes"):
        ActivationClusterMeasurement(network(), torch.randn(4, 3, 8, 8), torch.zeros(4).long())
