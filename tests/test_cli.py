"""The command line: what it refuses, what it leaves on disk, how it goes on after a stop."""

import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from pst_fast import run as command
from pst_fast.cli.config import Plan, RunConfig, parse_epsilon, resolve, settings_of
from pst_fast.cli.pipeline import run
from pst_fast.cli.recipes import describe_recipes, recipe_of
from pst_fast.cli.terminal import Terminal, clock, with_time_left
from pst_fast.data.beton import write_beton
from pst_fast.errors import InputError
from pst_fast.manifest import build_stage

KEYS = {
    "attack", "defense", "seed", "model", "dataset", "epochs", "last_accuracy", "best_accuracy",
    "clean_accuracy", "seconds", "images_per_second", "peak_memory_bytes", "budget",
}  # fmt: skip

PREPARED = {
    "classes": ["a", "b"],
    "image_size": 8,
    "counts": {"train": [2, 2], "test": [1, 1]},
    "converted": {"train": 1, "test": 0},
}


class Stages:
    """Stands in for the stages: builds folders in no time, and notes what it built.

    Attributes:
        built: Names of the stages that were really built, in order.
        stop_at: Building the stage of this name raises ``error``.
    """

    def __init__(self) -> None:
        self.built: list[str] = []
        self.stop_at: str | None = None
        self.error: BaseException = KeyboardInterrupt()

    def _build(
        self, output: Path, name: str, parameters: dict[str, Any], inputs: dict[str, Path], facts: Any
    ) -> Path:
        def build(folder: Path) -> dict[str, Any]:
            if name == self.stop_at:
                raise self.error
            self.built.append(name)
            if name in ("prepare", "apply"):
                write_beton(
                    folder / "train.beton", np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, np.arange(4)
                )
            return dict(facts)

        return build_stage(output, name.split()[0], parameters, inputs, build)

    def prepare(self, output: Path, *, progress: Any, **parameters: Any) -> Path:
        parameters["data_dir"] = str(parameters["data_dir"])
        return self._build(output, "prepare", parameters, {}, PREPARED)

    def craft(self, output: Path, clean: Path, *, device: Any, progress: Any, **parameters: Any) -> Path:
        progress(0.5, "half way")
        facts = {"craft_seconds": 7.0, "budget": {"linf": 8 / 255, "l2": 1.5, "pixels": 64}}
        return self._build(output, f"craft {parameters['attack']}", parameters, {"clean": clean}, facts)

    def apply(self, output: Path, clean: Path, bank: Path) -> Path:
        return self._build(output, "apply", {}, {"clean": clean, "bank": bank}, {})

    def train(
        self,
        output: Path,
        *,
        train_data: Path,
        test_data: Path,
        settings: Any,
        device: Any,
        loader: str,
        progress: Any,
    ) -> Path:
        progress(1.0, "epoch 1/1")
        attack = output.parent.name
        accuracy = (
            0.8 if attack == "none" else 0.6 if settings.defense == "pst" else 0.2
        ) + settings.seed / 100
        facts = {
            "last_accuracy": accuracy,
            "best_accuracy": accuracy + 0.05,
            "seconds": {"train": 3.0, "evaluate": 1.0},
            "images_per_second": 100.0,
            "peak_memory_bytes": 1024,
            "stages": ["stem", "layer1"],
        }
        inputs = {"train_data": train_data, "test_data": test_data}
        return self._build(output, f"train {attack}/{settings.defense}", vars(settings), inputs, facts)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    import pst_fast.data.bank
    import pst_fast.data.prepare
    import pst_fast.report
    import pst_fast.train.trainer

    fake = Stages()
    monkeypatch.setattr(pst_fast.data.prepare, "prepare", fake.prepare)
    monkeypatch.setattr(pst_fast.data.bank, "craft", fake.craft)
    monkeypatch.setattr(pst_fast.data.bank, "apply", fake.apply)
    monkeypatch.setattr(pst_fast.train.trainer, "train", fake.train)
    monkeypatch.setattr(
        pst_fast.report, "write_report", lambda out, rows: (out / "table.md").write_text("table")
    )
    return fake


def plan_for(out: Path, **flags: Any) -> Plan:
    return resolve(RunConfig(out=out, device="cpu", **flags))


