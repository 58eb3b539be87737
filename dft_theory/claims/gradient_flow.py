"""How fast SFT, DFT and the powers between learn a single demonstration.

One prompt and a response of one token: a softmax bandit. The closed forms are in `dynamics`; the
other side of each claim integrates the update of the very Objective that trains language models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.dynamics import (
    RTOL,
    escape_time,
    flow,
    reach,
    spread,
    symmetric_start,
)
from dft_theory.objectives import Objective, dft, floored, mixed, power, sft
from dft_theory.seeding import generator

COARSER = (1e-7, 1e-6)  # tolerances of the runs that tell how far the finest one may be off


def weighted_by(alpha: float) -> Objective:
    """The catalogue's objective of weight p^alpha."""
    return sft if alpha == 0 else dft if alpha == 1 else power(alpha)


def scalars(*values: float) -> Tensor:
    """Numbers as a float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def integrated(run: Callable[[float], Tensor]) -> Estimate:
    """`run(rtol)` at the finest tolerance, with an error bar.

    The bar is the distance from two coarser runs (one alone may agree by accident, where its
    error changes sign), and never less than what the tolerance itself allows.
    """
    fine = run(RTOL)
    moved = torch.stack([(fine - run(r)).abs().max() for r in COARSER]).max()
    return Estimate(fine, moved + RTOL * fine.abs().max())


@dataclass(frozen=True)
class Pace:
    """The speed of p at one softmax under the weight p^alpha."""

    alpha: float
    at: TokenCase

    def __str__(self) -> str:
        return f"alpha = {self.alpha:g} on {self.at}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.at.terms

    @cached_property
    def drive(self) -> Tensor:
        """p^(1+alpha): what multiplies ||e_y - pi||^2 in dp/dt."""
        return self.at.p ** (1 + self.alpha)

    @cached_property
    def speed(self) -> Tensor:
        """dp/dt = <grad p, -grad loss>, both gradients by automatic differentiation."""
        z = self.at.logits.clone().requires_grad_(True)
        gradient = torch.autograd.grad(torch.softmax(z, -1)[self.at.target], z)[0]
        return -gradient @ self.at.logit_gradient(weighted_by(self.alpha))

    @property
    def rounding(self) -> float:
        """Size of what cancels: one rounding of an entry of e_y - pi times the other factors."""
        return float(self.drive * math.sqrt(2) * self.at.rest)


@dataclass(frozen=True)
class Escape:
    """Learning one demonstration from p0 to p1 under the weight p^alpha."""

    alpha: float
    vocab: int
    p0: float
    p1: float = 0.5
    uneven: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        rivals = ", uneven rivals" if self.uneven else ""
        return f"alpha = {self.alpha:g}, V = {self.vocab}, p {self.p0:g} -> {self.p1:g}{rivals}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    @property
    def k(self) -> float:
        """V / (V - 1)."""
        return spread(self.vocab)

    @property
    def start(self) -> Tensor:
        """Logits with p = p0 for token 0, and rivals alike or of very different probability."""
        theta = symmetric_start(self.p0, vocab=self.vocab)
        if self.uneven:
            g = generator(0, "uneven", self.vocab)
            rivals = 2 * torch.randn(self.vocab - 1, dtype=torch.float64, generator=g)
            theta[1:] = rivals - rivals.logsumexp(0) + math.log(self.vocab - 1)
        return theta

    @cached_property
    def time(self) -> Estimate:
        """Time to p1 by integration, `[1]`."""
        way = weighted_by(self.alpha)
        return integrated(
            lambda r: scalars(reach(way, start=self.start, target=0, p1=self.p1, rtol=r)[0])
        )

    def closed(self, *, alpha: float | None = None, vocab: int | None = None) -> Tensor:
        """The closed form, for this case or with another alpha or V."""
        return scalars(
            escape_time(
                self.p0,
                self.p1,
                alpha=self.alpha if alpha is None else alpha,
                vocab=self.vocab if vocab is None else vocab,
            )
        )

    def ends(self, f: Callable[[float, float], float]) -> Tensor:
        """f(p, u) between p0 and p1, over k; u = p / (1-p) are the odds."""
        first, last = (f(p, p / (1 - p)) for p in (self.p0, self.p1))
        return scalars((last - first) / self.k)


@dataclass(frozen=True)
class Orbit:
    """The curve in logit space on which one demonstration is learned, from a random start."""

    objective: Objective
    vocab: int
    seed: int
    p1: float = 0.9

    def __str__(self) -> str:
        return f"{self.objective.name}, V = {self.vocab}, start {self.seed}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    @property
    def start(self) -> Tensor:
        """Centred logits, token 0 at p = 0.05."""
        g = generator(self.seed, "orbit", self.vocab)
        theta = torch.randn(self.vocab, dtype=torch.float64, generator=g)
        theta[0] = theta[1:].logsumexp(0) + math.log(0.05 / 0.95)
        return theta - theta.mean()

    @cached_property
    def arrival(self) -> Estimate:
        """Logits on reaching p1, `[V]`."""
        return integrated(
            lambda r: reach(self.objective, start=self.start, target=0, p1=self.p1, rtol=r)[1]
        )

    @property
    def reference(self) -> Estimate:
        """Where SFT passes p1."""
        return _sft_orbit(self.vocab, self.seed).arrival

    @property
    def simultaneous(self) -> Tensor:
        """Where SFT is at the moment at which this objective passes p1."""
        t = reach(self.objective, start=self.start, target=0, p1=self.p1)[0]
        demos = torch.eye(self.vocab, dtype=torch.float64)[0]
        return flow(sft, start=self.start, demos=demos, times=scalars(t))[0]

    @property
    def rigid(self) -> Tensor:
        """p1 reached by raising the target's logit alone."""
        theta = self.start
        theta[0] = theta[1:].logsumexp(0) + math.log(self.p1 / (1 - self.p1))
        return theta - theta.mean()


