"""Whether the disk and the memory will do for what is still to be done."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from pst_fast.cli.cost.sizes import RunSize, data_size
from pst_fast.cli.plan import Plan
from pst_fast.cli.stages import tasks_to_do
from pst_fast.cli.tasks import Task
from pst_fast.data.loaders import DEVICE_LIMIT_BYTES, DEVICE_LIMIT_FRACTION, free_memory
from pst_fast.errors import InputError

PROCESS_BYTES = 900_000_000
"""Of a worker on a CPU whose network, images and batches are next to nothing: 855 to 924 MB, as measured."""


def disk_needed(size: RunSize, tasks: Sequence[Task]) -> int:
    """Bytes that must be free for ``tasks``: what they leave, and the most that is there for a while."""
    lasting = sum(sum(size.disk_bytes(task).values()) for task in tasks)
    passing = sorted((size.working_bytes(task) for task in tasks), reverse=True)
    return lasting + sum(passing[: size.plan.workers or 1])


def memory_needed(size: RunSize, task: Task) -> int:
    """Bytes that a task takes at its peak: of main memory, or of the GPU for a training on CUDA."""
    data = size.data_bytes(task) if _resident(size, task) else 0
    if size.plan.device.type == "cuda" and task.kind == "train":
        return data + size.network_bytes(task)
    return PROCESS_BYTES + data + size.network_bytes(task)


def check_run(plan: Plan) -> None:
    """Raise InputError where a run will not fit this machine, as far as that can be told before it starts."""
    finished, to_do = tasks_to_do(plan)
    data = data_size(plan, prepared=bool(finished))
    if data is not None:
        check_room(RunSize(plan, data), to_do)


def check_room(size: RunSize, tasks: Sequence[Task]) -> None:
    """Raise InputError, naming a setting that would help, where ``tasks`` will not fit this machine.

    Memory is checked where the tasks are done on this machine.
    """
    out = size.plan.out
    needed, free = disk_needed(size, tasks), shutil.disk_usage(_existing(out)).free
    if needed > free:
        raise InputError(
            f"--out {out}: expected {in_words(needed)} of free disk for what is still to be written, "
            f"got {in_words(free)}; "
            "a smaller --train-per-class or --image-size, or fewer --attacks, would need less"
        )
    if size.plan.executor != "local":
        return
    for task in tasks:
        _check_memory(size, task)


def _check_memory(size: RunSize, task: Task) -> None:
    device = size.plan.device if task.kind == "train" else torch.device("cpu")
    needed, free = memory_needed(size, task), free_memory(device)
    sharing = min(size.plan.workers or 1, 1 if device.type == "cuda" else 1 << 20)
    if needed * sharing <= free:
        return
    if task.kind == "train" and size.plan.loader == "device" and size.data_bytes(task) > needed / 2:
        remedy = "--loader ffcv or torch would leave the images on the disk"
    elif task.kind == "train":
        remedy = f"a --batch-size of less than {size.plan.train.batch_size} would need less"
    else:
        remedy = "a smaller --train-per-class or --image-size would need less"
    if sharing > 1:
        remedy += f", and so would fewer --workers than {sharing}"
    raise InputError(
        f"{task.label}: expected {in_words(needed * sharing)} of free memory for "
        f"{f'{sharing} at a time' if sharing > 1 else 'it'}, got {in_words(free)}; {remedy}"
    )


def _resident(size: RunSize, task: Task) -> bool:
    """Whether the images of a task are in memory, as the loader will decide."""
    if task.kind != "train" or size.plan.loader != "auto":
        return True
    train = size.images * size.data.image_bytes
    return train <= min(DEVICE_LIMIT_BYTES, DEVICE_LIMIT_FRACTION * free_memory(size.plan.device))


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def in_words(count: int) -> str:
    """Bytes as people say them: ``3.2 GB``."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
