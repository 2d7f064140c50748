"""Banks: crafting, measuring, damaged files, applying."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast.attacks.alternation import Recipe
from pst_fast.attacks.base import ATTACKS, Attack
from pst_fast.data import bank as bank_module
from pst_fast.data.bank import apply, craft, import_bank, load_bank, measure_budget
from pst_fast.data.beton import read_beton, write_beton
from pst_fast.errors import InputError
from pst_fast.manifest import build_stage, read_manifest

COUNT, SIZE, CLASSES = 30, 16, ("ant", "bee", "cat")


def write_clean(folder: Path, seed: int = 0) -> Path:
    """A folder as ``prepare`` makes it."""

    def build(partial):
        rng = np.random.default_rng(seed)
        images = np.clip(rng.integers(-60, 316, (COUNT, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        labels = rng.permutation(np.arange(COUNT) % 3)
        for split in ("train", "test"):
            write_beton(partial / f"{split}.beton", images, labels, 7 * np.arange(COUNT))
        return {"classes": list(CLASSES), "image_size": SIZE}

    return build_stage(folder, "prepare", {"seed": seed}, {}, build)


def write_clean_with_other_test_images(folder: Path) -> Path:
    """The same training images."""

    def build(partial):
        data = read_beton(write_clean(folder.with_name("first")) / "train.beton")
        images = data.gather(np.arange(COUNT))
        write_beton(partial / "train.beton", images, data.labels, 7 * np.arange(COUNT))
        write_beton(partial / "test.beton", images[:9], data.labels[:9], np.arange(9))
        return {"classes": list(CLASSES), "image_size": SIZE}

    return build_stage(folder, "prepare", {"other": True}, {}, build)


def craft_here(output: Path, clean: Path, attack: str, **changes) -> Path:
    arguments = {
        "epsilon": None,
        "preset": "fast",
        "model": "resnet10",
        "width": 8,
        "seed": 0,
        "device": torch.device("cpu"),
        "progress": lambda fraction, words: None,
    }
    return craft(output, clean, attack=attack, **{**arguments, **changes})


@pytest.fixture
def clean(tmp_path):
    return write_clean(tmp_path / "clean")


@pytest.fixture
def lsp(tmp_path, clean):
    return craft_here(tmp_path / "bank", clean, "lsp")


@pytest.fixture
def fake_attack(monkeypatch):
    """Registers an attack that returns what it is given."""

    def register(steps, norm="linf", epsilon=8 / 255, class_conditional=False):
        fields = {
            "paper": "none",
            "norm": norm,
            "epsilon": epsilon,
            "class_conditional": class_conditional,
            "craft": lambda self, task: steps,
        }
        ATTACKS.names()
        monkeypatch.setitem(ATTACKS._entries, "fake", type("Fake", (Attack,), fields))

    return register


def test_measure_budget_by_hand():
    clean = np.full((3, 2, 2, 3), 100, np.uint8)
    poisoned = clean.copy()
    poisoned[0, 0, 0] = [103, 96, 100]  # one pixel, L2 of 5 steps
    poisoned[1, 0, 0, 0] = 112
    poisoned[1, 1, 1, 2] = 95  # two pixels, L2 of 13 steps
    budget = measure_budget(clean, poisoned)
    assert budget == pytest.approx(
        {
            "linf": 12 / 255,
            "l2": 13 / 255,
            "l2_mean": 6 / 255,
            "pixels": 2,
            "pixels_mean": 1,
            "samples_changed": 2 / 3,
        }
    )


def test_measure_budget_does_not_wrap_around():
    assert measure_budget(np.zeros((1, 1, 1, 3), np.uint8), np.full((1, 1, 1, 3), 255, np.uint8))["linf"] == 1


def test_measure_budget_over_many_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    clean, poisoned = rng.integers(0, 256, (2, 11, 4, 4, 3), dtype=np.uint8)
    whole = measure_budget(clean, poisoned)
    monkeypatch.setattr(bank_module, "_CHUNK_BYTES", 100)
    assert measure_budget(clean, poisoned) == whole


def test_measure_budget_wants_8_bit_images_of_one_shape():
    with pytest.raises(ValueError, match="uint8"):
        measure_budget(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3)))


def test_bank_and_manifest(clean, lsp):
    bank = load_bank(lsp)
    assert bank.perturbation.shape == (COUNT, SIZE, SIZE, 3)
    assert isinstance(bank.perturbation, np.memmap)
    assert not bank.perturbation.flags.writeable
    assert not bank.class_conditional
    facts = read_manifest(lsp)["facts"]
    assert facts["epsilon"] == pytest.approx(6 / 255 * math.sqrt(3 * SIZE * SIZE))
    assert (facts["attack"], facts["norm"], facts["num_samples"]) == ("lsp", "l2", COUNT)
    assert facts["craft_seconds"] > 0
    assert sorted(path.name for path in lsp.iterdir()) == ["manifest.json", "perturbation.npy"]


def test_the_budget_in_the_manifest_is_that_of_the_applied_images(tmp_path, clean, lsp):
    poisoned = apply(tmp_path / "poisoned", clean, lsp)
    measured = measure_budget(
        read_beton(clean / "train.beton").load_all(), read_beton(poisoned / "train.beton").load_all()
    )
    assert read_manifest(lsp)["facts"]["budget"] == measured
    assert read_manifest(poisoned)["facts"]["budget"] == measured


@pytest.mark.parametrize("attack", ["lsp", "ops", "em"])
def test_apply_adds_and_clamps(attack, tmp_path, clean, monkeypatch):
    recipe = Recipe(steps=1, relative_step=1.0, train_batches=1, max_rounds=1)
    monkeypatch.setitem(ATTACKS["em"].recipes, "fast", recipe)
    folder = craft_here(tmp_path / "bank", clean, attack)
    poisoned = apply(tmp_path / "poisoned", clean, folder)
    before, after = (read_beton(where / "train.beton") for where in (clean, poisoned))
    expected = np.clip(before.load_all().astype(int) + np.load(folder / "perturbation.npy"), 0, 255)
    assert np.array_equal(after.load_all(), expected)
    assert np.array_equal(after.labels, before.labels)
    assert np.array_equal(after.index, before.index)


def test_nothing_clean_lies_in_the_poisoned_folder(tmp_path, clean, lsp):
    poisoned = apply(tmp_path / "poisoned", clean, lsp)
    assert sorted(path.name for path in poisoned.iterdir()) == ["manifest.json", "train.beton"]
    facts = read_manifest(poisoned)["facts"]
    assert (facts["classes"], facts["image_size"]) == (list(CLASSES), SIZE)


def test_class_wise_rows_go_by_label(tmp_path, clean, fake_attack, monkeypatch):
    # As many classes as samples in a chunk: a shape alone would not tell rows from labels.
    steps = np.stack([np.full((SIZE, SIZE, 3), k - 3, np.int8) for k in range(3)])
    fake_attack(steps, class_conditional=True)
    monkeypatch.setattr(bank_module, "_CHUNK_BYTES", 3 * SIZE * SIZE * 3)
    bank = craft_here(tmp_path / "bank", clean, "fake")
    poisoned = read_beton(apply(tmp_path / "poisoned", clean, bank) / "train.beton")
    before = read_beton(clean / "train.beton")
    shifted = before.load_all().astype(int) + (before.labels - 3)[:, None, None, None]
    assert np.array_equal(poisoned.load_all(), np.clip(shifted, 0, 255))
    assert read_manifest(bank)["facts"]["class_conditional"]


def test_a_finished_bank_is_not_crafted_again(tmp_path, clean, lsp, monkeypatch):
    monkeypatch.setattr(ATTACKS["lsp"], "craft", lambda self, task: pytest.fail("crafted again"))
    assert craft_here(tmp_path / "bank", clean, "lsp", model="resnet18", width=64) == lsp
    with pytest.raises(pytest.fail.Exception, match="crafted again"):
        craft_here(tmp_path / "bank", clean, "lsp", seed=1)


def test_a_killed_craft_goes_on_in_its_folder(tmp_path, clean, monkeypatch):
    recipe = Recipe(steps=1, relative_step=0.5, train_batches=2, max_rounds=3, batch_size=8, stop_error=0.0)
    monkeypatch.setitem(ATTACKS["em"].recipes, "fast", recipe)

    def stop(fraction, words):
        if words.startswith("round 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        craft_here(tmp_path / "killed", clean, "em", progress=stop)
    assert not (tmp_path / "killed").exists()
    told = []
    killed = craft_here(tmp_path / "killed", clean, "em", progress=lambda fraction, words: told.append(words))
    whole = craft_here(tmp_path / "whole", clean, "em")
    assert told[0].startswith("round 3")
    assert read_manifest(killed)["outputs"] == read_manifest(whole)["outputs"]
    assert read_manifest(killed)["facts"]["rounds"] == 3
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attack": "nope"}, "unknown attack 'nope'"),
        ({"attack": "em", "epsilon": 8.0}, "write 8/255"),
        ({"attack": "lsp", "epsilon": -1.0}, "more than 0"),
        ({"attack": "ops", "epsilon": 0.5}, "whole number"),
        ({"attack": "lsp", "preset": "slow"}, "unknown preset 'slow'"),
    ],
)
def test_bad_arguments_before_any_work(arguments, words, tmp_path, clean, monkeypatch):
    monkeypatch.setattr(bank_module, "_load_clean", lambda folder: pytest.fail("read the images"))
    with pytest.raises(InputError, match=words):
        craft_here(tmp_path / "bank", clean, **arguments)
    assert not list(tmp_path.glob("bank*"))


def test_norm_beyond_what_the_images_allow(tmp_path, clean):
    with pytest.raises(InputError, match=r"at most 27\.71, got 30"):
        craft_here(tmp_path / "bank", clean, "lsp", epsilon=30.0)


@pytest.mark.parametrize(
    "steps",
    [
        np.zeros((COUNT, SIZE, SIZE, 3)),
        np.zeros((3, SIZE, SIZE, 3), np.int8),
        np.zeros((COUNT, 3, SIZE, SIZE), np.int8),
    ],
    ids=["float", "class-wise", "NCHW"],
)
def test_an_attack_that_returns_something_else(steps, tmp_path, clean, fake_attack):
    fake_attack(steps)
    with pytest.raises(TypeError, match=r"attack 'fake' has to return int8 or int16 \[30, 16, 16, 3\], got"):
        craft_here(tmp_path / "bank", clean, "fake")


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 0.5), ("pixels", 1)])
def test_an_attack_that_leaves_its_budget(norm, epsilon, tmp_path, clean, fake_attack):
    fake_attack(np.full((COUNT, SIZE, SIZE, 3), 9, np.int8), norm, epsilon)
    with pytest.raises(RuntimeError, match=f"attack 'fake' left its budget: {norm}"):
        craft_here(tmp_path / "bank", clean, "fake")
    assert not (tmp_path / "bank").exists()


def _pickled(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _archive(path):
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3, np.int8))


def _array(array):
    def write(path):
        with path.open("wb") as stream:
            np.save(stream, array)

    return write


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "the file is missing"),
        (lambda path: path.write_bytes(b""), "expected a whole .npy array"),
        (lambda path: path.write_text("no array at all"), "expected a whole .npy array"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "expected a whole .npy array"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "expected a whole .npy array"),
        (_pickled, "expected a whole .npy array"),
        (_archive, "got an .npz archive"),
        (_flip, "its bytes are not those"),
        (_array(np.zeros((COUNT, SIZE, SIZE, 3), np.float32)), "expected int8 or int16"),
        (_array(np.zeros((COUNT, SIZE, SIZE), np.int8)), "expected int8 or int16"),
        (_array(np.zeros((COUNT - 1, SIZE, SIZE, 3), np.int8)), "expected the 30 rows of its manifest"),
    ],
)
def test_damaged_perturbations(damage, words, lsp):
    path = lsp / "perturbation.npy"
    damage(path)
    with pytest.raises(InputError, match=words) as raised:
        load_bank(lsp)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected JSON"),
        ("[]", "lists no outputs"),
        (
            '{"outputs": {}, "inputs": {}, "kind": "train", "facts": {}}',
            "expected that of a bank, got 'train'",
        ),
        ('{"outputs": {}, "inputs": {}, "kind": "craft", "facts": {}}', "expected the facts of a bank"),
    ],
)
def test_damaged_manifest(content, words, lsp):
    (lsp / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=words):
        load_bank(lsp)


def test_no_bank_and_no_clean_set(tmp_path, clean, lsp):
    for call in (
        lambda: load_bank(tmp_path / "absent"),
        lambda: apply(tmp_path / "out", clean, tmp_path / "absent"),
        lambda: apply(tmp_path / "out", tmp_path / "absent", lsp),
        lambda: craft_here(tmp_path / "out", tmp_path / "absent", "lsp"),
    ):
        with pytest.raises(InputError, match=r"absent: expected the output of a stage"):
            call()


def test_a_bank_for_other_images(tmp_path, lsp):
    other = write_clean(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="made for other images"):
        apply(tmp_path / "poisoned", other, lsp)


def test_a_bank_of_another_size(tmp_path, clean, lsp):
    shutil.copytree(lsp, tmp_path / "small")
    path = tmp_path / "small" / "manifest.json"
    manifest = json.loads(path.read_text())
    _array(np.zeros((COUNT, 8, 8, 3), np.int8))(tmp_path / "small" / "perturbation.npy")
    manifest["outputs"]["perturbation.npy"] = bank_module.sha256(tmp_path / "small" / "perturbation.npy")
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"expected perturbations of shape \[30, 16, 16, 3\]"):
        apply(tmp_path / "poisoned", clean, tmp_path / "small")


@pytest.mark.parametrize("content", ["perturbation", "images"])
def test_a_published_file_gives_the_same_poisoned_set(content, tmp_path, clean, lsp):
    applied = apply(tmp_path / "applied", clean, lsp)
    ours, poisoned = load_bank(lsp), read_beton(applied / "train.beton")
    whole = np.zeros((7 * COUNT, 3, SIZE, SIZE), np.uint8 if content == "images" else np.int16)
    rows = poisoned.gather(np.arange(COUNT)) if content == "images" else ours.perturbation
    whole[7 * np.arange(COUNT)] = np.asarray(rows).transpose(0, 3, 1, 2)
    torch.save(torch.from_numpy(whole), tmp_path / "noise.pt")
    bank = import_bank(tmp_path / "imported", clean, tmp_path / "noise.pt")
    facts = load_bank(bank).facts
    assert facts["attack"] == "file"
    assert facts["layout"] == f"sample-first-{content}"
    assert facts["findings"] == []
    assert facts["budget"] == ours.facts["budget"]
    assert facts["epsilon"] == facts["budget"]["linf"]
    again = apply(tmp_path / "again", clean, bank)
    assert (again / "train.beton").read_bytes() == (applied / "train.beton").read_bytes()


def test_a_file_that_does_not_fit_leaves_nothing(tmp_path, clean):
    np.save(tmp_path / "noise.npy", np.zeros((5, 3, SIZE, SIZE), np.int8))
    with pytest.raises(InputError, match=r"expected rows for 204 samples or 3 classes"):
        import_bank(tmp_path / "imported", clean, tmp_path / "noise.npy")
    assert not list(tmp_path.glob("imported*"))
    with pytest.raises(InputError, match="expected a file or a folder, but there is none"):
        import_bank(tmp_path / "imported", clean, tmp_path / "missing.npy")


def test_other_test_images_leave_perturbations_as_they_are(tmp_path, clean, lsp):
    poisoned = apply(tmp_path / "poisoned", clean, lsp)
    before = [path.stat().st_mtime_ns for path in (lsp / "manifest.json", poisoned / "manifest.json")]
    other = write_clean_with_other_test_images(tmp_path / "other")
    hashes = [read_manifest(folder)["outputs"] for folder in (clean, other)]
    assert hashes[0]["train.beton"] == hashes[1]["train.beton"]
    assert hashes[0]["test.beton"] != hashes[1]["test.beton"]
    craft_here(lsp, other, "lsp")
    apply(poisoned, other, lsp)
    after = [path.stat().st_mtime_ns for path in (lsp / "manifest.json", poisoned / "manifest.json")]
    assert after == before
