"""The flags of ``python -m pst_fast.run``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from pst_fast.data.frozen_subsets import Subset
from pst_fast.data.subset import Part

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
