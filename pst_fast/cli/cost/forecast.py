"""--dry-run: the plan as a table, with what each task will take, and when all of it would be done."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from pst_fast.cli.cost.calibrate import Calibration, TrainingCost
from pst_fast.cli.cost.room import check_room, disk_needed, in_words, memory_needed
from pst_fast.cli.cost.sizes import RunSize, size_of
from pst_fast.cli.executors.local import threads_each
from pst_fast.cli.plan import NO_ATTACK, Plan
from pst_fast.cli.stages import tasks_to_do, title_of
from pst_fast.cli.tasks import Task, graph
from pst_fast.cli.terminal import Terminal, clock
from pst_fast.data.perturbations import FILE
from pst_fast.distributed import world_size
from pst_fast.errors import InputError


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Attributes:
        size: The run.
        finished: The tasks that are done already.
        seconds: Task -> estimated seconds of those to do.
        flops: Task -> floating-point operations of the trainings to do.
        total: Estimated seconds until all is done, on the plan's workers.
    """

    size: RunSize
    finished: Sequence[Task]
    seconds: Mapping[Task, float]
    flops: Mapping[Task, float]
    total: float


def forecast(plan: Plan, terminal: Terminal) -> Forecast:
    """Count and calibrate; nothing is written to the run's folder.

    Raises:
        InputError: The disk or the memory will not do, or something given cannot be used.
    """
    if world_size() > 1:
        raise InputError("--dry-run: expected one process, not several under torchrun")
    finished, to_do = tasks_to_do(plan)
    size = size_of(plan, prepared=bool(finished))
    check_room(size, to_do)
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads or (before if plan.workers == 1 else threads_each(plan.workers or 1)))
    try:
        seconds, trainings = _calibrated(size, to_do, terminal)
    finally:
        torch.set_num_threads(before)
    flops = {
        task: size.training_flops(task.defense, trainings[task.defense].flops_per_step)
        for task in to_do
        if task.kind == "train"
    }
    return Forecast(size, finished, seconds, flops, finish_time(to_do, seconds, plan.workers or 1))


def _calibrated(
    size: RunSize, to_do: Sequence[Task], terminal: Terminal
) -> tuple[dict[Task, float], dict[str, TrainingCost]]:
    crafts: dict[str, float] = {}
    trainings: dict[str, TrainingCost] = {}
    seconds: dict[Task, float] = {}
    if not to_do:
        return seconds, trainings
    with terminal.stage("calibrate") as report:
        calibration = Calibration(size)
        for number, task in enumerate(to_do):
            report(number / len(to_do), title_of(size.plan, task))
            if task.kind == "prepare":
                seconds[task] = calibration.prepare()
            elif task.kind == "poison":
                if task.attack not in crafts:
                    crafts[task.attack] = 0.0 if task.attack == FILE else calibration.crafting(task.attack)
                seconds[task] = crafts[task.attack] + calibration.apply()
            else:
                if task.defense not in trainings:
                    trainings[task.defense] = calibration.training(task.defense)
                seconds[task] = trainings[task.defense].seconds
    return seconds, trainings


def finish_time(tasks: Sequence[Task], seconds: Mapping[Task, float], workers: int) -> float:
    """When the last of ``tasks`` ends, if so many workers take them in order as they become ready."""
    ends: dict[Task, float] = {}
    waiting = list(tasks)
    running: list[tuple[float, int, Task]] = []
    now = 0.0
    while waiting or running:
        for task in list(waiting):
            if len(running) < workers and not any(
                need in seconds and need not in ends for need in task.needs
            ):
                waiting.remove(task)
                heapq.heappush(running, (now + seconds[task], tasks.index(task), task))
        now, _, ended = heapq.heappop(running)
        ends[ended] = now
    return now


def print_forecast(console: Console, known: Forecast) -> None:
    """Print the plan: a line for each task, and the sums."""
    size, plan = known.size, known.size.plan
    table = Table(show_edge=False, pad_edge=False, caption_justify="left")
    for name in ("task", "steps", "TFLOPs", "disk", "peak memory", "time"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task in graph(plan)[0]:
        title = title_of(plan, task)
        if task not in known.seconds:
            table.add_row(title, "", "", "", "", "there already")
            continue
        steps = plan.train.epochs * size.steps(task.defense) if task.kind == "train" else None
        table.add_row(
            title,
            "" if steps is None else f"{steps:,}",
            "" if steps is None else f"{known.flops[task] / 1e12:,.3g}",
            in_words(sum(size.disk_bytes(task).values())),
            in_words(memory_needed(size, task)),
            clock(known.seconds[task]),
        )
    console.print(table)
    to_do, data, train = list(known.seconds), size.data, plan.train
    flops, disk = sum(known.flops.values()), disk_needed(size, to_do)
    workers = f", with {plan.workers} workers" if (plan.workers or 1) > 1 else ""
    lines = [
        f"data: {size.images} training and {sum(data.test)} test images of "
        f"{data.image_size}x{data.image_size}, {len(data.train)} classes",
        f"network: {train.model}, {size.network.parameters / 1e6:.3g} million parameters",
        f"to do: {len(to_do)} tasks ({len(known.finished)} are there already), {in_words(disk)} of disk, "
        f"{flops / 1e12:,.4g} TFLOPs of training",
        f"time: {clock(known.total)}, from a short calibration on this machine{workers}",
    ]
    if any(task.attack not in ("", NO_ATTACK) and task.kind == "poison" for task in to_do):
        lines.append("crafting is extrapolated from its first seconds; attacks that stop early take less")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
