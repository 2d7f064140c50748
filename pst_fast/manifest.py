"""Stages that are built once: one output folder each, with a manifest that says what made it.

A stage works in ``<output>.partial`` and is renamed to ``<output>`` when it is whole. A stage that was
killed finds its own files again, provided that it is asked for the same thing; one that is complete and
matches what is asked for is not built again.
"""

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from pst_fast import distributed
from pst_fast.files import remove_temporaries, sha256, write_json

MANIFEST = "manifest.json"
WORKING = "working"
"""Folder inside a stage's for what it needs to go on after a kill; it goes when the stage is whole."""
_REQUEST, _FACTS = "request.json", "facts.json"
_looking: ContextVar[bool] = ContextVar("looking", default=False)


class NotBuilt(Exception):
    """A stage is not there, or not as it is asked for, where it is only looked for."""


@contextmanager
def looking() -> Iterator[None]:
    """Within the block :func:`build_stage` raises :class:`NotBuilt` where it would have to build."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


@distributed.losses_told()
def build_stage(
    output: Path,
    kind: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Path],
    build: Callable[[Path], Mapping[str, Any] | None],
    *,
    together: bool = False,
) -> Path:
    """Return ``output``, built by ``build`` unless it is there already and made from the same things.

    Args:
        output: Folder of the stage.
        kind: Name of the stage ("prepare", "craft", ...).
        parameters: Everything (JSON values) that changes the result, the seed among it.
        inputs: Name -> folder of an earlier stage, or the one file of it that is read; the hashes in its
            manifest enter the key.
        build: Called with the stage's folder; fills it, and returns facts for the manifest
            (measured budget, device, ...), which later readers find under ``"facts"``. Called again after a
            kill, it finds what it left; what it leaves in the folder ``WORKING`` is removed in the end.
        together: Whether all processes of a run (see :mod:`pst_fast.distributed`) call ``build``, in which
            the main one alone writes; otherwise they wait for it to build. The facts are the main one's.
    """
    request = {
        "kind": kind,
        "parameters": json.loads(json.dumps(parameters)),
        "inputs": {name: _hashes(path) for name, path in inputs.items()},
    }
    if _looking.get():
        if _is_there(output, request):
            return output
        raise NotBuilt(str(output))
    partial = output.with_name(output.name + ".partial")
    distributed.barrier()  # all have read what they needed to ask for this
    there, facts = distributed.on_main(lambda: _begin(output, partial, request))
    if there:
        return output
    started = time.perf_counter()

    def filled() -> dict[str, Any]:
        try:
            return dict(build(partial) or {})
        except BaseException:
            if distributed.is_main() and [path.name for path in partial.iterdir()] == [_REQUEST]:
                shutil.rmtree(partial)
            raise

    if facts is None:
        facts = filled() if together else distributed.on_main(filled)
    distributed.barrier()  # all are done with the working folder, which goes now
    distributed.on_main(lambda: _finish(output, partial, request, facts, started))
    return output


def _begin(output: Path, partial: Path, request: Mapping[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """Whether ``output`` is there; else there is a folder to work in, and the facts if the work is done."""
    if _is_there(output, request):
        return True, None
    if _matches(partial, request):
        _rename(partial, output)
        return True, None
    if _read(partial / _REQUEST) != request:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / _REQUEST, request)
    return False, _read(partial / _FACTS)


def _finish(
    output: Path, partial: Path, request: Mapping[str, Any], facts: dict[str, Any], started: float
) -> None:
    """Write the manifest. The work is done, and hashing large files takes long enough to be killed in."""
    write_json(partial / _FACTS, facts)
    shutil.rmtree(partial / WORKING, ignore_errors=True)
    remove_temporaries(partial)
    outputs = {
        path.relative_to(partial).as_posix(): sha256(path)
        for path in sorted(partial.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, _REQUEST, _FACTS)
    }
    manifest = {
        **request,
        "outputs": outputs,
        "facts": facts,
        "seconds": time.perf_counter() - started,
        "environment": environment(),
    }
    write_json(partial / MANIFEST, manifest)
    _rename(partial, output)


def _rename(partial: Path, output: Path) -> None:
    """From the manifest on nothing is lost by a kill: the folder has to be renamed, and that is all."""
    for leftover in (_FACTS, _REQUEST):
        (partial / leftover).unlink(missing_ok=True)
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _is_there(output: Path, request: Mapping[str, Any]) -> bool:
    return (output / MANIFEST).is_file() and _matches(output, request)


def _matches(output: Path, request: Mapping[str, Any]) -> bool:
    manifest = _read(output / MANIFEST)
    return (
        manifest is not None
        and all(manifest.get(key) == value for key, value in request.items())
        and all((output / name).is_file() for name in manifest["outputs"])
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _hashes(path: Path) -> dict[str, str]:
    """Of all files of a stage, or of one of them."""
    if path.is_dir():
        return read_manifest(path)["outputs"]
    return {path.name: read_manifest(path.parent)["outputs"][path.name]}


@cache
def environment() -> dict[str, Any]:
    """Versions, revision and devices that a figure depends on."""
    import numpy
    import torch

    import pst_fast

    return {
        "pst_fast": pst_fast.__version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "processes": distributed.processes(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _revision() -> str | None:
    folder = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
