"""Perturbation banks: crafting one, mapping it from disk, applying it to the clean images.

A bank is a folder with ``perturbation.npy`` (int8 or int16, in units of 1/255; [N,H,W,3], a row for each
clean training image, or [K,H,W,3], a row for each class) and a manifest.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pst_fast import distributed
from pst_fast.attacks.base import ATTACKS, Attack, CraftTask, Norm
from pst_fast.data.beton_stream import BetonStream
from pst_fast.data.mapped import Pages, whole_file
from pst_fast.data.perturbations import FILE, ApplyMode, load_perturbation
from pst_fast.data.published import fingerprint
from pst_fast.data.types import Images, ImageSet
from pst_fast.errors import InputError
from pst_fast.files import replacing, sha256
from pst_fast.manifest import MANIFEST, WORKING, build_stage, read_manifest

_log = logging.getLogger(__name__)

PERTURBATION = "perturbation.npy"
PRESETS = ("paper", "fast")
_FACTS = ("attack", "norm", "epsilon", "class_conditional", "budget", "num_samples", "num_classes")
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Bank:
    """The perturbations of one attack.

    Attributes:
        folder: Where they lie.
        perturbation: int8 or int16 [N,H,W,3], or [K,H,W,3] if class_conditional; mapped, read-only.
        class_conditional: Whether row k is for every image of class k, rather than for image k.
        facts: The manifest's: attack, norm, epsilon, budget, ...
        clean_sha256: Hash of the ``train.beton`` that the perturbations were made for.
    """

    folder: Path
    perturbation: np.ndarray
    class_conditional: bool
    facts: dict[str, Any]
    clean_sha256: str | None

    def rows(self, labels: np.ndarray, start: int, stop: int) -> np.ndarray:
        """The perturbations of images [start, stop); ``labels`` are those of the whole set, int64 [N]."""
        if self.class_conditional:
            return self.perturbation[labels[start:stop]]
        return self.perturbation[start:stop]


def craft(
    output: Path,
    clean: Path,
    *,
    attack: str,
    epsilon: float | None,
    preset: str,
    model: str,
    width: int,
    seed: int,
    device: torch.device,
    progress: Callable[[float, str], None],
    norm: Norm | None = None,
    steps: int | None = None,
) -> Path:
    """Make the bank ``output`` for the training images in ``clean``.

    Args:
        output: The bank's folder.
        clean: A folder made by :func:`pst_fast.data.prepare.prepare`.
        attack: Name in the registry of attacks.
        epsilon: Budget in the attack's norm on [0,1] images (pixels: a count), or None for the paper's.
        preset: ``paper`` or ``fast``.
        model: Surrogate network, for the attacks that train one.
        width: Its width.
        seed: Everything random follows from it.
        device: Where to compute.
        progress: Called with (fraction done in [0,1], a few words).
        norm: Of the budget, or None for the paper's; another one needs an ``epsilon``.
        steps: Gradient steps on a perturbation, or None for the preset's.

    Returns:
        ``output``. The manifest's facts hold attack, paper, norm, epsilon, class_conditional, num_samples,
        num_classes, device, craft_seconds, the attack's own facts and ``budget``, as
        :func:`measure_budget` gives it for the images as they are applied.

    Raises:
        InputError: Unknown attack or preset, epsilon out of range, a norm or steps that the attack does not
            take, or ``clean`` cannot be used.
    """
    kind = ATTACKS[attack].in_norm(norm)
    kind.check_steps(steps)
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: expected {' or '.join(PRESETS)}")
    if epsilon is not None:
        kind.check_epsilon(epsilon)
    parameters: dict[str, Any] = {"attack": attack, "epsilon": epsilon, "preset": preset, "seed": seed}
    overridden = {"norm": norm, "steps": steps}
    parameters |= {name: value for name, value in overridden.items() if value is not None}
    if kind.uses_model:
        parameters |= {"model": model, "width": width}

    def build(folder: Path) -> dict[str, Any]:
        data = _load_clean(clean)
        budget = kind.resolve_epsilon(epsilon, *data.images.shape[1:3])
        task = CraftTask(
            data=data,
            epsilon=budget,
            preset="paper" if preset == "paper" else "fast",
            model=model,
            width=width,
            seed=seed,
            device=device,
            folder=folder / WORKING,
            progress=progress,
            steps=steps,
        )
        task.folder.mkdir(exist_ok=True)
        if not kind.shared and distributed.processes() > 1:
            _log.warning("%s crafts in one process, while the others wait.", attack)
        started = time.perf_counter()
        perturbation = kind().craft(task)
        distributed.barrier()  # all have opened its file, which the main one moves
        if not distributed.is_main():
            return {}
        seconds = time.perf_counter() - started
        _check_perturbation(attack, kind, perturbation, data)
        facts = {
            "attack": attack,
            "paper": kind.paper,
            "norm": kind.norm,
            "epsilon": budget,
            "device": device.type,
            "craft_seconds": seconds,
            **task.facts,
        }
        facts = _write(folder, perturbation, kind.class_conditional, facts, data)
        _check_budget(attack, kind, budget, facts["budget"], data.images.shape)
        return facts

    inputs = {"clean": _train_file(clean)}
    return build_stage(output, "craft", parameters, inputs, build, together=kind.shared)


def import_bank(
    output: Path, clean: Path, path: Path, *, layout: str | None = None, apply_mode: ApplyMode = "paper"
) -> Path:
    """Make the bank ``output`` of perturbations, or poisoned images, that somebody else has published.

    Args:
        output: The bank's folder.
        clean: A folder made by :func:`pst_fast.data.prepare.prepare`.
        path: A file or a folder, see :func:`pst_fast.data.perturbations.load_perturbation`; or a bank.
        layout: How to read it, or None to find out.
        apply_mode: Whether to round or to do as the released loader does.

    Returns:
        ``output``. The manifest's facts are those of :func:`craft` (attack ``file``, norm ``linf``, epsilon
        as measured), ``layout`` as the file was read, and ``findings``, sentences about what looks wrong.

    Raises:
        InputError: The file or ``clean`` cannot be used.
    """
    if not path.exists():
        raise InputError(f"{path}: expected a file or a folder, but there is none")
    parameters = {"attack": FILE, "file": fingerprint(path), "layout": layout, "apply_mode": apply_mode}

    def build(folder: Path) -> dict[str, Any]:
        data, started = _load_clean(clean), time.perf_counter()
        data = replace(data, images=np.asarray(data.images))
        facts: dict[str, Any] = {"attack": FILE, "norm": "linf"}
        if (path / MANIFEST).is_file():
            if layout is not None:
                raise InputError(f"--layout {layout}: expected none for a bank, which {path} is")
            own = load_bank(path)
            check_match(own, data, read_manifest(clean)["outputs"].get("train.beton"), clean)
            steps, class_conditional = np.array(own.perturbation), own.class_conditional
            facts |= {"layout": "bank", "findings": []}
        else:
            found = load_perturbation(path, data, layout=layout, apply_mode=apply_mode)
            steps, class_conditional = found.steps, found.class_conditional
            facts |= {"layout": str(found.layout), "findings": list(found.findings)}
        facts["craft_seconds"] = time.perf_counter() - started
        facts = _write(folder, steps, class_conditional, facts, data)
        return facts | {"epsilon": facts["budget"]["linf"]}

    return build_stage(output, "craft", parameters, {"clean": _train_file(clean)}, build)


def _write(
    folder: Path, perturbation: np.ndarray, class_conditional: bool, facts: dict[str, Any], data: ImageSet
) -> dict[str, Any]:
    """Write the perturbations of a bank; its facts, with what was measured."""
    bank = Bank(folder, perturbation, class_conditional, facts, None)
    budget = _measure(apply_bank(data, bank))
    path = folder / PERTURBATION
    if (written := whole_file(perturbation)) and written.is_relative_to((folder / WORKING).resolve()):
        perturbation.flush()  # type: ignore[attr-defined]
        written.replace(path)
    else:
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, perturbation, allow_pickle=False)
    return {
        **facts,
        "class_conditional": class_conditional,
        "num_samples": len(data),
        "num_classes": len(data.classes),
        "budget": budget,
    }


def apply(output: Path, clean: Path, bank: Path) -> Path:
    """Write the poisoned training set, ``output``/train.beton: what the exploiter gets, nothing clean in it.

    Its images are clamp(clean + perturbation, 0, 255) as uint8; labels and index are the clean set's.

    Raises:
        InputError: The bank is damaged, or was made for other images.
    """

    def build(folder: Path) -> dict[str, Any]:
        loaded = load_bank(bank)
        data = _load_clean(clean)
        check_match(loaded, data, read_manifest(clean)["outputs"].get("train.beton"), clean)
        stream = BetonStream(
            folder / "train.beton", folder / WORKING, data.labels, data.index, data.images.shape[1:3]
        )
        for _, poisoned in apply_bank(data, loaded, stream.done):
            stream.write(poisoned)
        stream.finish()
        facts = read_manifest(clean)["facts"]
        return {
            "classes": list(data.classes),
            "image_size": facts["image_size"],
            **{key: loaded.facts[key] for key in _FACTS[:5]},
        }

    return build_stage(output, "apply", {}, {"clean": _train_file(clean), "bank": _stage(bank)}, build)


def load_bank(folder: Path, *, verify: bool = True) -> Bank:
    """Map a bank from disk.

    Args:
        folder: The bank.
        verify: Whether to compare the file's hash with the manifest's (reads it once).

    Raises:
        InputError: There is no bank, or its files are damaged or not what its manifest says.
    """
    path = folder / PERTURBATION
    manifest = read_manifest(_stage(folder))
    facts = manifest.get("facts")
    if manifest.get("kind") != "craft" or not isinstance(facts, dict):
        raise InputError(f"{folder / MANIFEST}: expected that of a bank, got {manifest.get('kind')!r}")
    missing = sorted(set(_FACTS) - set(facts))
    if missing:
        raise InputError(f"{folder / MANIFEST}: expected the facts of a bank, but {missing} are missing")
    perturbation = _map_array(path)
    rows = facts["num_classes"] if facts["class_conditional"] else facts["num_samples"]
    if len(perturbation) != rows:
        raise InputError(f"{path}: expected the {rows} rows of its manifest, got {len(perturbation)}")
    if verify and sha256(path) != manifest["outputs"].get(PERTURBATION):
        raise InputError(f"{path}: its bytes are not those that its manifest describes; craft the bank again")
    clean = manifest["inputs"].get("clean", {}).get("train.beton")
    return Bank(folder, perturbation, facts["class_conditional"], facts, clean)


def measure_budget(clean: Images, poisoned: Images) -> dict[str, float]:
    """How far ``poisoned`` is from ``clean``, over every sample; both uint8 [N,H,W,3].

    Returns:
        On [0,1] images: ``linf``, the largest change of a value; ``l2`` and ``l2_mean``, the largest and the
        mean L2 norm of a sample's change; ``pixels`` and ``pixels_mean``, the largest and the mean number of
        changed pixels in a sample; ``samples_changed``, the fraction of samples that differ at all.
    """
    if clean.shape != poisoned.shape or clean.dtype != np.uint8 or poisoned.dtype != np.uint8:
        raise ValueError(
            "expected two uint8 arrays of one shape, got "
            f"{clean.dtype} {clean.shape} and {poisoned.dtype} {poisoned.shape}"
        )
    return _measure((clean[some], poisoned[some]) for some in _slices(clean.shape))


def measure_bank(data: ImageSet, bank: Bank) -> dict[str, float]:
    """What :func:`measure_budget` says of the images as ``bank`` changes them."""
    return _measure(apply_bank(data, bank))


def _measure(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    linf, squares, pixels = 0, [np.zeros(0)], [np.zeros(0, np.int64)]
    for clean, poisoned in pairs:
        change = np.subtract(poisoned, clean, dtype=np.int16)
        linf = max(linf, int(change.max(initial=0)), -int(change.min(initial=0)))
        squares.append(np.multiply(change, change, dtype=np.int32).sum((1, 2, 3), dtype=np.int64) / 255.0**2)
        pixels.append(change.any(3).sum((1, 2)))
    l2, changed = np.sqrt(np.concatenate(squares)), np.concatenate(pixels)
    count = max(len(l2), 1)
    return {
        "linf": linf / 255,
        "l2": float(l2.max(initial=0)),
        "l2_mean": float(l2.sum() / count),
        "pixels": int(changed.max(initial=0)),
        "pixels_mean": float(changed.sum() / count),
        "samples_changed": float((changed > 0).sum() / count),
    }


def apply_bank(data: ImageSet, bank: Bank, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of the clean and the poisoned images, uint8 [n,H,W,3], in the data's order, from a row on."""
    pages = Pages(bank.perturbation)
    for some in _slices(data.images.shape, start):
        clean = data.images[some]
        steps = bank.rows(data.labels, some.start, some.stop)
        yield clean, np.clip(steps + clean.astype(np.int16), 0, 255).astype(np.uint8)
        pages.touch(steps.nbytes)


