"""The stages of a run, replaced."""

from collections.abc import Iterator

import pytest

from tests.cli.stages import Stages


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    import pst_fast.data.bank
    import pst_fast.data.prepare
    import pst_fast.report
    import pst_fast.train.trainer

    fake = Stages()
    monkeypatch.setattr(pst_fast.data.prepare, "prepare", fake.prepare)
    monkeypatch.setattr(pst_fast.data.bank, "craft", fake.craft)
    monkeypatch.setattr(pst_fast.data.bank, "apply", fake.apply)
    monkeypatch.setattr(pst_fast.train.trainer, "train", fake.train)
    monkeypatch.setattr(
        pst_fast.report, "write_report", lambda out, rows: (out / "table.md").write_text("table")
    )
    return fake
