"""Drifts against the package's flows and against autograd; judgements on rows made to fail."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dft_theory import dynamics
from dft_theory.objectives import filtered_sft

FILE = Path(__file__).resolve().parents[2] / "experiments" / "bandit_orbits.py"


def load():
    spec = importlib.util.spec_from_file_location("bandit_orbits_under_test", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


orbits = load()
SEEDS = (200, 201)
START = orbits.prior(SEEDS)
MOVED = START + orbits.prior((202, 203))


def law(name: str) -> torch.Tensor:
    pi0 = torch.softmax(START, -1)
    return orbits.METHODS[name].law(torch.softmax(MOVED, -1), pi0)


@pytest.fixture(scope="module")
def rows():
    return orbits.measure(orbits.Size(SEEDS))


@pytest.mark.parametrize("name", ["sft", "dft", "rft-sft", "rft-dft"])
def test_the_drift_of_a_fixed_law_is_the_velocity_of_the_dynamics(name):
    method = orbits.METHODS[name]
    found = orbits.drift(method, MOVED, START)
    for theta, demos, moved in zip(MOVED, law(name), found, strict=True):
        expected = dynamics.velocity(method.objective, theta, demos)
        torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["sft", "dft", "rft-dft"])
def test_orbits_of_many_priors_are_the_flows_of_each(name):
    method, times = orbits.METHODS[name], np.array([0.0, 0.5, 20.0])
    together = orbits.orbit(method, START, times)
    for i, demos in enumerate(law(name)):
        one = dynamics.flow(
            method.objective, start=START[i], demos=demos, times=torch.from_numpy(times)
        )
        torch.testing.assert_close(together[:, i], one, rtol=1e-6, atol=1e-6)


def test_rl_climbs_the_return():
    slope = orbits.gradient(lambda pi: pi @ orbits.REWARD, MOVED)
    found = orbits.drift(orbits.METHODS["rl"], MOVED, START)
    torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-15)


def test_filtered_sft_on_all_of_the_priors_samples_is_rft_times_j0():
    pi0 = torch.softmax(START, -1)
    method = orbits.Method(filtered_sft, lambda pi, first: first)
    found = orbits.drift(method, MOVED, START)
    expected = (pi0 @ orbits.REWARD)[:, None] * orbits.drift(
        orbits.METHODS["rft-sft"], MOVED, START
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_no_policy_with_that_return_is_nearer_than_the_least_kl():
    """The least KL is that of the prior, reweighted between correct and wrong arms."""
    pi0 = torch.softmax(START, -1)
    right = pi0 * orbits.REWARD
    for j in (0.5, 0.9):
        j0 = right.sum(-1, keepdim=True)
        best = j * right / j0 + (1 - j) * (pi0 - right) / (1 - j0)
        kl = (best * (best / pi0).log()).sum(-1)
        found = orbits.least_kl(np.array([j, j]), j0[:, 0].numpy())
        np.testing.assert_allclose(found, kl.numpy(), rtol=1e-12)


def test_a_row_stands_at_its_returns(rows):
    assert len(rows) == len(SEEDS) * (len(orbits.METHODS) + 1)
    for row in rows:
        if row["method"] != "prior":
            assert row["J"] == sorted(row["J"])
            assert row["end_J"] > row["J"][-1]
            assert row["kl"] == sorted(row["kl"])
            assert row["fall"] >= 0


def changed(rows, method: str, key: str, value):
    """Rows in which one key of a method has another value."""
    return [{**r, key: value(r[key])} if r["method"] == method else r for r in rows]


@pytest.mark.parametrize(
    ("prediction", "method", "key", "value"),
    [
        ("first-step", "prior", "first_step", lambda e: e + 100),
        ("iw-is-rl", "prior", "iw_everywhere", lambda e: e + 100),
        ("dft-counts-twice", "prior", "double_count", lambda e: e + 100),
        ("posterior", "rft-sft", "end_number", lambda n: n + 0.1),
        ("posterior", "rft-sft", "end_kl", lambda kl: kl + 0.1),
        ("collapse", "rft-dft", "end_number", lambda n: n + 0.2),
        ("order", "rl", "kl", lambda kl: [x - 0.5 for x in kl]),
        ("order", "rft-dft", "kl", lambda kl: [x - 0.5 for x in kl]),
        ("one-orbit", "rft-iw-sft", "kl", lambda kl: [x + 0.01 for x in kl]),
        ("beyond-rl", "rft-dft", "kl", lambda kl: [x - 0.5 for x in kl]),
        ("expert", "dft", "end_number", lambda n: n + 0.2),
        ("expert", "sft", "end_number", lambda n: n + 0.2),
    ],
)
def test_a_prediction_fails_where_it_should(rows, prediction, method, key, value):
    (judge,) = (p.judge for p in orbits.PREDICTIONS if p.name == prediction)
    assert judge(rows)[0]
    assert not judge(changed(rows, method, key, value))[0]


def test_nearness_to_the_least_is_measured(rows):
    near = changed(rows, "rft-sft", "kl", lambda kl: kl)
    j0 = {r["seed"]: r["J0"] for r in rows if r["method"] == "prior"}
    for r in near:
        if r["method"] == "rft-sft":
            r["kl"] = orbits.least_kl(np.array(r["J"]), np.array(j0[r["seed"]])).tolist()
    assert orbits.near_least(near)[0]
    assert not orbits.near_least(changed(near, "rft-sft", "kl", lambda kl: [x + 0.1 for x in kl]))[
        0
    ]


def test_rows_of_a_method_that_is_missing_are_no_success(rows):
    with pytest.raises(ValueError, match="no row of rl"):
        orbits.collapse([r for r in rows if r["method"] != "rl"])


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_priors_need_distinct_seeds(seeds):
    with pytest.raises(ValueError, match="distinct seeds"):
        replace(orbits.EXPERIMENT.quick, seeds=seeds)
