"""class_mean_step_: by hand, against its twin in fp64, what it leaves alone, and on bad input."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pst_fast import ops
from pst_fast.ops import reference
from tests.ops.helpers import LAYOUTS, REDUCED, lay_out, needs_native, not_simt, relative_error, threads

ULP = 1.2e-7
DENSE = LAYOUTS[:2]


def test_by_hand(device: torch.device) -> None:
    grad = torch.tensor([[1.0, -3.0, 2.0], [5.0, 5.0, 5.0], [2.0, 1.0, -2.0]], device=device)
    delta = torch.tensor([[0.0, 0.0, 0.25], [0.1, 0.2, 0.3], [0.0, -0.25, 0.0]], device=device)
    labels = torch.tensor([0, 2, 0], device=device)  # sums: [3, -2, 0] and [5, 5, 5]; nothing of class 1
    same = ops.class_mean_step_(
        delta.view(3, 1, 1, 3), grad.view(3, 1, 1, 3), labels, step_size=0.125, epsilon=0.25
    )
    assert same.data_ptr() == delta.data_ptr()
    kept = torch.tensor([0.1, 0.2, 0.3]).tolist()
    assert delta.tolist() == [[-0.125, 0.125, 0.25], kept, [-0.125, -0.25, -0.125]]


def test_writes_the_next_inputs(device: torch.device) -> None:
    x = torch.tensor([[0.5, 0.5], [1.0, 0.0]], device=device).view(2, 2, 1, 1)
    grad = torch.ones_like(x)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    mean, std = torch.tensor([0.5, 0.25], device=device), torch.tensor([0.5, 0.25], device=device)
    ops.class_mean_step_(
        torch.zeros(4, 2, 1, 1, device=device),
        grad,
        torch.tensor([3, 3], device=device),
        step_size=0.25,
        epsilon=1.0,
        ascend=True,
        x=x,
        mean=mean,
        std=std,
        out=out,
    )
    assert out.flatten().tolist() == [0.5, 2.0, 1.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 21),
    num_classes=st.integers(1, 6),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 17), st.integers(1, 17)),
    layouts=st.tuples(st.sampled_from(DENSE), *[st.sampled_from(LAYOUTS)] * 3),
    dtypes=st.tuples(*[st.sampled_from(REDUCED)] * 2),
    step_size=st.floats(0, 0.5, width=32),
    epsilon=st.floats(0, 1, width=32),
    ascend=st.booleans(),
    with_out=st.booleans(),
    normalise=st.booleans(),
    seed=st.integers(0, 999),
)
def test_agrees_with_twin(
    samples: int,
    num_classes: int,
    shape: tuple[int, ...],
    layouts: tuple[str, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    step_size: float,
    epsilon: float,
    ascend: bool,
    with_out: bool,
    normalise: bool,
    seed: int,
) -> None:
    options = {"step_size": step_size, "epsilon": epsilon, "ascend": ascend}
    _check("cpu", samples, num_classes, shape, layouts, dtypes, with_out, normalise, seed, options)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 37, 31), (5, 9, 11), (1500, 2, 2), (3, 1, 1)])
@pytest.mark.parametrize("num_classes", [3, 100])
@pytest.mark.parametrize("layouts", [*itertools.product(DENSE, DENSE), (DENSE[1], "strided")])
@pytest.mark.parametrize("dtype", REDUCED)
def test_training_sizes_agree_with_twin(
    device: torch.device,
    shape: tuple[int, ...],
    num_classes: int,
    layouts: tuple[str, str],
    dtype: torch.dtype,
) -> None:
    four = (*layouts, layouts[1], layouts[1])
    options = {"step_size": 0.1, "epsilon": 0.3, "ascend": True}
    _check(device, 65, num_classes, shape, four, (dtype, dtype), True, True, 7, options)


@pytest.mark.parametrize(
    ("samples", "num_classes", "shape"),
    [(65, 100, (3, 64, 64)), (4500, 2, (3, 2, 2)), (4500, 700, (3, 8, 8))],
)
@pytest.mark.parametrize("layouts", list(itertools.product(DENSE, DENSE)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_of_all_agree_with_twin(
    device: torch.device,
    samples: int,
    num_classes: int,
    shape: tuple[int, ...],
    layouts: tuple[str, str],
    dtype: torch.dtype,
) -> None:
    """Classes whose elements each have a warp of their own on CUDA, and more labels than a list holds."""
    four = (*layouts, layouts[1], layouts[1])
    options = {"step_size": 0.1, "epsilon": 0.3, "ascend": True}
    _check(device, samples, num_classes, shape, four, (dtype, dtype), False, False, 7, options)


def _check(
    device: torch.device | str,
    samples: int,
    num_classes: int,
    shape: tuple[int, ...],
    layouts: tuple[str, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    with_out: bool,
    normalise: bool,
    seed: int,
    options: dict[str, float],
) -> None:
    random = torch.Generator().manual_seed(seed)
    batch = (samples, *shape)
    labels = torch.randint(0, num_classes, (samples,), generator=random).to(device)
    values = (
        options["epsilon"] * (2 * torch.rand((num_classes, *shape), generator=random) - 1),
        # Many zeros, and sums that come out as zero.
        torch.randint(-3, 4, batch, generator=random).to(dtypes[0]) / 8,
        torch.rand(batch, generator=random),
        torch.zeros(batch, dtype=dtypes[1]),
    )
    delta, grad, x, out = (lay_out(v.to(device), layout) for v, layout in zip(values, layouts, strict=True))
    extra: dict[str, Tensor] = {}
    if with_out:
        extra["x"], extra["out"] = x, out
        if normalise:
            extra["mean"] = torch.rand(shape[0], generator=random).to(device)
            extra["std"] = torch.rand(shape[0], generator=random).to(device) + 0.5
    wide = {name: value.double() for name, value in extra.items()}
    before = delta.clone()
    exact = reference.class_mean_step_(delta.double(), grad.double(), labels, **options, **wide)  # type: ignore[arg-type]
    strides = delta.stride()
    assert ops.class_mean_step_(delta, grad, labels, **options, **extra) is delta  # type: ignore[arg-type]
    assert delta.stride() == strides
    absent = [k for k in range(num_classes) if k not in labels.tolist()]
    assert torch.equal(delta[absent], before[absent])
    assert (delta.double() - exact).abs().max() < ULP
    if with_out:
        bound = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtypes[1]]
        assert relative_error(out, wide["out"]) < bound


@not_simt
@needs_native
def test_sums_are_those_of_fp32_in_the_samples_order() -> None:
    """Terms that cancel but for rounding: the sign tells the order of addition."""
    grad = torch.randn(40, 3, 20, 20) * 10.0 ** torch.randint(-8, 8, (40, 1, 1, 1))
    labels = torch.arange(40) % 2
    grad[-2:] = 0
    for k in (0, 1):
        total = torch.zeros(3, 20, 20)
        for one in grad[labels == k]:
            total = total + one
        grad[38 + k] = -total
    delta = torch.zeros(2, 3, 20, 20)
    ops.class_mean_step_(delta, grad, labels, step_size=0.1, epsilon=1.0)
    assert not delta.any()


@needs_native
def test_threads_change_nothing() -> None:
    grad, labels = torch.randn(300, 3, 19, 21), torch.randint(0, 5, (300,))
    for layout in LAYOUTS:
        results = []
        for count in (1, 4):
            with threads(count):
                delta, x = torch.zeros(5, 3, 19, 21), torch.rand(300, 3, 19, 21).fill_(0.5)
                out = torch.empty_like(x)
                ops.class_mean_step_(
                    delta, lay_out(grad, layout), labels, step_size=0.1, epsilon=0.3, x=x, out=out
                )
                results.append((delta, out))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.gpu
def test_is_the_same_every_time_on_cuda() -> None:
    grad, labels = torch.randn(5000, 3, 32, 32).cuda(), torch.randint(0, 10, (5000,)).cuda()
    results = [
        ops.class_mean_step_(torch.zeros(10, 3, 32, 32).cuda(), grad, labels, step_size=0.1, epsilon=0.3)
        for _ in range(3)
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_labels_may_be_strided(device: torch.device) -> None:
    grad = torch.randn(8, 2, 3, 3, device=device)
    labels = torch.tensor([[0, 9], [1, 9]] * 4, device=device)[:, 0]
    options = {"step_size": 0.1, "epsilon": 0.3}
    x = torch.rand_like(grad)
    found, wanted = torch.empty_like(x), torch.empty_like(x)
    step = torch.zeros(2, 2, 3, 3, device=device)
    strided = ops.class_mean_step_(step, grad, labels, x=x, out=found, **options)
    dense = ops.class_mean_step_(
        torch.zeros_like(step), grad, labels.contiguous(), x=x, out=wanted, **options
    )
    assert torch.equal(strided, dense) and torch.equal(found, wanted)


GOOD = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"delta": GOOD.double()}, TypeError, "delta must be float32, got float64"),
        ({"delta": GOOD[0]}, ValueError, r"delta must be \[K, C, H, W\], got \[3, 4, 4\]"),
        ({"delta": GOOD[..., ::2]}, ValueError, "delta must be contiguous or channels_last, got strides"),
        ({"grad": GOOD.int()}, TypeError, "grad must be float32, bfloat16 or float16, got int32"),
        ({"grad": GOOD[:, :2]}, ValueError, r"grad must have the shape \[B, 3, 4, 4\] .* got \[2, 2, 4, 4\]"),
        ({"grad": GOOD.to("meta")}, ValueError, "grad must be on delta's device cpu, got meta"),
        ({"labels": torch.zeros(2)}, TypeError, "labels must be int64, got float32"),
        ({"labels": torch.tensor([0])}, ValueError, r"labels must have the shape \[2\]"),
        ({"labels": torch.tensor([0, 2])}, RuntimeError, r"labels must be in \[0, 2\), got 2"),
        ({"labels": torch.tensor([-1, 0])}, RuntimeError, r"labels must be in \[0, 2\), got -1"),
        ({"delta": GOOD[:0], "grad": GOOD[:0]}, ValueError, r"labels must have the shape \[0\]"),
        ({"x": GOOD}, ValueError, "got x without out"),
        ({"out": GOOD}, ValueError, "got out without x"),
        ({"x": GOOD.half(), "out": GOOD}, TypeError, "x must be float32, got float16"),
        ({"x": GOOD, "out": GOOD[:1]}, ValueError, r"out must have the shape \[2, 3, 4, 4\] of grad"),
        ({"mean": torch.zeros(3)}, ValueError, "mean normalises what goes to out, but out is None"),
        ({"std": torch.ones(2), "x": GOOD, "out": GOOD}, ValueError, r"std must have the shape \[3\]"),
        ({"epsilon": -0.1}, ValueError, "epsilon must be at least 0, got -0.1"),
        ({"step_size": float("nan")}, ValueError, "step_size must be at least 0, got nan"),
    ],
)
def test_refuses(changes: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"delta": GOOD.clone(), "grad": GOOD, "labels": torch.tensor([0, 1])}
    with pytest.raises(error, match=words):
        ops.class_mean_step_(**{**arguments, "step_size": 0.1, "epsilon": 0.1, **changes})  # type: ignore[arg-type]


def test_an_error_changes_nothing() -> None:
    delta = torch.zeros(2, 3, 4, 4)
    with pytest.raises(RuntimeError, match="labels must be"):
        ops.class_mean_step_(delta, GOOD + 1, torch.tensor([0, 2]), step_size=0.1, epsilon=0.1)
    assert not delta.any()


def test_refuses_a_leaf_that_requires_grad() -> None:
    delta = torch.zeros(2, 3, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf that requires grad"):
        ops.class_mean_step_(delta, GOOD, torch.tensor([0, 1]), step_size=0.1, epsilon=0.1)
