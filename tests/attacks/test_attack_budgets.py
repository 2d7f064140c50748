"""What holds for every attack: budget, type, determinism, independence of global random state."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pst_fast.attacks.base import ATTACKS
from pst_fast.data.bank import measure_budget
from pst_fast.errors import InputError

NAMES = [
    *("aap", "ar", "aue", "cuda", "dc", "em", "em-adaptive", "em-class", "entf", "gue", "hypo"),
    *("lsp", "ntga", "ops", "rem", "sem", "sep", "tap", "tue"),
]
UNBOUNDED = ("cuda", "ops")
SHAPES = [(26, 7, 9, 2), (24, 32, 32, 10), (20, 20, 13, 10)]


def poisoned(data, steps, class_conditional):
    steps = steps[data.labels] if class_conditional else steps
    return np.clip(data.images.astype(int) + steps, 0, 255).astype(np.uint8)


def test_registry_finds_the_attacks():
    assert set(NAMES) <= set(ATTACKS.names())
    for name in NAMES:
        assert "arXiv" in ATTACKS[name].paper


def test_unknown_attack():
    with pytest.raises(InputError, match=r"unknown attack 'emm': expected one of aap, ar, aue, "):
        ATTACKS["emm"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_budget_over_every_sample_after_rounding(name, shape, image_set, make_task):
    data = image_set(*shape)
    attack = ATTACKS[name]()
    steps = attack.craft(make_task(data))
    count, height, width, num_classes = shape
    assert steps.shape == (num_classes if attack.class_conditional else count, height, width, 3)
    assert steps.dtype == (np.int16 if name in UNBOUNDED else np.int8)
    budget = measure_budget(data.images, poisoned(data, steps, attack.class_conditional))
    if attack.norm == "linf":
        assert 0 < budget["linf"] <= attack.epsilon
    elif name == "ar":
        # Rounded to nearest, and scaled down where that is too much.
        assert 0 < budget["l2"] <= math.sqrt(height * width / 1024) + 1e-9
    elif attack.norm == "l2":
        # Truncation lowers each value by less than one step.
        values = 3 * height * width
        assert 0 < budget["l2"] < 6 / 255 * math.sqrt(values) + math.sqrt(values) / 255
    else:
        assert budget["pixels"] == 1


@pytest.mark.parametrize(("epsilon", "bound"), [(16 / 255, 16), (0.03, 7), (1 / 255, 1), (0.6, 153)])
@pytest.mark.parametrize("name", ["em", "em-class", "rem", "tap"])
def test_linf_budget_that_was_asked_for(name, epsilon, bound, image_set, make_task):
    data = image_set()
    steps = ATTACKS[name]().craft(make_task(data, epsilon=epsilon))
    assert np.abs(steps).max() <= bound
    if name == "em":
        assert steps.dtype == (np.int8 if bound <= 127 else np.int16)
        assert np.abs(steps).max() == bound
        # No step is lost to clamping: x + delta is an 8-bit image already.
        total = data.images.astype(int) + steps
        assert total.min() >= -(bound > 127)
        assert total.max() <= 255 + (bound > 127)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bytes_whatever_the_global_state(name, image_set, make_task):
    data = image_set(num_classes=3)
    torch.manual_seed(1)
    np.random.seed(1)
    first = ATTACKS[name]().craft(make_task(data, folder=_fresh(make_task, data, "a")))
    torch.manual_seed(2)
    np.random.seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    second = ATTACKS[name]().craft(make_task(data, folder=_fresh(make_task, data, "b")))
    assert first.tobytes() == second.tobytes()
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ops"])
def test_another_seed_gives_another_perturbation(name, image_set, make_task):
    data = image_set()
    one, two = (
        ATTACKS[name]().craft(make_task(data, seed=seed, folder=_fresh(make_task, data, str(seed))))
        for seed in (0, 1)
    )
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("name", NAMES)
def test_progress_rises_to_one(name, image_set, make_task):
    told = []
    ATTACKS[name]().craft(make_task(image_set(), progress=lambda fraction, words: told.append(fraction)))
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == 1


@pytest.mark.parametrize(
    ("name", "epsilon", "words"),
    [
        ("em", 8, "write 8/255"),
        ("em", 0.0, "more than 0"),
        ("em-class", -0.1, "more than 0"),
        ("em", math.nan, "at most 1"),
        ("em", 0.001, "at least 1/255"),
        ("ar", 28.0, "at most 27.71"),
        ("lsp", 0.0, "more than 0"),
        ("lsp", math.inf, "more than 0"),
        ("lsp", 28.0, "at most 27.71"),
        ("ops", 1.5, "whole number"),
        ("ops", 0, "whole number"),
        ("ops", 257, "at most the 256"),
    ],
)
def test_epsilon_out_of_range(name, epsilon, words, image_set, make_task):
    with pytest.raises(InputError, match=words) as raised:
        ATTACKS[name]().craft(make_task(image_set(), epsilon=epsilon))
    assert str(epsilon) in str(raised.value)


def _fresh(make_task, data, name):
    folder = make_task(data).folder / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["aap", "entf", "hypo", "tap"])
def test_an_l2_budget(name, image_set, make_task):
    data = image_set(26, 7, 9, 2)
    steps = ATTACKS[name].in_norm("l2")().craft(make_task(data, epsilon=0.4))
    budget = measure_budget(data.images, poisoned(data, steps, False))
    assert 0.2 < budget["l2"] <= 0.4 + 1e-9
    assert not np.array_equal(steps, ATTACKS[name]().craft(make_task(data, epsilon=0.1)))


def test_norms_that_an_attack_does_not_work_in():
    assert ATTACKS["em"].in_norm(None) is ATTACKS["em"].in_norm("linf") is ATTACKS["em"]
    for name, norm in (("em", "l2"), ("lsp", "linf"), ("ops", "l2"), ("rem", "l2")):
        with pytest.raises(InputError, match=f"works in {ATTACKS[name].norm} alone, not in {norm}"):
            ATTACKS[name].in_norm(norm)
    with pytest.raises(InputError, match=r"norm l2: expected an epsilon too, .* budget is in linf"):
        ATTACKS["tap"].in_norm("l2").resolve_epsilon(None, 32, 32)


WITH_STEPS = [name for name in NAMES if name not in ("ar", "cuda", "dc", "gue", "lsp", "ops")]


@pytest.mark.parametrize("name", WITH_STEPS)
def test_steps_are_taken_as_asked(name, image_set, make_task, monkeypatch):
    """A recipe with so many steps and the same number asked for give the same bytes, another one others."""
    data = image_set(24, 16, 16, 2)
    asked = ATTACKS[name]().craft(make_task(data, steps=5))
    recipe = ATTACKS[name].recipes["fast"]
    assert not np.array_equal(asked, ATTACKS[name]().craft(make_task(data)))
    monkeypatch.setitem(ATTACKS[name].recipes, "fast", replace(recipe, steps=5))
    assert np.array_equal(asked, ATTACKS[name]().craft(make_task(data)))


@pytest.mark.parametrize("name", sorted({*NAMES} - {*WITH_STEPS}))
def test_attacks_without_steps_say_so(name):
    with pytest.raises(InputError, match="takes no gradient steps on perturbations, but steps is 5"):
        ATTACKS[name].check_steps(5)


def test_no_steps_are_too_few():
    with pytest.raises(InputError, match="steps: expected 1 or more, got 0"):
        ATTACKS["tap"].check_steps(0)
