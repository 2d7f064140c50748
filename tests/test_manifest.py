"""Stages are built once, found again when they match, and go on after a kill."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pst_fast import manifest
from pst_fast.files import sha256
from pst_fast.manifest import MANIFEST, WORKING, build_stage, environment, read_manifest


class Builder:
    """Writes ``words`` to a file, and counts how often it is asked to."""

    def __init__(self, words: str = "made") -> None:
        self.words = words
        self.calls = 0

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.calls += 1
        (folder / "data.txt").write_text(self.words)
        return {"count": 3}


def test_a_finished_stage_has_its_files_and_a_manifest(tmp_path: Path) -> None:
    output = tmp_path / "stage"
    assert build_stage(output, "prepare", {"seed": 1}, {}, Builder()) == output
    found = read_manifest(output)
    assert found["kind"] == "prepare"
    assert found["parameters"] == {"seed": 1}
    assert found["facts"] == {"count": 3}
    assert found["outputs"] == {"data.txt": sha256(output / "data.txt")}
    assert found["seconds"] >= 0
    assert found["environment"]["torch"] == environment()["torch"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage"]
    assert sorted(path.name for path in output.iterdir()) == ["data.txt", MANIFEST]


def test_the_same_request_is_built_once(tmp_path: Path) -> None:
    builder = Builder()
    for _ in range(2):
        build_stage(tmp_path / "s", "k", {"a": (1, 2), "b": None}, {}, builder)
    assert builder.calls == 1


@pytest.mark.parametrize(
    ("kind", "parameters"), [("k", {"a": 2}), ("k", {"a": 1, "b": 1}), ("other", {"a": 1})]
)
def test_another_request_is_built_in_its_place(tmp_path: Path, kind: str, parameters: dict[str, int]) -> None:
    build_stage(tmp_path / "s", "k", {"a": 1}, {}, Builder("first"))
    build_stage(tmp_path / "s", kind, parameters, {}, Builder("second"))
    assert (tmp_path / "s" / "data.txt").read_text() == "second"


def test_a_change_of_an_input_builds_anew(tmp_path: Path) -> None:
    first, second, last = tmp_path / "1", tmp_path / "2", Builder()
    for words, calls in (("x", 1), ("x", 1), ("y", 2)):
        build_stage(first, "k", {"words": words}, {}, Builder(words))
        build_stage(second, "k", {}, {"data": first}, last)
        assert last.calls == calls


def test_a_lost_file_or_a_broken_manifest_builds_anew(tmp_path: Path) -> None:
    builder = Builder()
    build_stage(tmp_path / "s", "k", {}, {}, builder)
    (tmp_path / "s" / "data.txt").unlink()
    build_stage(tmp_path / "s", "k", {}, {}, builder)
    assert builder.calls == 2
    (tmp_path / "s" / MANIFEST).write_text('{"kind": "k", "para')
    build_stage(tmp_path / "s", "k", {}, {}, builder)
    assert builder.calls == 3
    assert read_manifest(tmp_path / "s")["kind"] == "k"


def test_what_a_killed_stage_left_is_found_again(tmp_path: Path) -> None:
    def first(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def second(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half"
        (folder / "half.txt").rename(folder / "whole.txt")

    with pytest.raises(KeyboardInterrupt):
        build_stage(tmp_path / "s", "k", {"a": 1}, {}, first)
    assert not (tmp_path / "s").exists()
    build_stage(tmp_path / "s", "k", {"a": 1}, {}, second)
    assert list(read_manifest(tmp_path / "s")["outputs"]) == ["whole.txt"]


def test_what_was_left_by_another_request_is_not_used(tmp_path: Path) -> None:
    def killed(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_stage(tmp_path / "s", "k", {"a": 1}, {}, killed)
    build_stage(tmp_path / "s", "k", {"a": 2}, {}, Builder())
    assert list(read_manifest(tmp_path / "s")["outputs"]) == ["data.txt"]


@pytest.mark.parametrize("killed_in", ["sha256", "environment", "rename"])
def test_finished_work_is_not_done_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    """Hashing a large file takes minutes: a kill there, or anywhere after it, must not cost the work."""

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def build(folder: Path) -> Mapping[str, Any]:
        (folder / WORKING).mkdir(exist_ok=True)
        (folder / WORKING / "state").write_text("x")
        (folder / ".data.txt.tmp").write_text("of a killed process")
        return builder(folder)

    builder = Builder()
    with monkeypatch.context() as patch:
        if killed_in == "rename":
            patch.setattr(Path, "rename", kill)
        else:
            patch.setattr(manifest, killed_in, kill)
        with pytest.raises(KeyboardInterrupt):
            build_stage(tmp_path / "s", "k", {"a": 1}, {}, build)
    assert not (tmp_path / "s").exists()
    build_stage(tmp_path / "s", "k", {"a": 1}, {}, build)
    assert builder.calls == 1
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["data.txt", MANIFEST]
    assert read_manifest(tmp_path / "s")["facts"] == {"count": 3}
    assert list(read_manifest(tmp_path / "s")["outputs"]) == ["data.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_stage_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    def refuses(folder: Path) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_stage(tmp_path / "s", "k", {}, {}, refuses)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rebuild_keeps_the_finished_stage(tmp_path: Path) -> None:
    def refuses(folder: Path) -> None:
        raise ValueError("no")

    build_stage(tmp_path / "s", "k", {"a": 1}, {}, Builder())
    with pytest.raises(ValueError, match="no"):
        build_stage(tmp_path / "s", "k", {"a": 2}, {}, refuses)
    assert read_manifest(tmp_path / "s")["parameters"] == {"a": 1}


def test_files_in_folders_are_listed_with_their_path(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "f").write_text("x")

    build_stage(tmp_path / "s", "k", {}, {}, build)
    assert list(read_manifest(tmp_path / "s")["outputs"]) == ["deep/f"]


def test_the_environment_is_plain_json() -> None:
    assert json.loads(json.dumps(environment())) == environment()
    assert {"pst_fast", "revision", "python", "torch", "gpu"} <= set(environment())
