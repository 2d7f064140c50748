"""Workers: what is refused, what they share, what their deaths leave, and that all give the same rows."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from pst_fast import run as command
from pst_fast.cli.executors import names
from pst_fast.cli.executors.base import Outcome, Throttled, attempt, portable
from pst_fast.cli.executors.local import Pool, threads_each, visible_gpus
from pst_fast.cli.executors.names import SlurmJob, parse_slurm
from pst_fast.cli.pipeline import run
from pst_fast.cli.resolve import resolve
from pst_fast.cli.tasks import Task, graph
from pst_fast.cli.terminal import Terminal
from pst_fast.errors import InputError
from pst_fast.manifest import read_manifest
from tests.cli.stages import Stages, plan_for, quiet

TINY = [
    "--attacks", "lsp", "--defenses", "erm,pst", "--epochs", "2", "--train-per-class", "30",
    "--test-per-class", "10", "--batch-size", "30", "--width", "8", "--device", "cpu",
]  # fmt: skip


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--executor", "k8s"], ["--executor 'k8s'", "local, ray, slurm"]),
        (["--workers", "0"], ["--workers 0", "at least 1"]),
        (["--threads", "0"], ["--threads 0", "at least 1"]),
        (["--slurm", "gpu:60"], ["--slurm gpu:60", "--executor slurm"]),
    ],
)
def test_bad_flags_are_one_sentence_and_exit_code_2(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    for word in words:
        assert word in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [{"workers": 2}, {"executor": "slurm"}])
def test_ranks_of_torchrun_take_no_workers(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("pst_fast.cli.resolve.check_executor", lambda name, slurm: None)
    with pytest.raises(InputError, match="torchrun"):
        resolve(command.RunConfig(device="cpu", **flags))
    assert resolve(command.RunConfig(device="cpu")).workers == 1


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"the package {package}.*pip install 'pst_fast\[{name}\]'"):
        names.check_executor(name, None)


def test_slurm_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(names.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="sbatch"):
        names.check_executor("slurm", "gpu:60")


@pytest.mark.parametrize(
    ("text", "job"),
    [
        (None, SlurmJob(None, 1440)),
        ("gpu", SlurmJob("gpu", 1440)),
        ("gpu:90", SlurmJob("gpu", 90)),
        (":90", SlurmJob(None, 90)),
    ],
)
def test_where_jobs_go(text: str | None, job: SlurmJob) -> None:
    assert parse_slurm(text) == job


@pytest.mark.parametrize("text", ["gpu:", "gpu:0", "gpu:1h", "gpu:-5"])
def test_bad_minutes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="PARTITION:MINUTES"):
        parse_slurm(text)


# What workers share


def test_cores_are_shared_and_omp_num_threads_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    assert [threads_each(workers) for workers in (1, 3, 16, 40)] == [16, 5, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads_each(8) == 4


def test_gpus_are_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-77")
    assert visible_gpus() == ["3", "GPU-77"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve(command.RunConfig(device="cuda")).workers == 2, "one a GPU"
    assert resolve(command.RunConfig(device="cpu")).workers == 1
    assert resolve(command.RunConfig(device="cpu", workers=3)).workers == 3
    pool = Pool(resolve(command.RunConfig(device="cuda", workers=3)))
    given: list[Any] = []

    class Process:
        def __init__(self, target: Any, args: tuple[Any, ...], name: str) -> None:
            given.append(args[-1])

        def start(self) -> None:
            pass

    monkeypatch.setattr(multiprocessing.get_context("spawn"), "Process", Process)
    for number in range(3):
        pool._spawn(number)
    assert given == ["3", "GPU-77", "3"]


def test_reports_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = 100.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    report = Throttled(lambda fraction, words: said.append(fraction), 1.0)
    for step in range(31):
        report(step, "")
        now += 0.125
    assert said == [0, 8, 16, 24]


class Awkward(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_errors_cross_to_the_driver_with_their_traceback() -> None:
    def fail(error: Exception) -> Exception:
        try:
            raise error
        except Exception as caught:
            sent = pickle.loads(pickle.dumps(portable(Outcome(error=caught))))
            return sent.error

    same = fail(OSError(28, "No space left on device", "x"))
    assert isinstance(same, OSError) and (same.errno, same.filename) == (28, "x")
    assert "test_executors.py" in same.__notes__[0]
    sentence = fail(InputError("a.jpg: truncated"))
    assert str(sentence) == "a.jpg: truncated" and not hasattr(sentence, "__notes__")
    words = fail(Awkward(1, 2))
    assert type(words) is RuntimeError and str(words) == "Awkward: 1 and 2"
    assert "test_executors.py" in words.__notes__[0]


def test_a_task_waits_for_a_worker_that_outlived_its_driver(tmp_path: Path, stages: Stages) -> None:
    plan = plan_for(tmp_path)
    task = graph(plan)[0][0]
    hold = (
        "import fcntl, sys\n"
        f"stream = open({str(tmp_path / '.tasks')!r}, 'a+b')\n"
        f"fcntl.lockf(stream, fcntl.LOCK_EX, 1, {zlib.crc32(b'prepare')})\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"held\n"
    said: list[str] = []
    ended: list[Outcome] = []
    worker = threading.Thread(
        target=lambda: ended.append(attempt(plan, task, lambda fraction, words: said.append(words)))
    )
    worker.start()
    worker.join(0.3)
    assert said == ["waiting for another process that is at it"]
    assert not stages.built and not ended
    other.kill()
    other.wait()
    worker.join(10)
    assert ended[0].error is None and stages.built == ["prepare"]


def test_several_lines_are_shown_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(Console(force_terminal=True, width=100))
    with terminal.stage("craft em") as one:
        with terminal.stage("craft lsp") as two:
            one(0.5, "round 1/2")
            two(0.1, "class 1/10")
            time.sleep(0.3)
            shown = capsys.readouterr().out
            terminal.say("a line above")
        one(0.9, "round 2/2")
    assert all(word in shown for word in ("craft em", "craft lsp", "round 1/2", "class 1/10"))
    assert "a line above" in capsys.readouterr().out
    with terminal.stage("again") as report:
        report(0.5, "later")
    assert "later" in capsys.readouterr().out


# The pool's processes


def ended(pool: Pool) -> list[tuple[Task, Outcome]]:
    for _ in range(120):
        some = list(pool.wait())
        if some:
            return some
    raise AssertionError("nothing has ended in two minutes")


def test_a_killed_worker_is_a_sentence_and_the_next_task_gets_a_new_one(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, workers=1, train_per_class=2, test_per_class=1)
    pool = Pool(plan)
    prepare = graph(plan)[0][0]
    reports: list[float] = []
    try:
        pool.start(prepare, lambda fraction, words: reports.append(fraction))
        [victim] = multiprocessing.active_children()
        os.kill(victim.pid or 0, signal.SIGKILL)
        [(task, outcome)] = ended(pool)
        assert task == prepare
        assert isinstance(outcome.error, InputError)
        assert "killed by signal 9" in str(outcome.error)
        pool.start(prepare, lambda fraction, words: reports.append(fraction))
        [(task, outcome)] = ended(pool)
        assert outcome.error is None and outcome.lines[0].startswith("prepare demo: done in")
        assert reports
        assert read_manifest(tmp_path / "clean")["environment"]["cpu_threads"] == threads_each(1)
    finally:
        pool.close()
    assert not multiprocessing.active_children()


# The real thing


def tiny(out: Path, *flags: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pst_fast.run", *TINY, "--out", str(out), *flags],
        check=check, capture_output=True, text=True, env=one_thread(),
    )  # fmt: skip


def one_thread() -> dict[str, str]:
    # bf16 is off in every test; the fixture of the module comes before those that see to it
    return {**os.environ, "OMP_NUM_THREADS": "1", "PST_FAST_BF16": "0"}


def figures(out: Path) -> list[dict[str, Any]]:
    """The rows without what the clock and the process decide."""
    rows = json.loads((out / "results.json").read_text())["rows"]
    measured = ("seconds", "images_per_second", "peak_memory_bytes")
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run on one worker that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    tiny(out, "--workers", "1")
    rows = figures(out)
    assert len(rows) == 2
    return rows


def worker_at(folder: Path) -> int | None:
    """The process that has a file in ``folder`` open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(fd.readlink()).startswith(f"{folder}/") for fd in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return None


