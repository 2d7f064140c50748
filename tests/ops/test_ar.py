"""ar_perturbation: by hand, its noise, against its twin in fp64, subsets, divergence, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pst_fast import ops
from pst_fast.ops import reference
from pst_fast.ops.reference_ar import ar_process, start_noise
from tests.ops.helpers import needs_native, not_simt, relative_error, threads

SIZE = {"height": 6, "width": 5, "epsilon": 1.0, "seed": 3}


def processes(num_classes: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Coefficients of absolute sum 1.1, about where processes begin to grow."""
    drawn = torch.randn(num_classes, channels, 9, generator=torch.Generator().manual_seed(seed))
    return (1.1 * drawn / drawn[..., :8].abs().sum(-1, keepdim=True)).view(num_classes, channels, 3, 3)


def test_process_by_hand() -> None:
    taps = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, math.nan]])
    start = torch.tensor([[1.0, 0, 2, 1], [0, 1, 0, 1], [1, 1, math.nan, math.nan]])
    # 1*1 + 2*0 + 3*2 + 4*0 + 5*1 + 6*0 + 7*1 + 8*1; 1*0 + 2*2 + 3*1 + 4*1 + 5*0 + 6*1 + 7*1 + 8*27
    assert ar_process(taps, start)[2].tolist() == [1, 1, 27, 240]


def test_every_value_follows_from_the_eight_before_it(device: torch.device) -> None:
    coefficients = processes(2)
    labels = torch.tensor([1, 0, 1])
    out = ops.ar_perturbation(
        coefficients.to(device), labels.to(device), height=20, width=17, epsilon=2.5, seed=1
    ).cpu()
    assert out.shape == (3, 20, 17, 3)
    assert out.is_contiguous()
    torch.testing.assert_close(out.square().sum((1, 2, 3)).sqrt(), torch.full((3,), 2.5))
    for sample, label in zip(out.permute(0, 3, 1, 2), labels.tolist(), strict=True):
        windows = sample.unfold(1, 3, 1).unfold(2, 3, 1)  # [3, 18, 15, 3, 3]
        weights = coefficients[label].clone()
        weights[:, 2, 2] = -1
        assert torch.einsum("cyxij,cij->cyx", windows, weights).abs().max() < 1e-6


def test_noise_is_standard_normal() -> None:
    noise = start_noise(torch.arange(2000), 3, 6, 6, 9)
    values = torch.cat([noise[:, :, :2].flatten(1), noise[:, :, 2:, :2].flatten(1)], dim=1)
    assert values.mean().abs() < 0.01
    assert (values.var() - 1).abs() < 0.02
    assert (values.pow(4).mean() - 3).abs() < 0.1
    correlation = torch.corrcoef(values.T) - torch.eye(values.shape[1])
    assert correlation.abs().max() < 0.12  # 5 standard deviations
    assert not noise[:, :, 2:, 2:].any()


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 20),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    crop=st.integers(0, 5),
    num_classes=st.integers(1, 5),
    seed=st.integers(-(2**63), 2**63 - 1),
    epsilon=st.sampled_from([1e-3, 1.0, 30.0]),
    is_indexed=st.booleans(),
)
def test_equals_its_twin_in_fp64(
    samples: int,
    channels: int,
    height: int,
    width: int,
    crop: int,
    num_classes: int,
    seed: int,
    epsilon: float,
    is_indexed: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed % 1000)
    coefficients = processes(num_classes, channels, seed % 1000)
    labels = torch.randint(0, num_classes, (2 * samples,), generator=generator)[::2]
    index = torch.randint(-(2**62), 2**62, (2 * samples,), generator=generator)[1::2] if is_indexed else None
    options = {
        "height": height,
        "width": width,
        "epsilon": epsilon,
        "seed": seed,
        "crop": crop,
        "index": index,
    }
    found = ops.ar_perturbation(coefficients, labels, **options)
    expected = reference.ar_perturbation(coefficients.double(), labels, **options)
    assert expected.dtype == torch.float64
    assert found.shape == (samples, height, width, channels)
    assert relative_error(found, expected) < 2e-5


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape",
    [(50, 32, 32, 3), (9, 7, 5, 1), (3, 1, 1, 2), (0, 4, 4, 3), (5, 70, 33, 5), (2, 224, 224, 3)],
    ids=str,
)
@pytest.mark.parametrize("crop", [0, 1, 4])
def test_equals_its_twin_on_cuda(shape: tuple[int, ...], crop: int) -> None:
    samples, height, width, channels = shape
    coefficients, labels = processes(7, channels), torch.arange(samples) % 7
    options = {"height": height, "width": width, "epsilon": 1.0, "seed": 5, "crop": crop}
    found = ops.ar_perturbation(coefficients.cuda(), labels.cuda(), **options)
    assert relative_error(found, reference.ar_perturbation(coefficients.double(), labels, **options)) < 2e-5


