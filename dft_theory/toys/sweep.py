"""Every objective at every learning rate in every world: test accuracies at chosen steps."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dft_theory.objectives import Objective
from dft_theory.toys import chain
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import World, sampled_accuracy

METRICS = ("sampled", "greedy")  # accuracy at T = 1, exact, and of the likeliest states


@dataclass(frozen=True)
class Sweep:
    """Accuracies `test` `[steps, metrics, objectives, rates, worlds]`, in the order of METRICS.

    `validation` has no steps: it is of the end, `[metrics, objectives, rates, worlds]`.
    """

    test: Tensor
    validation: Tensor

    def best(self, metric: str = "sampled") -> list[int]:
        """For each objective the rate with the best mean validation accuracy, as an index."""
        found: list[int] = self.validation[METRICS.index(metric)].mean(-1).argmax(-1).tolist()
        return found


def sweep(
    base: Stack,
    worlds: Sequence[World],
    demos: Sequence[Tensor],
    chosen: Sequence[Objective],
    rates: Sequence[float],
    recipe: Recipe,
    *,
    steps: Sequence[int] = (),
) -> Sweep:
    """Train all as one stack and look at the test prompts after those steps, or at the end alone.

    Row i of `base` is the model of world i. Raises: ValueError unless `steps` rise to the last one.
    """
    looks = tuple(steps) or (recipe.steps,)
    if list(looks) != sorted(set(looks)) or looks[0] < 1 or looks[-1] != recipe.steps:
        raise ValueError(f"steps must rise to the last, {recipe.steps}, got {looks}")
    shape = len(METRICS), len(chosen), len(rates), len(worlds)
    world = list(range(len(worlds))) * (len(chosen) * len(rates))  # of each run
    test, validation = (
        torch.stack([getattr(worlds[i], of) for i in world]) for of in ("test", "validation")
    )
    every, seen = math.gcd(*looks), []
    now = itertools.count(0, every)  # the step of each call of `look`

    def look(stack: Stack) -> Tensor:
        if next(now) in looks:
            seen.append(accuracies(stack, test).view(shape))
        return torch.zeros(len(stack))

    every_run = runs(worlds, demos, chosen, rates)
    done = train(base[world], every_run, recipe, validate=look, every=every)
    return Sweep(torch.stack(seen), accuracies(done.last, validation).view(shape))


def runs(
    worlds: Sequence[World],
    demos: Sequence[Tensor],
    chosen: Sequence[Objective],
    rates: Sequence[float],
) -> list[Run]:
    """One for each objective, rate and world, worlds running fastest."""
    return [
        Run(objective=objective, rate=rate, demos=demos[i], seed=world.seed)
        for objective, rate, (i, world) in itertools.product(chosen, rates, enumerate(worlds))
    ]


@torch.no_grad()
def accuracies(stack: Stack, tokens: Tensor) -> Tensor:
    """Both METRICS of each row on its right responses `[K, N, P+T]`, means, `[metrics, K]`."""
    t = stack.stats(tokens, needs=("log_probs",))
    each = torch.stack([sampled_accuracy(t), chain.greedy(t)])
    found: Tensor = each.unflatten(1, (len(stack), -1)).mean(-1)
    return found


def digits(values: Tensor) -> list[object]:
    """Nested lists of numbers in four digits, as JSON has them."""
    if values.dim() == 1:
        return [float(f"{x:.4g}") for x in values.tolist()]
    return [digits(row) for row in values]