def _slices(shape: tuple[int, ...], start: int = 0) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // max(1, math.prod(shape[1:])))
    for first in range(start, shape[0], step):
        yield slice(first, min(first + step, shape[0]))


def _stage(folder: Path) -> Path:
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        raise InputError(f"{folder}: expected the output of a stage, but it has no {MANIFEST}") from None
    except ValueError:
        raise InputError(f"{folder / MANIFEST}: expected JSON, but it is damaged") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("outputs"), dict):
        raise InputError(f"{folder / MANIFEST}: expected the manifest of a stage, but it lists no outputs")
    return folder


def _train_file(clean: Path) -> Path:
    """The one file that perturbations depend on: other test images leave them as they are."""
    if "train.beton" not in read_manifest(_stage(clean))["outputs"]:
        raise InputError(f"{clean}: expected a prepared data set, but it has no train.beton")
    return clean / "train.beton"


def _load_clean(folder: Path) -> ImageSet:
    from pst_fast.data.prepare import map_image_set

    return map_image_set(folder, "train")


def _map_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: expected the bank's perturbations, but the file is missing") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: expected a whole .npy array of integers, but {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected an .npy array, got an .npz archive")
    if array.dtype not in (np.int8, np.int16) or array.ndim != 4 or array.shape[3] != 3:
        raise InputError(
            f"{path}: expected int8 or int16 [rows,H,W,3], got {array.dtype} {list(array.shape)}"
        )
    return array


