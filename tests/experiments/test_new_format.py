"""The new format's rows at a tiny size, its numbers by hand, and its judgements on made-up rows."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, blank
from dft_theory.toys.stacked import Stack
from dft_theory.toys.worlds import World

FILE = Path(__file__).resolve().parents[2] / "experiments" / "new_format.py"


def load():
    spec = importlib.util.spec_from_file_location("new_format", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    trials=(
        experiment.Trial("adamw", 0.0, 1, (1e-3, 1e-2)),
        experiment.Trial("sgd", "self", 3, (0.1,)),
    ),
    seeds=(0, 1),
    stages=(2, 3),
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_base_method_and_rate(rows):
    assert [r["slots"] for r in rows if r["method"] == "base"] == [1, 3]
    found = [
        (r["optimizer"], r["source"], r["slots"], r["method"], r["rate"])
        for r in rows
        if r["method"] != "base"
    ]
    assert found == [
        *(("adamw", 0.0, 1, m, rate) for m in experiment.METHODS for rate in (1e-3, 1e-2)),
        *(("sgd", "self", 3, m, 0.1) for m in experiment.METHODS),
    ]
    assert json.loads(json.dumps(rows)) == rows


def test_the_token_stands_in_the_last_slot_or_in_all():
    demos = World.of(3, demos=6, held_out=4).taught(0.0)
    for slots, places in ((1, [4]), (3, [0, 2, 4])):
        written = experiment.in_new_format(demos, slots)
        changed = (written != demos).any(0).nonzero().flatten() - chain.PROMPT
        assert changed.tolist() == places
        assert bool((written[:, chain.PROMPT :][:, places] == chain.NEW).all())
    assert not bool((demos == chain.NEW).any())  # the demonstrations themselves are untouched


def test_what_is_measured_of_a_policy_is_what_its_logits_say():
    worlds = [World.of(seed, demos=6, held_out=4) for seed in (0, 1)]
    stack = fresh()
    told = experiment.told(stack, worlds, 1)
    for row, world in enumerate(worlds):
        asked = experiment.in_new_format(world.test, 1)
        logits = stack.policy(row).logits(asked[:, :-1])[:, chain.PROMPT - 1 :]
        p = torch.softmax(logits, -1)
        at = [p[torch.arange(len(asked)), t, asked[:, chain.PROMPT + t]] for t in range(6)]
        assert told["new"][row].item() == pytest.approx(at[4].mean().item(), rel=1e-4)
        task = (at[1] * at[3]).mean().item()
        assert told["sampled"][row].item() == pytest.approx(task, rel=1e-4)
        right = [p[:, t].argmax(-1) == asked[:, chain.PROMPT + t] for t in (1, 3)]
        both = (right[0] & right[1]).float().mean().item()
        assert told["greedy"][row].item() == pytest.approx(both)


def fresh() -> Stack:
    return Stack.fresh(blank(), (0, 1))


def test_half_is_where_the_log_odds_cross():
    p = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.4, 0.9], [0.8, 0.3, 0.2]])
    found = experiment.half(p, torch.tensor([0.0, 1.0, 3.0]))
    # Halfway between log-odds of -log 4 and log 4; never; halfway, and what comes later is ignored.
    assert found[0].item() == pytest.approx(2.0)
    assert math.isnan(found[1].item())
    assert found[2].item() == pytest.approx(0.5)


def test_the_named_floor_raises_the_weight_of_the_new_token_only():
    stack = fresh()
    demos = experiment.in_new_format(World.of(3, demos=4, held_out=4).taught(0.0), 1)
    t = stack.stats(demos, needs=("log_probs",))
    weight = experiment.named.weight(t)
    p = t.logp.exp()
    assert bool((p < experiment.FLOOR).any())
    slot = experiment.SLOT
    assert torch.equal(weight[:, slot], p[:, slot].clamp_min(experiment.FLOOR))
    rest = [i for i in range(6) if i != slot]
    assert torch.equal(weight[:, rest], p[:, rest])


# --- judgements on made-up rows -----------------------------------------------------------------


def made(new=None, sampled=None, half=None, seeds=5):
    """Rows of every trial of the full size; the functions give a value for (row, seed)."""
    rows = [
        {"slots": slots, "method": "base"}
        | {"new": [3e-6] * seeds, "sampled": [0.35] * seeds, "greedy": [0.9] * seeds}
        for slots in (1, 3)
    ]
    for trial in experiment.FULL.trials:
        for method in experiment.METHODS:
            for rate in trial.rates:
                key = (trial.optimizer, trial.source, trial.slots, method, rate)
                accuracy = sampled(*key) if sampled else 0.5
                jitter = [0.001 * i for i in range(seeds)]
                values = [accuracy + x for x in jitter]
                rows.append(
                    dict(zip(("optimizer", "source", "slots", "method", "rate"), key, strict=True))
                    | {"new": [new(*key) if new else 0.0] * seeds}
                    | {"sampled": values, "greedy": values, "validation": values}
                    | {"half": [half(*key) if half else None] * seeds}
                )
    return rows


def outcome(rows):
    return {name: now["holds"] for name, now in experiment.EXPERIMENT.outcome(rows).items()}


def test_rows_as_predicted_bear_all_predictions_out():
    def new(optimizer, source, slots, method, rate):
        if method == "dft":
            high = optimizer == "adamw" and slots == 3 and rate >= 3e-3
            return 0.99 if high else 1e-6
        if method == "warm-up" and slots == 1 and rate <= 1e-3:
            return 1e-3
        return 0.99 if optimizer == "sgd" or source or rate >= 1e-3 else 0.01

    def sampled(optimizer, source, slots, method, rate):
        if source == "self":
            return 0.36
        if rate > 1e-3:
            return 0.3
        return {"sft": 0.4, "power-0.5": 0.5, "floor": 0.6}.get(method, 0.7)

    def half(optimizer, source, slots, method, rate):
        return {"sft": 1.5, "power-0.5": 9.0}.get(method)

    assert {k for k, holds in outcome(made(new, sampled, half)).items() if not holds} == set()


def test_every_prediction_can_fail():
    rows = made()
    for row in rows:
        if row["method"] == "base":
            row["new"] = [0.4] * 5
    held = {name for name, holds in outcome(rows).items() if holds}
    # Nobody learns: DFT neither; and all methods alike are within a bound on a difference.
    assert held == {
        "named-floor-is-free",
        "warm-up-is-cheap",
        "one-slot-dft",
        "one-slot-dft-sgd",
        "warm-up-needs-rate",
    }
    everyone = made(new=lambda *_: 0.9, sampled=lambda o, s, k, m, r: 0.9 if m == "dft" else 0.1)
    held = {name for name, holds in outcome(everyone).items() if holds}
    assert not held & {
        "named-floor-is-free",
        "warm-up-is-cheap",
        "one-slot-dft",
        "one-slot-dft-sgd",
        "warm-up-needs-rate",
    }


def test_a_curve_that_is_missing_is_no_success():
    rows = [r for r in made() if r.get("source") != "self"]
    with pytest.raises(ValueError, match="no run of named-floor"):
        experiment.control(rows)
