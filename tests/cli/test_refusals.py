"""What the command line refuses, and how it says so."""

import errno
from pathlib import Path
from typing import Any

import pytest

from pst_fast import run as command
from pst_fast.cli.pipeline import run
from pst_fast.errors import InputError
from tests.cli.stages import Stages, plan_for, quiet


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
        (["--attacks", "tap,em", "--norm", "l2", "--epsilon", "1"], ["em", "linf alone"]),
        (["--attacks", "tap", "--norm", "l2"], ["--epsilon"]),
        (["--attacks", "tap,ops", "--steps", "9"], ["ops", "no gradient steps"]),
        (["--attacks", "tap", "--steps", "0"], ["1 or more"]),
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


def test_a_place_where_no_folder_can_be_made_is_refused(stages: Stages) -> None:
    with pytest.raises(InputError, match=r"^--out /proc/out: expected a place where folders can be made$"):
        run(plan_for(Path("/proc/out")), quiet())


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
