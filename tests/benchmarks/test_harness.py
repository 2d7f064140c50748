"""What the benchmarks' figures mean, by hand; and the table of ops, end to end, on one row."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.harness import Timing, compare, ratio
from tests.ops.helpers import needs_native


def test_a_timing_by_hand() -> None:
    timing = Timing.of([4.0, 1.0, 2.0, 3.0, 100.0])
    assert timing == Timing(3.0, (4.0 - 2.0) / 3.0)  # one slow repetition moves neither
    assert Timing.of([4.0, 1.0, 2.0, 3.0, 100.0], best=True).milliseconds == 1.0


def test_no_ratio_from_an_unsteady_run() -> None:
    steady, shaky = Timing(4.0, 0.2), Timing(2.0, 0.21)
    assert ratio(Timing(8.0, 0.0), steady) == 2.0
    assert ratio(steady, shaky) is None
    assert ratio(shaky, steady) is None
    assert ratio(None, steady) is None
    assert ratio(steady, shaky, best=True) == 2.0


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    names = ("a", "b")
    times = compare({name: lambda n=name: calls.append(n) for name in names}, torch.device("cpu"), seconds=0)
    assert calls == ["a"] * 3 + ["b"] * 3 + ["a", "b"] * 7  # warm-up, then in turns
    assert set(times) == set(names)


@needs_native
def test_rows_and_their_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ops.json"
    command = ["benchmarks", "ops", "--only", "linf_step_", "--no-compile", "--seconds", "0"]
    monkeypatch.setattr("sys.argv", [*command, "--best", "--json", str(path)])
    main()
    result = json.loads(path.read_text())
    row = result["rows"][0]
    assert row["eager_ratio"] == row["eager_ms"] / row["native_ms"]
    assert row["compiled_ratio"] is None
    assert result["environment"]["torch"] == torch.__version__
    for earlier in result["rows"]:
        earlier["native_ms"] = 1e6
    path.write_text(json.dumps(result))
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*command, "--compare", str(path)])
    main()
    last = capsys.readouterr().out.splitlines()[-1].split()[-1]
    assert last.endswith("x")
    assert float(last[:-1]) > 1000


@needs_native
@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--compare", "other.json", "expected a file that --json wrote"),
        ("--only", "nothing", "expected parts of ops' names"),
    ],
)
def test_bad_input(
    flag: str,
    value: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("[]")
    monkeypatch.setattr("sys.argv", ["benchmarks", "ops", flag, value])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
