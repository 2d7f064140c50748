"""The L-infinity and L2 steps against hand-computed values, their twins in fp64, and what they promise."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pst_fast import ops
from pst_fast.ops import reference
from tests.ops.helpers import LAYOUTS, REDUCED, lay_out, relative_error, threads

few = settings(max_examples=25, deadline=None)
ULP = 1.2e-7  # of numbers up to 1 in fp32: delta is a difference of two of them
STEPS = ("linf_step", "l2_step")

images = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 17), st.integers(1, 17))


def pixels(*values: float, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, 1, 1, -1)


def test_linf_by_hand(device: torch.device) -> None:
    delta = pixels(0.0, 0.0, 0.0, 0.2, 0.1, 0.0, device=device)
    grad = pixels(3.0, -5.0, 0.0, -1.0, -9.0, 1.0, device=device)
    x = pixels(0.5, 0.5, 0.5, 0.5, 0.875, 0.0625, device=device)
    # Against the gradient's sign; not at all; stopped by the ball (.25); by white; by black.
    expected = [-0.125, 0.125, 0.0, 0.25, 0.125, -0.0625]
    new = ops.linf_step(delta, grad, x, step_size=0.125, epsilon=0.25)
    assert new.flatten().tolist() == pytest.approx(expected, abs=ULP)
    assert delta[0, 0, 0, 3].item() == pytest.approx(0.2)
    ascended = ops.linf_step(delta, grad, x, step_size=0.125, epsilon=0.25, ascend=True)
    assert ascended.flatten().tolist() == pytest.approx([0.125, -0.125, 0, 0.075, -0.025, 0.125], abs=ULP)


def test_l2_by_hand(device: torch.device) -> None:
    x = torch.full((3, 1, 1, 2), 0.5, device=device)
    grad = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]], device=device).view_as(x)
    delta = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.03, 0.04]], device=device).view_as(x)
    new = ops.l2_step_(delta, grad, x, step_size=0.1, epsilon=0.1, ascend=True)
    assert new is delta
    expected = [0.06, 0.08, 0.1, 0.0, 0.06, 0.08]  # a step; no gradient, no move; scaled back to .1
    assert new.flatten().tolist() == pytest.approx(expected, abs=ULP)


def test_writes_the_network_input(device: torch.device) -> None:
    x = torch.full((1, 2, 1, 1), 0.5, device=device)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    mean, std = torch.tensor([0.5, 0.25], device=device), torch.tensor([0.5, 0.25], device=device)
    ops.linf_step_(
        torch.zeros_like(x), -torch.ones_like(x), x, step_size=0.25, epsilon=1.0, mean=mean, std=std, out=out
    )
    assert out.flatten().tolist() == [0.5, 2.0]


@pytest.mark.parametrize("name", STEPS)
@few
@given(
    shape=images,
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 4),
    dtypes=st.tuples(*[st.sampled_from(REDUCED)] * 2),
    step_size=st.floats(0, 0.5, width=32),
    epsilon=st.floats(0, 1, width=32),
    ascend=st.booleans(),
    normalise=st.booleans(),
    seed=st.integers(0, 999),
)
def test_agrees_with_twin(
    name: str,
    shape: tuple[int, ...],
    layouts: tuple[str, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    step_size: float,
    epsilon: float,
    ascend: bool,
    normalise: bool,
    seed: int,
) -> None:
    _check(name, "cpu", shape, layouts, dtypes, step_size, epsilon, ascend, normalise, seed)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 3, 70, 70), (2, 5, 9, 11), (3, 1500, 2, 2)])
@pytest.mark.parametrize("layouts", [("contiguous",) * 4, ("channels_last",) * 4, LAYOUTS + LAYOUTS[:1]])
@pytest.mark.parametrize("dtype", REDUCED)
def test_training_sizes_agree_with_twin(
    device: torch.device, name: str, shape: tuple[int, ...], layouts: tuple[str, ...], dtype: torch.dtype
) -> None:
    _check(name, device, shape, layouts, (dtype, dtype), 0.1, 0.3, True, True, 7)


def _check(
    name: str,
    device: torch.device | str,
    shape: tuple[int, ...],
    layouts: tuple[str, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    step_size: float,
    epsilon: float,
    ascend: bool,
    normalise: bool,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    draws = [torch.rand(shape, generator=random) for _ in range(3)]
    values = (
        0.1 * (draws[0] - 0.5),
        (draws[1] - 0.5).to(dtypes[0]),
        draws[2],
        torch.zeros(shape, dtype=dtypes[1]),
    )
    delta, grad, x, out = (lay_out(v.to(device), layout) for v, layout in zip(values, layouts, strict=True))
    mean = std = None
    if normalise:
        mean = torch.rand(shape[1], generator=random).to(device)
        std = torch.rand(shape[1], generator=random).to(device) + 0.5
    options = {"step_size": step_size, "epsilon": epsilon, "ascend": ascend}
    exact_out = torch.empty(shape, dtype=torch.float64, device=device)
    exact = getattr(reference, name)(
        delta.double(),
        grad.double(),
        x.double(),
        mean=None if mean is None else mean.double(),
        std=None if std is None else std.double(),
        out=exact_out,
        **options,
    )
    before = delta.clone()
    new = getattr(ops, name)(delta, grad, x, mean=mean, std=std, out=out, **options)
    assert torch.equal(delta, before)
    assert new.stride() == torch.empty_like(delta).stride()
    bound = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtypes[1]]
    assert relative_error(out, exact_out) < bound
    if exact.numel():
        assert (new.double() - exact).abs().max() < ULP
    same = getattr(ops, name + "_")(delta, grad, x, mean=mean, std=std, out=out, **options)
    assert same is delta
    assert torch.equal(delta, new)


@pytest.mark.parametrize(("name", "norm"), [("linf_step_", float("inf")), ("l2_step_", 2)])
def test_stays_in_the_ball_and_the_image(device: torch.device, name: str, norm: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 3, 12, 12, device=device)
    delta = torch.zeros_like(x)
    for _ in range(12):
        getattr(ops, name)(delta, torch.randn_like(x), x, step_size=0.2, epsilon=0.1)
        assert float(torch.linalg.vector_norm(delta.flatten(1), norm, dim=1).max()) < 0.1 + 1e-6
        assert float((x + delta).min()) >= 0 and float((x + delta).max()) <= 1


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e25])
def test_l2_direction_survives_extreme_gradients(device: torch.device, scale: float) -> None:
    # In fp32 the squares of these underflow to zero, or overflow.
    grad = torch.tensor([3.0, 4.0], device=device).view(1, 1, 1, 2) * scale
    x = torch.full_like(grad, 0.5)
    new = ops.l2_step(torch.zeros_like(x), grad, x, step_size=0.1, epsilon=1.0)
    if ops.is_native(device):
        assert new.flatten().tolist() == pytest.approx([-0.06, -0.08], abs=ULP)


def test_is_the_same_for_any_number_of_threads() -> None:
    x, grad = torch.rand(33, 3, 19, 21), torch.randn(33, 3, 19, 21)
    for name, layout in itertools.product(STEPS, LAYOUTS):
        results = []
        for count in (1, 4):
            with threads(count):
                delta = lay_out(0.1 * (x - 0.5), layout)
                results.append(getattr(ops, name)(delta, grad, x, step_size=0.1, epsilon=0.3))
        assert torch.equal(*results)


GOOD = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize("name", [*STEPS, "linf_step_", "l2_step_"])
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"delta": GOOD.bfloat16()}, TypeError, "delta must be float32, got bfloat16"),
        ({"delta": GOOD[0]}, ValueError, r"delta must be \[N, C, H, W\], got \[3, 4, 4\]"),
        ({"grad": GOOD.double()}, TypeError, "grad must be float32, bfloat16 or float16, got float64"),
        ({"grad": GOOD[:, :2]}, ValueError, r"grad must have the shape \[2, 3, 4, 4\] .* got \[2, 2, 4, 4\]"),
        ({"x": GOOD.half()}, TypeError, "x must be float32, got float16"),
        ({"x": GOOD.to("meta")}, ValueError, "x must be on delta's device cpu, got meta"),
        ({"out": GOOD.int()}, TypeError, "out must be float32, bfloat16 or float16, got int32"),
        ({"mean": torch.zeros(3)}, ValueError, "mean normalises what goes to out, but out is None"),
        ({"mean": torch.zeros(2), "out": GOOD}, ValueError, r"mean must have the shape \[3\]"),
        ({"std": torch.ones(3).double(), "out": GOOD}, TypeError, "std must be float32, got float64"),
        ({"epsilon": -0.1}, ValueError, "epsilon must be at least 0, got -0.1"),
        ({"step_size": float("nan")}, ValueError, "step_size must be at least 0, got nan"),
    ],
)
def test_refuses(name: str, changes: dict[str, object], error: type[Exception], words: str) -> None:
    arguments = {"delta": GOOD, "grad": GOOD, "x": GOOD, "step_size": 0.1, "epsilon": 0.1} | changes
    with pytest.raises(error, match=words):
        getattr(ops, name)(**arguments)


def test_refuses_a_leaf_that_requires_grad() -> None:
    delta = torch.zeros(1, 3, 2, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf that requires grad"):
        ops.linf_step_(delta, delta.detach(), delta.detach(), step_size=0.1, epsilon=0.1)
    with torch.no_grad():
        ops.linf_step_(delta, torch.ones_like(delta), delta + 0.5, step_size=0.1, epsilon=0.1)
    assert delta.min() < 0
