"""How commands end that are not read to the end."""

import os
import subprocess
import sys

import pytest

from pst_fast.cli.exits import exit_code


@pytest.mark.parametrize("command", ["pst_fast.run", "pst_fast.audit", "pst_fast.export"])
def test_a_reader_that_is_gone_is_no_error(command: str) -> None:
    """``python -m pst_fast.run --help | head -1`` says nothing on stderr."""
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_pipe_that_broke_elsewhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a helper process that died: that is a defect, and not a reader who has seen enough."""

    def work() -> None:
        raise BrokenPipeError

    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError):
            exit_code(work, "stopped")
    os.close(reads)
