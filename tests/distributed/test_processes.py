"""Two processes do what one does: the same batches, draws, gradients, measurements and events."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from pst_fast import distributed
from pst_fast.data.loaders import Order
from pst_fast.data.types import epoch_order
from pst_fast.distributed import Shard
from pst_fast.errors import InputError
from pst_fast.ops import View, augment, degrade
from pst_fast.train.parallel import Parts, own_statistics
from tests.distributed import cases, torchrun


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun sets them: sums over more of them are in another order
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PST_FAST_BF16", "0")
            return cases.results(tmp_path_factory.mktemp("one"))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    code, _, error = torchrun.finish(torchrun.start(2, "tests.distributed.cases", str(folder)))
    assert code == 0, error
    return json.loads((folder / "results.json").read_text())


def test_collectives(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["collectives"]["gathered"] == np.arange(21.0).reshape(7, 3).tolist()
    assert two["collectives"].pop("complete")
    del one["collectives"]["complete"]  # there is one part only
    assert one["collectives"] == two["collectives"]


@pytest.mark.parametrize("name", [*cases.EXACT, "few"])
def test_without_batch_norm_two_processes_train_as_one(
    name: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    """Batches of 7, shared as 4 and 3: what differs is the order of sums."""
    np.testing.assert_allclose(two[name]["weights"], one[name]["weights"], atol=2e-4)
    assert two[name]["files"] == one[name]["files"] == ["manifest.json", "metrics.jsonl", "model.pt"]
    for row, expected in zip(two[name]["rows"], one[name]["rows"], strict=True):
        assert row["images"] == expected["images"]
        assert row["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-3)
        assert row["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.04)
        assert row.get("held_out_accuracy") == expected.get("held_out_accuracy")
        assert row["acm"] == pytest.approx(expected["acm"], rel=1e-2)
        assert row["levels"] == expected["levels"]
        assert [{**e, "words": ""} for e in row["events"]] == [{**e, "words": ""} for e in expected["events"]]


def test_the_linear_classifier_of_op_is_that_of_one_process(one: dict[str, Any], two: dict[str, Any]) -> None:
    np.testing.assert_allclose(two["linear classifier"], one["linear classifier"], atol=1e-6)


@pytest.mark.parametrize("attack", cases.CRAFTED)
def test_perturbations_do_not_depend_on_the_number_of_processes(
    attack: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert set(one["banks"][attack]["outputs"]) == {"perturbation.npy"}
    assert two["banks"][attack] == one["banks"][attack]


def test_a_process_may_open_the_perturbations_late(one: dict[str, Any], two: dict[str, Any]) -> None:
    """The main one moves their file into the bank, and has to wait until all have opened it."""
    assert two["late"] == one["late"] == one["banks"]["em"]


def test_there_were_events_to_compare(one: dict[str, Any]) -> None:
    for defense in ("pst", "pst-plus"):
        assert any(row["events"] for row in one[defense]["rows"])


def test_with_batch_norm_all_processes_hold_the_same_network(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    """`watched` checks it after every step, before and after roll-backs; accuracies are close."""
    assert any(row["events"] for row in two["watched"]["rows"])
    last, expected = (found["watched"]["rows"][-1]["train_accuracy"] for found in (two, one))
    assert last == pytest.approx(expected, abs=0.2)


def test_two_processes_draw_their_own_mixtures(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert two["mixup"]["rows"][-1]["images"] == one["mixup"]["rows"][-1]["images"]
    assert two["mixup"]["weights"] != one["mixup"]["weights"]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_are_whole_and_even_and_the_first_is_the_longest(count: int) -> None:
    for length in range(30):
        slices = [Shard(rank, count).of(length) for rank in range(count)]
        sizes = [some.stop - some.start for some in slices]
        assert [i for some in slices for i in range(length)[some]] == list(range(length))
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
        # The shard of a batch is never longer than that of a larger one, which FFCV's buffers rest on.
        assert all(Shard(rank, count).of(length + 1).stop - Shard(rank, count).of(length + 1).start >= size
                   for rank, size in enumerate(sizes))  # fmt: skip


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_shards_of_a_batch_are_the_batch(drop_last: bool) -> None:
    rows = np.arange(100, 123)
    whole = Order(rows, 5, 3, True, drop_last)
    shards = [Order(rows, 5, 3, True, drop_last, Shard(rank, 4)) for rank in range(4)]
    assert [len(shard) for shard in shards] == [len(whole)] * 4 == [4 if drop_last else 5] * 4
    for batch, *parts in zip(whole.batches(2), *(shard.batches(2) for shard in shards), strict=True):
        assert np.array_equal(np.concatenate(parts), batch)
    order = rows[epoch_order(23, 3, 2)]
    assert np.array_equal(whole.rows(2), order[:20] if drop_last else order)
    assert [shard.own_batch_size for shard in shards] == [2, 1, 1, 1]


class Batches:
    num_samples, batch_size = 17, 7


def test_a_part_gets_the_draws_of_its_places_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(256, (7, 12, 12, 3), dtype=torch.uint8)
    views = [View(), View.bits(2), View.erase(), View.jpeg(10)]

    def seen(batch: torch.Tensor) -> torch.Tensor:
        shown = degrade(batch, views, seed=5, offset=9)
        return augment(shown, seed=5, offset=9, padding=2, flip=True, brightness=0.4, grey_probability=0.5)

    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "shard", lambda rank=rank: Shard(rank, 3))
        padded, before = Parts(Batches).at_its_place(images[Shard(rank, 3).of(7)], 1)
        parts.append(seen(padded)[before:])
    assert torch.equal(torch.cat(parts), seen(images))


def test_weights_make_the_mean_over_processes_the_batchs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(17.0)
    for number in range(3):
        batch = values[7 * number : 7 * number + 7]
        total = 0.0
        for rank in range(3):
            shard = Shard(rank, 3)
            monkeypatch.setattr(distributed, "shard", lambda shard=shard: shard)
            own = batch[shard.of(len(batch))]
            total += own.mean().item() * Parts(Batches).weight(len(own), number) / 3
        assert total == pytest.approx(batch.mean().item())


def test_batches_too_small_for_the_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "shard", lambda: Shard(0, 4))
    with pytest.raises(InputError, match="4 processes: expected at least two images"):
        Parts(Batches)


def test_the_statistics_that_are_averaged_are_batch_norms_alone() -> None:
    norms = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.SyncBatchNorm(4), torch.nn.Linear(2, 2))
    assert [tuple(statistic.shape) for statistic in own_statistics(norms)] == [(3,), (3,)]
