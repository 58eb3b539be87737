"""A row holds what its best runs score; a gap is paired; its interval is that of scipy."""

import json

import pytest
import torch
from scipy import stats

from dft_theory.objectives import dft, sft
from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.gaps import METRICS, gap, scores, told
from dft_theory.toys.stacked import Recipe, Stack
from dft_theory.toys.worlds import World, at_best_rate

SEEDS = (3, 4)
WORLDS = [World.of(seed, demos=6, held_out=4) for seed in SEEDS]


def test_a_row_scores_the_best_runs_on_unseen_prompts():
    base, demos = Stack.fresh(blank(), SEEDS), [w.taught(0.3) for w in WORLDS]
    recipe = Recipe(steps=4, batch=3)
    for best in at_best_rate(base, WORLDS, demos, (sft, dft), (1e-3, 1e-2), recipe, every=2):
        row = scores(best, WORLDS)
        assert json.loads(json.dumps(row)) == row
        assert (row["objective"], row["rate"]) == (best.objective.name, best.rate)
        assert row["early_rate"] == best.early_rate
        assert row["validation"] == pytest.approx(best.validation, rel=0.01)
        for i, world in enumerate(WORLDS):
            last, early = (
                s[[i]].stats(world.test, needs=["log_probs"]) for s in (best.last, best.early)
            )
            sampled = last.logp[:, chain.CONTENT].sum(-1).exp().mean().item()
            assert row["sampled"][i] == pytest.approx(sampled, rel=1e-3)
            assert row["greedy"][i] == pytest.approx(chain.greedy(last).mean().item(), rel=1e-3)
            assert row["early_greedy"][i] == pytest.approx(chain.greedy(early).mean().item())


def made() -> list[dict[str, object]]:
    rows = []
    for i, name in enumerate(("sft", "power-0.5", "dft")):
        each = {metric: [0.1 + 0.1 * i, 0.2 + 0.3 * i, 0.3] for metric in METRICS}
        rows.append({"cell": "a", "change": "b", "objective": name, **each})
    return rows


def test_a_gap_is_objective_minus_sft_seed_by_seed():
    assert gap(made(), "a", "b", "greedy").tolist() == pytest.approx([0.2, 0.6, 0.0])
    half = gap(made(), "a", "b", "sampled", "power-0.5")
    assert half.tolist() == pytest.approx([0.1, 0.3, 0.0])
    with pytest.raises(ValueError, match="no cell has cell c"):
        gap(made(), "c", "b", "greedy")


def test_what_is_told_is_the_mean_and_its_paired_interval():
    value = torch.tensor([0.1, 0.4, 0.2, 0.5], dtype=torch.float64)
    found = told(one=value, two=-value)
    low, high = stats.t.interval(0.95, 3, loc=value.mean(), scale=stats.sem(value))
    assert found["one"] == pytest.approx(0.3)
    assert (found["one low"], found["one high"]) == pytest.approx((low, high))
    assert (found["two low"], found["two high"]) == pytest.approx((-high, -low))