def check_match(bank: Bank, data: ImageSet, clean_sha256: str | None, clean: Path) -> None:
    """Raise InputError unless the bank was made for these images, of a ``train.beton`` with that hash."""
    rows = len(data.classes) if bank.class_conditional else len(data)
    expected = (rows, *data.images.shape[1:])
    if bank.perturbation.shape != expected:
        raise InputError(
            f"{bank.folder}: expected perturbations of shape {list(expected)} for {clean}, "
            f"got {list(bank.perturbation.shape)}"
        )
    if not bank.class_conditional and bank.clean_sha256 != clean_sha256:
        raise InputError(f"{bank.folder}: made for other images than those in {clean}")


def _check_perturbation(attack: str, kind: type[Attack], perturbation: np.ndarray, data: ImageSet) -> None:
    rows = len(data.classes) if kind.class_conditional else len(data)
    expected = (rows, *data.images.shape[1:])
    if perturbation.dtype not in (np.int8, np.int16) or perturbation.shape != expected:
        raise TypeError(
            f"attack {attack!r} has to return int8 or int16 {list(expected)}, "
            f"got {perturbation.dtype} {list(perturbation.shape)}"
        )


def _check_budget(
    attack: str, kind: type[Attack], epsilon: float, measured: dict[str, float], shape: tuple[int, ...]
) -> None:
    # Rounding or truncating to whole steps moves each value by at most one step; only in L2 does the
    # attack's own scale leave room for that.
    slack = math.sqrt(math.prod(shape[1:])) / 255 if kind.norm == "l2" else 1e-6
    if measured[kind.norm] > epsilon + slack:
        raise RuntimeError(
            f"attack {attack!r} left its budget: {kind.norm} {measured[kind.norm]:.6g} > {epsilon:.6g}"
        )