def when_an_epoch_is_there(folder: Path, process: subprocess.Popen[str]) -> int:
    """The worker that trains into ``folder``, as soon as its first epoch is written."""
    metrics = folder / "metrics.jsonl"
    while process.poll() is None:
        if metrics.is_file() and metrics.stat().st_size and (found := worker_at(folder)):
            return found
        time.sleep(0.01)
    raise AssertionError(f"ended too soon: {process.communicate()}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in the background, with epochs enough to be met in the middle.

    It hears SIGINT, also where these tests do not (``nohup`` and ``&`` leave it ignored, which is inherited).
    """
    processes: list[subprocess.Popen[str]] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def begin(*flags: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", "pst_fast.run", *TINY, "--out", str(tmp_path / "out"), *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(arguments, text=True, env=one_thread(), **pipes))
        return processes[-1]

    yield begin
    signal.signal(signal.SIGINT, before)
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_workers_give_the_rows_of_one(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    tiny(tmp_path, "--workers", "2")
    assert figures(tmp_path) == whole
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_run_goes_on_from_the_epoch_in_which_a_worker_was_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    flags = ("--workers", "2", "--epochs", "12")
    out = tmp_path / "out"
    running = start(*flags)
    os.kill(when_an_epoch_is_there(out / "train/lsp/pst-seed0.partial", running), signal.SIGKILL)
    _, said = running.communicate()
    assert running.returncode == 2
    sentence = (
        "lsp/pst seed 0 failed: its process was killed by signal 9; the same command goes on from there"
    )
    assert said.endswith(f"error: {sentence}\n")
    written = json.loads((out / "results.json").read_text())
    assert len(written["rows"]) == 1
    assert [failure["error"] for failure in written["failures"]] == [sentence]
    before = (out / "train/lsp/pst-seed0.partial/metrics.jsonl").read_text().splitlines()
    assert 0 < len(before) < 12
    tiny(out, *flags)
    after = (out / "train/lsp/pst-seed0/metrics.jsonl").read_text().splitlines()
    assert after[: len(before) - 1] == before[:-1], "the epochs, seconds among them, are those from before"
    tiny(tmp_path / "whole", "--workers", "1", "--epochs", "12")
    assert figures(out) == figures(tmp_path / "whole")


@pytest.mark.slow
def test_workers_end_with_their_driver(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], whole: list[dict[str, Any]]
) -> None:
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        running = start("--workers", "2", "--epochs", "200")
        worker = when_an_epoch_is_there(tmp_path / "out/train/none/erm-seed0.partial", running)
        os.kill(running.pid, number)
        assert running.wait(120) == code
        deadline = time.monotonic() + 60
        while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{worker}").exists()
    tiny(tmp_path / "out", "--workers", "2")
    assert figures(tmp_path / "out") == whole


@pytest.mark.slow
def test_ray_gives_the_rows_of_the_pool_and_takes_up_what_a_killed_worker_left(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    pytest.importorskip("ray")
    flags = ("--workers", "2", "--epochs", "12")
    running = start("--executor", "ray", *flags)
    os.kill(when_an_epoch_is_there(tmp_path / "out/train/lsp/pst-seed0.partial", running), signal.SIGKILL)
    _, said = running.communicate()
    assert running.returncode == 0, said
    tiny(tmp_path / "pool", *flags)
    assert figures(tmp_path / "out") == figures(tmp_path / "pool")
    assert not (tmp_path / "out/.progress").exists()


@pytest.mark.slow
def test_slurm_jobs_give_the_rows_of_the_pool(
    tmp_path: Path, whole: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    from pst_fast.cli.executors import slurm

    monkeypatch.setattr(slurm, "CLUSTER", "local")
    monkeypatch.setattr(names.shutil, "which", lambda name: name)
    plan = plan_for(
        tmp_path, attacks=("lsp",), defenses=("erm", "pst"), epochs=2, train_per_class=30,
        test_per_class=10, batch_size=30, width=8, executor="slurm", slurm="cpu:10", workers=2, threads=1,
    )  # fmt: skip
    run(plan, quiet())
    assert figures(tmp_path) == whole
    assert not (tmp_path / ".progress").exists()
