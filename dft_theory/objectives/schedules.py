"""Objectives that change during training: blends, anneals, warm-ups, stages, and floors."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Family, Level, Objective
from dft_theory.objectives.parts import given, one_of
from dft_theory.objectives.sft import sft

Statistic = Callable[[TokenStats], Tensor]


def blend(first: Objective, second: Objective, share: float) -> Objective:
    """(1 - share) first + share second: weights, targets and, where both have one, potentials.

    It needs what either needs and is of the wider level and family. At 0 and 1 it is the part
    itself: nothing is asked for the other, and no infinity is multiplied by 0.
    Raises: ValueError for a share outside [0, 1], and for a part that reads statistics of the
    whole batch beside one that compares the responses of a group.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is the part of {second.name}, in [0, 1]; got {share}")
    if {first.level, second.level} == {"batch", "group"}:
        raise ValueError(
            f"{first.name} ({first.level}) and {second.name} ({second.level}) read different sets "
            "of responses and cannot be weighted together: train on them in turn, with `switch`, "
            "or on sources of their own, with a Mixture"
        )
    if share in (0, 1):
        return second if share else first

    def mixed(a: Statistic, b: Statistic) -> Statistic:
        return lambda t: (1 - share) * a(t) + share * b(t)

    def target(t: TokenStats) -> Tensor:
        parts = ((1 - share, first.target), (share, second.target))
        found = [part * target(t) for part, target in parts if target is not None]
        return sum(found[1:], start=found[0])

    return Objective(
        name=f"{first.name}-to-{second.name}-{share:g}",
        title=f"{1 - share:g} {first.title} + {share:g} {second.title}",
        weight=mixed(first.weight, second.weight),
        target=target if first.target or second.target else None,
        cite=second.cite or first.cite,
        equation=f"{1 - share:g} [{first.equation}] + {share:g} [{second.equation}]",
        family=max(first.family, second.family, key=get_args(Family).index),
        level=max(first.level, second.level, key=get_args(Level).index),
        potential=mixed(first.potential, second.potential)
        if first.potential and second.potential
        else None,
        needs=_union(first, second),
    )


def with_floor(objective: Objective, token_ids: Collection[int], floor: float) -> Objective:
    """The same, with weight max(w, floor) on the target tokens named: end-of-sequence, format.

    DFT gives a rare end-of-sequence token the weight p, and learns slowly to stop. Any target
    over the vocabulary stays. No potential is declared: where w crosses the floor depends on w.
    Raises: ValueError where no token is named or the floor is not positive and finite.
    """
    if not token_ids or min(token_ids) < 0:
        raise ValueError(f"name at least one token id >= 0, got {sorted(token_ids)}")
    if not 0 < floor < math.inf:
        raise ValueError(f"the floor of a weight is positive and finite, got {floor}")
    named = sorted(token_ids)

    def weight(t: TokenStats) -> Tensor:
        targets, free = given(t.targets), objective.weight(t).expand_as(t.logp)
        raised = torch.isin(targets, torch.tensor(named, device=targets.device))
        return torch.where(raised, free.clamp_min(floor), free)

    return replace(
        objective,
        name=f"{objective.name}-with-floor-{floor:g}",
        title=f"{objective.title}, at least {floor:g} on {len(named)} tokens",
        weight=weight,
        equation=f"{objective.equation}, and w >= {floor:g} on named tokens",
        potential=None,
        optimum=None,
        needs=tuple(dict.fromkeys((*objective.needs, "targets"))),
        limits=(),
    )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """An objective for each step of training: `rule(step)`, made of `parts`."""

    name: str
    title: str
    rule: Callable[[int], Objective]
    parts: tuple[Objective, ...]

    def at(self, step: int) -> Objective:
        """The objective of optimiser step `step`, counted from 0. Raises: ValueError below 0."""
        if step < 0:
            raise ValueError(f"steps are counted from 0, got {step}")
        return self.rule(step)

    @property
    def needs(self) -> tuple[str, ...]:
        """Every statistic that some step needs."""
        return _union(*self.parts)


def anneal(
    start: Objective, end: Objective, steps: int, shape: Literal["linear", "cosine"] = "linear"
) -> Schedule:
    """From `start` at step 0 to `end` at step `steps` and after, by blends of the two.

    The share of `end` is u = step / steps, or (1 - cos(pi u)) / 2, which leaves and arrives
    without a kink. Raises: ValueError for fewer than one step, and for another shape.
    """
    one_of(("linear", "cosine"), shape, "anneal(shape=)")
    _positive(steps)
    blend(start, end, 0.5)  # what cannot be blended is refused here, not after the first step

    def rule(step: int) -> Objective:
        u = min(step / steps, 1.0)
        return blend(start, end, u if shape == "linear" else (1 - math.cos(math.pi * u)) / 2)

    return Schedule(
        name=f"{start.name}-to-{end.name}-{shape}-{steps}",
        title=f"{start.title} → {end.title}, {shape} over {steps} steps",
        rule=rule,
        parts=(start, end),
    )


def warm_up(objective: Objective, steps: int) -> Schedule:
    """Plain negative log-likelihood for `steps` steps, then `objective`.

    DFT starts slowly where every p is small. Raises: ValueError for fewer than one step.
    """
    _positive(steps)
    return switch((0, sft), (steps, objective))


def switch(*stages: tuple[int, Objective]) -> Schedule:
    """Stages `(first step, objective)`, each until the next begins.

    `switch((0, sft), (n, grpo))` is the order of ReFT (with PPO) and of R1-SGG.
    Raises: ValueError unless the first steps begin at 0 and increase.
    """
    starts = [start for start, _ in stages]
    if starts[:1] != [0] or starts != sorted(set(starts)):
        raise ValueError(f"stages begin at step 0 and in increasing order, got {starts}")

    def rule(step: int) -> Objective:
        return [objective for start, objective in stages if start <= step][-1]

    return Schedule(
        name="-then-".join(o.name if not s else f"{o.name}-from-{s}" for s, o in stages),
        title=" → ".join(o.title if not s else f"{o.title} from {s}" for s, o in stages),
        rule=rule,
        parts=tuple(objective for _, objective in stages),
    )


def _union(*parts: Objective) -> tuple[str, ...]:
    return tuple(dict.fromkeys(need for part in parts for need in part.needs))


def _positive(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps is a number of optimiser steps, at least 1, got {steps}")
