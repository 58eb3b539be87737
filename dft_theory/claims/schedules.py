"""Blends, anneals and floors: what an objective is while it changes into another."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.policy_gradient import policy_cases
from dft_theory.claims.rectification import step_probs, token_sum
from dft_theory.claims.scope import ObjectiveCase, PolicyCase, Scope
from dft_theory.objectives import OBJECTIVES, Objective, SumOver, dft, sft
from dft_theory.objectives.schedules import blend, with_floor

SUM = SumOver()


@dataclass(frozen=True)
class Blended:
    """Two objectives, a share of the second, and a policy."""

    first: Objective
    second: Objective
    share: float
    at: PolicyCase

    def __str__(self) -> str:
        return f"{self.share:g} of the way from {self.first.name} to {self.second.name}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @cached_property
    def whole(self) -> ObjectiveCase:
        """The blend as an objective of its own."""
        return ObjectiveCase(blend(self.first, self.second, self.share), self.at)

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Surrogate gradients of the two objectives on the same tokens, `[D]` each."""
        first, second = (
            self.at.gradient(o.surrogate(self.whole.stats, reduction=SUM))
            for o in (self.first, self.second)
        )
        return first, second

    def weighted(self, share: float) -> Tensor:
        """(1 - share) of the first gradient and share of the second."""
        return (1 - share) * self.parts[0] + share * self.parts[1]

    def potentials(self, share: float) -> Tensor:
        """True gradient of the weighted potentials, `[D]`."""
        first, second = (
            o.potential_value(self.whole.stats, reduction=SUM) for o in (self.first, self.second)
        )
        return self.at.gradient((1 - share) * first + share * second)


def blends(scope: Scope) -> Sequence[Blended]:
    """Neighbours in the catalogue, and SFT with DFT from end to end, on one policy.

    More than four responses, because the DFT gradients of all responses together sum to 0.
    """
    at = next((case for case in scope.policy_cases if case.terms > 4), scope.policy_cases[-1])
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(OBJECTIVES)
        if {a.level, b.level} != {"batch", "group"}
    ]
    ends = [Blended(sft, dft, share, at) for share in (0.0, 0.3, 0.5, 1.0)]
    return ends + [Blended(a, b, 0.3, at) for a, b in pairs]


def floor_gradient(case: PolicyCase, weight: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """-sum_t w(p_t, named_t) grad log pi_t, where the last token's id is named, `[D]`."""
    named = case.demo[0] == case.demo[0, -1]
    return -token_sum(case, weight(step_probs(case).detach(), named))


CLAIMS = (
    Claim(
        name="blends-interpolate-gradients",
        title="A blend of objectives has the blend of their gradients",
        kind="identity",
        statement=r"\nabla \mathcal{L}_{(1-s) a + s b} = (1 - s)\, \nabla \mathcal{L}_a + "
        r"s\, \nabla \mathcal{L}_b, \qquad s \in [0, 1]",
        note="Weights and targets are linear in the objective, so an anneal from SFT to DFT "
        "passes through nothing but weighted sums of the two, and ends at its ends.",
        cites=("wu2025dft",),
        cases=blends,
        lhs=lambda c: c.whole.surrogate_gradient,
        rhs=lambda c: c.weighted(c.share),
        mutants=(
            Mutant("shares exchanged", lambda c: c.weighted(1 - c.share)),
            Mutant("share squared", lambda c: c.weighted(c.share**2)),
            Mutant("both in full", lambda c: c.parts[0] + c.parts[1]),
        ),
    ),
    Claim(
        name="blends-descend-blended-potentials",
        title="A blend descends the blend of the potentials",
        kind="identity",
        statement=r"\nabla \mathcal{L}_{(1-s) a + s b} = "
        r"\nabla \left[(1 - s)\, \phi_a + s\, \phi_b\right]",
        note="Where both have a potential the blend keeps one, and its loss may be read at any "
        "moment of an anneal; across the anneal the loss itself changes, and values do not "
        "compare.",
        cites=("wu2025dft",),
        cases=blends,
        assumptions=(
            Assumption(
                "both objectives have a potential",
                "a conservative field plus one that is not has no potential",
                holds=lambda c: bool(c.first.potential and c.second.potential),
            ),
        ),
        lhs=lambda c: c.whole.surrogate_gradient,
        rhs=lambda c: c.potentials(c.share),
        mutants=(
            Mutant("shares exchanged", lambda c: c.potentials(1 - c.share)),
            Mutant("the start's alone", lambda c: c.potentials(0.0)),
        ),
    ),
    Claim(
        name="floors-touch-named-tokens-only",
        title="A floor for some tokens leaves the others untouched",
        kind="identity",
        statement=r"\nabla \mathcal{L} = -\sum_t \left(w_t + \mathbf{1}[y_t \in S]\,"
        r"\max(c - w_t, 0)\right) \nabla \log \pi_t",
        note="DFT with weights of at least c = 1/2 on the token that ends the demonstration: how a "
        "rare end-of-sequence token is kept learnable without giving up DFT elsewhere.",
        cites=("wu2025dft", "pang2021gold"),
        cases=policy_cases,
        lhs=lambda c: c.surrogate_gradient(with_floor(dft, [int(c.demo[0, -1])], 0.5)),
        rhs=lambda c: floor_gradient(
            c, lambda p, named: torch.where(named, p + (0.5 - p).clamp_min(0), p)
        ),
        mutants=(
            Mutant(
                "floor for every token",
                lambda c: floor_gradient(c, lambda p, _: p.clamp_min(0.5)),
                equivalent_when=lambda c: bool((c.demo == c.demo[0, -1]).all()),
                why="every token is named",
            ),
            Mutant(
                "floor added",
                lambda c: floor_gradient(c, lambda p, named: torch.where(named, p + 0.5, p)),
            ),
            Mutant("no floor", lambda c: floor_gradient(c, lambda p, _: p)),
        ),
    ),
)
