"""A run's results as a table, plots and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pst_fast.files import write_text


def write_report(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``table.md``, ``curves.png``, ``samples.png`` and ``report.html`` into a run's folder.

    Args:
        out: The run's folder, with ``results.json``; the rows' ``folder`` entries are relative to it.
        rows: The rows of ``results.json`` (see docs/pipeline.md), at least one.
    """
    from pst_fast.report.curves import draw_curves
    from pst_fast.report.html import write_html
    from pst_fast.report.samples import draw_samples
    from pst_fast.report.table import markdown_table

    write_text(out / "table.md", markdown_table(rows))
    draw_curves(out / "curves.png", out, rows)
    draw_samples(out / "samples.png", out, rows)
    write_html(out / "report.html", out, rows)
