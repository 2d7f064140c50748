"""AR: which processes are taken, what they leave in the images, rounding within the budget."""

import numpy as np
import pytest
import torch

from pst_fast.attacks.ar import draw_processes, responses
from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.integers import round_to_l2_ball
from pst_fast.ops.reference_ar import ar_process


def trial(coefficients: torch.Tensor, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(
        *coefficients.shape[:2], height + 4, width + 4, generator=generator, dtype=torch.float64
    )
    return ar_process(coefficients.double(), start)[..., 4:, 4:]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 9), (40, 64)])
def test_processes_neither_diverge_nor_die_out(height, width):
    coefficients = draw_processes(6, height, width, seed=1)
    assert coefficients.shape == (6, 3, 3, 3)
    assert coefficients.dtype == torch.float32
    assert not coefficients[..., 2, 2].any()
    torch.testing.assert_close(coefficients.sum((2, 3)), torch.ones(6, 3))
    whole = torch.stack([trial(coefficients, height, width, seed) for seed in range(20)])
    rms = whole.square().mean((0, 3, 4)).sqrt()
    corner = whole[..., height // 2 :, width // 2 :].square().mean((0, 3, 4)).sqrt()
    # Other patterns than those that they were taken for: hence some room.
    assert rms.max() < 2
    assert (corner / rms).min() > 0.25


def test_processes_tell_the_classes_apart():
    coefficients = draw_processes(12, 32, 32, seed=0)
    assert torch.equal(coefficients, draw_processes(12, 32, 32, seed=0))
    assert not torch.equal(coefficients, draw_processes(12, 32, 32, seed=1))
    answers = torch.stack([responses(coefficients.double(), p) for p in trial(coefficients, 32, 32, 0)])
    assert answers.diagonal().max() < 1e-6
    assert answers[~torch.eye(12, dtype=torch.bool)].min() > 0.3


def test_no_class():
    assert draw_processes(0, 32, 32, seed=0).shape == (0, 3, 3, 3)


def test_rounding_by_hand():
    # 25.5 * (0.6, 0.8, 0) is 15.3, 20.4, 0, which is 15, 20, 0 when rounded.
    delta = 0.1 * np.array([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]]).reshape(2, 1, 1, 3)
    # The other is 25.5, of which numpy makes 26: too much.
    assert round_to_l2_ball(delta, 0.1).reshape(2, 3).tolist() == [[15, 20, 0], [25, 0, 0]]


@pytest.mark.parametrize("epsilon", [0.004, 0.05, 1.0, 20.0])
def test_rounding_stays_within_the_budget(epsilon):
    delta = np.random.default_rng(0).standard_normal((50, 8, 8, 3))
    delta *= epsilon / np.sqrt(np.square(delta).sum((1, 2, 3), keepdims=True))
    norms = np.sqrt(np.square(round_to_l2_ball(delta, epsilon).astype(float)).sum((1, 2, 3))) / 255
    assert norms.max() <= epsilon
    if epsilon >= 1:
        assert norms.min() > 0.99 * epsilon


def test_a_pattern_a_sample_that_only_its_own_filters_miss(image_set, make_task):
    data = image_set(40, 32, 32, 10)
    steps = ATTACKS["ar"]().craft(make_task(data))
    assert len(np.unique(steps.reshape(40, -1), axis=0)) == 40
    coefficients = draw_processes(10, 32, 32, seed=0).double()
    patterns = torch.from_numpy(steps).double().permute(0, 3, 1, 2)
    best = torch.stack([responses(coefficients, pattern) for pattern in patterns]).argmin(1)
    assert (best.numpy() == data.labels).mean() > 0.9


def test_a_subset_gets_the_same_processes(image_set, make_task):
    data = image_set(30, 16, 16, 3)
    steps = ATTACKS["ar"]().craft(make_task(data))
    data.labels[15:] = (data.labels[15:] + 1) % 3
    again = ATTACKS["ar"]().craft(make_task(data))
    assert np.array_equal(steps[:15], again[:15])
    assert not np.array_equal(steps[15:], again[15:])
