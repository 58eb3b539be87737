"""DFT read as weighted regression on the expected reward, with its constants kept.

The reading: demonstrations from ref(.|D+), weights q proportional to ref(y|D+) pi(y), and the bound
L(q) of `lower_bounds`. The theorem is known here through notes only; q is as they report it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.lower_bounds import (
    POSITIVE_REWARD,
    Curated,
    bound,
    curated,
    with_reference,
)
from dft_theory.claims.policy_gradient import one_demo_each
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.policies import TabularPolicy


def untrained(scope: Scope) -> Sequence[Curated]:
    """Every policy as the reference of its own demonstrations: theta = ref."""
    return with_reference(tuple(one_demo_each(scope)), "itself")


@lru_cache(maxsize=1)
def _constant() -> Curated:
    policy = TabularPolicy(torch.zeros(2, 2, 3, dtype=torch.float64), length=2)
    return Curated(PolicyCase(policy, "uniform table V=3 T=2", torch.tensor([0]), 0), "uniform")


@dataclass(frozen=True)
class Whole(Curated):
    """Where every response is good: P = 1, whatever the policy."""

    def __str__(self) -> str:
        return f"{super().__str__()}, every response good"

    @property
    def good(self) -> Tensor:
        """All indices, `[N]`."""
        return torch.arange(self.terms)


@lru_cache(maxsize=4)
def _whole(case: PolicyCase) -> Whole:
    return Whole(case, "uniform")


def uniform_reference(scope: Scope) -> Sequence[Curated]:
    """Demonstrations uniform on D+: constant on D+, of mass 1 on it, then every policy."""
    cases = tuple(one_demo_each(scope))
    return [_constant(), _whole(cases[0]), *with_reference(cases, "uniform")]


def law(case: Curated) -> Tensor:
    """The reference conditioned on D+, `[n]`."""
    return case.ref / case.ref.sum()


def tilted(case: Curated) -> Tensor:
    """DFT's q = ref(.|D+) X / E[X] with X = pi, of mass 1 on D+, `[n]`."""
    return law(case) * case.pi / (law(case) @ case.pi)


def divergence(case: Curated) -> Tensor:
    """KL(q || ref(.|D+)) in nats."""
    return (tilted(case) * (tilted(case) / law(case)).log()).sum()


def covariance(case: Curated, f: Tensor, g: Tensor) -> Tensor:
    """Cov under ref(.|D+)."""
    weights = law(case)
    return weights @ ((f - weights @ f) * (g - weights @ g))


def surrogate_gap(case: Curated) -> Tensor:
    """DFT's c E[(q/ref) log pi] less SFT's c E[log pi] under ref(.|D+), constants dropped."""
    return case.ref.sum() * (tilted(case) @ case.log_pi - law(case) @ case.log_pi)


def covariance_form(case: Curated, g: Tensor, power: int = 1) -> Tensor:
    """Covariance c Cov(X, g) / E[X]^power under ref(.|D+), X = pi."""
    return case.ref.sum() * covariance(case, case.pi, g) / (law(case) @ case.pi) ** power


def dft_bounds(case: Curated) -> Tensor:
    """L at DFT's q, of mass 1 as reported and of the reference's mass, `[2]`."""
    mass = case.ref.sum()
    return torch.stack([bound(tilted(case), case.log_pi), bound(mass * tilted(case), case.log_pi)])


def both_bounds(case: Curated) -> Tensor:
    """SFT's bound and DFT's two, `[3]`."""
    return torch.cat([bound(case.ref, case.log_pi).reshape(1), dft_bounds(case)])


def bounds_before_training(case: Curated, divergence: Tensor) -> Tensor:
    """J, 1 + log J - KL, J (1 - KL), `[3]`."""
    j = case.reward
    return torch.stack([j, 1 + j.log() - divergence, j * (1 - divergence)])


def gap(case: Curated) -> Tensor:
    """J - L at DFT's q as reported."""
    return case.reward - bound(tilted(case), case.log_pi)


def spread_where_tight(case: Curated) -> Tensor:
    """Largest less smallest pi on D+ where the bound equals J, or else 0."""
    tight = bool(gap(case).abs() < 1e-12)
    return case.pi.max() - case.pi.min() if tight else torch.zeros_like(case.reward)


def is_constant(case: Curated) -> bool:
    """Whether pi is the same for every response in D+."""
    return bool(case.pi.max() - case.pi.min() < 1e-12)


SPREAD = Assumption(
    "pi not constant on D+",
    "then q is the reference conditioned on D+, and covariance and divergence are 0",
    holds=lambda c: not is_constant(c),
)

