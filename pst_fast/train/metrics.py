"""The curves of a run, as JSON lines and for TensorBoard."""

import json
from pathlib import Path
from typing import Any

from pst_fast.files import write_text


class MetricsLog:
    """``metrics.jsonl`` with one object an epoch, and the same numbers for TensorBoard.

    Args:
        folder: Where the file and the folder ``tensorboard`` go.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self._board_folder = folder / "tensorboard"
        self._board: Any = None

    def restart(self, rows: list[dict[str, Any]]) -> None:
        """Begin with the rows that a checkpoint knows: a kill may have left one more in the file."""
        from torch.utils.tensorboard import SummaryWriter

        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self._board = SummaryWriter(str(self._board_folder), purge_step=len(rows) + 1)

    def append(self, row: dict[str, Any]) -> None:
        """Add an epoch."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        for key, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(key, value, row["epoch"])
        for group in ("acm", "levels"):
            for stage, value in row[group].items():
                self._board.add_scalar(f"{group}/{stage}", value, row["epoch"])
        self._board.flush()

    def close(self) -> None:
        """Release the files, if any were opened."""
        if self._board is not None:
            self._board.close()
