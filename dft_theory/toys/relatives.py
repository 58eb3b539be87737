"""SFT, DFT and their relatives on the chain task: published weights, anchors, and two stages."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective, objectives
from dft_theory.toys import chain
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import World, exact, mean, sampled_accuracy, wrong_p

REFRESHED = 10  # stages of PSFT: its clip is around the policy at the start of each


@dataclass(frozen=True)
class Relative:
    """Objectives to train on in turn, each for its share of the steps.

    A stage starts a cosine and an optimiser of its own, and its start is its earlier policy.
    """

    label: str
    stages: tuple[Objective, ...]


def _one(name: str, label: str) -> Relative:
    return Relative(label, (objectives[name],))


# iw-SFT is as its code has it: the ratio's geometric mean over a response, clamped at 16.
RELATIVES = {
    "sft": _one("sft", "SFT"),
    "dft": _one("dft", "DFT"),
    "power": _one("power-0.5", "p^1/2"),
    "threshold": _one("thresholded-above-0.2", "SFT on p >= 0.2"),
    "floor": _one("floored-0.1", "max(p, 0.1)"),
    "chord-phi": _one("chord-phi", "CHORD-phi"),
    "talr": _one("talr", "TALR"),
    "asft": _one("asft-0.05", "ASFT"),
    "gem": _one("gem-0.7", "GEM"),
    "eaft": _one("eaft", "EAFT"),
    "iw-sft": _one("iw-sft-geometric-mean-clamp-0-16", "iw-SFT"),
    "psft": Relative("PSFT", (objectives["psft-0.2-0.28"],) * REFRESHED),
    "sft-then-dft": Relative("SFT, then DFT", (objectives["sft"], objectives["dft"])),
}


def trained(
    start: Stack,
    names: Sequence[str],
    rates: Sequence[float],
    demos: Sequence[Tensor],
    seeds: Sequence[int],
    recipe: Recipe,
) -> Stack:
    """Train row k of `start` as relative `names[k]` at its rate, on its demonstrations.

    Rows of as many stages go through one stack. Raises: ValueError where the steps do not divide
    into a relative's stages.
    """
    last = start.flat.clone()
    numbers = {name: len(RELATIVES[name].stages) for name in names}
    for number in sorted(set(numbers.values())):
        if recipe.steps % number:
            raise ValueError(f"{recipe.steps} steps do not make {number} stages of equal length")
        rows = [k for k, name in enumerate(names) if numbers[name] == number]
        now = start[rows]
        for stage in range(number):
            runs = [
                Run(
                    objective=RELATIVES[names[k]].stages[stage],
                    rate=rates[k],
                    demos=demos[k],
                    seed=seeds[k] + 1000 * stage,  # another order of the demonstrations
                )
                for k in rows
            ]
            now = train(now, runs, replace(recipe, steps=recipe.steps // number)).last
        last[rows] = now.flat
    return Stack(last, start.like)


@dataclass(frozen=True)
class Found:
    """A relative at the rate with the best mean validation over worlds, exact accuracy at T = 1.

    A row of `last` for each world; `validation` is that mean for each rate.
    """

    name: str
    rate: float
    last: Stack
    validation: tuple[float, ...]


def at_best_rates(
    base: Stack,
    worlds: Sequence[World],
    demos: Sequence[Tensor],
    names: Sequence[str],
    rates: Sequence[float],
    recipe: Recipe,
) -> list[Found]:
    """Every relative, rate and world; row i of `base` is the model of world i."""
    grid = list(itertools.product(names, rates, range(len(worlds))))
    rows = [i for *_, i in grid]
    last = trained(
        base[rows],
        [name for name, *_ in grid],
        [rate for _, rate, _ in grid],
        [demos[i] for i in rows],
        [worlds[i].seed for i in rows],
        recipe,
    )
    held = torch.stack([worlds[i].validation for i in rows])
    shape = len(names), len(rates), len(worlds)
    scores = mean(last, held, sampled_accuracy).view(shape).mean(-1)
    places = torch.arange(len(grid)).view(shape)
    found = []
    for name, score, place in zip(names, scores, places, strict=True):
        best = int(score.argmax())
        kept = last[place[best].tolist()]
        found.append(Found(name, rates[best], kept, tuple(score.tolist())))
    return found


def told(
    stack: Stack, base: Stack, worlds: Sequence[World], demos: Sequence[Tensor]
) -> dict[str, Tensor]:
    """What experiments record of a row for each world, each `[K]`: test prompts, and memory."""
    test = torch.stack([w.test for w in worlds])
    found = exact(stack, base, list(test))
    return found | {"pass8": mean(stack, test, pass8), "wrong_p": wrong_p(stack, worlds, demos)}


def pass8(t: TokenStats) -> Tensor:
    """Exact probability that one of eight samples is right, `[B]`."""
    return chain.pass_at_k(chain.content_logp(t), 8)
