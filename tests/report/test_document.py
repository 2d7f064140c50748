"""The document behind report.html: figures that can be checked by hand, what is missing, what is left out."""

import base64
import io
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from pst_fast.data.beton import read_beton
from pst_fast.errors import InputError
from pst_fast.files import write_json
from pst_fast.report import document as module
from pst_fast.report import pictures as pictures_module
from pst_fast.report.document import report_document
from pst_fast.report.html import render
from pst_fast.report.samples import amplified, choose_samples
from pst_fast.report.table import markdown_table

Rows = list[dict[str, Any]]
MakeRun = Callable[..., Rows]


def change_results(out: Path, **changes: Any) -> None:
    path = out / "results.json"
    write_json(path, json.loads(path.read_text()) | changes)


def change_epochs(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "metrics.jsonl"
    epochs = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))


def pixels(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_figures_are_averaged_over_the_seeds(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",))
    rows[0] |= {"last_accuracy": 0.2, "clean_accuracy": 0.8, "images_per_second": 700.0}
    rows[1] |= {"last_accuracy": 0.4, "clean_accuracy": 0.5}
    document = report_document(tmp_path, rows)
    (cell,) = document["cells"]
    assert cell["figures"] == {
        "last": [0.3, "30.0 ± 14.1"],
        "recovered": [0.525, "52.5 ± 38.9"],
        "best": [pytest.approx(statistics.fmean(row["best_accuracy"] for row in rows), abs=1e-6), ANY],
        "seconds": [55.0, "55 ± 0"],
        "craft_seconds": [2.0, "2 ± 0"],
        "images_per_second": [750.0, "750 ± 71"],
    }
    assert [(run["seed"], run["last"], run["clean"]) for run in cell["runs"]] == [
        (0, 0.2, 0.8),
        (1, 0.4, 0.5),
    ]
    assert document["baseline"]["last"] == [0.65, "65.0 ± 21.2"]


def test_the_page_and_the_table_round_alike(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,), epochs=1)
    rows[0]["last_accuracy"] = (
        0.2025  # 20.25 %: JavaScript's toFixed goes up, Python's format to the even digit
    )
    (cell,) = report_document(tmp_path, rows)["cells"]
    assert cell["figures"]["last"] == [0.2025, "20.2"]
    assert "| lsp | erm | 20.2 |" in markdown_table(rows)


def test_curves_are_those_of_the_metrics(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm", "pst"), seeds=(0,))
    erm, pst = (cell["runs"][0] for cell in report_document(tmp_path, rows)["cells"])
    epochs = [json.loads(line) for line in (tmp_path / rows[1]["folder"] / "metrics.jsonl").open()]
    assert pst["epochs"] == list(range(1, 13))
    assert pst["accuracy"] == [round(epoch["test_accuracy"], 4) for epoch in epochs]
    assert pst["acm"][1] == [float(f"{epoch['acm']['layer1']:.3g}") for epoch in epochs]
    assert pst["levels"][0] == [epoch["levels"]["stem"] for epoch in epochs]
    assert erm["levels"] == [], "nothing was slowed"
    assert [(event["epoch"], event["kind"]) for event in pst["events"]] == [
        (3.6, "rollback"), (3.6, "slow"), (7.6, "rollback"), (7.6, "slow"),
    ]  # fmt: skip
    assert (pst["step"], pst["more_events"]) == (1, 0)


def test_missing_and_failed_cells_have_their_place(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp", "em"), defenses=("erm", "pst"))
    failure = {"attack": "em", "defense": "pst", "seed": 1, "error": "diverged"}
    change_results(tmp_path, failures=[failure])
    kept = [row for row in rows if (row["attack"], row["defense"]) == ("lsp", "erm")]
    kept += [row for row in rows if (row["attack"], row["defense"], row["seed"]) == ("em", "pst", 0)]
    document = report_document(tmp_path, kept)
    assert [(cell["attack"], cell["defense"]) for cell in document["cells"]] == [
        ("lsp", "erm"), ("lsp", "pst"), ("em", "erm"), ("em", "pst"),
    ]  # fmt: skip
    assert [len(cell["runs"]) for cell in document["cells"]] == [2, 0, 0, 1]
    assert [cell["figures"] is None for cell in document["cells"]] == [False, True, True, False]
    assert document["cells"][3]["failures"] == [{"seed": 1, "error": "diverged"}]
    assert document["worst"] == [
        {"defense": "erm", "attack": "lsp", "met": 1, "of": 2},
        {"defense": "pst", "attack": "em", "met": 1, "of": 2},
    ]


def test_clean_data_are_nobodys_worst_attack(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,))
    clean = rows[0] | {"attack": "none", "last_accuracy": 0.01, "folder": "train/none/erm-seed0"}
    (worst,) = report_document(tmp_path, [clean, *rows])["worst"]
    assert worst == {"defense": "erm", "attack": "lsp", "met": 1, "of": 1}


def test_numbers_that_are_none_become_none(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,), epochs=2)
    rows[0]["clean_accuracy"] = 0.0
    change_epochs(tmp_path / rows[0]["folder"], lambda epoch: epoch | {"acm": {"stem": math.nan}})
    (cell,) = report_document(tmp_path, rows)["cells"]
    assert cell["figures"]["recovered"] == [None, "n/a"]
    assert cell["runs"][0]["acm"] == [[None, None]] * 5
    render(report_document(tmp_path, rows))


def test_a_run_without_a_measure_has_no_acm(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,), epochs=2)
    bare = {"acm": {}, "levels": {}, "events": []}
    change_epochs(tmp_path / rows[0]["folder"], lambda epoch: epoch | bare)
    (run,) = report_document(tmp_path, rows)["cells"][0]["runs"]
    assert (run["acm"], run["levels"], run["events"]) == ([], [], [])


