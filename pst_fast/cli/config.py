"""What a run is asked for: the flags, and the plan that they resolve to."""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pst_fast.cli.executors.names import check_executor
from pst_fast.cli.recipes import BUDGETS, recipe_of
from pst_fast.data.frozen_subsets import Subset
from pst_fast.data.perturbations import FILE, LAYOUTS
from pst_fast.data.subset import Part
from pst_fast.distributed import local_device
from pst_fast.errors import InputError
from pst_fast.train.resizing import progressive_of, trained_sizes
from pst_fast.train.settings import TrainSettings

T = TypeVar("T")

NO_ATTACK = "none"
"""Stands for the clean data where the name of an attack is expected."""

ALL = "all"
"""Stands for every attack or every defense."""


Names = Annotated[
    tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B,...",
        instance_from_str=lambda words: tuple(part.strip() for part in words[0].split(",") if part.strip()),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(value)],
    ),
]


def _by_dataset(metavar: str) -> Any:
    """A flag whose default is in the data set's recipe."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: by data set, see above)")


def _open(metavar: str, otherwise: str) -> Any:
    """A flag that may be left open; ``otherwise`` says what happens then."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {otherwise})")


@dataclass(frozen=True)
class RunConfig:
    """The flags; one that is None takes its value from the data set's recipe (``pst_fast.cli.recipes``)."""

    dataset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "demo"
    """Data set to poison and to learn."""
    data_dir: Annotated[Path | None, _open("FOLDER", "none; the demo needs none")] = None
    """Folder of the data set."""
    attacks: Annotated[Names | None, _by_dataset("NAME,NAME")] = None
    """Attacks, comma-separated; "none" stands for the clean data, "all" for every attack."""
    defenses: Annotated[Names | None, _by_dataset("NAME,NAME")] = None
    """Defenses, comma-separated; "erm" is plain training, "all" stands for every defense."""
    seeds: Annotated[Names, tyro.conf.arg(metavar="N,N")] = ("0",)
    """Seeds, comma-separated; each one repeats the attack and every training run."""
    out: Annotated[Path | None, _open("FOLDER", "runs/DATASET")] = None
    """Folder for everything the run writes. The same command goes on where it was stopped."""

    subset: Subset = "all"
    """Frozen subset of ImageNet: its first hundred classes, or a fifth of their training images."""
    num_classes: Annotated[int | None, _open("N", "all")] = None
    """Take the first so many classes."""
    train_per_class: Annotated[int | None, _open("N", "all")] = None
    """Take so many training images a class (a seeded draw)."""
    test_per_class: Annotated[int | None, _open("N", "all")] = None
    """Take so many test images a class (a seeded draw)."""
    image_size: Annotated[int | None, _open("PIXELS", "the data set's own")] = None
    """Side of the stored images."""
    data_seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Seed of the subset's draw."""
    test_jpeg: Annotated[int | None, _open("QUALITY", "raw")] = None
    """Store the test images as JPEG of this quality (FFCV's own is 90), which saves disk."""
    test_part: Part = "all"
    """Half of the test images: to make choices on, or to report figures that no choice was made by."""

    perturbation: Annotated[Path | None, _open("PATH", "none")] = None
    """Published perturbations or poisoned images, a file (.pt, .npy, .npz, .pkl) or a folder."""
    layout: Annotated[str | None, _open("ROWS-CHANNELS-CONTENT", "found out")] = None
    """How to read them, such as sample-first-perturbation."""
    apply_mode: Literal["paper", "released"] = "paper"
    """Round them, or lose what the published loader of em loses."""

    epsilon: Annotated[str | None, _open("E", "each paper's")] = None
    """Budget of the attacks on [0,1] images, such as 8/255 or 0.03."""
    norm: Annotated[Literal["linf", "l2"] | None, _open("linf|l2", "each paper's")] = None
    """Norm of that budget; another than the paper's for tap, aap, hypo and entf."""
    steps: Annotated[int | None, _open("N", "the preset's")] = None
    """Gradient steps on a perturbation, of the attacks that take any."""
    preset: Annotated[Literal["fast", "paper"] | None, _by_dataset("fast|paper")] = None
    """How much work goes into an attack: the paper's settings, or fewer steps."""
    surrogate: Annotated[str | None, _open("NAME", "--model")] = None
    """Network that attacks are crafted on."""
    surrogate_width: Annotated[int | None, _open("N", "--width")] = None
    """Channels of the surrogate's first stage."""

    model: Annotated[str | None, _by_dataset("NAME")] = None
    """Network to train."""
    width: Annotated[int | None, _by_dataset("N")] = None
    """Channels of the network's first stage (64: the standard ResNet)."""
    budget: Annotated[int | None, _open("16|30|60", "none")] = None
    """Epochs of a recipe after FFCV's for ImageNet, see docs/scaling.md; other flags change its settings."""
    epochs: Annotated[int | None, _by_dataset("N")] = None
    """Passes over the training set."""
    batch_size: Annotated[int | None, _by_dataset("N")] = None
    """Images a step, over all processes."""
    learning_rate: Annotated[float | None, _by_dataset("X")] = None
    """Peak of the cosine schedule (SGD, Nesterov momentum .9)."""
    weight_decay: Annotated[float | None, _by_dataset("X")] = None
    """Weight decay of SGD."""
    warmup_epochs: Annotated[float | None, _by_dataset("X")] = None
    """Epochs of linear warm-up."""
    label_smoothing: Annotated[float | None, _by_dataset("X")] = None
    """Label smoothing of the cross-entropy."""
    random_resized_crop: Annotated[bool | None, _by_dataset("True|False")] = None
    """Crop training images at random and resize them, in the place of a crop with padding."""
    progressive: Annotated[str | None, _open("MIN:MAX", "none; 0.7:0.85 with --budget")] = None
    """Fractions of the stored size between which training images grow over the epochs."""
    eval_size: Annotated[int | None, _open("PIXELS", "the stored size")] = None
    """Side of the images that test accuracy is measured at."""
    ema: Annotated[float | None, _by_dataset("DECAY")] = None
    """Decay of an average of the weights, which is then what is evaluated and kept; 0: none."""
    amp: Literal["auto", "on", "off"] = "auto"
    """bf16 autocast; auto: where the hardware computes in bf16."""
    compile: bool = False
    """Train the network through torch.compile; on a GPU as a CUDA graph."""
    loader: Literal["auto", "device", "ffcv", "torch"] = "auto"
    """How batches are read; auto: from the device's memory where the set fits, else with FFCV."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: CUDA where there is a device."""

    executor: Annotated[str, tyro.conf.arg(metavar="local|ray|slurm")] = "local"
    """Who does the tasks: processes of this machine, Ray, or jobs under Slurm (see docs/pipeline.md)."""
    workers: Annotated[int | None, _open("N", "one a GPU, else 1; ray and slurm: as many as they give")] = (
        None
    )
    """Tasks at a time, each in a process of its own."""
    threads: Annotated[int | None, _open("N", "the cores, shared among the workers")] = None
    """CPU threads of each worker."""
    slurm: Annotated[str | None, _open("PARTITION:MINUTES", "the cluster's partition, 1440 minutes")] = None
    """Where jobs go with --executor slurm, and how long each may take."""
    dry_run: bool = False
    """Print the plan, what it takes and how long, and start nothing."""


