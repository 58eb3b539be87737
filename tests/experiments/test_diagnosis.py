"""The diagnosis' rows at a tiny size, its measures of power, and its judgements on made-up rows."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from dft_theory.results import RunStore
from dft_theory.toys.bases import Pretraining
from dft_theory.toys.scenarios import GRID, SCENARIOS

ROOT = Path(__file__).resolve().parents[2]


def load():
    file = ROOT / "experiments" / "diagnosis.py"
    spec = importlib.util.spec_from_file_location("diagnosis_under_test", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
SEEDS = 5  # as many as the recorded gaps have
TINY = experiment.Size(
    scenarios=("novel-half", "few-noisy", "own-samples"),
    rates=(1e-3, 1e-2),
    seeds=tuple(range(20, 20 + SEEDS)),
    steps=2,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(experiment, "GRID", GRID[::6])
        return experiment.measure(TINY)


def test_there_is_a_row_for_each_cell_scenario_and_candidate(rows):
    assert [r["scenario"] for r in experiment.cells(rows, "grid")] == [s.name for s in GRID[::6]]
    held = experiment.cells(rows, "held out")
    assert [r["scenario"] for r in held] == list(TINY.scenarios)
    assert all(len(r[m]) == SEEDS for r in held for m in experiment.METRICS)
    powers = [r for r in rows if r["set"] == "power"]
    assert len(powers) == len(experiment.CANDIDATES) * len(experiment.METRICS)
    assert json.loads(json.dumps(rows)) == rows


def test_gaps_of_cells_are_those_of_the_other_record(rows):
    gaps = RunStore(ROOT / "experiments" / "results").run("capability-continuum", "full").metrics()
    for r in experiment.cells(rows, "grid"):
        s = SCENARIOS[r["scenario"]]
        for metric in experiment.METRICS:
            ours, sft = (
                next(
                    x[metric]
                    for x in gaps
                    if (x["source"], x["p0"], x["objective"]) == (s.eps, s.p0, name)
                )
                for name in ("dft", "sft")
            )
            assert r[metric] == pytest.approx(np.subtract(ours, sft), abs=1e-4)


def test_a_cell_is_predicted_from_the_others(rows):
    grid = experiment.cells(rows, "grid")
    others = [r for r in grid if r is not grid[1]]
    x = np.array(experiment.points(others, experiment.CHOSEN))
    y = np.concatenate([r["greedy"] for r in others])
    line, *_ = np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), y, rcond=None)
    mine = np.array(experiment.points([grid[1]], experiment.CHOSEN))
    found = np.column_stack([np.ones(len(mine)), mine]) @ line
    assert grid[1]["expected greedy"] == pytest.approx(found, abs=1e-3)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (4, 20)), rng.normal(size=(4, 20))  # ties in one
    found = experiment.spearman(a, b)
    assert found == pytest.approx([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
    assert experiment.spearman(np.ones((1, 5)), np.arange(5.0)[None])[0] == 0


def test_balanced_accuracy_counts_each_sign_the_same():
    told = np.array([True, True, True, True])
    assert experiment.balanced(told, np.array([True, True, True, False])) == 0.5
    assert experiment.balanced(told, np.array([True] * 4)) == 1.0


def test_power_is_of_what_was_left_out():
    """A statistic that is the gap predicts it; one of noise does no better than the share."""
    rng, made = np.random.default_rng(1), []
    for part, n in (("grid", 12), ("held out", 9)):
        for i in range(n):
            gap = rng.normal(size=3).round(3).tolist()
            noise = rng.normal(size=3).tolist()
            made.append({"set": part, "scenario": f"{part} {i}", "a": gap, "b": noise, "g": gap})
    good, bad = (experiment.power(made, (name,), "g") for name in "ab")
    for part in ("grid", "held out"):
        assert good[f"{part} rho"] == good[f"{part} accuracy"] == 1.0
        assert good[f"{part} brier"] < 0.01
        assert bad[f"{part} brier"] > 0.9 * bad[f"{part} constant"]
        assert bad[f"{part} low"] < bad[f"{part} rho"] < bad[f"{part} high"]
    assert (good["grid n"], good["held out n"]) == (12, 9)


def test_scenarios_without_a_statistic_are_left_out():
    made = [
        {"set": part, "scenario": f"{part} {i}", "a": [float(i), i + 0.5], "g": [float(i), 1.0]}
        for part in ("grid", "held out")
        for i in range(6)
    ]
    made[-1]["a"] = [None, 1.0]
    assert experiment.power(made, ("a",), "g")["held out n"] == 5


def flat(gap: float = 0.0) -> list[dict[str, object]]:
    """Rows in which nothing differs from anything, and nothing is ever told."""
    rows = []
    for s in (*(SCENARIOS[n] for n in experiment.FULL.scenarios), *GRID):
        part = "held out" if s.name in experiment.FULL.scenarios else "grid"
        row = {"set": part, "scenario": s.name, "demos": s.demos, "bins": [[0.5, 0.5]] * 2}
        row |= {f"{x} content": [0.3, 0.31] for x in ("cosine", "shared")} | {"mean p": [0.5, 0.5]}
        for scoring in experiment.SCORINGS:
            row |= {scoring: [gap, gap + 0.01], f"expected {scoring}": [gap, gap + 0.01]}
            row |= {f"told {scoring}": ["alike"] * 2}
        rows.append(row)
    for names in experiment.CANDIDATES:
        for scoring in experiment.METRICS:
            row = {"set": "power", "statistic": ", ".join(names), "scoring": scoring}
            values = {"rho": 0.6, "low": 0.5, "high": 0.7, "accuracy": 0.5}
            values |= {"brier": 0.3 + 0.1 * (len(names) > 1), "constant": 0.2}
            rows.append(
                row | {f"{part} {k}": v for part in ("grid", "held out") for k, v in values.items()}
            )
    return rows


def test_every_prediction_can_fail():
    held = {n for n, now in experiment.EXPERIMENT.outcome(flat(0.2)).items() if now["holds"]}
    # What does not differ has the same histogram, and what is never named never the opposite.
    idle = {"same-histogram", "same-histogram-quarter", "disguised-histogram"}
    idle |= {"never-opposite", "disguised-never-opposite"}
    assert held == idle
    apart = flat()
    for row in apart:
        if row.get("scenario") in ("novel-half", "novel-quarter"):
            row["bins"] = [[0.2, 0.8]] * 2
            row["told greedy"] = ["dft leads"] * 2
    held = {n for n, now in experiment.EXPERIMENT.outcome(apart).items() if now["holds"]}
    assert not held & idle


def test_a_prediction_about_what_was_not_measured_is_no_success():
    rows = [r for r in flat() if r["set"] == "power"]
    with pytest.raises(ValueError, match="no cell has"):
        experiment.same_histogram("half")(rows)
    with pytest.raises(ValueError, match="few demonstrations"):
        experiment.abstains(rows)
    with pytest.raises(ValueError, match="was not measured"):
        experiment.strength(flat(), "luck", "grid", "greedy")


def test_answers_are_counted_against_what_came():
    rows = [
        {
            "set": "held out",
            "greedy": [0.2, -0.2, 0.0, 0.2, 0.3],
            "told greedy": ["dft leads", "dft leads", "alike", "cannot tell", "alike"],
        }
    ]
    found = experiment.answers(rows, "greedy")
    assert found == {"asked": 5, "answered": 4, "right": 2, "opposite": 1}
