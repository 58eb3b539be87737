"""Learning curves: checkpoints, rows at a tiny size, and judgements on made-up rows."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from dft_theory.objectives import objectives
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe, Run, train
from dft_theory.toys.worlds import World, mean, own_samples, sampled_accuracy

FILE = Path(__file__).resolve().parents[2] / "experiments" / "learning_curves.py"
TINY = {"pretraining": Pretraining(trunk=3, branch=2, batch=4), "demos": 6, "held_out": 4}
CELLS, CHECKPOINTS = ((0.6, 0.15), (0.6, "self"), (0.1, 0.0)), (2, 4)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("learning_curves", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.CACHE = tmp_path_factory.mktemp("cache")
    return module


@pytest.fixture(scope="module")
def rows(experiment):
    size = experiment.Size(CELLS, (1e-3, 3e-3), (0, 1), checkpoints=CHECKPOINTS, **TINY)
    return experiment.measure(size)


def test_checkpoints_are_the_paper_s_at_three_tenths(experiment):
    assert experiment.CHECKPOINTS == (3, 6, 12, 24, 36, 48, 60, 69, 81, 93, 105, 117)
    assert all(
        10 * c == 3 * p for c, p in zip(experiment.CHECKPOINTS, experiment.PAPER, strict=True)
    )


def test_there_is_a_curve_for_each_cell_objective_and_choice(rows):
    keys = [(r["p0"], r["source"], r["objective"], r["choice"]) for r in rows]
    expected = []
    for p0 in (0.1, 0.6):
        expected.append((p0, "none", "base", "none"))
        for source in (s for p, s in CELLS if p == p0):
            expected += [(p0, source, o, c) for o in ("sft", "dft") for c in ("shared", "own")]
    assert keys == expected
    assert json.loads(json.dumps(rows)) == rows
    for row in rows[1:]:
        if row["objective"] != "base":
            assert [len(row["greedy"]), len(row["greedy"][0])] == [2, 2]


@pytest.mark.parametrize("source", [0.15, "self"])
def test_the_end_of_a_curve_is_one_run_trained_alone(experiment, rows, source):
    worlds = [World.of(seed, demos=6, held_out=4) for seed in (0, 1)]
    base = bases((0, 1), (0.6,), TINY["pretraining"])
    demos = own_samples(base, worlds, 1) if source == "self" else [w.taught(0.15) for w in worlds]
    run = Run(objective=objectives["dft"], rate=3e-3, demos=demos[1], seed=1)
    done = train(base[[1]], [run], Recipe(steps=4)).last
    key = {"p0": 0.6, "source": source, "objective": "dft", "choice": "shared"}
    for metric, measure in (("sampled", sampled_accuracy), ("greedy", chain.greedy)):
        alone = mean(done, worlds[1].test[None], measure).item()
        found = experiment.values(rows, metric, **key)
        assert found[-1, 1].item() == pytest.approx(alone, rel=2e-3)


def test_a_grid_without_the_shared_rate_is_refused(experiment):
    with pytest.raises(ValueError, match="shared rate"):
        experiment.measure(experiment.Size(CELLS, (1e-3,), (0,), **TINY))


def made(base, sft, dft, own):
    """Rows of the cells that are judged: accuracies go from `base` to those ends in 12 steps."""
    ends = {(0.6, 0.15): (sft, dft), (0.6, "self"): (base, base + own), (0.02, 0.0): (sft, dft)}
    rows = []
    for p0 in (0.02, 0.6):
        both = {m: [base, base] for m in ("sampled", "greedy")}
        rows.append({"p0": p0, "source": "none", "objective": "base", "choice": "none", **both})
    for (p0, source), pair in ends.items():
        for name, end in zip(("sft", "dft"), pair, strict=True):
            way = [[base + (end - base) * (i + 1) / 12] * 2 for i in range(12)]
            key = {"p0": p0, "source": source, "objective": name, "choice": "own"}
            down = [[2 * base - x for x in seeds] for seeds in way] if source == "self" else way
            rows.append(key | {"sampled": way, "greedy": down})
    return rows


def held(experiment, rows):
    return {n for n, o in experiment.EXPERIMENT.outcome(rows).items() if o["holds"]}


def test_every_prediction_can_hold_and_fail(experiment):
    early = {"ahead-by-20", "ahead-by-20-greedy", "ahead-by-120", "plateau", "sft-falls-greedily"}
    ahead = made(0.3, 0.1, 0.301, 0.2)
    assert held(experiment, ahead) == early | {"control"}
    behind = made(0.1, 0.9, 0.2, 0.0)
    assert held(experiment, behind) == {"weak-behind"}


def test_a_curve_that_is_missing_is_no_success(experiment):
    rows = [r for r in made(0.3, 0.1, 0.4, 0.2) if r["source"] != "self"]
    with pytest.raises(ValueError, match="no cell"):
        experiment.control(rows)