@dataclass(frozen=True)
class Plan:
    """A run with nothing left open: every name is known, every number in range.

    Attributes:
        train: Settings that all training runs share; each run puts in its own defense and seed.
        epsilon: Budget on [0,1] images in the attacks' norm, or None for each paper's.
        The others are as in :class:`RunConfig`.
    """

    dataset: str
    data_dir: Path | None
    image_size: int | None
    subset: Subset
    num_classes: int | None
    train_per_class: int | None
    test_per_class: int | None
    data_seed: int
    test_part: Part
    test_jpeg: int | None
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    seeds: tuple[int, ...]
    perturbation: Path | None
    layout: str | None
    apply_mode: Literal["paper", "released"]
    epsilon: float | None
    norm: Literal["linf", "l2"] | None
    steps: int | None
    preset: Literal["fast", "paper"]
    surrogate: str
    surrogate_width: int
    train: TrainSettings
    loader: Literal["auto", "device", "ffcv", "torch"]
    device: torch.device
    executor: str
    workers: int | None
    threads: int | None
    slurm: str | None
    out: Path


def resolve(config: RunConfig) -> Plan:
    """Fill the open flags from the data set's recipe, and check everything that can be checked beforehand.

    Raises:
        InputError: An unknown name, a number out of range, a device that is not there.
    """
    from pst_fast.attacks.base import ATTACKS
    from pst_fast.data.datasets import DATASETS
    from pst_fast.defenses.base import DEFENSES

    DATASETS[config.dataset]
    if config.budget is not None and config.budget not in BUDGETS:
        raise InputError(
            f"--budget {config.budget}: expected one of {', '.join(map(str, BUDGETS))}; "
            "--epochs takes any number"
        )
    recipe = recipe_of(config.dataset, config.budget)

    def given(name: str, kind: Callable[..., T]) -> T:
        value = getattr(config, name)
        return kind(getattr(recipe, name) if value is None else value)

    attacks = _with_all(_attacks(config, given("attacks", tuple)), ATTACKS.names())
    defenses = _with_all(given("defenses", tuple), DEFENSES.names())
    for flag, names in (("--attacks", attacks), ("--defenses", defenses), ("--seeds", config.seeds)):
        _check_list(flag, names)
    for name in defenses:
        DEFENSES[name]
    epsilon = parse_epsilon(config.epsilon)
    _check_attacks(attacks, epsilon, config.norm, config.steps)

    for flag in ("num_classes", "train_per_class", "test_per_class", "image_size"):
        if getattr(config, flag) is not None:
            _at_least(1 if flag != "num_classes" else 2, flag, getattr(config, flag))
    train = TrainSettings(
        defense="erm",
        model=given("model", str),
        width=_at_least(1, "width", given("width", int)),
        epochs=_at_least(1, "epochs", given("epochs", int)),
        batch_size=_at_least(2, "batch_size", given("batch_size", int)),
        learning_rate=_in_range("learning_rate", given("learning_rate", float), above=0.0),
        weight_decay=_in_range("weight_decay", given("weight_decay", float)),
        warmup_epochs=_in_range("warmup_epochs", given("warmup_epochs", float)),
        label_smoothing=_in_range("label_smoothing", given("label_smoothing", float), below=1.0),
        random_resized_crop=given("random_resized_crop", bool),
        progressive=_progressive(recipe.progressive if config.progressive is None else config.progressive),
        eval_size=None if config.eval_size is None else _at_least(8, "eval_size", config.eval_size),
        ema=_in_range("ema", given("ema", float), below=1.0),
        amp=config.amp,
        compile=config.compile,
    )
    surrogate = train.model if config.surrogate is None else config.surrogate
    surrogate_width = train.width if config.surrogate_width is None else config.surrogate_width
    _at_least(1, "surrogate_width", surrogate_width)
    image_size = config.image_size or recipe.image_size
    _check_model(train.model, train.width, image_size, trained_sizes(train, image_size))
    _check_model(surrogate, surrogate_width, image_size)
    remote = config.executor != "local" and config.device != "auto"
    device = torch.device(config.device) if remote else resolve_device(config.device)
    check_executor(config.executor, config.slurm)
    if config.threads is not None:
        _at_least(1, "threads", config.threads)
    return Plan(
        dataset=config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        subset=config.subset,
        num_classes=config.num_classes,
        train_per_class=config.train_per_class,
        test_per_class=config.test_per_class,
        data_seed=_at_least(0, "data_seed", config.data_seed),
        test_part=config.test_part,
        test_jpeg=config.test_jpeg,
        attacks=attacks,
        defenses=defenses,
        seeds=tuple(_seed(word) for word in config.seeds),
        perturbation=config.perturbation,
        layout=config.layout,
        apply_mode=config.apply_mode,
        epsilon=epsilon,
        norm=config.norm,
        steps=config.steps,
        preset="fast" if given("preset", str) == "fast" else "paper",
        surrogate=surrogate,
        surrogate_width=surrogate_width,
        train=train,
        loader=config.loader,
        device=device,
        executor=config.executor,
        workers=_workers(config, device),
        threads=config.threads,
        slurm=config.slurm,
        out=Path("runs") / config.dataset if config.out is None else config.out,
    )


