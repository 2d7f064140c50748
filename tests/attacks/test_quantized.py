"""Banks while they are crafted: rounds, going back to one, and whole steps at the end, on device and disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast.attacks.integers import round_to_ball
from pst_fast.attacks.quantized import DeviceBank, MappedBank, QuantizedBank
from pst_fast.errors import InputError

SHAPE, EPSILON, CPU = (10, 4, 6, 3), 8 / 255, torch.device("cpu")


def make(kind: str, folder: Path) -> QuantizedBank:
    return DeviceBank(SHAPE, EPSILON, CPU) if kind == "device" else MappedBank(SHAPE, EPSILON, CPU, folder)


def begun(kind: str, folder: Path) -> QuantizedBank:
    bank = make(kind, folder)
    bank.begin()
    return bank


def noise(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(10, 3, 4, 6, generator=generator) * 2 - 1) * EPSILON


def write(bank: QuantizedBank, delta: torch.Tensor) -> None:
    order = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    for rows in order.split(4):
        bank.scatter_(rows, delta[rows])
    bank.end_round()


@pytest.mark.parametrize("kind", ["device", "mapped"])
def test_rounds(kind: str, tmp_path: Path) -> None:
    bank = begun(kind, tmp_path)
    assert not bank.gather(torch.arange(10)).any()
    for seed in range(3):
        write(bank, noise(seed))
        rows = torch.tensor([9, 0, 0])
        torch.testing.assert_close(bank.gather(rows), noise(seed)[rows], rtol=0, atol=EPSILON / 253)


@pytest.mark.parametrize("kind", ["device", "mapped"])
def test_going_back_to_the_last_round(kind: str, tmp_path: Path) -> None:
    bank = begun(kind, tmp_path)
    write(bank, noise(0))
    state = {key: value.clone() if torch.is_tensor(value) else value for key, value in bank.state().items()}
    expected = bank.gather(torch.arange(10))
    bank.scatter_(torch.arange(5), noise(1)[:5])  # a round that is cut short
    again = make(kind, tmp_path)
    again.restore(state)
    assert torch.equal(again.gather(torch.arange(10)), expected)
    write(again, noise(2))
    torch.testing.assert_close(again.gather(torch.arange(10)), noise(2), rtol=0, atol=EPSILON / 253)


@pytest.mark.parametrize("kind", ["device", "mapped"])
def test_steps_are_those_of_the_perturbations(kind: str, tmp_path: Path) -> None:
    bank = begun(kind, tmp_path)
    write(bank, noise(4))
    delta = bank.gather(torch.arange(10)).permute(0, 2, 3, 1).numpy()
    steps = np.asarray(bank.steps())
    assert steps.dtype == np.int8
    assert np.array_equal(steps, round_to_ball(delta, EPSILON))
    assert np.abs(steps).max() == 8


def test_a_damaged_file(tmp_path: Path) -> None:
    bank = begun("mapped", tmp_path)
    write(bank, noise(0))
    state = bank.state()
    path = tmp_path / f"bank-{state['turn']}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(InputError, match=r"bank-1\.npy: expected a whole \.npy file of int8"):
        make("mapped", tmp_path).restore(state)
    path.unlink()
    with pytest.raises(InputError, match=r"bank-1\.npy: expected an \.npy file, but there is none"):
        make("mapped", tmp_path).restore(state)
    np.save(path, np.zeros((3, 4, 6, 3), np.int8))
    with pytest.raises(InputError, match=r"expected int8 \[10, 4, 6, 3\], got \[3, 4, 6, 3\]"):
        make("mapped", tmp_path).restore(state)
