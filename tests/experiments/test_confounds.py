"""The confounds' rows at a tiny size, gradient norms beside autograd's, judgements on made rows."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dft_theory.objectives import TokenMean, dft, sft
from dft_theory.toys.bases import Pretraining, blank
from dft_theory.toys.stacked import Recipe, Run, Stack, order, train
from dft_theory.toys.worlds import World

FILE = Path(__file__).resolve().parents[2] / "experiments" / "confounds.py"


def load():
    spec = importlib.util.spec_from_file_location("confounds", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = replace(
    experiment.FULL,
    cells={"clean": experiment.EVERY, "middle": ("off", "bfloat16")},
    rates=(0.03, 0.1, 0.3, 1.0, 3.0),
    seeds=(0, 1),
    steps=2,
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_base_and_each_switch_and_objective(rows):
    expected = [("clean", "none", "base")]
    expected += [("clean", s, o) for s in experiment.EVERY for o in ("sft", "dft")]
    expected += [("middle", "none", "base")]
    expected += [("middle", s, o) for s in ("off", "bfloat16") for o in ("sft", "dft")]
    assert [(r["cell"], r["change"], r["objective"]) for r in rows] == expected
    assert json.loads(json.dumps(rows)) == rows


def test_rates_start_at_so_many_times_the_best_one_of_sft(rows):
    found = {(r["change"], r["objective"]): r for r in rows if r["cell"] == "clean"}
    best = TINY.rates.index(found["off", "sft"]["rate"])
    for name, left_out in (("rates x3", 1), ("rates x10", 2), ("published", 1)):
        for objective in ("sft", "dft"):
            row = found[name, objective]
            assert len(row["validation"]) == len(TINY.rates) - best - left_out
            assert row["rate"] >= 0.9 * (3 if left_out == 1 else 10) * TINY.rates[best]
    # The same training on fewer rates scores the same.
    expected = found["off", "dft"]["validation"][best + 1 :]
    assert found["rates x3", "dft"]["validation"] == pytest.approx(expected, rel=1e-2)


def test_only_clipped_runs_say_how_often(rows):
    for row in rows:
        assert ("bites" in row) == (row["change"] in ("clip", "x8, clip", "published"))


def test_a_grid_that_ends_too_early_is_refused():
    with pytest.raises(ValueError, match="clean, rates x3: the grid ends below 3 x 0.001"):
        experiment.measure(replace(TINY, cells={"clean": ("off", "rates x3")}, rates=(1e-3,)))


def test_a_switch_changes_what_its_name_says():
    made = experiment.switches(7)
    off = Recipe(steps=7)
    assert made["off"] == (off, 0)
    assert made["x8"].recipe == replace(off, scale=8)
    assert made["clip"].recipe == replace(off, clip=experiment.CLIP)
    assert made["x8, clip"].recipe == replace(off, scale=8, clip=experiment.CLIP)
    assert made["bfloat16"].recipe == replace(off, precision="bfloat16")
    assert made["rates x3"] == (off, 3)
    both = replace(made["x8, clip"].recipe, precision="bfloat16")
    assert made["published"] == (both, 3)


def test_norms_are_those_of_the_gradients_that_training_takes():
    """Each run alone, by autograd through its own policy, at the batch of its step."""
    world = World.of(3, demos=8, held_out=4)
    demos, recipe = world.taught(0.3), Recipe(steps=5, batch=3, clip=0.2, scale=2.0)
    runs = [Run(objective=o, rate=1e-2, demos=demos, seed=3) for o in (sft, dft)]
    start = Stack.fresh(blank(), (0, 1))
    found = experiment.norms(start, runs, recipe, every=2)
    assert found.shape == (4, 2)  # at the start, after 2 and 4 steps, and at the end
    seen = []
    train(
        start,
        runs,
        recipe,
        validate=lambda s: seen.append(s.flat.clone()) or torch.zeros(2),
        every=2,
    )
    batches = order(len(demos), recipe, 3)
    for check, (flat, step) in enumerate(zip(seen, (0, 2, 4, 4), strict=True)):
        for row, run in enumerate(runs):
            alone = Stack(flat[[row]].clone().requires_grad_(), start.like)
            stats = alone.stats(demos[batches[step]])
            loss = run.objective.surrogate(stats, reduction=TokenMean())
            (grad,) = torch.autograd.grad(loss, alone.flat)
            assert found[check, row].item() == pytest.approx(grad.norm().item(), rel=1e-4)


# --- judgements ---------------------------------------------------------------------------------


def made(off: float, on: float, **more: object) -> list[dict[str, object]]:
    """Rows of every cell and switch, with a gap without switches and one with any."""
    rows: list[dict[str, object]] = []
    for cell in experiment.CELLS:
        rows.append({"cell": cell, "change": "none", "objective": "base", "held": [0.2, 0.2]})
        for change in experiment.EVERY:
            gap = off if change == "off" else on
            for name, share in (("sft", 0.0), ("dft", 1.0)):
                value = [0.5 + share * gap] * 2
                row = {"cell": cell, "change": change, "objective": name, "rate": 1e-3}
                row |= dict.fromkeys(("sampled", "greedy", "early_greedy"), value)
                row |= {"validation": [0.3, 0.5], "bites": [0.5, 0.5], **more}
                rows.append(row)
    return rows


def held(rows) -> set[str]:
    return {name for name, now in experiment.EXPERIMENT.outcome(rows).items() if now["holds"]}


def test_every_prediction_can_fail():
    same, moved, lost = held(made(0.4, 0.4)), held(made(0.0, 0.4)), held(made(0.4, 0.0))
    assert same & moved & lost == {"bfloat16-rate"}  # it has a test of its own below
    assert {"x8-is-nothing", "clip-is-little", "rates-above", "published-noisy"} <= same
    assert "rates-far-above" in lost
    assert "rates-far-above" not in moved


def test_scoring_is_the_gap_at_temperature_one_beyond_the_greedy_one():
    rows = made(0.4, 0.4)
    assert experiment.scoring(rows, "noisy").tolist() == [0.0, 0.0]
    assert not {"scoring", "scoring-is-most"} & held(rows)
    for row in rows:
        if row["change"] == "off" and row["objective"] == "dft":
            row["greedy"] = [0.6, 0.7]
    assert experiment.scoring(rows, "noisy").tolist() == pytest.approx([0.3, 0.2])
    assert {"scoring", "scoring-is-most"} <= held(rows)


def test_bites_are_compared_between_objectives_and_with_a_half():
    rows = made(0.4, 0.4)
    assert not {"clip-seldom", "clip-often"} & held(rows)
    for row in rows:
        if row["change"] == "x8, clip" and row["objective"] == "sft":
            row["bites"] = [0.6, 0.6]
        if row["change"] == "clip":
            row["bites"] = [0.2, 0.2]
    assert {"clip-seldom", "clip-often"} <= held(rows)


def test_what_is_rounded_away_is_a_gain_over_the_base():
    rows = made(0.4, 0.4)
    assert "bfloat16-rounds-away" not in held(rows)
    for row in rows:
        if row["change"] == "bfloat16":
            row["validation"] = [0.24, 0.5]  # 0.04 over the base, of 0.1 in float32
    assert "bfloat16-rounds-away" in held(rows)


def test_a_best_rate_that_falls_in_bfloat16_is_noticed():
    rows = made(0.4, 0.4)
    assert "bfloat16-rate" in held(rows)
    for row in rows:
        if (row["cell"], row["change"]) == ("middle", "bfloat16"):
            row["rate"] = 3e-4
    assert "bfloat16-rate" not in held(rows)


def test_rows_without_the_case_are_no_success():
    for p in experiment.PREDICTIONS:
        with pytest.raises(ValueError, match=r"cell|hold no"):
            p.judge([])
