"""What is shown while a run is under way."""

import time

import pytest
from rich.console import Console

from pst_fast.cli.terminal import Terminal, clock, with_time_left


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
