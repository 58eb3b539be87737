"""Each experiment's record says what its rows say, and other seeds do not contradict it."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dft_theory.experiment import EXPERIMENTS, Experiment
from dft_theory.results import RunStore

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
STORE = RunStore(FOLDER / "results")
NAMES = [name.replace("-", "_") for name in EXPERIMENTS]


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def experiment(name: str) -> Experiment:
    return load(name).EXPERIMENT


def test_every_experiment_with_a_full_record_is_named() -> None:
    records = {file.parents[1].name for file in STORE.root.glob("*/full/summary.json")}
    assert records == set(EXPERIMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_the_recorded_outcome_is_what_the_recorded_rows_say(name: str) -> None:
    chosen = experiment(name)
    run = STORE.run(chosen.name, "full")
    again = json.loads(json.dumps(chosen.outcome(run.metrics())))
    recorded = run.summary()["outcome"]
    assert {k: v["holds"] for k, v in again.items()} == {k: v["holds"] for k, v in recorded.items()}
    for prediction, numbers in recorded.items():
        for key, value in numbers.items():
            assert math.isclose(again[prediction][key], value, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_holds_the_predictions_and_at_least_five_seeds(name: str) -> None:
    chosen = experiment(name)
    made = STORE.run(chosen.name, "full").manifest()
    assert set(made["predictions"]) == {p.name for p in chosen.predictions}
    assert len(set(made["seeds"])) >= 5
    assert not set(chosen.quick.seeds) & set(made["seeds"])
    assert made["command"] == f"python experiments/{name}.py --full"


def test_other_seeds_do_not_contradict_the_orbits() -> None:
    chosen = experiment("bandit_orbits")
    few = replace(chosen, quick=replace(chosen.quick, seeds=chosen.quick.seeds[:3]))
    _, lost = few.replicate(STORE)
    assert not lost


@pytest.mark.parametrize("name", ["bandit_orbits", "compute_boundary"])
def test_a_size_without_enough_seeds_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="seeds"):
        replace(experiment(name).quick, seeds=())


def test_a_size_with_an_impossible_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1/2"):
        replace(experiment("compute_boundary").quick, priors=(0.7,))


def test_training_follows_the_objective_it_is_given() -> None:
    module = load("compute_boundary")
    sft, dft = module.objectives["sft"], module.objectives["dft"]
    runs = [module.Cell(0.0, 0.01, 30.0)]
    found = module.train([sft, dft], runs, steps=40, seed=3)
    assert found.sampled[0, 0] > 0.9  # SFT has learned by then
    assert found.sampled[1, 0] < 0.1  # DFT, from the same demonstrations, has not
    alone = module.train([dft], runs, steps=40, seed=3)
    assert float(alone.sampled[0, 0]) == pytest.approx(float(found.sampled[1, 0]), abs=1e-6)
