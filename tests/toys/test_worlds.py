"""Worlds: what is right, fresh and held out; the best rate is the best; metrics are means."""

import pytest
import torch

from dft_theory.objectives import objectives
from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import (
    World,
    at_best_rate,
    exact,
    listed,
    mean,
    own_samples,
    sampled_accuracy,
    wrong_p,
)

SEEDS = (3, 4)
WORLDS = [World.of(seed, demos=6, held_out=4) for seed in SEEDS]
BASE = Stack.fresh(blank(), SEEDS)
CHOSEN = [objectives["sft"], objectives["dft"]]
RATES = (1e-3, 1e-2, 3e-2)


def test_held_out_responses_are_right_and_their_prompts_new():
    for world in WORLDS:
        for held in (world.validation, world.test, world.unseen):
            assert bool(world.chain.follows(held, world.chain.right).all())
            both = torch.cat([held[:, : chain.PROMPT], world.split.train])
            assert len(both.unique(dim=0)) == 10


def test_fresh_demonstrations_answer_the_same_prompts_otherwise():
    world = WORLDS[0]
    taught, fresh = world.taught(0.5), world.taught(0.5, fresh=True)
    assert torch.equal(taught, world.taught(0.5))
    assert torch.equal(taught[:, : chain.PROMPT], fresh[:, : chain.PROMPT])
    assert not torch.equal(taught, fresh)
    aligned = world.taught(1.0, "aligned")
    assert bool(world.chain.follows(aligned, world.chain.aligned).all())


def test_own_samples_answer_the_training_prompts():
    for world, own in zip(WORLDS, own_samples(BASE, WORLDS, 3), strict=True):
        assert torch.equal(own[:, : chain.PROMPT], world.split.train.repeat(3, 1))


def test_the_best_rate_is_the_best_of_single_runs():
    demos = [w.taught(0.3) for w in WORLDS]
    recipe = Recipe(steps=4, batch=3)
    found = at_best_rate(BASE, WORLDS, demos, CHOSEN, RATES, recipe, every=2)
    assert [b.objective for b in found] == CHOSEN
    for best in found:
        each = {}
        for rate in RATES:
            runs = [
                Run(objective=best.objective, rate=rate, demos=d, seed=w.seed)
                for d, w in zip(demos, WORLDS, strict=True)
            ]
            each[rate] = train(BASE, runs, recipe).last
        held = torch.stack([w.validation for w in WORLDS])
        score = {r: mean(s, held, sampled_accuracy).mean().item() for r, s in each.items()}
        assert best.rate == max(score, key=lambda rate: score[rate])
        assert best.validation == pytest.approx(tuple(score.values()), rel=1e-4)
        torch.testing.assert_close(best.last.flat, each[best.rate].flat)


def test_metrics_of_a_row_are_means_over_its_own_responses():
    test = [w.test for w in WORLDS]
    told = exact(BASE, BASE, test)
    assert told["content_kl"].abs().max() < 1e-6
    for row, tokens in enumerate(test):
        alone = BASE[[row]].stats(tokens, needs=("log_probs",))
        accuracy = alone.logp[:, chain.CONTENT].sum(-1).exp().mean()
        assert told["sampled"][row] == pytest.approx(accuracy.item(), rel=1e-5)
        assert told["greedy"][row] == chain.greedy(alone).mean()
    assert mean(BASE, torch.stack(test), sampled_accuracy).tolist() == told["sampled"].tolist()


def test_wrong_p_is_nothing_where_nothing_is_wrong():
    found = wrong_p(BASE, WORLDS, [w.taught(0.0) for w in WORLDS])
    assert listed({"p": found}) == {"p": [None, None]}
