"""The ablations: what each variant changes, and that they train on what a run has left."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import ablations
from pst_fast.defenses.base import DEFENSES
from pst_fast.defenses.pst import PST
from pst_fast.defenses.pst_plus import PSTPlus
from pst_fast.errors import InputError
from tests.train.conftest import make_folder

SETTINGS = {"model": "resnet10", "width": 8, "epochs": 2, "batch_size": 20, "device": "cpu"}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """What a run of two attacks leaves, as far as the ablations need it."""
    make_folder(tmp_path / "clean")
    make_folder(tmp_path / "attacks" / "lsp-seed0" / "poisoned", pattern=12, step=2, train=180)
    (tmp_path / "results.json").write_text(json.dumps({"rows": [], "settings": SETTINGS}))
    return tmp_path


def arguments(folder: Path, attacks: str, variants: str) -> argparse.Namespace:
    return argparse.Namespace(run=folder, attacks=attacks, variants=variants, seed=0)


def test_variants_are_trained_with_the_settings_of_the_run_and_found_again(finished):
    names = ["pst/no-rollback", "pst-plus/one-view"]
    ablations.run(arguments(finished, "lsp", ",".join(names)))
    rows = json.loads((finished / "ablations.json").read_text())["rows"]
    assert [(row["attack"], row["variant"]) for row in rows] == [("lsp", name) for name in names]
    manifest = finished / "ablations" / "lsp" / "pst-no-rollback-seed0" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert json.loads(manifest.read_text())["parameters"]["epochs"] == 2
    ablations.run(arguments(finished, "lsp", ",".join(names)))
    assert manifest.stat().st_mtime_ns == before


def test_each_variant_changes_one_thing():
    for name, variant in ablations.VARIANTS.items():
        assert issubclass(variant, PST if name.startswith("pst/") else PSTPlus)
        changed = {key for key in vars(variant) if not key.startswith("_")} - {"summary"}
        assert len(changed) == 1, name
    assert ablations.VARIANTS["pst/no-rollback"].options == {**PST.options, "rollback": 0}
    one_view = ablations.VARIANTS["pst-plus/one-view"]
    assert [stage.name for stage in one_view.stages] == ["colour", "jpeg-grey"]
    assert not set(ablations.VARIANTS) & set(DEFENSES.names())


@pytest.mark.parametrize(
    ("attack", "variant", "words"),
    [
        ("ops", "pst/limits", "--attacks ops: expected one that"),
        ("lsp", "pst/none", "unknown defense 'pst/none'"),
    ],
)
def test_what_is_not_there_is_named(finished, attack, variant, words):
    with pytest.raises(InputError, match=words):
        ablations.run(arguments(finished, attack, variant))


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"results.json: expected the results of a run"):
        ablations.run(arguments(tmp_path, "lsp", "pst/limits"))
