"""Five bases: rows at a tiny size, and judgements on made-up rows."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from dft_theory.objectives import objectives
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe, Run, train
from dft_theory.toys.worlds import World, mean, sampled_accuracy

FILE = Path(__file__).resolve().parents[2] / "experiments" / "five_bases.py"
TINY = {"pretraining": Pretraining(trunk=3, branch=2, batch=4), "demos": 6, "held_out": 4}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("five_bases", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.CACHE = tmp_path_factory.mktemp("cache")
    return module


@pytest.fixture(scope="module")
def size(experiment):
    return experiment.Size((0.1, 0.6), (0.6,), (1e-3, 3e-3), (0, 1), steps=3, **TINY)


@pytest.fixture(scope="module")
def rows(experiment, size):
    return experiment.measure(size)


def test_there_is_a_row_for_each_base_and_each_choice(rows):
    keys = [(r["p0"], r["source"], r["objective"], r["choice"]) for r in rows]
    expected = []
    for p0, sources in ((0.1, ("teacher",)), (0.6, ("teacher", "self"))):
        expected.append((p0, "none", "base", "none"))
        expected += [
            (p0, s, o, c) for s in sources for o in ("sft", "dft") for c in ("shared", "own")
        ]
    assert keys == expected
    assert json.loads(json.dumps(rows)) == rows


def test_one_rate_is_shared_and_the_other_is_the_best_on_validation(experiment, size, rows):
    for row in rows:
        if row["choice"] == "shared":
            assert row["rate"] == experiment.SHARED
        elif row["choice"] == "own":
            best = max(range(2), key=lambda i: row["validation"][i])
            assert row["rate"] == size.rates[best]


def test_a_cell_is_one_run_trained_alone(experiment, size, rows):
    world = World.of(1, demos=6, held_out=4)
    base = bases((1,), (0.6,), size.pretraining)
    demos = world.taught(experiment.NOISE)
    run = Run(objective=objectives["dft"], rate=3e-3, demos=demos, seed=1)
    done = train(base, [run], Recipe(steps=3)).last
    alone = mean(done, world.test[None], sampled_accuracy).item()
    found = experiment.of(rows, 0.6, "dft", "sampled", "shared", "teacher")
    assert found[1].item() == pytest.approx(alone, rel=2e-3)


def test_a_grid_without_the_shared_rate_is_refused(experiment, size):
    with pytest.raises(ValueError, match="shared rate"):
        experiment.measure(experiment.Size((0.1,), (), (1e-3,), (0,), **TINY))


def made(base, sft, dft, own=0.0, own_greedy=0.0):
    """Rows of all five bases in which sampled and greedy accuracies are those, at both choices."""
    rows = []
    for i, p0 in enumerate((0.02, 0.1, 0.3, 0.6, 0.9)):
        values = {"base": base(i), "sft": sft(i), "dft": dft(i)}
        for source in ("none", "teacher", "self"):
            for name, mean_ in values.items():
                if (source == "none") != (name == "base"):
                    continue
                sampled = base(i) + own * (dft(i) - base(i)) if source == "self" else mean_
                greedy = base(i) + own_greedy if source == "self" else mean_
                for choice in ("none",) if name == "base" else ("shared", "own"):
                    key = {"p0": p0, "source": source, "objective": name, "choice": choice}
                    both = {"sampled": sampled, "greedy": greedy}
                    rows.append(key | {m: [x - 0.01, x, x + 0.01] for m, x in both.items()})
    return rows


def held(experiment, rows):
    return {n for n, o in experiment.EXPERIMENT.outcome(rows).items() if o["holds"]}


def test_the_paper_s_order_holds_on_rows_that_have_it(experiment):
    rows = made(lambda i: 0.1, lambda i: 0.3, lambda i: 0.4 + 0.05 * i, own=0.2)
    assert {"paper-order", "paper-order-greedy", "lead", "lead-own", "ratio-grows"} <= held(
        experiment, rows
    )


def test_every_prediction_can_fail(experiment):
    failed = [
        made(lambda i: 0.1, lambda i: 0.5, lambda i: 0.4 - 0.05 * i, own=0.4, own_greedy=0.1),
        made(lambda i: 0.5, lambda i: 0.4, lambda i: 0.6, own=0.2),
    ]
    always = set.intersection(*(held(experiment, rows) for rows in failed))
    assert not always
    names = {p.name for p in experiment.PREDICTIONS}
    good = made(lambda i: 0.1, lambda i: 0.3, lambda i: 0.4 + 0.05 * i, own=0.2)
    lost = made(lambda i: 0.8, lambda i: 0.3, lambda i: 0.7, own=0.7)
    assert held(experiment, good) | held(experiment, lost) == names


def test_rows_without_a_base_are_no_success(experiment):
    rows = [r for r in made(lambda i: 0.1, lambda i: 0.3, lambda i: 0.4) if r["p0"] != 0.6]
    with pytest.raises(ValueError, match=r"no cell has p0 0\.6"):
        experiment.grows(rows)


def test_a_ratio_is_of_mean_gains(experiment):
    rows = made(lambda i: 0.1, lambda i: 0.3, lambda i: 0.4)
    assert experiment.ratio(rows, 0.3, "own") == pytest.approx(1.5)
