"""pst-plus: when it checks, how it tells a trap, under what it goes on, and what it goes back to."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pst_fast import ops
from pst_fast.data.beton import write_beton
from pst_fast.data.demo import draw
from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.ladder import (
    GREY,
    GREY_JPEG,
    GREY_MEDIAN,
    JPEG,
    MEDIAN,
    RAW,
    SMOOTH,
    STAGES,
    Sign,
    Stage,
    next_stage,
)
from pst_fast.defenses.pst_plus import PSTPlus
from pst_fast.manifest import build_stage, read_manifest
from pst_fast.models import create_model
from pst_fast.ops import View
from pst_fast.pst import ActivationClusterMeasurement, find_stages
from pst_fast.train.augmentation import COLOUR, normalise
from pst_fast.train.averaging import Averaged
from pst_fast.train.following import Following
from tests.train.test_trainer import run, settings

CALM = (0.3, 0.4, 0.5, 0.6, 0.7)
Values = dict[View, tuple[float, ...]]


def measure_of(values: Values):
    """ACM by depth as a test sets it; CALM where it does not."""
    return lambda views: {view: values.get(view, CALM) for view in views}


def raised(by: float, *, at: int | None = None) -> tuple[float, ...]:
    """CALM, but classes explain more of the variance by so much, at one depth or at all."""
    shares = [v / (1 + v) + (by if at in (None, depth) else 0) for depth, v in enumerate(CALM)]
    return tuple(share / (1 - share) for share in shares)


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize(
    ("stage", "floor", "limit"),
    [
        (0, MEDIAN, 0.15),
        (0, GREY, 0.1),
        (1, GREY_MEDIAN, 0.15),
        (2, GREY_JPEG, 0.15),
    ],
)
def test_a_trap_is_variance_that_classes_explain_no_more_under_a_view_at_any_depth(
    stage, floor, limit, depth
):
    for difference, trapped in ((limit - 0.01, []), (limit + 0.01, [depth])):
        high = raised(difference)
        measures = dict.fromkeys((RAW, MEDIAN, GREY, GREY_MEDIAN, JPEG, GREY_JPEG), high)
        measures[floor] = tuple(
            c if d == depth else m for d, (c, m) in enumerate(zip(CALM, high, strict=True))
        )
        assert STAGES[stage].trapped(measures) == trapped


def test_what_jpeg_takes_from_grey_content_is_no_sign():
    measures = {GREY: raised(0.14), GREY_MEDIAN: CALM, GREY_JPEG: raised(-0.2)}
    assert STAGES[1].trapped(measures) == []


def test_large_measures_of_which_both_views_explain_nearly_all_are_no_sign():
    assert Sign(RAW, (MEDIAN,), 0.08).depths({RAW: (50.0,), MEDIAN: (20.0,)}) == []  # .98 and .95
    assert Sign(RAW, (MEDIAN,), 0.08).depths({RAW: (1.0,), MEDIAN: (0.6,)}) == [0]  # .5 and .375


def test_of_several_floors_the_least_counts_at_each_depth():
    sign = Sign(RAW, (JPEG, SMOOTH), 0.1)
    measures = {RAW: (1.0, 1.0, 1.0), JPEG: (1.0, 0.5, 0.8), SMOOTH: (1.0, 2.0, 0.8)}
    assert sign.depths(measures) == [1]


TRAP = raised(0.3)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({RAW: TRAP}, "grey"),  # greyscale is free
        ({RAW: TRAP, MEDIAN: TRAP}, "grey"),  # which others need not be
        ({RAW: TRAP, GREY: TRAP}, "jpeg"),  # JPEG is, greyscale is not
        ({RAW: TRAP, GREY: raised(0.3, at=4)}, "jpeg"),  # one depth is enough
        ({RAW: TRAP, GREY: TRAP, MEDIAN: TRAP, SMOOTH: raised(0.2)}, "jpeg"),
        ({RAW: TRAP, GREY: TRAP, JPEG: TRAP}, "smooth"),  # only low frequencies are free
        ({RAW: TRAP, GREY: TRAP, JPEG: TRAP, SMOOTH: TRAP}, "jpeg-grey"),  # the median is
        ({RAW: TRAP, GREY: raised(0.16)}, "jpeg"),  # a trace is enough
        ({RAW: TRAP, GREY: raised(0.14)}, "grey"),
    ],
)
def test_the_first_stage_that_is_free_of_the_trap_comes_next(values, name):
    assert STAGES[next_stage(STAGES, 0, measure_of(values))].name == name


def test_stages_get_stronger_and_end_with_one_that_nothing_follows():
    assert [stage.name for stage in STAGES] == ["colour", "grey", "jpeg", "smooth", "jpeg-grey"]
    assert STAGES[0].augmentation == COLOUR and not STAGES[0].mix and STAGES[0].following is None
    assert all(sum(stage.mix.values()) == pytest.approx(1) for stage in STAGES[1:])
    everything = measure_of(dict.fromkeys((RAW, GREY, JPEG, SMOOTH), TRAP))
    assert next_stage(STAGES, 3, everything) == 4 and STAGES[4].trapped({}) == []
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


def test_checks_come_every_thirteen_steps_and_then_after_a_seventh_of_the_steps_so_far(monkeypatch):
    defense, model, _ = make()
    seen: list[int] = []
    monkeypatch.setattr(defense, "_check", lambda: seen.append(defense._cadence.steps))
    walk(defense, model, 500)
    assert seen[:9] == [13, 26, 39, 52, 65, 78, 91, 104, 118]
    assert seen[-3:] == [384, 438, 500] and len(seen) == 20


def test_a_check_measures_all_views_of_a_stage_at_once(monkeypatch):
    torch.manual_seed(0)
    model = create_model("resnet10", num_classes=3, width=8, image_size=16)
    images, labels = torch.randint(256, (30, 16, 16, 3), dtype=torch.uint8), torch.arange(30) % 3
    acm = ActivationClusterMeasurement(model, normalise(images), labels)
    optimizer, defense = torch.optim.SGD(model.parameters(), lr=0.1), PSTPlus()
    fit = SimpleNamespace(averaged=Averaged(model, 0.0), optimizer=optimizer, acm=acm, probe_images=images)
    defense.start(fit)
    alone = {view: acm(normalise(ops.degrade(images, [view], seed=0, offset=0))) for view in STAGES[0].views}
    measured = []
    monkeypatch.setattr(Stage, "trapped", lambda stage, found: measured.append(found) or [])
    under = acm.under
    monkeypatch.setattr(acm, "under", lambda views: measured.append(len(views)) or under(views))
    defense._check()
    count, found = measured
    assert count == len(alone) == 3
    for view, values in alone.items():
        assert found[view] == pytest.approx(list(values.values()), rel=1e-4)


def test_without_a_trap_it_is_training_with_colour_jitter():
    defense, model, _ = make()
    walk(defense, model, 200)
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    assert defense.events == [] and defense.augmentation() == DEFENSES["cg"]().augmentation()
    assert defense.view(images, 0, 0) is images
    assert defense.following() is None


def test_a_trap_goes_back_to_the_calm_check_before_the_last_and_on_under_another_view():
    defense, model, values = make()
    walk(defense, model, 70)
    values[RAW] = raised(0.3, at=2)
    walk(defense, model, 8)
    assert defense.events == []  # one check does not tell
    walk(defense, model, 13)
    (event,) = defense.events
    assert (event.step, event.kind, event.stages) == (91, "view", ("layer2",))
    assert event.words == "trapped: went back, and on under 'grey'"
    # calm checks were at 52 and 65
    assert PSTPlus.rollback == 2 and torch.equal(model.fc.bias, torch.full((3,), 52.0))
    images = torch.randint(256, (40, 16, 16, 3), dtype=torch.uint8)
    assert defense.augmentation().grey_probability == 0.95
    assert defense.following() is None and defense.looks() == ()
    assert not torch.equal(defense.view(images, 0, 0), images)
    walk(defense, model, 100)
    assert len(defense.events) == 1  # raw images are no longer looked at


def test_what_one_check_shows_and_the_next_does_not_is_no_trap():
    defense, model, values = make()
    for _ in range(4):
        values[RAW] = TRAP
        walk(defense, model, 13)
        values[RAW] = CALM
        walk(defense, model, 13)
    assert defense.events == []


def test_late_in_training_the_second_check_comes_soon():
    defense, model, values = make()
    walk(defense, model, 530)  # the last check was at 500, the next is at 571, and another would be at 652
    values[RAW] = TRAP
    walk(defense, model, 571 + 13 - 530)
    assert [event.step for event in defense.events] == [571 + 13]
    assert torch.equal(model.fc.bias, torch.full((3,), 438.0))


def test_a_suspicion_outlives_a_kill():
    defense, model, values = make()
    values[RAW] = TRAP
    walk(defense, model, 13)
    again, _, others = make()
    again.load_state_dict(defense.state_dict())
    others[RAW] = TRAP
    walk(again, model, 13)
    assert [event.step for event in again.events] == [26]


def test_a_trap_that_comes_back_is_met_with_the_next_view_and_the_last_one_stays():
    defense, model, values = make()
    for view in (RAW, GREY, JPEG):
        values[view] = TRAP
        walk(defense, model, 26)
    walk(defense, model, 100)
    assert [event.words.split("'")[1] for event in defense.events] == ["grey", "jpeg", "smooth"]
    assert defense.following() == Following(0.5, COLOUR)
    assert defense.looks() == (View.median(), View.blur(), View.down_up())
    framed = torch.full((40, 16, 16, 3), 90, dtype=torch.uint8)
    framed[:, [0, -1]] = framed[:, :, [0, -1]] = 20
    assert (defense.view(framed, 0, 0) == 90).all()  # of what filters leave at the edges nothing is seen


@pytest.mark.parametrize(("strength", "stages"), [(0, []), (10, ["grey"])])
def test_a_network_tells_by_its_own_measures_whether_it_learned_a_pattern(strength, stages, tmp_path):
    tiles = np.random.default_rng(0).choice([-1, 1], (10, 4, 4, 1)).repeat(8, 1).repeat(8, 2)
    patterns = tiles * np.array([0.114, 0, -0.299]) / 0.114 * strength  # of each class; grey stays as it is

    def build(folder: Path) -> dict:
        for part, seed, count in (("train", 1, 600), ("test", 2, 100)):
            labels = np.arange(count) % 10
            images = draw(labels, seed) + (patterns[labels] if part == "train" else 0)
            images = images.clip(0, 255).astype(np.uint8)
            write_beton(folder / f"{part}.beton", images, labels, np.arange(count))
        return {"classes": [str(k) for k in range(10)], "image_size": 32}

    data = build_stage(tmp_path / "data", "prepare", {}, {}, build)
    options = settings("pst-plus", epochs=4, batch_size=50)
    events = read_manifest(run(tmp_path / "run", data, data, options))["facts"]["events"]
    assert [event["words"].split("'")[1] for event in events] == stages
