"""A run that test_killed_runs.py kills: in small pieces, so that any moment is in the middle of something."""

import sys
from collections.abc import Sequence

from pst_fast.attacks.alternation import Recipe
from pst_fast.attacks.base import ATTACKS
from pst_fast.data import bank, prepare
from pst_fast.run import main

SIZE = 16


def run_in_pieces(arguments: Sequence[str]) -> None:
    """The command line, in this process, with chunks of 20 images and a craft of many short rounds."""
    prepare._CHUNK_BYTES = bank._CHUNK_BYTES = 20 * 3 * SIZE**2
    ATTACKS["em"].recipes["fast"] = Recipe(  # type: ignore[attr-defined]
        steps=1, relative_step=0.3, train_batches=2, max_rounds=8, stop_error=0.0, batch_size=32
    )
    sys.exit(main(arguments))
