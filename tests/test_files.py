"""Files appear whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from pst_fast.files import replacing, sha256, write_json, write_text


def test_replacing_puts_the_new_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_the_data_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.exists()))
    write_text(path, "text")
    assert seen == [False]


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "± café")
    assert (tmp_path / "t").read_bytes() == "± café".encode()


def test_json_keeps_the_order_of_keys_and_names_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "j", {"b": 1, "a": Path("x/y")})
    text = (tmp_path / "j").read_text()
    assert list(json.loads(text)) == ["b", "a"]
    assert json.loads(text)["a"] == "x/y"
    assert text.endswith("}\n")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()
