"""Make unlearnable data, trap a plain trainer with it, and learn it anyway: ``python -m pst_fast.run``."""

import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from pst_fast.cli.exits import exit_code, write_failure
from pst_fast.cli.flags import RunConfig
from pst_fast.cli.resolve import resolve
from pst_fast.distributed import is_main, started
from pst_fast.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The flags; None takes the process's own.

    Returns:
        Exit code: 0, 2 for input that cannot be used (one sentence on stderr), 130 when interrupted.
    """

    def work() -> None:
        config = tyro.cli(RunConfig, prog="python -m pst_fast.run", description=_help(), args=arguments)
        with started():
            _run(config)

    return exit_code(work, "stopped; the same command goes on from here")


def _run(config: RunConfig) -> None:
    from pst_fast.cli.cost.forecast import forecast, print_forecast
    from pst_fast.cli.pipeline import run
    from pst_fast.cli.terminal import Terminal
    from pst_fast.report.table import print_table

    plan = resolve(config)
    terminal = Terminal(Console(stderr=True, quiet=not is_main()))
    if config.dry_run:
        print_forecast(Console(width=None if sys.stdout.isatty() else 110), forecast(plan, terminal))
        return
    try:
        rows = run(plan, terminal)
    except (OSError, RuntimeError) as error:
        sentence = write_failure(error, plan.out)
        if sentence is None:
            raise
        raise InputError(sentence) from error
    if not is_main():
        return
    print_table(Console(width=None if sys.stdout.isatty() else 100), rows)
    print(f"{plan.out}: results.json, table.md, curves.png, samples.png, report.html")


def _help() -> str:
    from pst_fast.attacks.base import ATTACKS
    from pst_fast.cli.recipes import describe_recipes
    from pst_fast.data.datasets import DATASETS
    from pst_fast.defenses.base import DEFENSES
    from pst_fast.models import list_models

    return "\n\n".join(
        (
            "Make unlearnable data with each attack, train on them with each defense, compare the results.",
            f"Datasets: {', '.join(DATASETS.names())}.",
            "Attacks: " + "; ".join(f"{name} ({ATTACKS[name].paper})" for name in ATTACKS.names()) + ".",
            f"Defenses: {', '.join(DEFENSES.names())}.",
            f"Models: {', '.join(list_models())}, timm:NAME, torchvision:NAME.",
            f"Defaults by data set: {describe_recipes()}.",
            "Several processes share the work of one run, each with a GPU of its own where there are GPUs: "
            "torchrun --standalone --nproc-per-node N -m pst_fast.run ...",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
