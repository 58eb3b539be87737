"""Relatives trained in stages and at their best rates, against single trainings."""

import pytest
import torch

from dft_theory.objectives import objectives
from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.relatives import RELATIVES, at_best_rates, told, trained
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import World, mean, sampled_accuracy

WORLDS = [World.of(seed, demos=8, held_out=4) for seed in (0, 1)]
DEMOS = [w.taught(0.5) for w in WORLDS]
BASE = Stack.fresh(blank(), (5, 6))
RECIPE = Recipe(steps=10, batch=4)


def single(name, rate, row):
    """Stage after stage, one run at a time."""
    relative, now = RELATIVES[name], BASE[[row]]
    for stage, objective in enumerate(relative.stages):
        run = Run(
            objective=objective,
            rate=rate,
            demos=DEMOS[row],
            seed=WORLDS[row].seed + 1000 * stage,
        )
        steps = RECIPE.steps // len(relative.stages)
        now = train(now, [run], Recipe(steps=steps, batch=4)).last
    return now.flat[0]


def test_rows_of_different_stages_are_trained_as_each_alone():
    names = ["psft", "sft", "sft-then-dft", "dft", "talr"]
    rows = [0, 1, 1, 0, 1]
    start = BASE[rows]
    kept = start.flat.clone()
    found = trained(
        start,
        names,
        [1e-3, 2e-3, 3e-3, 4e-3, 5e-3],
        [DEMOS[i] for i in rows],
        [WORLDS[i].seed for i in rows],
        RECIPE,
    )
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        assert torch.allclose(found.flat[k], single(name, (k + 1) * 1e-3, row), atol=2e-4), name
    assert torch.equal(start.flat, kept)


def test_sft_then_dft_is_neither():
    ends = {n: single(n, 3e-3, 0) for n in ("sft", "dft", "sft-then-dft")}
    assert not torch.allclose(ends["sft-then-dft"], ends["sft"], atol=1e-3)
    assert not torch.allclose(ends["sft-then-dft"], ends["dft"], atol=1e-3)


def test_psft_moves_past_its_clip_only_with_a_fresh_policy():
    """Around one fixed policy no token gets far above 1.28 times; around ten it does."""
    run = Run(objective=objectives["psft-0.2-0.28"], rate=1e-2, demos=DEMOS[0], seed=0)
    fixed = train(BASE[[0]], [run], Recipe(steps=40, batch=4)).last
    fresh = trained(BASE[[0]], ["psft"], [1e-2], DEMOS[:1], [0], Recipe(steps=40, batch=4))
    p = [s.stats(DEMOS[0]).logp.exp().mean().item() for s in (BASE[[0]], fixed, fresh)]
    assert p[0] < p[1] < p[2]


def test_steps_that_stages_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="15 steps do not make 10 stages"):
        trained(BASE[[0]], ["psft"], [1e-3], DEMOS[:1], [0], Recipe(steps=15))


def test_the_best_rate_is_the_best_of_single_trainings():
    rates = (1e-4, 1e-2)
    for found in at_best_rates(BASE, WORLDS, DEMOS, ["sft", "sft-then-dft"], rates, RECIPE):
        held = torch.stack([w.validation for w in WORLDS])
        scores = [
            mean(
                Stack(torch.stack([single(found.name, rate, i) for i in (0, 1)]), BASE.like),
                held,
                sampled_accuracy,
            ).mean()
            for rate in rates
        ]
        assert found.validation == pytest.approx([x.item() for x in scores], rel=0.02)
        assert found.rate == rates[found.validation.index(max(found.validation))]
        chosen = torch.stack([single(found.name, found.rate, i) for i in (0, 1)])
        assert torch.allclose(found.last.flat, chosen, atol=2e-4)


def test_what_is_told_is_the_mean_over_test_prompts():
    found = told(BASE, BASE, WORLDS, DEMOS)
    for i, world in enumerate(WORLDS):
        p = BASE[[i]].stats(world.test).logp[:, chain.CONTENT].exp().prod(-1)
        assert found["sampled"][i].item() == pytest.approx(p.mean().item(), rel=1e-4)
        again = (1 - (1 - p.double()) ** 8).mean().item()
        assert found["pass8"][i].item() == pytest.approx(again, rel=1e-3)
        assert found["content_kl"][i].item() == pytest.approx(0, abs=1e-5)
        wrong = ~world.chain.follows(DEMOS[i], world.chain.right)
        q = BASE[[i]].stats(DEMOS[i]).logp[:, chain.CONTENT].exp()[wrong].mean()
        assert found["wrong_p"][i].item() == pytest.approx(q.item(), rel=1e-4)
