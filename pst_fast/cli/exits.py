"""How a command ends: an exit code, and one sentence for whoever has to mend something."""

import errno
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

from pst_fast import distributed
from pst_fast.errors import InputError

BAD_INPUT = 2
LOST = 3
STOPPED = 130
UNREAD = 1
"""Whoever reads the output is gone, as after ``| head``; ``rich`` ends so, too."""

_SHORT_WRITES = ("inline_container.cc", "PytorchStreamWriter", "requested and")
"""torch.save and numpy report a full disk in words of their own, without the system's error number."""


def exit_code(work: Callable[[], None], stopped: str) -> int:
    """Do the work; 0, 2 for input that cannot be used, 130 when interrupted, with a sentence on stderr.

    Of several processes the first to end says so for all; 3 where another one of them has ended. 1, in
    silence, where nobody reads the output any more.

    Args:
        work: The command.
        stopped: What to say after an interrupt.
    """
    try:
        try:
            work()
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        if not _is_unread():
            raise
        return UNREAD
    except KeyboardInterrupt:
        return _ended(stopped, STOPPED)
    except InputError as error:
        return _ended(f"error: {error}", BAD_INPUT)
    except distributed.ProcessLost:
        return _ended(f"{stopped} (another process of the run was killed or failed)", LOST)
    return 0


def _is_unread() -> bool:
    """Whether it is the output's reader that is gone; what is left of the output is dropped then."""
    output = select.poll()
    output.register(sys.stdout, 0)  # errors are told of without being asked for
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _ended(words: str, code: int) -> int:
    if distributed.has_the_word():
        print(words, file=sys.stderr)
    return code


def write_failure(error: OSError | RuntimeError, out: Path) -> str | None:
    """One sentence where the disk or a permission is in the way; None for what is not the user's to mend."""
    number = error.errno if isinstance(error, OSError) else None
    where = (error.filename if isinstance(error, OSError) else None) or out
    if any(words in str(error) for words in _SHORT_WRITES):
        number = errno.ENOSPC
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{where}: {os.strerror(number).lower()}; expected room for what is written to {out}"
    if isinstance(error, PermissionError):
        return f"{where}: permission denied; expected a path that this user may read and write"
    if number == errno.EROFS:
        return f"{where}: the file system is read-only; expected a place to write to"
    return None
