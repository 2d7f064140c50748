"""``python -m benchmarks NAME``: one subcommand a module, which has ``add_arguments`` and ``run``."""

import argparse
import importlib
import sys

from pst_fast.errors import InputError

MODULES = {
    "ops": "the fused ops against PyTorch eager and torch.compile of their twins",
    "crafting": "the inner loop of the attacks against the loop of published code",
    "loaders": "images a second of the data loaders",
}
"""Subcommands and what they measure; ``benchmarks/<name>.py`` is imported only when it is asked for."""


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=MODULES, help="; ".join(f"{k}: {v}" for k, v in MODULES.items()))
    chosen, rest = parser.parse_known_args()
    module = importlib.import_module(f"benchmarks.{chosen.name}")
    own = argparse.ArgumentParser(prog=f"python -m benchmarks {chosen.name}", description=module.__doc__)
    module.add_arguments(own)
    try:
        module.run(own.parse_args(rest))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
