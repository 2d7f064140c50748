"""What a flag's value has to be; each refusal is one sentence that names the flag."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch

from pst_fast.cli.plan import NO_ATTACK
from pst_fast.data.perturbations import FILE
from pst_fast.distributed import local_device
from pst_fast.errors import InputError
from pst_fast.train.resizing import progressive_of


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


def check_attacks(
    names: tuple[str, ...], epsilon: float | None, norm: Literal["linf", "l2"] | None, steps: int | None
) -> None:
    """The attacks, and what --epsilon, --norm and --steps ask of them."""
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


def check_model(name: str, width: int, image_size: int, sizes: Sequence[int] = ()) -> None:
    """A network that can be built for images of this size, and takes those of the other sizes too."""
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


def parse_progressive(text: str | None) -> tuple[float, float] | None:
    """``MIN:MAX``, fractions of the stored size."""
    try:
        return progressive_of(text)
    except ValueError:
        raise InputError(
            f"--progressive {text}: expected two fractions MIN:MAX, such as 0.7:0.85, with "
            "0 < MIN <= MAX <= 1"
        ) from None


def check_list(flag: str, names: tuple[str, ...]) -> None:
    """At least one entry, and none twice."""
    if not names:
        raise InputError(f"{flag}: expected at least one entry, got none")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{flag}: {twice[0]} is given twice, expected each entry once")


def parse_seed(word: str) -> int:
    """A whole number that fits 31 bits."""
    if not (word.isascii() and word.isdigit()) or int(word) >= 2**31:
        raise InputError(f"--seeds: expected whole numbers from 0 to {2**31 - 1}, got {word!r}")
    return int(word)


def at_least(least: int, name: str, value: int) -> int:
    """``value``, which must not be less than ``least``."""
    if value < least:
        raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    return value


def in_range(name: str, value: float, above: float | None = None, below: float = math.inf) -> float:
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
