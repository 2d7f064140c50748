"""pst-plus: when it checks, how it tells a trap, under what it goes on, and what it goes back to."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pst_fast.defenses.ladder import GREY, JPEG, MEDIAN, MILD, RAW, SMOOTH, STAGES, Sign, next_stage
from pst_fast.defenses.pst_plus import PSTPlus
from pst_fast.manifest import read_manifest
from pst_fast.models import create_model
from pst_fast.ops import View
from pst_fast.pst import find_stages
from pst_fast.train.augmentation import COLOUR, PLAIN
from pst_fast.train.averaging import Averaged
from pst_fast.train.following import Following
from tests.train.test_trainer import run, settings

CALM = (0.3, 0.4, 0.5, 0.6, 0.7)
Values = dict[View, tuple[float, ...]]


def measure_of(values: Values):
    """ACM by depth as a test sets it; CALM where it does not."""
    return lambda view: list(values.get(view, CALM))


def times(factor: float, *, at: int | None = None) -> tuple[float, ...]:
    """CALM, a multiple of it at one depth or at all."""
    return tuple(value * (factor if at in (None, depth) else 1) for depth, value in enumerate(CALM))


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize(("floor", "limit"), [(MILD, 1.4), (MEDIAN, 1.8), (GREY, 2.0)])
def test_a_trap_is_a_measure_that_falls_too_far_at_any_depth(floor, limit, depth):
    for factor, trapped in ((limit * 0.99, []), (limit * 1.01, [depth])):
        measures = {view: times(factor) for view in (RAW, MILD, MEDIAN, GREY)}  # all alike but for one
        measures[floor] = tuple(v / (factor if d == depth else 1) for d, v in enumerate(times(factor)))
        assert STAGES[0].trapped(measure_of(measures)) == trapped


def test_of_several_floors_the_least_counts_at_each_depth():
    sign = Sign(RAW, (JPEG, SMOOTH), 1.5)
    measures = {RAW: (2.0, 2.0, 2.0), JPEG: (2.0, 1.0, 1.4), SMOOTH: (2.0, 3.0, 1.4)}
    assert sign.depths(lambda view: measures[view]) == [1]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({RAW: times(4)}, "grey"),  # greyscale is free
        ({RAW: times(4), MILD: times(4), MEDIAN: times(4)}, "grey"),  # which others need not be
        ({RAW: times(4), GREY: times(4)}, "jpeg"),  # JPEG is, greyscale is not
        ({RAW: times(4), GREY: times(4, at=4)}, "jpeg"),  # one depth is enough
        ({RAW: times(4), GREY: times(4), MEDIAN: times(4), SMOOTH: times(2)}, "jpeg"),
        ({RAW: times(4), GREY: times(4), JPEG: times(4)}, "smooth"),  # only low frequencies are free
        ({RAW: times(4), GREY: times(4), JPEG: times(4), SMOOTH: times(4)}, "jpeg-grey"),  # the median is
        ({RAW: times(4), GREY: times(1.45)}, "jpeg"),  # a trace is enough
        ({RAW: times(4), GREY: times(1.35)}, "grey"),
    ],
)
def test_the_first_stage_that_is_free_of_the_trap_comes_next(values, name):
    assert STAGES[next_stage(STAGES, 0, measure_of(values))].name == name


def test_stages_get_stronger_and_end_with_one_that_nothing_follows():
    assert [stage.name for stage in STAGES] == ["plain", "grey", "jpeg", "smooth", "jpeg-grey"]
    assert STAGES[0].augmentation == PLAIN and not STAGES[0].mix and STAGES[0].following is None
    assert all(sum(stage.mix.values()) == pytest.approx(1) for stage in STAGES[1:])
    everything = measure_of(dict.fromkeys((RAW, GREY, JPEG, SMOOTH), times(9)))
    assert next_stage(STAGES, 3, everything) == 4 and STAGES[4].trapped(everything) == []
    assert next_stage(STAGES, 4, everything) == 4


def make() -> tuple[PSTPlus, nn.Module, Values]:
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=3, width=8, image_size=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    acm = SimpleNamespace(stages=find_stages(model))
    defense, values = PSTPlus(), {}
    defense.start(SimpleNamespace(averaged=Averaged(model, 0.0), optimizer=optimizer, acm=acm))
    defense._measure = measure_of(values)
    return defense, model, values


def walk(defense: PSTPlus, model: nn.Module, steps: int) -> None:
    """Steps that leave their number in a weight."""
    for _ in range(steps):
        with torch.no_grad():
            model.fc.bias.fill_(defense._cadence.steps + 1)
        defense.after_step()


def test_checks_come_every_thirteen_steps_and_then_after_an_eighth_of_the_steps_so_far(monkeypatch):
    defense, model, _ = make()
    seen: list[int] = []
    monkeypatch.setattr(defense, "_check", lambda: seen.append(defense._cadence.steps))
    walk(defense, model, 500)
    assert seen[:9] == [13, 26, 39, 52, 65, 78, 91, 104, 117]
    assert seen[-3:] == [372, 418, 470] and len(seen) == 21


def test_without_a_trap_it_is_plain_training():
    defense, model, _ = make()
    walk(defense, model, 200)
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    assert defense.events == [] and defense.augmentation() == PLAIN
    assert defense.view(images, 0, 0) is images
    assert defense.following() is None


def test_a_trap_goes_back_to_the_calm_check_before_the_last_and_on_under_another_view():
    defense, model, values = make()
    walk(defense, model, 70)
    values[RAW] = times(4, at=2)
    walk(defense, model, 8)
    (event,) = defense.events
    assert (event.step, event.kind, event.stages) == (78, "view", ("layer2",))
    assert event.words == "trapped: went back, and on under 'grey'"
    # calm checks were at 52 and 65
    assert PSTPlus.rollback == 2 and torch.equal(model.fc.bias, torch.full((3,), 52.0))
    images = torch.randint(256, (40, 16, 16, 3), dtype=torch.uint8)
    assert defense.augmentation().grey_probability == 0.95
    assert defense.following() is None and defense.looks() == ()
    assert not torch.equal(defense.view(images, 0, 0), images)
    walk(defense, model, 100)
    assert len(defense.events) == 1  # raw images are no longer looked at


def test_a_trap_that_comes_back_is_met_with_the_next_view_and_the_last_one_stays():
    defense, model, values = make()
    for view in (RAW, GREY, JPEG):
        values[view] = times(4)
        walk(defense, model, 13)
    walk(defense, model, 100)
    assert [event.words.split("'")[1] for event in defense.events] == ["grey", "jpeg", "smooth"]
    assert defense.following() == Following(0.5, COLOUR)
    assert defense.looks() == (View.median(), View.blur(), View.down_up())


def test_a_network_that_learned_a_pattern_is_told_by_its_own_measures(tmp_path, clean, trapped):
    options = settings("pst-plus", epochs=6, learning_rate=0.05)
    events = read_manifest(run(tmp_path / "run", trapped, clean, options))["facts"]["events"]
    assert events and events[0]["kind"] == "view" and events[0]["step"] <= 26