def test_a_sample_depends_on_its_index_alone(device: torch.device) -> None:
    coefficients = processes(3).to(device)
    labels = (torch.arange(21) % 3).to(device)
    everything = ops.ar_perturbation(coefficients, labels, **SIZE)
    rows = torch.tensor([20, 3, 4, 3], device=device)
    some = ops.ar_perturbation(coefficients, labels[rows], index=rows, **SIZE)
    assert torch.equal(some, everything[rows])
    other = ops.ar_perturbation(coefficients, labels, **(SIZE | {"seed": 4}))
    assert not torch.isclose(everything, other).all(-1).any()


@needs_native
def test_threads_change_nothing() -> None:
    coefficients, labels = processes(3), torch.arange(100) % 3
    with threads(1):
        alone = ops.ar_perturbation(coefficients, labels, **SIZE)
    with threads(2):
        together = ops.ar_perturbation(coefficients, labels, **SIZE)
    assert torch.equal(alone, together)


@not_simt
@pytest.mark.parametrize("factor", [1e6, math.nan, 0.0], ids=["diverges", "nan", "dies out"])
def test_a_process_without_a_norm(factor: float) -> None:
    coefficients = processes(3)
    coefficients[1] *= factor
    options = SIZE | {"height": 24}
    labels = torch.tensor([0, 2, 1, 0])
    with pytest.raises(RuntimeError, match="the process of class 1 diverges or dies out on 24x5 pixels"):
        ops.ar_perturbation(coefficients, labels, **options)
    assert ops.ar_perturbation(coefficients, labels[:2], **options).isfinite().all()


@pytest.mark.gpu
def test_a_process_without_a_norm_is_nan_on_cuda() -> None:
    coefficients = processes(3)
    coefficients[1] *= 1e6
    labels = torch.tensor([0, 1, 2])
    out = ops.ar_perturbation(coefficients.cuda(), labels.cuda(), **(SIZE | {"height": 24}))
    assert out.isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert out[::2].isfinite().all()


def test_values_whose_squares_overflow_fp32() -> None:
    coefficients = torch.zeros(1, 1, 3, 3)
    coefficients[..., 2, 1] = 1e10  # each value is 1e10 times the one to its left
    labels = torch.zeros(2, dtype=torch.int64)
    options = {"height": 3, "width": 4, "epsilon": 1.0, "seed": 0, "crop": 0}
    found = ops.ar_perturbation(coefficients, labels, **options)
    expected = reference.ar_perturbation(coefficients.double(), labels, **options)
    torch.testing.assert_close(found, expected.float())


def test_bad_input() -> None:
    coefficients, labels = processes(2), torch.tensor([0, 1])
    run = ops.ar_perturbation
    with pytest.raises(TypeError, match="coefficients must be float32, got float64"):
        run(coefficients.double(), labels, **SIZE)
    with pytest.raises(ValueError, match=r"coefficients must be \[K, C, 3, 3\], got \[2, 3, 9\]"):
        run(coefficients.flatten(2), labels, **SIZE)
    with pytest.raises(ValueError, match=r"coefficients must be \[K, C, 3, 3\], got \[0, 3, 3, 3\]"):
        run(coefficients[:0], labels, **SIZE)
    with pytest.raises(TypeError, match="labels must be int64, got int32"):
        run(coefficients, labels.int(), **SIZE)
    with pytest.raises(ValueError, match=r"labels must be \[N\], got \[1, 2\]"):
        run(coefficients, labels[None], **SIZE)
    with pytest.raises(TypeError, match="index must be int64, got float32"):
        run(coefficients, labels, index=labels.float(), **SIZE)
    with pytest.raises(ValueError, match=r"index must have the shape \[2\] of labels, got \[1\]"):
        run(coefficients, labels, index=labels[:1], **SIZE)
    with pytest.raises(RuntimeError, match=r"labels must be in \[0, 2\), got 2"):
        run(coefficients, labels + 1, **SIZE)
    for name, value, words in (
        ("height", 0, "height must be between 1 and 16384, got 0"),
        ("width", 16385, "width must be between 1 and 16384, got 16385"),
        ("crop", -1, "crop must be between 0 and 16384, got -1"),
        ("epsilon", 0.0, "epsilon must be more than 0, and finite, got 0.0"),
        ("epsilon", math.inf, "epsilon must be more than 0, and finite, got inf"),
        ("seed", 2**63, "seed must fit 64 bits with sign"),
    ):
        with pytest.raises(ValueError, match=words):
            run(coefficients, labels, **(SIZE | {name: value}))
