"""The choice of views, on measures like those in docs/method.md (stem and four layers)."""

import pytest

from pst_fast.defenses.pst_plus import choose
from pst_fast.defenses.views import STATIC_MIX, VIEWS

CONTENT = [0.25, 0.3, 0.4, 0.5, 0.7]


def measures(
    raw: float, grey: float = 1.0, grey_jpeg: float = 0.9, **trapped: float
) -> dict[str, list[float]]:
    """ACM by view as multiples of the content's; a view that is not named is at 1."""
    factors = {name: trapped.get(name.replace("-", "_"), 1.0) for name in VIEWS}
    factors |= {"raw": raw, "grey": grey, "grey-jpeg10": grey_jpeg}
    return {name: [factor * value for value in CONTENT] for name, factor in factors.items()}


def test_no_trap_means_the_static_mix():
    plan = choose(measures(raw=1.2))
    assert not plan.trapped and plan.mix == STATIC_MIX and plan.grey_probability == 0.7


def test_greyscale_is_taken_where_it_is_free_of_the_trap():
    plan = choose(measures(raw=6, median=5, blur=5, grey=1.0))
    assert plan.trapped and plan.grey_probability == 0.95 and plan.mix == STATIC_MIX


def test_else_the_views_free_of_the_trap_share_the_images():
    everything = {name.replace("-", "_"): 4.0 for name in VIEWS if not name.startswith("jpeg1")}
    plan = choose(measures(grey=4, **{**everything, "raw": 4.0}))
    assert plan.trapped
    assert plan.mix["jpeg10"] == pytest.approx(1, abs=1e-3)
    assert plan.grey_probability == pytest.approx(0, abs=1e-3)
    assert sum(plan.mix.values()) == pytest.approx(1)


def test_one_deep_stage_is_enough_and_other_depths_than_five_work():
    deep = measures(raw=1.0)
    deep["raw"][4] *= 2.1
    assert choose(deep).trapped
    for depths in (1, 2, 3):
        assert choose({name: values[:depths] for name, values in measures(raw=3).items()}).trapped
