"""The table averages over seeds, and its figures can be checked by hand."""

from typing import Any

import pytest
from rich.console import Console

from pst_fast.report.table import caption, markdown_table, print_table, summarise


def row(attack: str, defense: str, seed: int, last: float, clean: float = 0.8, **more: Any) -> dict[str, Any]:
    return {
        "attack": attack,
        "defense": defense,
        "seed": seed,
        "model": "resnet10",
        "width": 16,
        "dataset": "demo",
        "epochs": 8,
        "last_accuracy": last,
        "best_accuracy": last + 0.1,
        "clean_accuracy": clean,
        "seconds": {"prepare": 100.0, "craft": 100.0, "apply": 100.0, "train": 10.0, "evaluate": 2.0},
        "images_per_second": 900.0 + 100 * seed,
        **more,
    }


ROWS = [
    row("lsp", "erm", 0, 0.2),
    row("lsp", "pst", 0, 0.6),
    row("lsp", "erm", 1, 0.4, clean=0.5),
    row("lsp", "pst", 1, 0.5, clean=0.5),
    row("em", "pst", 0, 0.7),
]


def test_seeds_are_averaged_cell_by_cell() -> None:
    erm, pst, em = summarise(ROWS)
    assert [(cell.attack, cell.defense, cell.seeds) for cell in (erm, pst, em)] == [
        ("lsp", "erm", 2),
        ("lsp", "pst", 2),
        ("em", "pst", 1),
    ]
    assert erm.last.mean == pytest.approx(0.3)
    assert erm.last.spread == pytest.approx(0.1414213562)
    assert erm.best.mean == pytest.approx(0.4)
    assert erm.clean.mean == pytest.approx(0.65)
    assert erm.recovered.mean == pytest.approx((0.2 / 0.8 + 0.4 / 0.5) / 2), "seed by seed, not mean by mean"
    assert erm.seconds.mean == pytest.approx(12.0), "the training run alone, all its phases"
    assert erm.craft_seconds.mean == pytest.approx(100.0)
    assert erm.images_per_second.mean == pytest.approx(950.0)
    assert em.last.spread is None


def test_markdown() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert lines[0] == "demo, resnet10 of width 16, 8 epochs, seeds 0, 1: test accuracy in %"
    assert lines[2] == "| attack | defense | last | best | clean | recovered | seconds |"
    assert lines[4] == "| lsp | erm | 30.0 ± 14.1 | 40.0 ± 14.1 | 65.0 ± 21.2 | 52.5 ± 38.9 | 12 ± 0 |"
    assert lines[6] == "| em | pst | 70.0 | 80.0 | 80.0 | 87.5 | 12 |"
    assert {line.count("|") for line in lines[2:7]} == {8}


def test_a_clean_run_that_learned_nothing_gives_no_ratio() -> None:
    (summary,) = summarise([row("lsp", "erm", 0, 0.1, clean=0.0)])
    assert summary.recovered.mean != summary.recovered.mean


def test_the_terminal_shows_the_same_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Console(width=120), ROWS)
    shown = capsys.readouterr().out
    for words in ("30.0 ± 14.1", "52.5 ± 38.9", "87.5", "an oracle", "seeds 0, 1"):
        assert words in shown


def test_the_caption_of_one_seed() -> None:
    assert ", seed 3:" in caption([row("lsp", "erm", 3, 0.2)])
