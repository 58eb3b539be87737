"""Methods: each trains on its own source of text, and the rate taken is the best."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.methods import METHODS, fitted, texts
from dft_theory.toys.online import OnlineRun, outcome, preferred, reinforced
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import World, mean, own_samples, sampled_accuracy

SEEDS, RATES = (3, 4), (1e-3, 1e-2, 3e-2)
WORLDS = [World.of(seed, demos=6, held_out=4) for seed in SEEDS]
BASE = Stack.fresh(blank(), SEEDS)
TEXT = texts(BASE, WORLDS, 0.15, 16)
RECIPE = Recipe(steps=3, batch=8)


def test_own_text_is_what_the_base_wrote_and_the_rest_is_taken_from_it():
    for own, same in zip(TEXT["own"], own_samples(BASE, WORLDS, 16), strict=True):
        assert torch.equal(own, same)
    for k, world in enumerate(WORLDS):
        assert torch.equal(TEXT["demos"][k], world.taught(0.15))
        good = outcome(world.chain, TEXT["own"][k]) > 0
        assert torch.equal(TEXT["accepted"][k], TEXT["own"][k][good])
        both = TEXT["pairs"][k]
        assert bool(outcome(world.chain, both[::2]).all())
        assert not outcome(world.chain, both[1::2]).any()
        assert torch.equal(both[::2, : chain.PROMPT], both[1::2, : chain.PROMPT])


def alone(name: str, rate: float) -> Stack:
    """Every world of a method at one rate, with the functions that train."""
    method = METHODS[name]
    if method.source == "online":
        runs = [
            OnlineRun(
                rate=rate,
                prompts=w.split.train,
                reward=partial(outcome, w.chain),
                seed=w.seed,
                group=8 if name == "grpo" else 1,
            )
            for w in WORLDS
        ]
        return reinforced(BASE, runs, Recipe(steps=3, batch=16)).last
    demos = TEXT[method.source]
    each = [
        Run(objective=method.objective, rate=rate, demos=d, seed=w.seed)
        for d, w in zip(demos, WORLDS, strict=True)
    ]
    return preferred(BASE, each, RECIPE) if name == "dpo" else train(BASE, each, RECIPE).last


@pytest.mark.parametrize("name", ["dft", "own-sft", "rft-iw-sft", "dpo", "ppo", "grpo"])
def test_the_best_rate_is_the_best_of_single_trainings(name):
    recipe = Recipe(steps=3, batch=16) if METHODS[name].source == "online" else RECIPE
    found = fitted(METHODS[name], BASE, WORLDS, TEXT, RATES, recipe)
    each = {rate: alone(name, rate) for rate in RATES}
    held = torch.stack([w.validation for w in WORLDS])
    score = {r: mean(s, held, sampled_accuracy).mean().item() for r, s in each.items()}
    assert found.best == max(score, key=lambda rate: score[rate])
    assert found.validation == pytest.approx(tuple(score.values()), rel=1e-4)
    for rate in RATES:
        assert_close(found.at(rate).flat, each[rate].flat)
