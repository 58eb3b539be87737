"""Training against the flow it discretises; judgements on rows made to hold and to fail."""

import importlib.util
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dft_theory.dynamics import reach, symmetric_start
from dft_theory.objectives import objectives

FILE = Path(__file__).resolve().parents[2] / "experiments" / "compute_boundary.py"


def load():
    spec = importlib.util.spec_from_file_location("compute_boundary_under_test", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


boundary = load()
JUDGES = {p.name: p.judge for p in boundary.PREDICTIONS}
PRIORS, BUDGETS = (0.001, 0.01, 0.1), (3.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


def test_the_base_gives_the_right_answer_its_prior():
    p = torch.softmax(boundary.base_logits([0.001, 0.2], seed=3), -1)[..., 0]
    torch.testing.assert_close(p[0], torch.full((boundary.CONTEXTS,), 0.001))
    torch.testing.assert_close(p[1], torch.full((boundary.CONTEXTS,), 0.2))


def test_labels_are_wrong_where_a_lower_noise_has_them_wrong_too():
    clean, some, many = boundary.labels([0.0, 0.1, 0.3], seed=3)
    assert int(clean.sum()) == 0
    assert bool((some[some > 0] == many[some > 0]).all())
    expected = 0.3 * (1 - 1 / boundary.ANSWERS)
    assert abs(float((many > 0).double().mean()) - expected) < 0.05


@pytest.mark.parametrize("name", boundary.ALPHAS)
def test_the_line_is_k_times_the_integrated_flow(name):
    start = symmetric_start(0.01, vocab=boundary.ANSWERS)
    time, _ = reach(objectives[name], start=start, target=0, p1=0.5)
    line = boundary.line(0.01, alpha=boundary.ALPHAS[name], eps=0.3)
    assert line == pytest.approx(boundary.CONTEXTS * time / 0.7, rel=1e-8)


def test_runs_of_one_tensor_do_not_touch_each_other():
    runs = [boundary.Cell(0.3, 0.02, 20.0), boundary.Cell(0.0, 0.1, 5.0)]
    chosen = [objectives["sft"], objectives["dft"]]
    together = boundary.train(chosen, runs, steps=30, seed=4)
    for (i, o), (j, cell) in itertools.product(enumerate(chosen), enumerate(runs)):
        alone = boundary.train([o], [cell], steps=30, seed=4)
        torch.testing.assert_close(alone.sampled[0, 0], together.sampled[i, j])
        torch.testing.assert_close(alone.half[0, 0], together.half[i, j], equal_nan=True)


def test_clean_runs_pass_one_half_where_the_closed_form_says():
    size = boundary.Size((0.05,), (15.0, 60.0), 120, (20, 21))
    rows = boundary.measure(size)
    holds, numbers = boundary.clean_times(rows)
    assert holds
    assert numbers["dft cases"] >= 2
    assert {len(r["sampled"]) for r in rows} == {2}
    assert len(rows) == len(boundary.ALPHAS) * len(boundary.NOISE) * 2


def test_a_jump_is_no_flow():
    cell = [boundary.Cell(0.0, 0.2, 1000.0)]
    found = boundary.train([objectives["sft"]], cell, steps=20, seed=4)
    assert found.sampled.item() > 0.9
    assert math.isnan(found.half.item())


# --- judgements on made-up rows -----------------------------------------------------------------


def as_predicted(eps: float, to_sft: float, to_dft: float) -> float:
    """A gap that turns at 1.3 times DFT's line: 0.2 beyond it with noise, faded from 50 on."""
    rising = min(max(0.5 * math.log(to_dft / 1.3), -0.5), 0.2)
    if eps == 0:
        return min(rising, 0.0)
    return 0.02 if to_dft > 50 else rising


def made(
    half=lambda name, eps, p0: 1.0,
    gap=as_predicted,
    greedy=lambda eps, to_sft, to_dft: 0.0,
):
    """Rows with S at 1/2 over the line, and gaps of DFT over SFT at T = 1 and greedy, as given."""
    rows = []
    for eps, p0, budget in itertools.product((0.0, 0.3), PRIORS, BUDGETS):
        s = budget * boundary.CONTEXTS
        to = [s / boundary.line(p0, alpha=a, eps=eps) for a in (0.0, 1.0)]
        for name, alpha in boundary.ALPHAS.items():
            leads = {"sampled": gap(eps, *to), "greedy": greedy(eps, *to)}
            values = {m: [0.5, 0.5] for m in leads}
            if name == "dft":
                values = {m: [0.499 + lead, 0.501 + lead] for m, lead in leads.items()}
            passed = half(name, eps, p0) * boundary.line(p0, alpha=alpha, eps=eps)
            rows.append(
                {"objective": name, "eps": eps, "p0": p0, "S": s, **values, "half": [passed]}
            )
    return rows


def test_rows_as_predicted_hold():
    held = {name for name, judge in JUDGES.items() if judge(made())[0]}
    assert held == set(JUDGES) - {"noise-delays-weak-priors", "noise-turns-it"}


@pytest.mark.parametrize(
    ("lost", "changes"),
    [
        ("half-time", {"half": lambda name, eps, p0: 1.5 if name == "sft" else 1.0}),
        ("noise-slows-dft", {"half": lambda name, eps, p0: 1.5 if eps else 1.0}),
        ("revised-noise-slows-dft", {"half": lambda name, eps, p0: 0.6 if eps else 1.0}),
        ("deficit-before", {"gap": lambda eps, to_sft, to_dft: 0.1}),
        ("deficit-ends", {"gap": lambda eps, to_sft, to_dft: -0.5}),
        ("boundary", {"gap": lambda eps, to_sft, to_dft: -0.5 if to_dft < 9 else 0.5}),
        ("revised-boundary", {"gap": lambda eps, to_sft, to_dft: -0.5 if to_dft < 9 else 0.5}),
        ("revised-lead", {"gap": lambda eps, to_sft, to_dft: 0.01}),
        ("lead-fades", {"gap": lambda eps, to_sft, to_dft: 0.2}),
        ("greedy-twin", {"greedy": lambda eps, to_sft, to_dft: 0.2}),
        ("deficit-ends", {"greedy": lambda eps, to_sft, to_dft: -0.2}),
    ],
)
def test_rows_otherwise_do_not(lost, changes):
    assert not JUDGES[lost](made(**changes))[0]


def test_a_prior_without_a_crossing_has_no_boundary():
    rows = [r for r in made() if r["p0"] > 0.001 or r["S"] < 300]
    assert boundary.crossings(rows).keys() == {0.01, 0.1}
    assert not JUDGES["boundary"](rows)[0]
    assert JUDGES["revised-boundary"](rows)[0]


def test_delays_and_lasting_leads_are_seen_where_they_are():
    late = made(half=lambda name, eps, p0: 1.3 if eps and p0 < 0.01 else 1.0)
    assert JUDGES["noise-delays-weak-priors"](late)[0]
    lasting = made(gap=lambda eps, to_sft, to_dft: 0.2 if to_dft > 1 else -0.5)
    assert JUDGES["noise-turns-it"](lasting)[0]


def test_an_interval_that_reaches_zero_is_no_lead():
    rows = made()
    for r in rows:
        if r["objective"] == "dft":
            r["sampled"] = [r["sampled"][0] - 0.4, r["sampled"][1] + 0.4]
    assert not JUDGES["revised-lead"](rows)[0]
    assert not JUDGES["deficit-before"](rows)[0]


def test_no_case_is_no_success():
    with pytest.raises(ValueError, match="widen the grid"):
        JUDGES["noise-slows-dft"]([r for r in made() if r["eps"] == 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"priors": (0.0,)}, "between 0 and 1/2"),
        ({"budgets": (0.0,)}, "budgets > 0"),
        ({"steps": 0}, "at least one step"),
        ({"seeds": (1,)}, "two seeds"),
    ],
)
def test_a_size_that_cannot_be_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(boundary.QUICK, **change)