def quiet() -> Terminal:
    return Terminal(Console(quiet=True))


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "mnist"], ["mnist", "cifar10"]),
        (["--attacks", "lsp,nope"], ["nope", "lsp"]),
        (["--attacks", ""], ["--attacks"]),
        (["--attacks", "lsp,lsp"], ["lsp", "twice"]),
        (["--defenses", "erm,nope"], ["nope", "erm"]),
        (["--model", "resnet1"], ["resnet1", "resnet10"]),
        (["--surrogate", "resnet1"], ["resnet1"]),
        (["--attacks", "em", "--epsilon", "8"], ["8/255"]),
        (["--attacks", "em", "--epsilon", "0"], ["epsilon"]),
        (["--attacks", "em", "--epsilon", "nan"], ["epsilon"]),
        (["--attacks", "em", "--epsilon=-8/255"], ["epsilon"]),
        (["--attacks", "em", "--epsilon", "eight"], ["eight", "8/255"]),
        (["--attacks", "em", "--epsilon", "8/0"], ["8/0"]),
        (["--attacks", "lsp,em", "--epsilon", "8/255"], ["lsp: l2", "em: linf"]),
        (["--seeds", "0,one"], ["--seeds", "one"]),
        (["--seeds", "0,0"], ["--seeds", "twice"]),
        (["--epochs", "0"], ["--epochs 0", "at least 1"]),
        (["--batch-size", "1"], ["--batch-size 1", "at least 2"]),
        (["--num-classes", "1"], ["--num-classes 1", "at least 2"]),
        (["--train-per-class", "0"], ["--train-per-class 0"]),
        (["--learning-rate", "0"], ["--learning-rate 0", "more than 0"]),
        (["--learning-rate", "nan"], ["--learning-rate nan"]),
        (["--label-smoothing", "1"], ["--label-smoothing 1", "less than 1"]),
        (["--perturbation", "missing.pt"], ["--perturbation missing.pt", "there is none"]),
        (["--layout", "sample-last-images"], ["--layout sample-last-images", "expected --perturbation"]),
        (["--perturbation", "missing.pt", "--layout", "nchw"], ["--layout 'nchw'", "sample-first-images"]),
        (["--attacks", "file"], ["--attacks file", "expected --perturbation"]),
        (["--weight-decay", "-1"], ["--weight-decay -1", "at least 0"]),
        (["--budget", "17"], ["--budget 17", "16, 30, 60", "--epochs"]),
        (["--progressive", "0.9:0.7"], ["--progressive 0.9:0.7", "MIN:MAX"]),
        (["--ema", "1"], ["--ema 1", "less than 1"]),
        (["--eval-size", "2"], ["--eval-size 2", "at least 8"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stages: Stages
) -> None:
    out = tmp_path / "out"
    assert command.main([*arguments, "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    for word in words:
        assert word in shown.err
    assert not out.exists(), "refused before any work"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("a.jpg: truncated"), ["a.jpg: truncated"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/train.beton"),
            ["/x/train.beton", "no space left"],
        ),
        (OSError(errno.ENOSPC, "No space left on device"), ["no space left"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), ["/x/y", "permission"]),
        (
            RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 640 vs 534"),
            ["no space left"],
        ),
        (OSError("200000 requested and 25584 written"), ["no space left"]),
    ],
)
def test_trouble_under_way_is_one_sentence_and_exit_code_2(
    error: Exception, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stages: Stages
) -> None:
    stages.stop_at, stages.error = "craft lsp", error
    assert command.main(["--attacks", "lsp", "--out", str(tmp_path / "out")]) == 2
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in line


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(errno.EIO, "Input/output error")])
def test_a_defect_is_not_blamed_on_the_user(error: Exception, tmp_path: Path, stages: Stages) -> None:
    stages.stop_at, stages.error = "craft lsp", error
    with pytest.raises(type(error)):
        command.main(["--attacks", "lsp", "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(("attack", "epsilon"), [("lsp", "14"), ("ops", "65")])
def test_a_budget_beyond_the_images_stops_before_training(
    attack: str, epsilon: str, tmp_path: Path, stages: Stages
) -> None:
    with pytest.raises(InputError, match="expected at most"):
        run(plan_for(tmp_path / "out", attacks=(attack,), epsilon=epsilon), quiet())
    assert stages.built == ["prepare"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, stages: Stages) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        run(plan_for(tmp_path / "out"), quiet())


def test_two_runs_do_not_share_a_folder(tmp_path: Path, stages: Stages) -> None:
    plan = plan_for(tmp_path)
    real = stages.craft

    def craft(*arguments: Any, **named: Any) -> Path:
        with pytest.raises(InputError, match="another run"):
            run(plan, quiet())
        return real(*arguments, **named)

    import pst_fast.data.bank as bank

    bank.craft = craft  # the fixture puts the real one back
    assert run(plan, quiet())
    assert run(plan, quiet()), "the lock goes with the run"


# What a plan holds


def test_open_flags_come_from_the_recipe(tmp_path: Path) -> None:
    plan, recipe = plan_for(tmp_path, dataset="cifar10"), recipe_of("cifar10")
    assert (plan.train.model, plan.train.width, plan.train.epochs) == ("resnet18", 64, recipe.epochs)
    assert (plan.surrogate, plan.surrogate_width) == ("resnet18", 64)
    assert (plan.attacks, plan.defenses, plan.preset) == (recipe.attacks, recipe.defenses, recipe.preset)


def test_given_flags_win_over_the_recipe(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, epochs=3, width=8, attacks=("em",), weight_decay=0.0, surrogate="resnet18")
    assert (plan.train.epochs, plan.train.width, plan.train.weight_decay) == (3, 8, 0.0)
    assert (plan.surrogate, plan.surrogate_width, plan.attacks) == ("resnet18", 8, ("em",))


def test_a_budget_is_a_recipe_whose_settings_other_flags_change(tmp_path: Path) -> None:
    train = plan_for(
        tmp_path, dataset="imagenet-mini", budget=16, ema=0.0, model="resnet50", eval_size=256
    ).train
    assert (train.epochs, train.label_smoothing, train.random_resized_crop) == (16, 0.1, True)
    assert (train.progressive, train.eval_size, train.ema) == ((0.7, 0.85), 256, 0.0)
    plain = plan_for(tmp_path, dataset="imagenet-mini").train
    assert (plain.progressive, plain.random_resized_crop, plain.ema) == (None, False, 0.0)


def test_a_network_of_one_size_is_not_resized(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a network that takes images of 160 pixels too"):
        plan_for(tmp_path, dataset="imagenet-mini", budget=16, model="torchvision:vit_b_16")


def test_unknown_data_sets_of_a_newcomer_have_the_general_recipe() -> None:
    assert recipe_of("somebody's").epochs == recipe_of("imagenet-mini").epochs
    assert "all others" in describe_recipes()


def test_settings_are_json(tmp_path: Path) -> None:
    settings = settings_of(plan_for(tmp_path, seeds=("3", "1"), attacks=("em",), epsilon="8/255"))
    assert json.loads(json.dumps(settings))["seeds"] == [3, 1]
    assert settings["epsilon"] == pytest.approx(8 / 255)
    assert settings["device"] == "cpu"
    assert settings["momentum"] == 0.9


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), ("1", 1.0), (" 4 / 255 ", 4 / 255)]
)
def test_epsilon_is_a_number_or_a_fraction(text: str, value: float) -> None:
    assert parse_epsilon(text) == pytest.approx(value)


