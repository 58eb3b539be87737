"""What the paper's offline table compares: where each method's text comes from, and every rate.

A teacher's demonstrations; the base's own samples, unfiltered, accepted by outcome, or in pairs of
an accepted and a rejected one; or samples of the policy while it trains.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from dft_theory.objectives import Objective, objectives
from dft_theory.toys.online import (
    OnlineRun,
    accepted,
    outcome,
    pairs,
    preferred,
    reinforced,
)
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import World, mean, own_samples, sampled_accuracy

Source = Literal["demos", "own", "accepted", "pairs", "online"]


@dataclass(frozen=True)
class Method:
    """An objective and its source of text; online, how many samples of a prompt are a group."""

    objective: Objective
    source: Source
    group: int = 1


IW_SFT = objectives["iw-sft-geometric-mean-clamp-0-16"]
METHODS = {
    "sft": Method(objectives["sft"], "demos"),
    "dft": Method(objectives["dft"], "demos"),
    "iw-sft": Method(IW_SFT, "demos"),
    "own-sft": Method(objectives["sft"], "own"),
    "own-dft": Method(objectives["dft"], "own"),
    "rft-sft": Method(objectives["sft"], "accepted"),
    "rft-dft": Method(objectives["dft"], "accepted"),
    "rft-iw-sft": Method(IW_SFT, "accepted"),
    "dpo": Method(objectives["dpo-0.1"], "pairs"),
    "ppo": Method(objectives["grpo-0.2-0.2"], "online", group=1),
    "grpo": Method(objectives["grpo-0.2-0.2"], "online", group=8),
}


def texts(
    base: Stack, worlds: Sequence[World], eps: float, each: int
) -> dict[Source, list[Tensor]]:
    """What each offline source holds, one tensor a world; `each` own samples a prompt.

    The teacher errs at rate eps. Own samples are the same ones in all sources.
    """
    own = own_samples(base, worlds, each)
    found: dict[Source, list[Tensor]] = {"demos": [w.taught(eps) for w in worlds], "own": own}
    rewards = [partial(outcome, w.chain) for w in worlds]
    found["accepted"] = [accepted(s, r) for s, r in zip(own, rewards, strict=True)]
    found["pairs"] = [
        pairs(s, len(w.split.train), r) for s, w, r in zip(own, worlds, rewards, strict=True)
    ]
    return found


@dataclass(frozen=True)
class Fitted:
    """A method at each rate of a grid: policies with a row for each world, rates one after another.

    `validation` is the mean exact accuracy at T = 1 over worlds, for each rate.
    """

    rates: tuple[float, ...]
    policies: Stack
    validation: tuple[float, ...]

    @property
    def best(self) -> float:
        """The rate of the best validation."""
        return max(zip(self.validation, self.rates, strict=True), key=lambda pair: pair[0])[1]

    def at(self, rate: float) -> Stack:
        """The policies of one rate, a row for each world."""
        worlds = len(self.policies) // len(self.rates)
        first = self.rates.index(rate) * worlds
        return self.policies[list(range(first, first + worlds))]


def fitted(
    method: Method,
    base: Stack,
    worlds: Sequence[World],
    texts: dict[Source, list[Tensor]],
    rates: Sequence[float],
    recipe: Recipe,
) -> Fitted:
    """Every rate and world in one stack; row i of `base` is the model of world i.

    `recipe.batch` counts responses, but pairs where the text is pairs.
    """
    grid = list(itertools.product(rates, range(len(worlds))))
    start = base[[i for _, i in grid]]
    if method.source == "online":
        online = [
            OnlineRun(
                rate=rate,
                prompts=worlds[i].split.train,
                reward=partial(outcome, worlds[i].chain),
                seed=worlds[i].seed,
                group=method.group,
            )
            for rate, i in grid
        ]
        last = reinforced(start, online, recipe, objective=method.objective).last
    else:
        demos = texts[method.source]
        runs = [
            Run(objective=method.objective, rate=rate, demos=demos[i], seed=worlds[i].seed)
            for rate, i in grid
        ]
        paired = method.source == "pairs"
        last = preferred(start, runs, recipe) if paired else train(start, runs, recipe).last
    held = torch.stack([worlds[i].validation for _, i in grid])
    score = mean(last, held, sampled_accuracy).view(len(rates), len(worlds)).mean(-1)
    return Fitted(tuple(rates), last, tuple(score.tolist()))
