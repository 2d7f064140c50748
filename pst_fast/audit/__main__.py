"""Say whether a data set is poisoned: ``python -m pst_fast.audit --data-dir D``."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pst_fast.cli.exits import exit_code, write_failure
from pst_fast.errors import InputError


@dataclass(frozen=True)
class AuditConfig:
    """The flags."""

    data_dir: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Data set: train/<class>/*, <class>/*, or a folder that pst_fast.run made."""
    clean_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: none)")
    ] = None
    """The same images as they were published first, to compare with."""
    image_size: Annotated[
        int | None, tyro.conf.arg(metavar="PIXELS", help_behavior_hint="(default: their own)")
    ] = None
    """Side to bring the images of a tree to."""
    samples: Annotated[int, tyro.conf.arg(metavar="N")] = 2000
    """Images to look at."""
    epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 12
    """Epochs of the small network; 0 leaves it out, which is fast and finds less."""
    recover_epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Epochs of plain training and of pst-plus, which show how much a trainer recovers; 0: none."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Draws the samples and the networks."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """JSON file for everything that was found."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The flags; None takes the process's own.

    Returns:
        Exit code: 0 whatever the verdict, 2 for input that cannot be used (one sentence on stderr), 130 when
        interrupted.
    """

    def work() -> None:
        _audit(tyro.cli(AuditConfig, prog="python -m pst_fast.audit", description=__doc__, args=arguments))

    return exit_code(work, "stopped; nothing was written")


def _audit(config: AuditConfig) -> None:
    from pst_fast.audit.evidence import MEASURED, collect_evidence
    from pst_fast.audit.recovery import recover
    from pst_fast.audit.source import read_training_images
    from pst_fast.audit.twin import compare
    from pst_fast.cli.checks import resolve_device
    from pst_fast.cli.terminal import Terminal
    from pst_fast.files import write_json
    from pst_fast.manifest import environment
    from pst_fast.memory import keep_freed_memory

    keep_freed_memory()
    for flag, value, least in (
        ("samples", config.samples, 100),
        ("epochs", config.epochs, 0),
        ("recover-epochs", config.recover_epochs, 0),
        ("seed", config.seed, 0),
    ):
        if value < least:
            raise InputError(f"--{flag} {value}: expected at least {least}")
    if config.out is not None and config.out.is_dir():
        raise InputError(f"--out {config.out}: expected a name for a file, got a folder")
    data = read_training_images(config.data_dir, config.image_size)
    found: dict[str, Any] = {
        "data_dir": str(config.data_dir),
        "classes": len(data.classes),
        "images": len(data),
    }
    if config.clean_dir is not None:
        found["change"] = compare(
            data, read_training_images(config.clean_dir, config.image_size), config.clean_dir
        )
    terminal = Terminal(Console(stderr=True))
    with terminal.stage("audit") as report:
        evidence = collect_evidence(
            data,
            samples=config.samples,
            epochs=config.epochs,
            seed=config.seed,
            device=resolve_device("auto"),
            progress=report,
        )
    found |= {
        "poisoned": evidence.poisoned,
        "noisy": evidence.noisy,
        "score": evidence.score,
        "kind": evidence.kind if evidence.poisoned else None,
        **asdict(evidence),
        "measured": MEASURED,
    }
    if config.recover_epochs:
        with terminal.stage("recover") as report:
            found["recovery"] = recover(
                config.data_dir,
                config.clean_dir or config.data_dir,
                epochs=config.recover_epochs,
                seed=config.seed,
                progress=report,
            )
    try:
        if config.out is not None:
            write_json(config.out, found | {"environment": environment()})
    except OSError as error:
        sentence = write_failure(error, config.out or Path())
        if sentence is None:
            raise
        raise InputError(sentence) from error
    _show(found)


def _show(found: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 100)
    table = Table(title="Accuracy on held-back training images, %")
    table.add_column("learner")
    for column in ("as they are", "JPEG", "lost"):
        table.add_column(column, justify="right")
    for name, value in found["accuracy"].items():
        viewed = found["under_view"][name]
        table.add_row(name, f"{100 * value:.1f}", f"{100 * viewed:.1f}", f"{100 * (value - viewed):.1f}")
    console.print(table)
    if found["acm"]:
        acm = ", ".join(
            f"{stage} {values[-1]:.2f} ({found['acm_under_view'][stage][-1]:.2f})"
            for stage, values in found["acm"].items()
        )
        print(f"ACM after the last epoch, as they are (JPEG): {acm}")
    print(f"Noise where the images are smoothest, in 95 % of them at least: {found['noise']:.1f}/255")
    if "change" in found:
        change = found["change"]
        print(
            f"Beside the clean images: {change['samples_changed']:.0%} changed, "
            f"Linf {change['linf'] * 255:.0f}/255, "
            f"L2 {change['l2']:.2f}, {change['pixels']} pixels"
        )
    for defense, accuracy in found.get("recovery", {}).items():
        print(f"Test accuracy of {defense}: {accuracy:.1%}")
    if found["poisoned"]:
        print(f"Verdict: poisoned ({found['score']:.2f}): {found['kind']}.")
    elif found["noisy"]:
        print(
            f"Verdict: no shortcut that was found ({found['score']:.2f}), but noise that photographs do not "
            "have: perturbed, or made with noise."
        )
    else:
        print(f"Verdict: no sign of a poison ({found['score']:.2f}).")
    clean, attacks = found["measured"]["clean"], found["measured"]["attacks"]
    print(
        f"Where the answer was known: of {clean['sets']} clean sets {clean['poisoned']} were called poisoned "
        f"and {clean['noisy']}, drawn with noise, noisy; of {attacks['sets']} attacks {attacks['poisoned']} "
        f"poisoned and {attacks['noisy']} noisy (docs/audit.md)."
    )


if __name__ == "__main__":
    sys.exit(main())