@lru_cache(maxsize=32)
def _sft_orbit(vocab: int, seed: int) -> Orbit:
    return Orbit(sft, vocab, seed)


# ---- the cases, built once ----------------------------------------------------------------------


def paces(scope: Scope) -> Sequence[Pace]:
    """Every token case under SFT, p^(1/2), DFT and p^2."""
    return [Pace(a, c) for c in scope.token_cases for a in (0.0, 0.5, 1.0, 2.0)]


@lru_cache(maxsize=2)
def _escapes(thorough: bool) -> tuple[Escape, ...]:
    spans = [(0.2, 0.9), (1e-3, 0.5)]
    spans += [(0.4, 0.41), (1e-2, 0.5), (1e-4, 0.9), (1e-6, 0.5)] if thorough else []
    alphas, vocabs = (0.0, 0.3, 0.5, 1.0, 2.0), (2, 5, 50) if thorough else (2, 50)
    return tuple(Escape(a, v, *span) for v in vocabs for span in spans for a in alphas)


@lru_cache(maxsize=2)
def _uneven_escapes(thorough: bool) -> tuple[Escape, ...]:
    vocabs, starts = ((3, 20), (0.3, 1e-2, 1e-4)) if thorough else ((5,), (1e-2,))
    cases = [(a, v, p0) for v in vocabs for p0 in starts for a in (0.0, 0.5, 1.0)]
    return tuple(Escape(*case, p1=0.7, uneven=True) for case in cases)


def escapes(keep: Callable[[float], bool]) -> Callable[[Scope], Sequence[Escape]]:
    """Escapes past equal rivals for the alphas to keep."""
    return lambda scope: [c for c in _escapes(scope.thorough) if keep(c.alpha)]


def uneven_escapes(scope: Scope) -> Sequence[Escape]:
    """Escapes past rivals of different probability."""
    return _uneven_escapes(scope.thorough)


@lru_cache(maxsize=2)
def _orbits(thorough: bool) -> tuple[Orbit, ...]:
    ways = (power(0.5), dft, floored(0.1), mixed(0.5))
    vocabs, seeds = ((3, 8), range(5)) if thorough else ((5,), range(1))
    return tuple(Orbit(o, v, s) for v in vocabs for s in seeds for o in ways)


def orbits(scope: Scope) -> Sequence[Orbit]:
    """Weights that depend on p alone, from random starts."""
    return _orbits(scope.thorough)


# ---- bounds and sides shared by several claims --------------------------------------------------


