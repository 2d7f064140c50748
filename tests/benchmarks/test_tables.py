"""The tables end to end on a few small rows: JSON, comparison, figure, bad input."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import crafting, ops, training
from benchmarks.__main__ import main
from benchmarks.cases.base import Case
from benchmarks.table import Table, read_documents
from pst_fast.models import create_model
from tests.ops.helpers import needs_native, relative_error

CPU = torch.device("cpu")
TINY_MAPS, TINY_IMAGES = [(6, 8, 8, 8)], [(6, 3, 8, 8)]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "MAPS", {"small": TINY_MAPS, "large": []})
    monkeypatch.setattr(ops, "IMAGES", {"small": TINY_IMAGES, "large": []})
    monkeypatch.setattr(crafting, "SETTINGS", {"cpu": (("resnet10", 8, 16, 4),)})
    monkeypatch.setattr(training, "SETTINGS", {"cpu": (("resnet10", 8, 16, 4),)})


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, ends_with: int = 0) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    assert main() == ends_with


@needs_native
def test_rows_and_their_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ops.json"
    command = ["ops", "--only", "linf_step_,grid", "--no-compile", "--seconds", "0", "--best"]
    run(monkeypatch, *command, "--json", str(path))
    result = json.loads(path.read_text())
    document = result["benchmarks"]["ops"]
    assert {row["op"] for row in document["rows"]} == {"linf_step_", "grid_pool"}
    for row in document["rows"]:
        assert row["eager_ratio"] == row["eager_ms"] / row["native_ms"]
        assert row["compiled_ratio"] is None
    assert document["copy_gigabytes_per_second"] > 0
    assert result["environment"]["torch"] == torch.__version__
    for row in document["rows"]:
        row["native_ms"] = 1e6
    path.write_text(json.dumps(result))
    capsys.readouterr()
    run(monkeypatch, *command, "--compare", str(path))
    rows, _, means = capsys.readouterr().out.strip().rpartition("\n\n")
    for line in rows.splitlines()[-len(document["rows"]) :]:
        assert line.endswith("x")
        assert float(line.split()[-1][:-1]) > 1000
    assert [line.split()[0] for line in means.splitlines()[1:]] == ["grid_pool", "linf_step_"]


@needs_native
def test_what_is_stopped_leaves_the_rows_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, add = tmp_path / "ops.json", Table.add

    def stop_after_two(table: Table, row: dict[str, Any]) -> None:
        add(table, row)
        if len(table.rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Table, "add", stop_after_two)
    command = ["ops", "--only", "linf_step_", "--no-compile", "--seconds", "0", "--best", "--json", str(path)]
    run(monkeypatch, *command, ends_with=130)
    assert len(read_documents(path)["ops"]["rows"]) == 2


def test_the_mean_of_an_op_is_over_the_rows_that_have_a_ratio() -> None:
    rows = [
        {"op": "a", "eager_ratio": 2.0, "compiled_ratio": None},
        {"op": "b", "eager_ratio": None, "compiled_ratio": 1.5},
        {"op": "a", "eager_ratio": 8.0, "compiled_ratio": None},
    ]
    assert ops.by_op(rows) == {
        "a": {"eager_ratio": pytest.approx(4.0), "compiled_ratio": None},
        "b": {"eager_ratio": None, "compiled_ratio": pytest.approx(1.5)},
    }


@needs_native
@pytest.mark.slow
def test_three_tables_and_their_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, figure = tmp_path / "all.json", tmp_path / "all.svg"
    run(monkeypatch, "--no-compile", "--seconds", "0", "--best", "--json", str(path))
    documents = json.loads(path.read_text())["benchmarks"]
    assert list(documents) == ["ops", "crafting", "training"]
    assert [row["augmentation"] for row in documents["training"]["rows"]] == ["erm", "cg"]
    for key in ("naive_ratio", "native_input_share", "acm_share", "images_per_second"):
        assert all(row[key] > 0 for row in documents["training"]["rows"])
    run(monkeypatch, "plot", str(path), "--out", str(figure))
    first = figure.read_bytes()
    run(monkeypatch, "plot", str(path), "--out", str(figure))
    assert figure.read_bytes() == first
    assert b"grid_pool" in first


CASES = [
    pytest.param(case, id=f"{case.op} {case.shape}")
    for family in ops.FAMILIES
    for case in family.cases(CPU, TINY_MAPS, TINY_IMAGES)
    if case.op not in ("class_pixel_sums", "ar_perturbation")  # sets, whose size is their own
]


@needs_native
@pytest.mark.parametrize("case", CASES)
def test_a_case_asks_the_same_of_both(case: Case) -> None:
    results: list[list[torch.Tensor]] = []
    for call in (case.native, case.twin):
        torch.manual_seed(0)
        arguments, options = case.make()
        result = call(*arguments, **options)
        parts: Any = result if isinstance(result, tuple) else (result,)
        results.append([*parts, *(v for v in options.values() if torch.is_tensor(v))])
    for value, expected in zip(*results, strict=True):
        assert relative_error(value.float(), expected.float()) < 0.02


def test_the_published_loop_counts_errors_on_bf16_inputs_too() -> None:
    network = create_model("resnet10", num_classes=3, width=8, image_size=16)
    alternation = SimpleNamespace(
        surrogate=SimpleNamespace(model=network), recipe=SimpleNamespace(relative_step=0.1), epsilon=8 / 255
    )
    model = crafting._PublishedAlternation.descent(alternation).model  # type: ignore[arg-type]
    assert model(torch.zeros(2, 3, 16, 16, dtype=torch.bfloat16)).dtype == torch.float32


def test_both_loops_take_the_same_steps() -> None:
    row = crafting.measure("resnet10", 8, 16, 4, CPU, seconds=0, best=True, compiled=False)
    assert row["same_signs"] > 0.97
    assert row["published_ratio"] == row["published_ms"] / row["native_ms"]


def test_our_trainer_learns_and_checks_as_in_a_run(tmp_path: Path) -> None:
    ours = training.Ours(training.Setting("resnet10", 8, 16, 4, "erm"), CPU, tmp_path)
    before = ours.fit.model.fc.weight.clone()
    ours.epoch()
    assert not torch.equal(before, ours.fit.model.fc.weight)
    assert len(training.PST().trigger(ours.fit)().acm) == 5
    assert training.CHECKS == 43  # in 11,718 steps


def test_both_trainers_see_the_same_images_and_draw_the_same_kind() -> None:
    setting = training.Setting("resnet10", 8, 16, 4, "cg")
    pictures = training._Pictures(setting)
    names = [type(step).__name__ for step in pictures.transform.transforms]
    assert names == [
        "RandomCrop",
        "RandomHorizontalFlip",
        "RandomApply",
        "RandomGrayscale",
        "ToTensor",
        "Normalize",
    ]
    assert len(pictures) == 40
    image, label = pictures[7]
    assert (image.shape, label) == ((3, 16, 16), 7)


def test_unsteady_rows_are_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.plot import steady_bars

    rows = [
        {"op": "a", "shape": "small", "nbytes": 1, "eager_ratio": 2.0, "compiled_ratio": None},
        {"op": "a", "shape": "large", "nbytes": 9, "eager_ratio": 3.0, "compiled_ratio": 1.5},
        {"op": "a", "shape": "largest", "nbytes": 99, "eager_ratio": None, "compiled_ratio": None},
        {"op": "b", "shape": "only", "nbytes": 1, "eager_ratio": None, "compiled_ratio": None},
    ]
    assert steady_bars("ops", rows) == [("a large", {"eager_ratio": 3.0, "compiled_ratio": 1.5})]


def test_of_several_files_the_last_one_with_a_table_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(name: str, **ratios: float) -> str:
        rows = {
            table: {"device": "2 threads", "rows": [{"op": table, "network": table, "shape": "", "images": "",
                    "nbytes": 1, "eager_ratio": ratio, "published_ratio": ratio, "compiled_ratio": None}]}
            for table, ratio in ratios.items()
        }  # fmt: skip
        (tmp_path / name).write_text(json.dumps({"benchmarks": rows}))
        return str(tmp_path / name)

    files = [written("a.json", ops=2.25, crafting=4.75), written("b.json", ops=7.25)]
    run(monkeypatch, "plot", *files, "--out", str(tmp_path / "both.svg"))
    run(monkeypatch, "plot", written("c.json", ops=7.25, crafting=4.75), "--out", str(tmp_path / "one.svg"))
    assert (tmp_path / "both.svg").read_bytes() == (tmp_path / "one.svg").read_bytes()
    run(monkeypatch, "plot", files[0], "--out", str(tmp_path / "first.svg"))
    assert (tmp_path / "both.svg").read_bytes() != (tmp_path / "first.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ops", "--compare", "other.json"], "other.json: expected a file that --json wrote"),
        (["--compare", "missing.json"], "missing.json: expected a file that --json wrote"),
        (["ops", "--only", "nothing"], "expected parts of ops' names"),
        (["speed"], "expected one of ops, crafting, training, loaders, memory, ablations, plot, got 'speed'"),
        (["ops", "--threads", "0"], "--threads: expected at least 1, got 0"),
        (["plot", "other.json", "--out", "a.svg"], "other.json: expected a file that --json wrote"),
        (["plot", "empty.json", "--out", "a.svg"], "empty.json: expected a row with a ratio, got none"),
        (["plot", "empty.json", "--out", "a.txt"], "expected a name that ends in .svg or .png"),
    ],
)
@needs_native
def test_bad_input(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("[]")
    Path("empty.json").write_text('{"benchmarks": {"ops": {"rows": [], "device": "2 threads"}}}')
    run(monkeypatch, *arguments, ends_with=2)
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))
