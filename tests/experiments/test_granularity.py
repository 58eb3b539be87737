"""Granularity's rows at a tiny size, its weights by hand, and its judgements on made-up rows."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from dft_theory.objectives import SumOver, dft_sequence
from dft_theory.toys.bases import Pretraining, blank
from dft_theory.toys.stacked import Stack
from dft_theory.toys.worlds import World

FILE = Path(__file__).resolve().parents[2] / "experiments" / "granularity.py"


def load():
    spec = importlib.util.spec_from_file_location("granularity", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    priors=(0.1, 0.6),
    controls=(0.6,),
    noise=(0.3,),
    lengths=(1, 4),
    adamw=(1e-3, 1e-2),
    sgd=(0.1,),
    seeds=(0, 1),
    steps=2,
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)
NAMES = {optimizer: [o.name for o in methods] for optimizer, methods in experiment.METHODS.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_weight_base_and_cell(rows):
    weights = [r for r in rows if "level" in r]
    assert [r["length"] for r in weights if "length" in r] == [1, 1, 1, 4, 4, 4]
    drawn = [(r["source"], r["p0"]) for r in weights if "source" in r]
    assert drawn == [c for c in ((0.3, 0.1), (0.3, 0.6), ("self", 0.6)) for _ in range(3)]
    assert [r["p0"] for r in rows if r.get("objective") == "base"] == [0.1, 0.6]
    cells = [
        (r["optimizer"], r["source"], r["p0"], r["objective"]) for r in rows if "optimizer" in r
    ]
    sources = {0.1: {"adamw": (0.3,), "sgd": (0.3,)}, 0.6: {"adamw": (0.3, "self"), "sgd": (0.3,)}}
    assert cells == [
        (optimizer, source, p0, name)
        for p0, each in sources.items()
        for optimizer, chosen in each.items()
        for source in chosen
        for name in NAMES[optimizer]
    ]
    assert json.loads(json.dumps(rows)) == rows


def test_a_share_of_weights_is_kish_over_their_number():
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert experiment.share(weights.log()) == pytest.approx(6**2 / 14 / 3)
    assert experiment.share(torch.zeros(5)) == pytest.approx(1.0)


def test_log_weights_are_those_of_the_objectives():
    """exp(log weight) is what each objective multiplies the gradient with."""
    stack = Stack.fresh(blank(), (0,))
    t = stack.stats(World.of(3, demos=6, held_out=4).taught(0.3))
    for objective in experiment.LEVELS[1:]:
        expected = objective.weight(t)
        found = experiment.WEIGHTS[objective.name](t.logp).exp()
        assert torch.allclose(found.view_as(expected), expected, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_the_expected_share_is_what_many_responses_give(length):
    g = torch.Generator().manual_seed(5)
    logp = torch.rand(200_000, length, dtype=torch.float64, generator=g).log()
    for level, weight in experiment.WEIGHTS.items():
        expected = experiment.expected_share(level, length)
        assert experiment.share(weight(logp)) == pytest.approx(expected, rel=0.02)
    assert experiment.expected_share("dft-sequence", length) == pytest.approx(0.75**length)


def test_a_long_response_has_the_weight_of_its_repetitions():
    stack = Stack.fresh(blank(), (0,))
    t = stack.stats(World.of(3, demos=6, held_out=4).taught(0.3))
    once = dft_sequence.weight(t).double()
    assert bool((experiment.dft_long.weight(t) == 0).all())  # float32 holds none of them
    assert bool((once.log() * experiment.LONGER < -104).all())
    loss = experiment.dft_long.surrogate(t, reduction=SumOver(t.logp.numel()))
    assert float(loss) == 0.0


# --- judgements on made-up rows -----------------------------------------------------------------


def made(accuracy, share=lambda *_: 0.5, seeds=5):
    """Rows of the full size; `accuracy(optimizer, source, p0, name)`, `share(level, length)`."""
    size = experiment.FULL
    rows = [
        {"level": level, "length": length, "share": [share(level, length)] * seeds}
        for length, level in itertools.product(size.lengths, experiment.WEIGHTS)
    ]
    for p0 in size.priors:
        cell = [accuracy(None, None, p0, "base")] * seeds
        rows.append({"p0": p0, "objective": "base", "sampled": cell, "greedy": cell})
        for eps in size.noise:
            one = {"source": eps, "p0": p0, "level": "dft-sequence"}
            rows.append(one | {"share": [share("demos", eps)] * seeds})
        sources = [*size.noise, *(["self"] if p0 in size.controls else [])]
        for optimizer, source in itertools.product(NAMES, sources):
            for name in NAMES[optimizer]:
                mean = accuracy(optimizer, source, p0, name)
                cell = [mean + 0.001 * (i - seeds / 2) for i in range(seeds)]
                key = {"optimizer": optimizer, "source": source, "p0": p0, "objective": name}
                greedy = [0.0] * seeds if source == "self" else cell
                rows.append(key | {"sampled": cell, "greedy": greedy})
    return rows


def outcome(rows):
    return {name: now["holds"] for name, now in experiment.EXPERIMENT.outcome(rows).items()}


def test_rows_as_predicted_bear_all_predictions_out():
    def accuracy(optimizer, source, p0, name):
        by_name = {"base": 0.1, "dft-long": 0.1, "sft": 0.3, "dft-geometric": 0.35, "dft": 0.7}
        if name == "dft-sequence":
            return 0.1 if optimizer == "sgd" else 0.5
        return by_name[name]

    def share(level, length):
        if level == "demos":
            return 0.4 if length else 0.9
        return 0.75 if level == "dft" else experiment.expected_share(level, length)

    assert all(outcome(made(accuracy, share)).values())


def test_every_prediction_can_fail():
    alike = outcome(made(lambda *_: 0.5))
    # Nothing moves: no bound on a difference is broken, and every claim of one fails.
    assert {name for name, holds in alike.items() if holds} == {"long-responses-teach-nothing"}
    moved = outcome(made(lambda o, s, p0, name: 0.1 if name == "base" else 0.5))
    assert not moved["long-responses-teach-nothing"]


def test_fewer_than_five_seeds_are_asked_for_the_mean_only():
    def apart(seeds):
        rows = made(lambda o, s, p0, name: 0.5, seeds=seeds)
        for row in rows:
            if row.get("objective") == "dft-sequence":
                row["sampled"] = [0.3, *[0.9] * (seeds - 1)]
        return experiment.lead("adamw", 0.3, 0.6, "dft-sequence", "sft", "sampled", 0.1)(rows)

    assert apart(3)[0]
    assert apart(3)[1]["low"] < 0
    assert not apart(5)[0]


def test_a_cell_that_is_missing_is_no_success():
    rows = [r for r in made(lambda *_: 0.5) if r.get("objective") != "dft"]
    with pytest.raises(ValueError, match="no cell has"):
        experiment.order(rows)
