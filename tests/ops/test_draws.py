"""The draws: Philox against its published vectors, and the distributions."""

import itertools

import pytest
import torch

from pst_fast.ops import reference
from pst_fast.ops.reference_augment import ORDERS

COUNT = 40_000


@pytest.fixture(scope="module")
def drawn() -> reference.AugmentParameters:
    return reference.draw_parameters(
        COUNT,
        seed=20231,
        offset=7,
        padding=4,
        flip=True,
        brightness=0.4,
        contrast=1.5,
        saturation=0.2,
        hue=0.1,
        jitter_probability=0.8,
        grey_probability=0.2,
    )


def test_philox_known_answers() -> None:
    # Vectors of the Random123 distribution (kat_vectors, philox4x32-10): counter, key, result.
    zero, ones = torch.zeros(1, dtype=torch.int64), torch.full((1,), 0xFFFFFFFF)
    assert reference.philox(0, 0, zero, 0).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]
    assert reference.philox(-1, -1, ones, 0xFFFFFFFF).tolist() == [
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    ]
    pi = reference.philox(
        (0x299F31D0 << 32) | 0xA4093822,
        (0x85A308D3 << 32) | 0x243F6A88,
        torch.tensor([0x13198A2E]),
        0x03707344,
    )
    assert pi.tolist() == [[0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]]


def test_orders_are_all_permutations() -> None:
    assert sorted(ORDERS) == list(itertools.permutations(range(4)))


def test_shares(drawn: reference.AugmentParameters) -> None:
    # Five standard deviations of a share of COUNT samples.
    for flags, share in ((drawn.flip, 0.5), (drawn.jitter, 0.8), (drawn.grey, 0.2)):
        assert float(flags.double().mean()) == pytest.approx(
            share, abs=5 * (share * (1 - share) / COUNT) ** 0.5
        )


def test_windows_and_orders_are_uniform(drawn: reference.AugmentParameters) -> None:
    places = {order: place for place, order in enumerate(ORDERS)}
    orders = torch.tensor([places[tuple(order)] for order in drawn.order.tolist()])
    for values, kinds in ((drawn.top, 9), (drawn.left, 9), (orders, 24), (9 * drawn.top + drawn.left, 81)):
        counts = torch.bincount(values, minlength=kinds).double()
        assert counts.numel() == kinds
        expected = COUNT / kinds
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        # Mean kinds - 1, variance 2 (kinds - 1): six standard deviations.
        assert chi_square < kinds - 1 + 6 * (2 * (kinds - 1)) ** 0.5


def test_factors_are_uniform_and_uncorrelated(drawn: reference.AugmentParameters) -> None:
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]):
        unit = (drawn.factors[:, kind].double() - low) / (high - low)
        assert float(unit.min()) >= -1e-6 and float(unit.max()) <= 1 + 1e-6
        for power in range(1, 5):
            assert float((unit**power).mean()) == pytest.approx(1 / (power + 1), abs=0.01)
    columns = [drawn.top, drawn.left, drawn.flip, drawn.jitter, drawn.grey, *drawn.factors.unbind(1)]
    correlations = torch.corrcoef(torch.stack([column.double() for column in columns]))
    assert float((correlations - torch.eye(len(columns))).abs().max()) < 0.03


def test_batches_are_independent() -> None:
    one, other = (
        reference.draw_parameters(COUNT, seed=1, offset=offset, brightness=1.0) for offset in (0, 1)
    )
    pair = torch.stack([one.factors[:, 0], other.factors[:, 0]]).double()
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.03


def test_nothing_is_drawn_that_was_not_asked_for() -> None:
    drawn = reference.draw_parameters(100, seed=1, offset=2)
    assert not drawn.flip.any() and not drawn.grey.any() and not drawn.top.any() and not drawn.left.any()
    assert torch.equal(drawn.factors, torch.tensor([1.0, 1, 1, 0]).expand(100, 4))
