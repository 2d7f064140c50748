"""report.html: one file, in which no name is ever read as markup."""

import base64
import copy
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pst_fast.report import html
from pst_fast.report.document import report_document
from pst_fast.report.html import SCRIPTS, embedded_json, render, write_html

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "$title ${document}",
    "\u2028\u2029\x00\x7f",
    "\ud800",
]


class Parsed(HTMLParser):
    """The elements of a page, and the text of each ``script`` and ``style``."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attributes))
        self._inside = dict(attributes).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Any]) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("run")
    return report_document(out, make_run(out, seeds=(0,), epochs=2))


def test_the_page_holds_the_document(tmp_path: Path, make_run: Callable[..., Any]) -> None:
    rows = make_run(tmp_path, seeds=(0,), epochs=2)
    write_html(tmp_path / "report.html", tmp_path, rows)
    parsed = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert json.loads(parsed.texts["document"]) == json.loads(json.dumps(report_document(tmp_path, rows)))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_not_become_markup(name: str, document: dict[str, Any]) -> None:
    hostile = copy.deepcopy(document)
    hostile["subject"] = hostile["command"] = name.replace("\ud800", "")
    hostile["attacks"][0] = hostile["defenses"][0] = hostile["cells"][0]["attack"] = name
    hostile["pictures"]["classes"][0] = hostile["pictures"]["attacks"][0]["attack"] = name
    hostile["cells"][0]["runs"][0]["events"].append(
        {"epoch": 0, "kind": name, "words": name, "stages": [name]}
    )
    parsed = Parsed(render(hostile))
    assert parsed.elements == Parsed(render(document)).elements
    assert json.loads(parsed.texts["document"]) == hostile
    assert parsed.texts["title"] == f"{hostile['subject']} - pst_fast"


@given(st.recursive(st.none() | st.text() | st.integers(), st.lists))
@settings(max_examples=50, deadline=None)
def test_embedded_json_is_the_value_and_holds_no_markup(value: Any) -> None:
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_the_policy_lets_these_scripts_run_and_nothing_load(document: dict[str, Any]) -> None:
    parsed = Parsed(render(document))
    (policy,) = (
        dict(attributes)["content"]
        for tag, attributes in parsed.elements
        if tag == "meta" and dict(attributes).get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(parsed.texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", render(document))


def test_every_script_of_the_page_is_in_it() -> None:
    folder = Path(html.__file__).parent / "page"
    assert sorted(SCRIPTS) == sorted(path.name for path in folder.glob("*.js"))