def test_long_runs_are_thinned_and_say_so(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 5)
    monkeypatch.setattr(module, "MAX_EVENTS", 3)
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("pst",), seeds=(0,), epochs=12)
    (run,) = report_document(tmp_path, rows)["cells"][0]["runs"]
    assert run["epochs"] == [1, 4, 7, 10, 12]
    assert len(run["accuracy"]) == len(run["acm"][0]) == len(run["levels"][0]) == 5
    assert (run["step"], len(run["events"]), run["more_events"]) == (3, 3, 1)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"rows": []}', b"\xff"])
def test_damaged_results_are_named(content: bytes | None, tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(tmp_path, attacks=("lsp",), defenses=("erm",), seeds=(0,), epochs=1)
    (tmp_path / "results.json").unlink()
    if content is not None:
        (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=r"results\.json: expected"):
        report_document(tmp_path, rows)


def test_pictures_hold_the_pixels(tmp_path: Path, make_run: MakeRun) -> None:
    pictures = report_document(tmp_path, make_run(tmp_path, seeds=(2,), epochs=1))["pictures"]
    clean, poisoned = (
        read_beton(tmp_path / folder / "train.beton") for folder in ("clean", "attacks/em-seed2/poisoned")
    )
    chosen = choose_samples(np.asarray(clean.labels), 8)
    assert pictures["classes"] == ["cat", "dog", "frog", "ship"] * 2
    assert (pictures["side"], pictures["cropped_from"]) == (16, None)
    em = pictures["attacks"][1]
    assert (em["attack"], em["seed"], len(em["poisoned"])) == ("em", 2, 8)
    before, after = clean.gather(chosen)[3], poisoned.gather(chosen)[3]
    np.testing.assert_array_equal(pixels(pictures["clean"][3]), before)
    np.testing.assert_array_equal(pixels(em["poisoned"][3]), after)
    np.testing.assert_array_equal(pixels(em["added"][3]), amplified(before, after))


def test_of_large_images_the_middle_is_shown(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_run(tmp_path, seeds=(0,), epochs=1)
    monkeypatch.setattr(pictures_module, "MAX_SIDE", 10)
    monkeypatch.setattr(pictures_module, "MAX_BYTES", 3 * 5 * 10 * 10 * 3)
    pictures = report_document(tmp_path, rows)["pictures"]
    assert (pictures["side"], pictures["cropped_from"]) == (10, 16)
    assert len(pictures["clean"]) == 3, "clean, and two for each of two attacks"
    beton = read_beton(tmp_path / "clean" / "train.beton")
    first = beton.gather(choose_samples(np.asarray(beton.labels), 1))[0]
    np.testing.assert_array_equal(pixels(pictures["clean"][0]), first[3:13, 3:13])


@pytest.mark.slow
def test_a_whole_matrix_stays_small(tmp_path: Path, make_run: MakeRun) -> None:
    rows = make_run(
        tmp_path,
        attacks=[f"attack{i}" for i in range(18)],
        defenses=["erm", "pst-plus", *(f"pst-{i}" for i in range(18))],
        seeds=(0, 1, 2),
        epochs=60,
    )
    assert len(render(report_document(tmp_path, rows))) < 10e6
