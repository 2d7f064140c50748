"""report.html: a run's results in one file that opens from disk.

The page is a template, a style sheet and scripts (the folder ``page``), filled with one JSON document. The
scripts put text into the page as text nodes only; besides, the page's policy lets a browser run these scripts
and no other, and load nothing.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pst_fast.files import write_text
from pst_fast.report.document import report_document

SCRIPTS = ("dom.js", "figures.js", "leaderboard.js", "chart.js", "cell.js", "gallery.js", "main.js")
"""In the order in which they build on each other."""


def write_html(path: Path, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the page of a run.

    Args:
        path: The HTML file to write.
        out: The run's folder (see :func:`pst_fast.report.document.report_document`).
        rows: The rows of ``results.json``, at least one.

    Raises:
        InputError: ``results.json`` or a run's ``metrics.jsonl`` is missing or damaged.
    """
    write_text(path, render(report_document(out, rows)))


def render(document: Mapping[str, Any]) -> str:
    """The page that shows a document."""
    style = _part("style.css")
    script = '"use strict";\n' + "".join(_part(name) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_part("template.html")).substitute(
        policy=policy,
        title=html.escape(document["subject"]),
        style=style,
        script=script,
        document=embedded_json(document),
    )


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a ``<script>`` element: nothing in it ends the element or begins one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


@cache
def _part(name: str) -> str:
    return (files("pst_fast.report") / "page" / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """A text's hash, as Content-Security-Policy names what may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
