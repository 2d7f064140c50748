"""What a run leaves on disk, and how it goes on after a stop."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast import run as command
from pst_fast.cli.flags import RunConfig
from pst_fast.cli.pipeline import run
from pst_fast.cli.resolve import resolve
from pst_fast.errors import InputError
from tests.cli.stages import Stages, plan_for, quiet

KEYS = {
    "attack", "defense", "seed", "model", "dataset", "epochs", "last_accuracy", "best_accuracy",
    "clean_accuracy", "seconds", "images_per_second", "peak_memory_bytes", "budget",
}  # fmt: skip


def test_a_run_trains_every_cell_and_leaves_its_folders(tmp_path: Path, stages: Stages) -> None:
    plan = plan_for(tmp_path, attacks=("lsp", "em"), defenses=("erm", "pst"), seeds=("0", "1"))
    rows = run(plan, quiet())
    once = ["train none/erm"]
    for attack in ("lsp", "em"):
        once += [f"craft {attack}", "apply", f"train {attack}/erm", f"train {attack}/pst"]
    assert stages.built == ["prepare", *once, *once]
    for name in (
        "clean",
        "attacks/em-seed1/bank",
        "attacks/em-seed1/poisoned",
        "train/em/pst-seed1",
        "train/none/erm-seed0",
    ):
        assert (tmp_path / name / "manifest.json").is_file()
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["rows"] == rows
    assert written["environment"]["torch"] == torch.__version__
    assert written["settings"]["attacks"] == ["lsp", "em"]
    assert (tmp_path / "table.md").is_file()
    assert [(row["attack"], row["defense"], row["seed"]) for row in rows] == [
        (attack, defense, seed) for seed in (0, 1) for attack in ("lsp", "em") for defense in ("erm", "pst")
    ]


def test_a_row_holds_the_figures_of_its_cell(tmp_path: Path, stages: Stages) -> None:
    rows = run(plan_for(tmp_path, defenses=("erm", "pst"), seeds=("0", "1")), quiet())
    row = rows[-1]
    assert set(row) >= KEYS
    assert row["last_accuracy"] == pytest.approx(0.61)
    assert row["best_accuracy"] == pytest.approx(0.66)
    assert row["clean_accuracy"] == pytest.approx(0.81), "the clean run of the same seed"
    assert row["seconds"]["craft"] == 7.0
    assert {"prepare", "craft", "apply", "train"} <= set(row["seconds"])
    assert row["budget"]["linf"] == pytest.approx(8 / 255)
    assert row["folder"] == "train/lsp/pst-seed1"


def test_a_published_file_is_an_attack(tmp_path: Path, stages: Stages) -> None:
    path = tmp_path / "noise.npy"
    np.save(path, np.full((4, 8, 8, 3), 2, np.int8))
    options = {"perturbation": path, "defenses": ("erm",), "out": tmp_path / "out"}
    rows = run(resolve(RunConfig(**options)), quiet())
    assert [row["attack"] for row in rows] == ["file"]
    assert rows[0]["budget"]["linf"] == 2 / 255
    assert resolve(RunConfig(attacks=("lsp",), **options)).attacks == ("lsp", "file")
    assert resolve(RunConfig(attacks=("file", "lsp"), **options)).attacks == ("file", "lsp")


def test_none_stands_for_the_clean_data(tmp_path: Path, stages: Stages) -> None:
    rows = run(plan_for(tmp_path, attacks=("none",), defenses=("erm", "pst")), quiet())
    assert stages.built == ["prepare", "train none/erm", "train none/pst"]
    assert [row["budget"]["linf"] for row in rows] == [0.0, 0.0]


def test_results_are_there_after_each_cell_and_the_run_goes_on(
    tmp_path: Path, stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--attacks", "lsp,em", "--defenses", "erm,pst"]
    stages.stop_at = "train em/erm"
    assert command.main(arguments) == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on from here\n")
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 2
    before, stages.stop_at = list(stages.built), None
    assert command.main(arguments) == 0
    assert stages.built == [*before, "train em/erm", "train em/pst"], "finished stages are not built again"
    shown = capsys.readouterr()
    assert (
        "prepare demo: there already, 4 training and 2 test images of 8x8, 2 classes, 1 of them" in shown.err
    )
    assert "craft lsp seed 0: there already, measured Linf 8/255, L2 1.50, 64 pixels" in shown.err
    assert "train lsp/pst seed 0: there already, last 60.0%, best 65.0%" in shown.err
    assert "recovered" in shown.out


def test_a_failing_cell_is_told_and_the_others_go_on(
    tmp_path: Path, stages: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path), "--attacks", "lsp,em", "--defenses", "erm,pst"]
    stages.stop_at, stages.error = "train lsp/pst", InputError("training diverged")
    assert command.main(arguments) == 2
    assert stages.built[-2:] == ["train em/erm", "train em/pst"]
    assert "error: lsp/pst seed 0 failed: training diverged\n" in capsys.readouterr().err
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["attack"], row["defense"]) for row in rows] == [("lsp", "erm"), ("em", "erm"), ("em", "pst")]
    assert (tmp_path / "table.md").is_file()
    stages.stop_at = None
    assert command.main(arguments) == 0
    assert stages.built[-1] == "train lsp/pst", "only what failed is built"


def test_an_attack_that_fails_takes_its_own_cells_only(tmp_path: Path, stages: Stages) -> None:
    stages.stop_at, stages.error = "craft lsp", InputError("no such thing")
    with pytest.raises(InputError, match=r"^lsp seed 0 failed: no such thing$"):
        run(plan_for(tmp_path, attacks=("lsp", "em"), defenses=("erm",)), quiet())
    assert stages.built[-3:] == ["craft em", "apply", "train em/erm"]


def test_all_stands_for_every_name_that_is_not_there_yet() -> None:
    from pst_fast.attacks.base import ATTACKS
    from pst_fast.defenses.base import DEFENSES

    plan = resolve(RunConfig(attacks=("none", "all", "em"), defenses=("pst-plus", "all")))
    assert plan.attacks[0] == "none" and plan.attacks[-1] == "em"
    assert sorted(plan.attacks) == sorted(["none", *ATTACKS.names()])
    assert plan.defenses[0] == "pst-plus" and sorted(plan.defenses) == DEFENSES.names()


def test_one_more_epoch_trains_again_but_crafts_nothing(tmp_path: Path, stages: Stages) -> None:
    run(plan_for(tmp_path, defenses=("erm",), epochs=2), quiet())
    stages.built.clear()
    run(plan_for(tmp_path, defenses=("erm",), epochs=3), quiet())
    assert stages.built == ["train none/erm", "train lsp/erm"]


@pytest.mark.slow
def test_killed_runs_end_with_the_figures_of_an_unbroken_one(tmp_path: Path) -> None:
    arguments = [
        sys.executable, "-m", "pst_fast.run", "--attacks", "lsp", "--defenses", "pst", "--epochs", "3",
        "--train-per-class", "60", "--test-per-class", "20", "--batch-size", "40", "--width", "8",
        "--device", "cpu",
    ]  # fmt: skip
    subprocess.run([*arguments, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    broken = tmp_path / "broken"
    for sign in (
        broken / "train/none/erm-seed0.partial/metrics.jsonl",
        broken / "attacks/lsp-seed0/bank/manifest.json",
        broken / "train/lsp/pst-seed0.partial/metrics.jsonl",
    ):
        process = subprocess.Popen([*arguments, "--out", str(broken)], stderr=subprocess.DEVNULL)
        while process.poll() is None and not (sign.is_file() and sign.stat().st_size):
            time.sleep(0.05)
        assert process.poll() is None, f"killed once {sign.name} is there"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (broken / "table.md").exists()
    subprocess.run([*arguments, "--out", str(broken)], check=True, capture_output=True)
    figures = []
    for folder in (tmp_path / "whole", broken):
        rows = json.loads((folder / "results.json").read_text())["rows"]
        epochs = (folder / "train/lsp/pst-seed0/metrics.jsonl").read_text().splitlines()
        kept = [
            {
                key: value
                for key, value in json.loads(line).items()
                if key not in ("seconds", "images_per_second")
            }
            for line in epochs
        ]
        figures.append(([(row["last_accuracy"], row["clean_accuracy"]) for row in rows], kept))
    assert figures[0] == figures[1]
