"""One look for all figures."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl


@dataclass(frozen=True)
class Style:
    """Shared choices: resolution, and colours for what is in the background."""

    dpi: int = 160
    grey: str = "#8a8a8a"
    dark: str = "#333333"


STYLE = Style()

DEFENSE_COLOURS = ("#c44e52", "#4c72b0", "#55a868", "#dd8452", "#8172b3", "#937860", "#da8bc3", "#64b5cd")
STAGE_COLOURS = ("#e9b93c", "#ee8f45", "#d9534f", "#9c3570", "#4b1d6b", "#1b1b3a")
"""Shallow to deep, light to dark."""


def context() -> AbstractContextManager[None]:
    """Settings of matplotlib for the block; the user's own settings are left alone."""
    return mpl.rc_context(
        {
            "font.size": 8,
            "axes.titlesize": 9,
            "axes.labelsize": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.5,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
        }
    )


def level_colours(deepest: int) -> list[tuple[float, float, float]]:
    """Colours of the levels 0 (pale) to ``deepest`` (dark)."""
    shares = [level / deepest for level in range(deepest + 1)]
    return [(0.94 - 0.69 * share, 0.94 - 0.69 * share, 0.94 - 0.64 * share) for share in shares]
