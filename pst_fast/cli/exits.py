"""How a command ends: an exit code, and one sentence for whoever has to mend something."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pst_fast import distributed
from pst_fast.errors import InputError

BAD_INPUT = 2
LOST = 3
STOPPED = 130

_SHORT_WRITES = ("inline_container.cc", "PytorchStreamWriter", "requested and")
"""torch.save and numpy report a full disk in words of their own, without the system's error number."""


def exit_code(work: Callable[[], None], stopped: str) -> int:
    """Do the work; 0, 2 for input that cannot be used, 130 when interrupted, with a sentence on stderr.

    Of several processes the first to end says so for all; 3 where another one of them has ended.

    Args:
        work: The command.
        stopped: What to say after an interrupt.
    """
    try:
        work()
    except KeyboardInterrupt:
        return _ended(stopped, STOPPED)
    except InputError as error:
        return _ended(f"error: {error}", BAD_INPUT)
    except distributed.ProcessLost:
        return _ended(f"{stopped} (another process of the run was killed or failed)", LOST)
    return 0


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