def test_help_lists_what_the_registries_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        "demo",
        "imagenet-mini",
        "lsp",
        "em",
        "ops",
        "pst-plus",
        "cg",
        "resnet18",
        "--train-per-class",
    ):
        assert word in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device cuda"):
        resolve(RunConfig(out=tmp_path, device="cuda"))


# What a run leaves


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


# What is shown


def test_plain_lines_come_at_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Terminal(Console(force_terminal=False, width=40)).stage("train lsp/erm seed 0") as report:
        for _ in range(40):
            now += 1.0
            report(0.25, "epoch 3/16, 812 img/s, 1:20 left, and a long line is not broken")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert (
        lines[0]
        == "  train lsp/erm seed 0: 25%, epoch 3/16, 812 img/s, 1:20 left, and a long line is not broken"
    )


def test_a_live_line_shows_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(Console(force_terminal=True, width=100)).stage("craft [em]") as report:
        report(0.5, "round 1/2")
    shown = capsys.readouterr().out
    assert "craft [em]" in shown
    assert "round 1/2" in shown


def test_time_left_is_judged_from_the_first_report_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    report = with_time_left(lambda fraction, words: said.append(words))
    for now, fraction in ((100.0, 0.2), (110.0, 0.4), (140.0, 1.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        report(fraction, "step")
    assert said == ["step", "step, 0:30 left", "step, 0:00 left"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0:00"), (80, "1:20"), (3599.6, "1h00"), (7500, "2h05")]
)
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


# The real thing


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
