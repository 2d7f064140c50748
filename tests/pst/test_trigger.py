"""What counts as a trap: limits of single stages, falls of the measure under other views."""

from types import SimpleNamespace

import torch

from pst_fast.pst.trigger import Finding, OverThreshold, OverViews, explained

STAGES = [SimpleNamespace(name=name) for name in ("stem", "middle", "deep")]
RAW, JPEG, GREY = (torch.tensor([float(number)]) for number in range(3))


class Scripted:
    """Stands in for the measurement: values by view, and how deep each was asked for."""

    stages, images = STAGES, RAW

    def __init__(self, *values: tuple[float, float, float]) -> None:
        self.values, self.asked = values, []

    def __call__(self, images: torch.Tensor = RAW, *, depth: int | None = None) -> dict[str, float]:
        self.asked.append((int(images), depth))
        return dict(zip(("stem", "middle", "deep")[:depth], self.values[int(images)], strict=False))

    def under(self, views: list[torch.Tensor], *, depth: int | None = None) -> list[dict[str, float]]:
        return [self(images, depth=depth) for images in views]


def test_stages_over_their_own_limit_are_trapped_and_deeper_ones_not_looked_at():
    acm = Scripted((0.5, 0.5, 9.0))
    found = OverThreshold(acm, (0.4, 0.6))()
    assert found.trapped == ("stem",) and found.acm == {"stem": 0.5, "middle": 0.5}
    assert acm.asked == [(0, 2)]
    assert OverThreshold(Scripted((0.5, 0.7, 9.0)), (0.4, 0.6, 8.0))().trapped == ("stem", "middle", "deep")


def test_classes_explain_their_part_of_all_variance():
    assert [explained(acm) for acm in (0.0, 1.0, 3.0)] == [0.0, 0.5, 0.75]


def test_stages_in_which_classes_explain_less_under_a_view_are_trapped():
    acm = Scripted((1.0, 1.0, 1.0), (0.9, 0.6, 1.0), (0.9, 0.9, 0.4))  # falls: .026 .125 0, .026 .026 .214
    found = OverViews(acm, [(JPEG, 0.12), (GREY, 0.21)])()
    assert found == Finding({"stem": 1.0, "middle": 1.0, "deep": 1.0}, ("middle", "deep"))
    assert OverViews(acm, [(JPEG, 0.13), (GREY, 0.21)])().trapped == ("deep",)
    assert OverViews(acm, [(JPEG, 0.13), (GREY, 0.22)])().trapped == ()


def test_no_more_stages_are_measured_than_are_watched():
    acm = Scripted((1.0, 1.0, 1.0), (0.9, 0.5, 0.1))
    assert OverViews(acm, [(JPEG, 0.1)], depth=2)().trapped == ("middle",)
    assert acm.asked == [(0, 2), (1, 2)]
