"""The figures are drawn from what a run leaves, whatever the number of attacks, defenses and seeds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pst_fast.data.beton import read_beton
from pst_fast.errors import InputError
from pst_fast.report import write_report
from pst_fast.report.curves import _Page, draw_curves
from pst_fast.report.metrics import read_metrics
from pst_fast.report.samples import amplified, choose_samples, draw_samples

MakeRun = Callable[..., list[dict[str, Any]]]


def page(out: Path, rows: list[dict[str, Any]]) -> _Page:
    cells: dict[str, Any] = {}
    for row in rows:
        runs = cells.setdefault(row["attack"], {}).setdefault(row["defense"], [])
        runs.append(read_metrics(out / row["folder"]))
    return _Page(cells, [], rows[0]["stages"], 0)


def test_a_report_has_a_table_two_pictures_and_a_page(tmp_path: Path, make_run: MakeRun) -> None:
    write_report(tmp_path, make_run(tmp_path))
    assert "| lsp | pst |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for name in ("curves.png", "samples.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG"
            assert np.asarray(picture.convert("L")).std() > 10, "something is drawn"


def test_curves_show_the_figures_of_the_metrics(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm", "pst"), seeds=(0, 1))
    figure = page(tmp_path, rows).draw()
    accuracy, erm, erm_strip, pst, pst_strip = figure.axes
    expected = np.mean(
        [
            [epoch["test_accuracy"] for epoch in read_metrics(tmp_path / "train" / "lsp" / f"erm-seed{seed}")]
            for seed in (0, 1)
        ],
        axis=0,
    )
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), expected)
    first = read_metrics(tmp_path / "train" / "lsp" / "pst-seed0")
    np.testing.assert_allclose(pst.lines[0].get_ydata(), [epoch["acm"]["stem"] for epoch in first])
    rollbacks = [line.get_xdata()[0] for line in pst.lines if line.get_linestyle() == ":"]
    assert rollbacks == pytest.approx([3.6, 7.6])
    assert not [line for line in erm.lines if line.get_linestyle() == ":"]
    assert erm.get_ylim() == pst.get_ylim(), "panels of one attack share their scale"
    levels = np.asarray(pst_strip.collections[0].get_array())
    np.testing.assert_array_equal(levels[0], [epoch["levels"]["stem"] for epoch in first])
    assert not np.asarray(erm_strip.collections[0].get_array()).any()


def test_no_strip_where_nothing_was_slowed(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp", "em"), defenses=("erm", "cg"), seeds=(0,), epochs=1)
    assert len(page(tmp_path, rows).draw().axes) == 6


def test_at_most_three_measured_defenses_are_shown_and_erm_is_one(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("cg", "erm", "pst", "pst-plus"), seeds=(0,))
    assert page(tmp_path, rows).measured == ["erm", "pst", "pst-plus"]


def test_the_choice_of_views_is_written_into_its_panel(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm", "pst-plus"), seeds=(0,))
    _, erm, _, plus, _ = page(tmp_path, rows).draw().axes
    assert erm.texts[0].get_text() == ""
    assert "jpeg10 .31" in plus.texts[0].get_text()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 6])
def test_each_attack_has_its_line_of_panels(count: int, tmp_path: Path, make_run: MakeRun) -> None:
    attacks = ("lsp", "em", "ops", "ar", "tap", "cuda")[:count]
    rows = make_run(tmp_path, attacks=attacks, defenses=("erm", "pst"), seeds=(0, 1, 2))
    assert [axes.get_title(loc="left") for axes in page(tmp_path, rows).draw().axes[::5]] == list(attacks)
    draw_curves(tmp_path / "c.png", tmp_path, rows)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.height > 400 * count


def test_runs_without_a_measure_have_one_column(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,), epochs=2)
    path = tmp_path / rows[0]["folder"] / "metrics.jsonl"
    epochs = [
        json.loads(line) | {"acm": {}, "levels": {}, "events": []} for line in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    assert len(page(tmp_path, rows).draw().axes) == 1


@pytest.mark.parametrize(
    "content", [None, b"", b'{"epoch": 1', b"[1, 2]\n", b'{"epoch": 1}\n', b"\xff\xfe\n"]
)
def test_damaged_metrics_are_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)


def test_samples_take_the_classes_in_turn() -> None:
    labels = np.array([2, 0, 0, 1, 2, 1, 0])
    assert choose_samples(labels, 5).tolist() == [1, 3, 0, 2, 5]
    assert sorted(choose_samples(labels, 99).tolist()) == list(range(7))


def test_what_was_added_is_shown_ten_times_as_large_around_grey() -> None:
    clean = np.array([100, 100, 100, 255, 0], np.uint8)
    poisoned = np.array([100, 103, 98, 0, 255], np.uint8)
    assert amplified(clean, poisoned).tolist() == [128, 158, 108, 0, 255]


def test_samples_png_holds_the_pixels(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), seeds=(0,), epochs=1)
    draw_samples(tmp_path / "s.png", tmp_path, rows)
    with Image.open(tmp_path / "s.png") as picture:
        drawn = {tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    for folder in ("clean", "attacks/lsp-seed0/poisoned"):
        beton = read_beton(tmp_path / folder / "train.beton")
        first = beton.gather(choose_samples(beton.labels, 1))[0]
        assert {tuple(colour) for colour in first.reshape(-1, 3)} <= drawn


def test_a_run_of_the_clean_data_alone_shows_them(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, attacks=(), seeds=(0,), epochs=1)
    draw_samples(tmp_path / "s.png", tmp_path, [{"attack": "none", "seed": 0}])
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 4 * picture.height