def _workers(config: RunConfig, device: torch.device) -> int | None:
    """Tasks at a time; None where the executor decides."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if config.executor != "local" or config.workers not in (None, 1):
            raise InputError(
                f"--executor {config.executor} --workers {config.workers or 'open'}: expected neither under "
                "torchrun, whose processes share each task"
            )
        return 1
    if config.workers is not None:
        return _at_least(1, "workers", config.workers)
    if config.executor != "local":
        return None
    return max(1, torch.cuda.device_count()) if device.type == "cuda" else 1


def _attacks(config: RunConfig, attacks: tuple[str, ...]) -> tuple[str, ...]:
    """The attacks by name; with --perturbation ``file`` alone, or after those that are asked for."""
    if config.perturbation is None:
        for flag, value in (("--layout", config.layout), ("--attacks", FILE if FILE in attacks else None)):
            if value is not None:
                raise InputError(f"{flag} {value}: expected --perturbation FILE beside it")
        return attacks
    if config.layout is not None and config.layout not in LAYOUTS:
        raise InputError(f"--layout {config.layout!r}: expected one of {', '.join(LAYOUTS)}")
    if not config.perturbation.exists():
        raise InputError(
            f"--perturbation {config.perturbation}: expected a file or folder, but there is none"
        )
    asked = config.attacks or ()
    return asked if FILE in asked else (*asked, FILE)


def _with_all(names: tuple[str, ...], every: Sequence[str]) -> tuple[str, ...]:
    """The names, with those that are not among them yet in the place of ``all``."""
    at = names.index(ALL) if ALL in names else len(names)
    rest = tuple(name for name in every if name not in names) if at < len(names) else ()
    return (*names[:at], *rest, *names[at + 1 :])


def settings_of(plan: Plan) -> dict[str, object]:
    """The plan as JSON values, for results.json."""
    settings = dataclasses.asdict(plan)
    train = settings.pop("train")
    for name in ("defense", "seed"):
        del train[name]
    for name in ("data_dir", "perturbation", "out", "device"):
        settings[name] = None if settings[name] is None else str(settings[name])
    return settings | train


def parse_epsilon(text: str | None) -> float | None:
    """A budget as people write it: ``0.03``, ``8/255``.

    Raises:
        InputError: Not a number or a fraction.
    """
    if text is None:
        return None
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"--epsilon {text!r}: expected a number such as 0.03 or a fraction such as 8/255"
        ) from None


def _check_attacks(
    names: tuple[str, ...], epsilon: float | None, norm: Literal["linf", "l2"] | None, steps: int | None
) -> None:
    from pst_fast.attacks.base import ATTACKS

    kinds = {}
    for name in names:
        if name in (NO_ATTACK, FILE):
            continue
        try:
            kinds[name] = ATTACKS[name].in_norm(norm)
            kinds[name].check_steps(steps)
        except InputError as error:
            raise InputError(f"--attacks {name}: {error}") from None
    norms = {name: kind.norm for name, kind in kinds.items()}
    if epsilon is None:
        other = [name for name in norms if norms[name] != ATTACKS[name].norm]
        if other:
            raise InputError(f"--norm {norm}: expected --epsilon too, as {other[0]}'s own is in another norm")
        return
    if len(set(norms.values())) > 1:
        pairs = ", ".join(f"{name}: {norm}" for name, norm in norms.items())
        raise InputError(f"--epsilon cannot serve attacks of different norms ({pairs}): run them apart")
    for kind in kinds.values():
        kind.check_epsilon(epsilon)


def _check_model(name: str, width: int, image_size: int, sizes: Sequence[int] = ()) -> None:
    from pst_fast.models import create_model

    with torch.device("meta"):
        model = create_model(name, num_classes=2, width=width, image_size=image_size).eval()
        for size in sizes:
            try:
                model(torch.empty(1, 3, size, size))
            except (RuntimeError, AssertionError, ValueError) as error:
                raise InputError(
                    f"--model {name}: expected a network that takes images of {size} pixels too, for "
                    f"--progressive or --eval-size, got '{str(error).splitlines()[0]}'"
                ) from error


def _progressive(text: str | None) -> tuple[float, float] | None:
    try:
        return progressive_of(text)
    except ValueError:
        raise InputError(
            f"--progressive {text}: expected two fractions MIN:MAX, such as 0.7:0.85, with "
            "0 < MIN <= MAX <= 1"
        ) from None


def _check_list(flag: str, names: tuple[str, ...]) -> None:
    if not names:
        raise InputError(f"{flag}: expected at least one entry, got none")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{flag}: {twice[0]} is given twice, expected each entry once")


def _seed(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or int(word) >= 2**31:
        raise InputError(f"--seeds: expected whole numbers from 0 to {2**31 - 1}, got {word!r}")
    return int(word)


def _at_least(least: int, name: str, value: int) -> int:
    if value < least:
        raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    return value


def _in_range(name: str, value: float, above: float | None = None, below: float = math.inf) -> float:
    """``value``, which must be finite, more than ``above`` (or not negative), and less than ``below``."""
    if (value >= 0 if above is None else value > above) and value < below:
        return value
    least = "at least 0" if above is None else f"more than {above:g}"
    most = "" if below == math.inf else f" and less than {below:g}"
    raise InputError(f"--{name.replace('_', '-')} {value:g}: expected {least}{most}")


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a device; InputError where there is no CUDA device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here; expected one, or --device cpu")
    return local_device(name)
