"""When checks are due: hand-counted steps, and a state that can be taken up again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pst_fast.pst.cadence import Cadence


def due(cadence: Cadence, steps: int) -> list[int]:
    return [cadence.steps for _ in range(steps) if cadence.step()]


def test_checks_are_an_interval_apart_until_a_share_of_the_steps_is_longer():
    assert due(Cadence(3, 2), 30) == [3, 6, 9, 13, 19, 28]
    assert due(Cadence(5), 22) == [5, 10, 15, 20]
    assert Cadence(3, 2).checks(30) == 6


def test_what_is_found_is_acted_on_at_the_check_after_those_of_patience():
    cadence = Cadence(3, patience=2)
    assert [cadence.confirms(found) for found in (True, True, False, True, True, True, True)] == [
        False, False, False, False, False, True, False,
    ]  # fmt: skip
    assert Cadence(3).confirms(True) and not Cadence(3).confirms(False)


def test_a_check_that_is_not_acted_on_brings_the_next_one_nearer_and_never_puts_it_off():
    cadence = Cadence(3, 2, patience=2)
    assert due(cadence, 19) == [3, 6, 9, 13, 19]  # the next is due at 28
    assert not cadence.confirms(True)
    assert due(cadence, 3) == [22]  # the next is due at 33
    assert not cadence.confirms(False)
    assert due(cadence, 10) == [] and due(cadence, 1) == [33]


@given(interval=st.integers(1, 20), growth=st.integers(1, 40), before=st.integers(0, 300))
def test_a_cadence_that_is_taken_up_again_goes_on_as_if_nothing_had_been(interval, growth, before):
    whole, first, second = (Cadence(interval, growth) for _ in range(3))
    expected = due(whole, before + 300)
    checks = due(first, before)
    second.load_state_dict(first.state_dict())
    assert checks + due(second, 300) == expected


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="growth: expected at least 1, got 0"):
        Cadence(1, 0)
    with pytest.raises(ValueError, match="patience: expected at least 0, got -1"):
        Cadence(1, patience=-1)
