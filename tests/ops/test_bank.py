"""quantize_bank_ and gather_bank: by hand, there and back, against their twins, and on bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pst_fast import ops
from pst_fast.ops import reference
from tests.ops.helpers import LAYOUTS, lay_out, needs_native, threads


def test_by_hand(device: torch.device) -> None:
    epsilon = 0.5
    delta = torch.tensor([0.0, 0.5, -0.5, 0.25, 2.0, -2.0, float("nan"), float("inf"), 1.4999 / 254])
    bank = torch.full((1, 1, 3, 3), 99, dtype=torch.int8, device=device)
    ops.quantize_bank_(bank, delta.view(1, 3, 3, 1).mT.to(device), epsilon=epsilon)
    # 0.25 is level 63.5, and ties go to even; the last is just below level 1.5.
    codes = [0, 127, -127, 64, 127, -127, 0, 127, 1]
    assert bank.view(3, 3).T.flatten().tolist() == codes
    found = ops.gather_bank(bank, epsilon=epsilon)
    assert found.shape == (1, 3, 1, 3)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.cpu().flatten(), torch.tensor(codes) / 254)


def test_rows(device: torch.device) -> None:
    bank = torch.zeros(4, 1, 1, 1, dtype=torch.int8, device=device)
    delta = torch.tensor([1.0, -1.0], device=device).view(2, 1, 1, 1)
    assert ops.quantize_bank_(bank, delta, epsilon=1.0, index=torch.tensor([2, 0], device=device)) is bank
    assert bank.flatten().tolist() == [-127, 0, 127, 0]
    rows = torch.tensor([0, 2, 2, 1], device=device)
    assert ops.gather_bank(bank, epsilon=1.0, index=rows).flatten().tolist() == [-1.0, 1.0, 1.0, 0.0]


def test_every_code_comes_back_and_stays_in_the_ball(device: torch.device) -> None:
    codes = torch.arange(-127, 128, dtype=torch.int8, device=device).view(1, 1, 85, 3)
    for epsilon in (8 / 255, 1 / 255, 16 / 255, 1 / 3, 1e-20, 1e20):
        delta = ops.gather_bank(codes, epsilon=epsilon)
        assert delta.abs().max() <= torch.tensor(epsilon)
        assert torch.equal(ops.quantize_bank_(torch.zeros_like(codes), delta, epsilon=epsilon), codes)


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 6),
    channels=st.sampled_from([1, 2, 3, 4]),
    height=st.integers(1, 9),
    width=st.integers(1, 19),
    epsilon=st.sampled_from([8 / 255, 0.1, 1.0]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 1000),
)
def test_equals_its_twin(
    rows: int, channels: int, height: int, width: int, epsilon: float, layout: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    delta = lay_out(epsilon * torch.randn(rows, channels, height, width, generator=generator), layout)
    bank = torch.randint(-128, 128, (7, height, width, channels), dtype=torch.int8, generator=generator)
    index = torch.randperm(7, generator=generator)[:rows]
    expected = reference.quantize_bank_(bank.clone(), delta, epsilon=epsilon, index=index)
    ops.quantize_bank_(bank, delta, epsilon=epsilon, index=index)
    assert (bank.int() - expected.int()).abs().max() <= 1  # 127 / epsilon is rounded in one and not the other
    assert (bank != expected).float().mean() < 0.001
    for picked in (None, index):
        found = ops.gather_bank(expected, epsilon=epsilon, index=picked)
        torch.testing.assert_close(found, reference.gather_bank(expected, epsilon=epsilon, index=picked))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_pixels_than_are_held_at_once_and_nan_of_any_bits(device: torch.device, layout: str) -> None:
    delta = 0.1 * torch.randn(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    bits = delta.view(torch.int32)
    bits[0, :, 7] = torch.arange(33, dtype=torch.int32) + 0x7FC00001
    bits[1, :, 30] = torch.arange(33, dtype=torch.int32) + 0x7F800001
    expected = (delta.double() * 127 / 0.1).nan_to_num(0.0).clamp(-127, 127).round().permute(0, 2, 3, 1)
    bank = torch.zeros(2, 40, 33, 3, dtype=torch.int8, device=device)
    found = ops.quantize_bank_(bank, lay_out(delta.to(device), layout), epsilon=0.1).cpu()
    assert (found[0, 7] == 0).all() and (found[1, 30] == 0).all()
    assert (found - expected).abs().max() <= 1 and (found != expected).float().mean() < 0.001


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(300, 3, 32, 32), (5, 3, 7, 5), (0, 3, 4, 4), (9, 1, 31, 33)])
def test_cuda_equals_cpu(layout: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    delta, index = lay_out(0.1 * torch.randn(shape), layout), torch.randperm(shape[0] + 3)[: shape[0]]
    bank = torch.zeros(shape[0] + 3, shape[2], shape[3], shape[1], dtype=torch.int8)
    on_cuda = lay_out(delta.cuda(), layout)
    found = ops.quantize_bank_(bank.cuda(), on_cuda, epsilon=0.1, index=index.cuda())
    ops.quantize_bank_(bank, delta, epsilon=0.1, index=index)
    assert torch.equal(found.cpu(), bank)
    gathered = ops.gather_bank(found, epsilon=0.1, index=index.cuda())
    assert torch.equal(gathered.cpu(), ops.gather_bank(bank, epsilon=0.1, index=index))


@needs_native
def test_threads_change_nothing() -> None:
    delta = torch.randn(200, 3, 24, 24)
    results = []
    for count in (1, 2):
        with threads(count):
            bank = torch.zeros(200, 24, 24, 3, dtype=torch.int8)
            results.append(ops.quantize_bank_(bank, delta, epsilon=1.0))
    assert torch.equal(*results)


def test_bad_input() -> None:
    bank, delta = torch.zeros(2, 4, 5, 3, dtype=torch.int8), torch.zeros(2, 3, 4, 5)
    with pytest.raises(TypeError, match="bank must be int8, got uint8"):
        ops.gather_bank(bank.byte(), epsilon=0.1)
    with pytest.raises(ValueError, match=r"bank must be \[N, H, W, C\] and contiguous, got \[2, 5, 4, 3\]"):
        ops.gather_bank(bank.transpose(1, 2), epsilon=0.1)
    with pytest.raises(ValueError, match="epsilon must be more than 0 and finite, got 0"):
        ops.gather_bank(bank, epsilon=0)
    with pytest.raises(TypeError, match="index must be int64, got int32"):
        ops.gather_bank(bank, epsilon=0.1, index=torch.tensor([0], dtype=torch.int32))
    with pytest.raises(RuntimeError, match=r"index must be in \[0, 2\), got -1"):
        ops.gather_bank(bank, epsilon=0.1, index=torch.tensor([-1]))
    with pytest.raises(TypeError, match="delta must be float32, got bfloat16"):
        ops.quantize_bank_(bank, delta.bfloat16(), epsilon=0.1)
    with pytest.raises(ValueError, match=r"delta must be \[1, 3, 4, 5\] for this bank, got \[2, 3, 4, 5\]"):
        ops.quantize_bank_(bank, delta, epsilon=0.1, index=torch.tensor([0]))
    with pytest.raises(RuntimeError, match=r"index must be in \[0, 2\), got 2"):
        ops.quantize_bank_(bank, delta[:1], epsilon=0.1, index=torch.tensor([2]))
