"""A world of the chain task, and every objective in it at its own best learning rate."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.chain import BASE_STYLE, TEACHER_STYLE, Chain, Error, Split
from dft_theory.toys.stacked import Recipe, Run, Stack, train


@dataclass(frozen=True)
class World:
    """What one seed fixes: rules, prompts, and right responses `[N, P+T]` to the held-out ones."""

    seed: int
    chain: Chain
    split: Split
    validation: Tensor
    test: Tensor
    unseen: Tensor

    @classmethod
    def of(cls, seed: int, *, demos: int = 48, held_out: int = 64) -> Self:
        """The world of a seed, with so many prompts to train on and for each held-out part."""
        rules = Chain.random(seed)
        split = Split.random(seed, train=demos, held_out=held_out)
        g = generator(seed, "toys", "held out")
        asked = split.validation, split.test, split.unseen
        return cls(seed, rules, split, *(chain.write(a, rules.law(), BASE_STYLE, g) for a in asked))

    def taught(
        self,
        eps: float,
        error: Error = "uniform",
        style: tuple[float, ...] = TEACHER_STYLE,
        *,
        fresh: bool = False,
    ) -> Tensor:
        """Demonstrations `[N, P+T]` of a teacher who errs at rate eps.

        `fresh` ones answer the same prompts anew: from the same law, never trained on.
        """
        g = generator(self.seed, "toys", "fresh" if fresh else "teacher", error, str(eps))
        return chain.write(self.split.train, self.chain.law(error, eps), style, g)


def own_samples(base: Stack, worlds: Sequence[World], each: int) -> list[Tensor]:
    """What each base writes to its own training prompts, `each` samples a prompt, unfiltered."""
    asked = torch.stack([w.split.train.repeat(each, 1) for w in worlds])
    return list(base.sample(asked, generator=generator(worlds[0].seed, "toys", "own", each)))


@dataclass(frozen=True)
class Best:
    """An objective at the learning rate with the best mean validation over worlds.

    `last` holds the end of training, chosen by exact accuracy at T = 1; `early` the best state on
    greedy validation of each run, at the rate whose best states are best. A row for each world.
    `validation` is the mean accuracy at T = 1 for each rate of the grid.
    """

    objective: Objective
    rate: float
    last: Stack
    early_rate: float
    early: Stack
    validation: tuple[float, ...]


def at_best_rate(
    base: Stack,
    worlds: Sequence[World],
    demos: Sequence[Tensor],
    chosen: Sequence[Objective],
    rates: Sequence[float],
    recipe: Recipe,
    *,
    every: int = 25,
) -> list[Best]:
    """Every objective, rate and world in one stack; row i of `base` is the model of world i."""
    grid = list(itertools.product(range(len(chosen)), rates, range(len(worlds))))
    runs = [
        Run(objective=chosen[o], rate=rate, demos=demos[i], seed=worlds[i].seed)
        for o, rate, i in grid
    ]
    held = torch.stack([worlds[i].validation for *_, i in grid])
    done = train(
        base[[i for *_, i in grid]],
        runs,
        recipe,
        validate=lambda stack: mean(stack, held, chain.greedy),
        every=every,
    )
    shape = len(chosen), len(rates), len(worlds)
    sampled = mean(done.last, held, sampled_accuracy).view(shape).mean(-1)
    early = done.scores.amax(0).view(shape).mean(-1)
    rows = torch.arange(len(grid)).view(shape)
    found = []
    for o, objective in enumerate(chosen):
        late, soon = int(sampled[o].argmax()), int(early[o].argmax())
        found.append(
            Best(
                objective,
                rates[late],
                done.last[rows[o, late].tolist()],
                rates[soon],
                done.best[rows[o, soon].tolist()],
                tuple(sampled[o].tolist()),
            )
        )
    return found


# --- what is measured of a stack, one number a row ----------------------------------------------


def sampled_accuracy(t: TokenStats) -> Tensor:
    """Exact accuracy of states sampled at T = 1, for each right response, `[B]`."""
    return chain.content_logp(t).exp()


@torch.no_grad()
def mean(stack: Stack, tokens: Tensor, metric: Callable[[TokenStats], Tensor]) -> Tensor:
    """Mean over responses of a metric of `[K, N, P+T]`, `[K]`."""
    t = stack.stats(tokens, needs=("log_probs",))
    found: Tensor = metric(t).unflatten(0, (len(stack), -1)).mean(-1)
    return found


@torch.no_grad()
def exact(stack: Stack, base: Stack, tokens: Sequence[Tensor]) -> dict[str, Tensor]:
    """`chain.summary` of each row on its own right responses, means over prompts, each `[K]`."""
    asked = torch.stack(list(tokens))
    needs = ("log_probs", "entropy")
    told = chain.summary(stack.stats(asked, needs=needs), base.stats(asked, needs=needs))
    return {key: value.unflatten(0, asked.shape[:2]).mean(-1) for key, value in told.items()}


@torch.no_grad()
def wrong_p(stack: Stack, worlds: Sequence[World], demos: Sequence[Tensor]) -> Tensor:
    """Mean probability of the wrong states among demonstrations; NaN where there are none."""
    every = torch.stack(list(demos))
    pairs = zip(demos, worlds, strict=True)
    wrong = torch.stack([~w.chain.follows(d, w.chain.right) for d, w in pairs])
    p = stack.stats(every).logp[:, chain.CONTENT].exp().unflatten(0, every.shape[:2])
    found: Tensor = (p * wrong).sum((1, 2)) / wrong.sum((1, 2))
    return found


def listed(values: dict[str, Tensor]) -> dict[str, list[float | None]]:
    """JSON values in four digits, one for each row; None for NaN."""
    return {
        key: [None if math.isnan(x) else float(f"{x:.4g}") for x in value.tolist()]
        for key, value in values.items()
    }
