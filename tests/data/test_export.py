"""Each format read back gives the same poisoned images, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pst_fast import export as command
from pst_fast.data.bank import apply, craft, import_bank, load_bank
from pst_fast.data.beton import read_beton, write_beton
from pst_fast.data.export import FORMATS, export
from pst_fast.data.types import ImageSet
from pst_fast.errors import InputError
from pst_fast.manifest import build_stage

COUNT, SIZE = 12, 16


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    def build(partial: Path) -> dict[str, object]:
        random = np.random.default_rng(0)
        coarse = np.clip(random.integers(-60, 316, (COUNT, 2, 2, 3)), 0, 255).astype(np.uint8)
        images = coarse.repeat(SIZE // 2, 1).repeat(SIZE // 2, 2)
        labels = np.arange(COUNT) % 3
        write_beton(partial / "train.beton", images, labels, 3 + random.permutation(2 * COUNT)[:COUNT])
        return {"classes": ["ant", "bee/x", "cat"], "image_size": SIZE}

    return build_stage(tmp_path / "clean", "prepare", {}, {}, build)


def craft_bank(clean: Path, attack: str) -> Path:
    folder = clean.parent / "attacks" / f"{attack}-seed0" / "bank"
    folder.parent.mkdir(parents=True)
    return craft(
        folder, clean, attack=attack, epsilon=None, preset="fast", model="resnet10", width=8, seed=0,
        device=torch.device("cpu"), progress=lambda fraction, words: None,
    )  # fmt: skip


@pytest.mark.parametrize("attack", ["lsp", "ops", "cuda"])
@pytest.mark.parametrize("form", FORMATS)
def test_round_trip(form: str, attack: str, clean: Path, tmp_path: Path) -> None:
    bank = craft_bank(clean, attack)
    written = export(bank, clean, tmp_path / "out", form=form)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["attacks", "clean", "out"], "nothing else is left"
    again = import_bank(tmp_path / "again", clean, written)
    assert load_bank(again).facts["budget"] == load_bank(bank).facts["budget"]
    images = [
        read_beton(apply(tmp_path / name, clean, folder) / "train.beton").load_all()
        for name, folder in (("poisoned", bank), ("poisoned again", again))
    ]
    assert np.array_equal(*images)
    assert not np.array_equal(images[0], read_beton(clean / "train.beton").load_all())


def test_a_bank_has_no_layout(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--layout sample-first-images: expected none for a bank"):
        import_bank(tmp_path / "again", clean, craft_bank(clean, "lsp"), layout="sample-first-images")


def test_an_unknown_format(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--format 'zip': expected one of pt, npy"):
        export(tmp_path, clean, tmp_path / "out", form="zip")


def test_nothing_is_overwritten(clean: Path, tmp_path: Path) -> None:
    bank = craft_bank(clean, "lsp")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="expected a name that is free"):
        export(bank, clean, tmp_path / "out", form="pt")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("form", ["pt", "png"])
def test_a_failure_leaves_nothing(
    form: str, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = craft_bank(clean, "lsp")

    def fail(path: Path, bank: object, data: ImageSet) -> None:
        (path / "0.png" if FORMATS[form].is_folder else path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, form, FORMATS[form]._replace(write=fail))
    assert command.main([str(bank), "--out", str(tmp_path / "out"), "--format", form]) == 2
    assert sorted(x.name for x in tmp_path.iterdir()) == ["attacks", "clean"]


def test_the_command_finds_the_clean_set(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = craft_bank(clean, "lsp")
    assert command.main([str(bank), "--out", str(tmp_path / "out.pt"), "--format", "pt"]) == 0
    assert "--perturbation reads it" in capsys.readouterr().out
    assert torch.load(tmp_path / "out.pt", weights_only=True).shape[1:] == (3, SIZE, SIZE)


def test_the_command_needs_a_bank(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        str(tmp_path / "none"),
        "--clean",
        str(clean),
        "--out",
        str(tmp_path / "x"),
        "--format",
        "pt",
    ]
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_needs_the_clean_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bank in (str(tmp_path / "bank"), "/bank"):
        assert command.main([bank, "--out", str(tmp_path / "x"), "--format", "pt"]) == 2
        assert "expected the prepared data set" in capsys.readouterr().err
