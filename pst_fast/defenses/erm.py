"""Plain training (empirical risk minimisation), what every defense is compared with."""

from typing import ClassVar

from pst_fast.defenses.base import DEFENSES, Defense


@DEFENSES.register("erm")
class ERM(Defense):
    """Crop, flip, cross-entropy."""

    summary: ClassVar[str] = "plain training: crop and flip"
