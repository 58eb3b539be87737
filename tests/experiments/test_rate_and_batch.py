"""Learning rates and batch sizes: rows at a tiny size, and judgements on made-up rows."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from dft_theory.objectives import objectives
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe, Run, train
from dft_theory.toys.worlds import World, mean, sampled_accuracy

FILE = Path(__file__).resolve().parents[2] / "experiments" / "rate_and_batch.py"
TINY = {"pretraining": Pretraining(trunk=3, branch=2, batch=4), "demos": 6, "held_out": 4}
CELLS = ((0.6, 0.15, 4), (0.6, 0.15, 2), (0.6, "self", 4), (0.1, 0.0, 4))
METHODS = ("sft", "power-0.5", "dft")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("rate_and_batch", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.CACHE = tmp_path_factory.mktemp("cache")
    return module


@pytest.fixture(scope="module")
def rows(experiment):
    size = experiment.Size(CELLS, (1e-3, 3e-3), (0, 1), examples=12, **TINY)
    return experiment.measure(size)


def test_there_is_a_row_for_each_cell_and_objective(rows):
    keys = [(r["p0"], r["source"], r.get("batch"), r["objective"]) for r in rows]
    expected = []
    for p0 in (0.1, 0.6):
        expected.append((p0, "none", None, "base"))
        expected += [(p, s, b, o) for p, s, b in CELLS if p == p0 for o in METHODS]
    assert keys == expected
    assert json.loads(json.dumps(rows)) == rows


def test_all_batch_sizes_see_as_many_examples(experiment, rows):
    world = World.of(1, demos=6, held_out=4)
    base = bases((1,), (0.6,), TINY["pretraining"])
    for batch, steps in ((4, 3), (2, 6)):
        run = Run(objective=objectives["dft"], rate=3e-3, demos=world.taught(0.15), seed=1)
        done = train(base, [run], Recipe(steps=steps, batch=batch)).last
        alone = mean(done, world.test[None], sampled_accuracy).item()
        found = experiment.at_rates(rows, 0.6, 0.15, "dft", "sampled", batch)
        assert found[1, 1].item() == pytest.approx(alone, rel=2e-3)


def test_a_rate_is_chosen_on_validation_by_the_metric_asked_for(experiment, rows):
    for row in rows:
        if row["objective"] != "base":
            cell = row["p0"], row["source"], row["objective"]
            for by in ("sampled", "greedy"):
                each = row[f"{by} validation"]
                place, rate = experiment.best(rows, *cell, by, row["batch"])
                assert each[place] == max(each)
                assert rate == row["rates"][place]
                found = experiment.chosen(rows, *cell, "sampled", by, row["batch"])
                assert found.tolist() == row["sampled"][place]


RATES = (3e-5, 3e-4, 3e-3)


def made(noisy, clean, weak, own, second=None):
    """Rows of the judged cells: for each method mean accuracies `[metric][rate]` of two seeds."""
    cells = {
        (0.6, 0.15, 16): noisy,
        (0.6, 0.15, 48): second or noisy,
        (0.6, 0.0, 16): clean,
        (0.02, 0.0, 16): weak,
        (0.6, "self", 16): own,
    }
    rows = []
    for p0 in (0.02, 0.6):
        both = {m: [0.2, 0.2] for m in ("sampled", "greedy")}
        rows.append({"p0": p0, "source": "none", "objective": "base", **both})
    for (p0, source, batch), of in cells.items():
        for name, (sampled, greedy) in zip(METHODS, of, strict=True):
            row = {"p0": p0, "source": source, "batch": batch, "objective": name}
            row |= {"rates": list(RATES)}
            for metric, each in (("sampled", sampled), ("greedy", greedy)):
                row[metric] = [[x - 0.001, x + 0.001] for x in each]
                row[f"{metric} validation"] = list(each)
            rows.append(row)
    return rows


def held(experiment, rows):
    return {n for n, o in experiment.EXPERIMENT.outcome(rows).items() if o["holds"]}


def test_every_prediction_can_hold_and_fail(experiment):
    rise, fall = (0.2, 0.4, 0.5), (0.8, 0.9, 0.6)
    good = made(
        noisy=((rise, fall), (rise, fall), ((0.3, 0.6, 0.8), (0.8, 0.9, 0.85))),
        clean=((rise, rise),) * 3,
        weak=((rise, rise), (rise, rise), ((0.1, 0.2, 0.3),) * 2),
        own=((rise, fall), (rise, fall), ((0.2, 0.3, 0.5), (0.2, 0.1, 0.1))),
    )
    names = {p.name for p in experiment.PREDICTIONS}
    assert held(experiment, good) == names
    down, high = (0.7, 0.4, 0.1), (0.9, 0.9, 0.9)
    bad = made(
        noisy=((rise, rise), (rise, rise), (down, down)),
        clean=((rise, rise), (rise, rise), (high, high)),
        weak=((rise, rise), ((0.1, 0.1, 0.1),) * 2, (high, high)),
        own=((rise, fall), (rise, fall), ((0.2, 0.1, 0.1), high)),
        second=((high, high), (high, high), (down, down)),
    )
    failing = names - held(experiment, bad)
    assert failing >= names - {"lead", "lead-greedy"}
    behind = made(*[((high, high), (high, high), (rise, rise))] * 4)
    assert not {"lead", "lead-greedy"} & held(experiment, behind)


def test_one_batch_size_is_no_judgement(experiment):
    rows = made(*[(((0.1, 0.2, 0.3),) * 2,) * 3] * 4)
    with pytest.raises(ValueError, match="two batch sizes"):
        experiment.batches_matter_little([r for r in rows if r.get("batch") != 48])