CLAIMS = (
    Claim(
        name="surrogate-gap-is-a-covariance",
        title="With its constants dropped, DFT's bound lies above SFT's by a covariance",
        kind="identity",
        statement=r"c\, \mathbb{E}_{q}[\log X] - "
        r"c\, \mathbb{E}_{\rho}[\log X] = c\, \frac{\mathrm{Cov}_\rho(X, \log X)}"
        r"{\mathbb{E}_\rho[X]} \geq 0, \qquad X = \pi_\theta(y), \quad "
        r"\rho = \pi_{\mathrm{ref}}(\cdot \mid D^+), \quad q \propto \rho\, X",
        note="q is the law by which DFT reads as weighted regression, "
        "c the reference's mass on D+. Positive whenever X varies. What is compared are "
        "surrogates: the constants that were dropped differ (dft-bound-is-not-tighter).",
        cites=("zhu2025asft",),
        cases=curated,
        assumptions=(SPREAD,),
        lhs=surrogate_gap,
        rhs=lambda c: covariance_form(c, c.pi.log()),
        scale=lambda c: float(c.log_pi.abs().max()),
        mutants=(
            Mutant("not divided by E[X]", lambda c: covariance_form(c, c.pi.log(), power=0)),
            Mutant("variance of X", lambda c: covariance_form(c, c.pi)),
            Mutant("opposite sign", lambda c: -covariance_form(c, c.pi.log())),
        ),
    ),
    Claim(
        name="dft-bound-is-not-tighter",
        title="Before training SFT's bound is exact and DFT's is not",
        kind="refutation",
        statement=r"\theta = \mathrm{ref} \;\Longrightarrow\; L_{\mathrm{SFT}} = J, \qquad "
        r"L_{\mathrm{DFT}} = 1 + \log J - K \quad \mathrm{or} \quad J\,(1 - K), \qquad "
        r"K = \mathrm{KL}\left(q \,\Vert\, \pi_{\mathrm{ref}}(\cdot \mid D^+)\right)",
        note="With the constants kept, and DFT's q of mass 1 or scaled to the reference's mass. "
        "DFT's bound is tighter only as a surrogate whose constants were dropped.",
        cites=("zhu2025asft",),
        cases=untrained,
        assumptions=(POSITIVE_REWARD, SPREAD),
        lhs=both_bounds,
        rhs=lambda c: bounds_before_training(c, divergence(c)),
        scale=lambda c: float(1 + c.log_pi.abs().max()),
        published=Published(
            statement=r"L_{\mathrm{SFT}} < L_{\mathrm{DFT}} \leq J",
            lhs=lambda c: bound(c.ref, c.log_pi).expand(2),
            side=dft_bounds,
            cite="zhu2025asft",
            relation="<=",
            why="strictly tighter wherever pi varies on D+, as reported",
            second_hand=True,
        ),
        mutants=(
            Mutant(
                "no divergence",
                lambda c: bounds_before_training(c, torch.zeros_like(divergence(c))),
            ),
            Mutant(
                "the divergence turned round",
                lambda c: bounds_before_training(c, (law(c) * (law(c) / tilted(c)).log()).sum()),
            ),
        ),
    ),
    Claim(
        name="dft-bound-gap-is-its-mass",
        title="The gap of DFT's bound depends on the mass of D+ alone",
        kind="refutation",
        statement=r"\pi_{\mathrm{ref}}(\cdot \mid D^+)\ \mathrm{uniform} \;\Longrightarrow\; "
        r"J - L_{\mathrm{DFT}} = P - 1 - \log P, \qquad P = \sum_{y \in D^+} \pi_\theta(y)",
        note="For q as reported, of mass 1: then q is pi/P, pi/q is P for every response, "
        "and how pi is spread over D+ does not enter. The gap closes as P grows to 1: training "
        "tightens the bound, concentration does not loosen it.",
        cites=("zhu2025asft",),
        cases=uniform_reference,
        assumptions=(
            POSITIVE_REWARD,
            Assumption(
                "all responses in D+ alike under the reference",
                "otherwise the spread of both laws enters (dft-bound-is-not-tighter)",
                holds=lambda c: c.reference == "uniform",
            ),
        ),
        lhs=gap,
        rhs=lambda c: c.reward - 1 - c.reward.log(),
        scale=lambda c: float(1 + c.log_pi.abs().max()),
        published=Published(
            statement=r"J - L_{\mathrm{DFT}} = 0 \;\Longrightarrow\; \pi_\theta\ "
            r"\mathrm{constant\ on}\ D^+",
            lhs=spread_where_tight,
            side=lambda c: torch.zeros_like(c.reward),
            cite="zhu2025asft",
            why="tight only for constant pi, as reported; with all mass on D+ it is tight for any",
            second_hand=True,
        ),
        mutants=(
            Mutant("opposite sign of the logarithm", lambda c: c.reward - 1 + c.reward.log()),
            Mutant("1 lost", lambda c: c.reward - c.reward.log()),
            Mutant(
                "a variance of pi added",
                lambda c: c.reward - 1 - c.reward.log() + covariance(c, c.pi, c.pi),
                equivalent_when=is_constant,
                why="pi does not vary",
            ),
        ),
    ),
)