def sft_law(case: Escape) -> Estimate:
    """ln(1/p0) + ln u1 + u1, exact up to 4 p0 for p0 <= 1/2."""
    u1 = case.p1 / (1 - case.p1)
    # Left out is ln(1 - p0) - p0/(1 - p0), both terms at most p0/(1 - p0) <= 2 p0 in size.
    value = math.log(1 / case.p0) + math.log(u1) + u1
    return Estimate(scalars(value), scalars(4 * case.p0))


def power_law(case: Escape) -> Estimate:
    """1, with a bound on the next orders of alpha k p0^alpha T."""
    a, p0, p1 = case.alpha, case.p0, case.p1
    # 1/(1-p)^2 - 1 lies between 0 and 2p/(1-p1)^2; the first part integrates to 1 - (p0/p1)^a.
    tail = math.log(p1 / p0) if a == 1 else (p1 ** (1 - a) - p0 ** (1 - a)) / (1 - a)
    return Estimate(scalars(1.0), scalars((p0 / p1) ** a + 2 * a * p0**a * tail / (1 - p1) ** 2))


def scaled(case: Escape, factor: float) -> Estimate:
    """The integrated time in units of 1 / factor."""
    return Estimate(factor * case.time.value, factor * case.time.error)


def between(case: Escape, low: Tensor, high: Tensor) -> tuple[Estimate, Estimate]:
    """The sandwich low <= T <= high as two rows, left and right."""
    t, bar = case.time.value, case.time.error.reshape(1)
    none = torch.zeros_like(bar)
    return (
        Estimate(torch.cat([low, t]), torch.cat([none, bar])),
        Estimate(torch.cat([t, high]), torch.cat([bar, none])),
    )


