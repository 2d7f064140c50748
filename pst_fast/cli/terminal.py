"""What a person sees while a run is under way: one live line, or plain lines where nobody watches."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

Report = Callable[[float, str], None]
"""Takes the fraction done in [0,1] and a few words."""

PLAIN_INTERVAL = 15.0
"""Seconds between two lines of one stage where the output is not a terminal."""


class Terminal:
    """Shows the stages that are under way on ``console``: a live line each, or plain lines now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None

    def say(self, words: str) -> None:
        """Print a line."""
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Report]:
        """Show ``title`` and what is reported until the block ends; several may be shown at a time."""
        if self._console.is_terminal:
            with self._line(title) as report:
                yield report
        else:
            yield self._plain(title)

    @contextmanager
    def _line(self, title: str) -> Iterator[Report]:
        live = self._live = self._live or self._start()
        task = live.add_task(title, total=None, words="")

        def report(fraction: float, words: str) -> None:
            live.update(task, total=1.0, completed=fraction, words=words)

        try:
            yield report
        finally:
            live.refresh()
            live.remove_task(task)
            if not live.tasks:
                live.stop()
                self._live = None

    def _start(self) -> Progress:
        live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}", markup=False),
            console=self._console,
            transient=True,
        )
        live.start()
        return live

    def _plain(self, title: str) -> Report:
        due = time.monotonic() + PLAIN_INTERVAL

        def report(fraction: float, words: str) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + PLAIN_INTERVAL
                self.say(f"  {title}: {fraction:.0%}, {words}")

        return report


def with_time_left(report: Report) -> Report:
    """``report`` that also says how much longer it takes, judged by the share done since its first call."""
    first: tuple[float, float] | None = None

    def timed(fraction: float, words: str) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = (now, fraction)
        started, share = first
        if fraction > share:
            left = (now - started) * (1 - fraction) / (fraction - share)
            words = f"{words}, {clock(left)} left"
        report(fraction, words)

    return timed


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes: ``1:20``, ``2h05``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