ONE_DEMO = Assumption(
    "one prompt, one demonstrated token",
    "several demonstrations or shared parameters mix tokens whose weights differ, and then the "
    "objectives follow different curves",
)
EQUAL_RIVALS = Assumption(
    "the other tokens equally likely",
    "the time lies between this one and that of two tokens (escape-time-bounds)",
    holds=lambda c: not c.uneven,
)
RARE = Assumption(
    "p0 small", "at p0 = 0.1 the next order is as large", holds=lambda c: c.p0 <= 1e-2
)
CLAIMS = (
    Claim(
        name="bandit-speed-bounds",
        title="How fast one demonstration's probability can grow",
        kind="inequality",
        statement=r"\frac{V}{V-1}\, p^{1+\alpha} (1-p)^2 \;\le\; \frac{\mathrm{d}p}{\mathrm{d}t}"
        r" \;\le\; 2\, p^{1+\alpha} (1-p)^2",
        note="Gradient flow on one demonstration under the weight p^alpha. SFT's speed falls with "
        "p, DFT's with p squared: a token that the model finds unlikely hardly moves. The bounds "
        "are reached by equal rivals and by a single one.",
        cites=("wu2025dft", "mei2020softmax"),
        cases=paces,
        relation="<=",
        assumptions=(ONE_DEMO,),
        lhs=lambda c: torch.stack([spread(c.terms) * c.drive * c.at.rest**2, c.speed]),
        rhs=lambda c: torch.stack([c.speed, 2 * c.drive * c.at.rest**2]),
        scale=lambda c: c.rounding,
        mutants=(
            Mutant(
                "upper constant 1.999",
                lambda c: torch.stack([c.speed, 1.999 * c.drive * c.at.rest**2]),
            ),
            Mutant(
                "lower constant one per mille larger",
                lambda c: torch.stack([1.001 * spread(c.terms) * c.drive * c.at.rest**2, c.speed]),
                of="lhs",
            ),
            Mutant(
                "the weight alone, without the p of grad p",
                lambda c: torch.stack([spread(c.terms) * c.at.p**c.alpha * c.at.rest**2, c.speed]),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="sft-escape-time",
        title="The time in which SFT learns one demonstration",
        kind="identity",
        statement=r"t_{\mathrm{SFT}} = \frac{V-1}{V} \left[ \ln u + u \right]_{p_0}^{p_1}, "
        r"\qquad u = \frac{p}{1-p}",
        note="Time is learning rate times steps, from probability p0 to p1. The other side "
        "integrates SFT's update of the logits until the token gets there.",
        cites=("wu2025dft", "mei2020softmax"),
        cases=escapes(lambda a: a == 0),
        assumptions=(ONE_DEMO, EQUAL_RIVALS),
        tolerance=Numerical(),
        lhs=lambda c: c.time,
        rhs=lambda c: c.ends(lambda _, u: math.log(u) + u),
        mutants=(
            Mutant("logistic growth: ln u alone", lambda c: c.ends(lambda _, u: math.log(u))),
            Mutant(
                "as if there were two tokens",
                lambda c: c.closed(vocab=2),
                equivalent_when=lambda c: c.vocab == 2,
                why="there are two tokens",
            ),
            Mutant("DFT's time", lambda c: c.closed(alpha=1.0)),
        ),
    ),
    Claim(
        name="dft-escape-time",
        title="The time in which DFT learns one demonstration",
        kind="identity",
        statement=r"t_{\mathrm{DFT}} = \frac{V-1}{V} "
        r"\left[ 2 \ln u + u - \frac{1}{p} \right]_{p_0}^{p_1}, \qquad u = \frac{p}{1-p}",
        note="The term 1/p is the price of the weight p: from p0 = 0.001 to 1/2 SFT needs 4 units "
        "of time and DFT 506 (two tokens).",
        cites=("wu2025dft", "mei2020softmax"),
        cases=escapes(lambda a: a == 1),
        assumptions=(ONE_DEMO, EQUAL_RIVALS),
        tolerance=Numerical(),
        lhs=lambda c: c.time,
        rhs=lambda c: c.ends(lambda p, u: 2 * math.log(u) + u - 1 / p),
        mutants=(
            Mutant("ln u once, as in SFT", lambda c: c.ends(lambda p, u: math.log(u) + u - 1 / p)),
            Mutant("1/p lost", lambda c: c.ends(lambda _, u: 2 * math.log(u) + u)),
            Mutant("SFT's time over the initial weight p0", lambda c: c.closed(alpha=0.0) / c.p0),
        ),
    ),
    Claim(
        name="power-escape-time",
        title="The time in which any weight p^alpha learns one demonstration",
        kind="identity",
        statement=r"t_\alpha = \frac{V-1}{V} \int_{p_0}^{p_1} "
        r"\frac{\mathrm{d}p}{p^{1+\alpha} (1-p)^2}",
        note="Partial fractions for alpha = 1/2 and 2, quadrature for alpha = 0.3, against the "
        "integrated flow of logits.",
        cites=("zhang2018gce", "li2025beyond"),
        cases=escapes(lambda a: a not in (0, 1)),
        assumptions=(ONE_DEMO, EQUAL_RIVALS),
        tolerance=Numerical(),
        lhs=lambda c: c.time,
        rhs=lambda c: c.closed(),
        mutants=(
            Mutant("exponent alpha instead of 1 + alpha", lambda c: c.closed(alpha=c.alpha - 1)),
            Mutant("the weight frozen at p0", lambda c: c.closed(alpha=0.0) / c.p0**c.alpha),
            Mutant("V/(V-1) upside down", lambda c: c.closed() * c.k**2),
        ),
    ),
    Claim(
        name="escape-time-bounds",
        title="Whatever the rivals, the time is known within a factor of two",
        kind="inequality",
        statement=r"\frac{1}{2} \int_{p_0}^{p_1} \frac{\mathrm{d}p}{p^{1+\alpha} (1-p)^2} "
        r"\;\le\; t_\alpha \;\le\; \frac{V-1}{V} \int_{p_0}^{p_1} "
        r"\frac{\mathrm{d}p}{p^{1+\alpha} (1-p)^2}",
        note="A single rival is overtaken fastest, equal ones slowest. The closed forms therefore "
        "describe every softmax up to a factor 2 (V-1)/V.",
        cites=("wu2025dft", "mei2020softmax"),
        cases=uneven_escapes,
        relation="<=",
        assumptions=(ONE_DEMO,),
        tolerance=Numerical(),
        lhs=lambda c: between(c, c.closed(vocab=2), c.closed())[0],
        rhs=lambda c: between(c, c.closed(vocab=2), c.closed())[1],
        mutants=(
            Mutant(
                "upper bound of two tokens",
                lambda c: between(c, c.closed(vocab=2), c.closed(vocab=2))[1],
            ),
            Mutant(
                "lower bound of equal rivals",
                lambda c: between(c, c.closed(), c.closed())[0],
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="sft-escape-law",
        title="SFT learns a rare token in logarithmic time",
        kind="limit",
        statement=r"\frac{V}{V-1}\, t_{\mathrm{SFT}} = \ln \frac{1}{p_0} + \ln u_1 + u_1 + O(p_0)",
        note="Each factor of ten in rarity costs the same extra time. The bar, "
        "4 p0, bounds everything left out.",
        cites=("wu2025dft", "li2025beyond"),
        cases=escapes(lambda a: a == 0),
        assumptions=(ONE_DEMO, EQUAL_RIVALS, RARE),
        tolerance=Numerical(),
        lhs=lambda c: scaled(c, c.k),
        rhs=sft_law,
        mutants=(
            Mutant("the constant left out", lambda c: scalars(math.log(1 / c.p0))),
            Mutant("reciprocal: 1/p0", lambda c: scalars(1 / c.p0)),
            Mutant(
                "1/2 for any vocabulary",
                lambda c: Estimate(sft_law(c).value * c.k / 2, sft_law(c).error),
                equivalent_when=lambda c: c.vocab == 2,
                why="two tokens have k = 2",
            ),
        ),
    ),
    Claim(
        name="power-escape-law",
        title="DFT learns a rare token in time 1/p0",
        kind="limit",
        statement=r"\alpha\, \frac{V}{V-1}\, p_0^{\alpha}\, t_\alpha \;\longrightarrow\; 1 "
        r"\qquad (p_0 \to 0,\; \alpha > 0)",
        note="Each factor of ten in rarity multiplies DFT's time by ten, and that of p^alpha by "
        "10^alpha: with a finite budget, hard tokens are ignored. The bar bounds the next orders.",
        cites=("wu2025dft", "zhang2018gce", "li2025beyond"),
        cases=escapes(lambda a: a > 0),
        assumptions=(ONE_DEMO, EQUAL_RIVALS, RARE),
        tolerance=Numerical(),
        lhs=lambda c: scaled(c, c.alpha * c.k * c.p0**c.alpha),
        rhs=power_law,
        mutants=(
            Mutant(
                "logarithmic, as for SFT",
                lambda c: Estimate(
                    scalars(c.alpha * c.p0**c.alpha * math.log(1 / c.p0)), power_law(c).error
                ),
            ),
            Mutant(
                "1/(2 p0) whatever alpha",
                lambda c: Estimate(
                    scalars(c.alpha * c.k * c.p0 ** (c.alpha - 1) / 2), power_law(c).error
                ),
                equivalent_when=lambda c: c.alpha == 1 and c.vocab == 2,
                why="that is DFT's law for two tokens",
            ),
            Mutant(
                "alpha lost",
                lambda c: Estimate(scalars(c.alpha), power_law(c).error),
                equivalent_when=lambda c: c.alpha == 1,
                why="alpha is 1",
            ),
        ),
    ),
    Claim(
        name="orbit-equivalence",
        title="On one demonstration every weight takes the same path",
        kind="identity",
        statement=r"\dot\theta = w(p)\,(e_y - \pi) \;\Longrightarrow\; \theta_w(t_w(p)) = "
        r"\theta_{\mathrm{SFT}}(t_{\mathrm{SFT}}(p))",
        note="SFT, DFT, p^alpha, floors and mixtures pass through the same logits at p = 0.9; only "
        "the clock differs. Whatever tells them apart comes from tokens that share parameters, "
        "from labels that conflict, from the optimiser, or from stopping early.",
        cites=("wu2025dft", "li2025beyond"),
        cases=orbits,
        assumptions=(ONE_DEMO,),
        tolerance=Numerical(),
        lhs=lambda c: c.arrival,
        rhs=lambda c: c.reference,
        mutants=(
            Mutant("the same logits at the same time", lambda c: c.simultaneous),
            Mutant("only the target's logit moves", lambda c: c.rigid),
        ),
    ),
)
