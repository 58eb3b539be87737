"""Weighted SFT as a lower bound on the expected reward: which weights make it tight.

The reward is 1 on a set D+ of good responses, J(theta) = sum over D+ of pi(y). Because
u >= 1 + log u, every positive q gives the bound L(q) = sum_{D+} q (1 + log(pi/q)). With q = ref,
the law of the demonstrations, it is SFT's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.policy_gradient import one_demo_each
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import iw_sft
from dft_theory.seeding import generator

GRID = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
NEAR = (0.0, 1e-3, 0.3, 2.0)  # standard deviations of log(q/pi)


def bound(q: Tensor, log_pi: Tensor, constant: float = 1.0) -> Tensor:
    """L(q) = sum q (1 + log(pi/q)) over the last axis, in reward."""
    return (q * (constant + log_pi - q.log())).sum(-1)


Reference = Literal["near", "uniform", "itself"]


@dataclass(frozen=True)
class Curated:
    """A policy, a set D+ of about a third of its responses, and a reference that drew them.

    The reference is a perturbed policy, the uniform law, or the policy itself, before training.
    """

    at: PolicyCase
    reference: Reference

    def __str__(self) -> str:
        return f"{self.at}, {self.reference} reference"

    @property
    def terms(self) -> int:
        """Number of responses."""
        return self.at.terms

    @cached_property
    def good(self) -> Tensor:
        """Indices of D+, `[n]`, n >= 2."""
        g = generator(self.at.index, "good", self.terms)
        return torch.randperm(self.terms, generator=g)[: max(2, self.terms // 3)]

    @cached_property
    def pi(self) -> Tensor:
        """Probabilities pi on D+ by the generative route, `[n]`."""
        return self.at.held_probs[self.good]

    @cached_property
    def ref(self) -> Tensor:
        """The reference on D+, generative, `[n]`."""
        if self.reference == "uniform":
            return torch.full_like(self.pi, 1 / self.terms)
        if self.reference == "itself":
            return self.pi
        probs = enumeration.probabilities(self.at.reference, self.at.prompt)
        return probs.detach()[self.good]

    @cached_property
    def stats(self) -> TokenStats:
        """Teacher-forced statistics of D+ and their reference, `[n, P+T-1]`."""
        return self.at.rows(self.good)

    @cached_property
    def log_pi(self) -> Tensor:
        """Log pi(y), teacher-forced, `[n]`."""
        return self.stats.sequence_logp().squeeze(-1).detach()

    @cached_property
    def log_ref(self) -> Tensor:
        """Log ref(y), teacher-forced where it is another policy, `[n]`."""
        assert self.stats.ref_logp is not None
        return self.stats.ref_logp.sum(-1) if self.reference == "near" else self.ref.log()

    @cached_property
    def ratio(self) -> Tensor:
        """The ratio u = pi/ref on D+, `[n]`."""
        return self.pi / self.ref

    @property
    def reward(self) -> Tensor:
        """J, the policy's mass on D+."""
        return self.pi.sum()

    def path(self, s: Tensor) -> Tensor:
        """L at q = ref^(1-s) pi^s for exponents `s [K]`, teacher-forced, `[K]`."""
        log_q = self.log_ref + s.unsqueeze(-1) * (self.log_pi - self.log_ref)
        return bound(log_q.exp(), self.log_pi)

    def closed(self, s: float) -> Tensor:
        """L on the path, generative: sum ref u^s (1 + (1-s) log u)."""
        u = self.ratio
        return (self.ref * u**s * (1 + (1 - s) * u.log())).sum()


@dataclass(frozen=True)
class Weighted:
    """A curated set with weights q at distance `spread` from the policy."""

    at: Curated
    spread: float

    def __str__(self) -> str:
        return f"q at {self.spread:g} nats, {self.at}"

    @property
    def terms(self) -> int:
        """Number of responses."""
        return self.at.terms

    @cached_property
    def q(self) -> Tensor:
        """Weights pi exp(spread * noise), positive and not normalised, `[n]`."""
        g = generator(self.at.at.index, "weights", self.terms)
        noise = torch.randn(len(self.at.good), dtype=torch.float64, generator=g)
        return self.at.pi * (self.spread * noise).exp()


@dataclass(frozen=True)
class Nearby:
    """Laws pi = ref exp(epsilon x) on four responses: the start of training."""

    s: float
    epsilon: float
    seed: int

    terms: int = field(default=4, kw_only=True)

    def __str__(self) -> str:
        return f"s = {self.s:g}, |log(pi/ref)| about {self.epsilon:g}"

    @cached_property
    def laws(self) -> tuple[Tensor, Tensor]:
        """Reference and log u, `[4]` each."""
        g = generator(self.seed, "nearby")
        ref, x = torch.randn(2, self.terms, dtype=torch.float64, generator=g)
        return 0.5 * torch.softmax(ref, -1), self.epsilon * x

    def gain(self) -> Estimate:
        """(L(q_s) - L(ref)) / sum ref log^2 u, with a bound on the third order, `[1]`."""
        ref, x = self.laws
        # u^s (1 + (1-s) log u) - 1 - log u, its first order cancelled by hand: expm1.
        e = torch.expm1(self.s * x)
        inner = e * (1 + (1 - self.s) * x) - self.s * x
        second = ref @ x.square()
        # |third derivative| of that expression, at most; times |x|^3 / 6, over ref x^2.
        s, far = self.s, float(x.abs().max())
        third = math.exp(s * far) * (s**3 * (1 + abs(1 - s) * far) + 3 * s**2 * abs(1 - s))
        bar = torch.tensor([far * third / 6 + 1e-9], dtype=torch.float64)
        return Estimate((ref @ inner / second).reshape(1), bar)

    def order_two(self, other: float = 2.0) -> Tensor:
        """The parabola s (2 - s) / 2, `[1]`."""
        return torch.tensor([self.s * (other - self.s) / 2], dtype=torch.float64)


@lru_cache(maxsize=8)
def with_reference(cases: tuple[PolicyCase, ...], reference: Reference) -> tuple[Curated, ...]:
    """Every case with the same kind of reference."""
    return tuple(Curated(c, reference) for c in cases)


def curated(scope: Scope) -> Sequence[Curated]:
    """Every policy with a reference near it."""
    return with_reference(tuple(one_demo_each(scope)), "near")


def longer(scope: Scope) -> Sequence[Curated]:
    """Every policy over responses of at least two tokens."""
    return [c for c in curated(scope) if c.at.policy.length > 1]


def weighted(scope: Scope) -> Sequence[Weighted]:
    """Weights from the policy itself to far away from it."""
    return [Weighted(c, s) for c in curated(scope) for s in NEAR]


def nearby(scope: Scope) -> Sequence[Nearby]:
    """Exponents from 0.5 to 4, ever closer to the reference."""
    seeds = range(5 if scope.thorough else 2)
    return [
        Nearby(s, e, k)
        for e in (1e-1, 1e-2, 1e-3)
        for s in (0.5, 1.0, 2.0, 2.5, 4.0)
        for k in seeds
    ]


def weights(case: Curated, level: Literal["geometric-mean", "sequence"]) -> Tensor:
    """The catalogue's weights of the responses in D+, not clamped, `[n]`."""
    return iw_sft(level, clamp=None).weight(case.stats.detach()).squeeze(-1)


def sampled_gradient(case: Curated, weight: Tensor) -> Tensor:
    """E_{y~ref}[1[y in D+] w(y) grad log pi(y)] for weights `[n]`, teacher-forced, `[D]`."""
    return case.at.gradient(case.ref * weight @ case.stats.sequence_logp().squeeze(-1))


def tight(case: Curated, weight: Tensor) -> Tensor:
    """L at q = w ref, and the gradient that these weights give, `[1 + D]`."""
    value = bound(case.ref * weight, case.log_pi).reshape(1)
    return torch.cat([value, sampled_gradient(case, weight)])


def reward_gradient(case: Curated) -> Tensor:
    """Gradient of J by the generative route, `[D]`."""
    return case.at.gradient(case.at.probs[case.good].sum())


def slope(case: Curated) -> Tensor:
    """dL/ds on the grid by autograd, `[11]`."""
    s = GRID.clone().requires_grad_(True)
    return torch.autograd.grad(case.path(s).sum(), s)[0]


def slope_in_closed_form(case: Curated, power: int = 2, last: float = 1.0) -> Tensor:
    """(last - s) sum ref u^s log^power u on the grid, `[11]`."""
    u = case.ratio
    tilt = case.ref * u ** GRID.unsqueeze(-1)
    return (last - GRID) * (tilt * u.log() ** power).sum(-1)


def on_path(case: Curated, *exponents: float) -> Tensor:
    """L(q_s) for the exponents, teacher-forced."""
    return case.path(torch.tensor(exponents, dtype=torch.float64))


def released(case: Curated, power: int) -> Tensor:
    """The released weights to a power, and the bound that they make, `[n + 1]`."""
    weight = weights(case, "geometric-mean")
    return torch.cat([weight**power, bound(case.ref * weight, case.log_pi).reshape(1)])


POSITIVE_REWARD = Assumption(
    "reward 1 on D+ and 0 elsewhere",
    "a negative reward turns the inequality round",
)
FREE_Q = Assumption(
    "q > 0 held constant",
    "where q = 0 the term is 0 and a good response is lost from the bound",
)
UNCLIPPED = Assumption("weights not clipped", "a clipped weight leaves the path")
CLAIMS = (
    Claim(
        name="any-weights-give-a-bound",
        title="Weighted SFT is a lower bound on the expected reward, whatever the weights",
        kind="inequality",
        relation="<=",
        statement=r"\sum_{y \in D^+} q(y) \left(1 + \log \frac{\pi_\theta(y)}{q(y)}\right) \leq "
        r"J(\theta) = \sum_{y \in D^+} \pi_\theta(y)",
        note="Because 1 + log u is at most u. Tested from q = pi, where a constant wrong by one "
        "per mille shows, to two nats away, where a third of the constant would not.",
        cites=("qin2025iwsft",),
        cases=weighted,
        assumptions=(POSITIVE_REWARD, FREE_Q),
        lhs=lambda c: bound(c.q, c.at.log_pi),
        rhs=lambda c: c.at.reward,
        scale=lambda c: float((c.q * (1 + c.q.log().abs())).sum()),
        mutants=(
            Mutant("constant 1.001", lambda c: bound(c.q, c.at.log_pi, 1.001), of="lhs"),
            Mutant(
                "q forgotten below the logarithm",
                lambda c: (c.q * (1 - c.at.log_pi)).sum(),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="bound-is-tight-at-the-policy",
        title="The bound is tight, with the right gradient, at q = pi",
        kind="identity",
        statement=r"q = \mathrm{sg}(\pi_\theta) \;\Longrightarrow\; L(q) = J, \qquad "
        r"\nabla_\theta L(q) = \sum_{y \in D^+} q(y) \nabla_\theta \log \pi_\theta(y) = "
        r"\nabla_\theta J",
        note="The case for importance weights: SFT with the sequence weight pi/ref on samples of "
        "the reference is policy gradient. Bound and gradient are teacher-forced, J generative.",
        cites=("qin2025iwsft",),
        cases=curated,
        assumptions=(POSITIVE_REWARD, FREE_Q),
        lhs=lambda c: tight(c, weights(c, "sequence")),
        rhs=lambda c: torch.cat([c.reward.reshape(1), reward_gradient(c)]),
        scale=lambda _: 1.0,
        mutants=(
            Mutant("SFT's weights", lambda c: tight(c, torch.ones_like(c.pi)), of="lhs"),
            Mutant(
                "length-normalised weights",
                lambda c: tight(c, weights(c, "geometric-mean")),
                of="lhs",
                equivalent_when=lambda c: c.at.policy.length == 1,
                why="one token",
            ),
            Mutant(
                "one per mille of the weights lost",
                lambda c: torch.cat([c.reward.reshape(1), 0.999 * reward_gradient(c)]),
            ),
        ),
    ),
    Claim(
        name="bound-tightens-along-the-path",
        title="From the reference's weights to the policy's the bound rises all the way",
        kind="identity",
        statement=r"\frac{\mathrm{d}}{\mathrm{d}s} L(q_s) = (1 - s) \sum_{y \in D^+} q_s(y) \log^2 "
        r"\frac{\pi_\theta(y)}{\pi_{\mathrm{ref}}(y)} \geq 0, \qquad "
        r"q_s = \pi_{\mathrm{ref}}^{1-s} \pi_\theta^{s}, \quad 0 \leq s \leq 1",
        note="s = 0 is SFT, s = 1 importance-weighted SFT, where the bound is J and turns: beyond, "
        "it falls again. Slopes by autograd on eleven points.",
        cites=("qin2025iwsft",),
        cases=curated,
        assumptions=(
            POSITIVE_REWARD,
            UNCLIPPED,
        ),
        lhs=slope,
        rhs=slope_in_closed_form,
        scale=lambda c: float((c.ref * (1 + c.ratio) * (1 + c.ratio.log().abs()) ** 2).sum()),
        mutants=(
            Mutant("first power of the logarithm", lambda c: slope_in_closed_form(c, power=1)),
            Mutant("turning at s = 2", lambda c: slope_in_closed_form(c, last=2.0)),
            Mutant("turning at s = 0.99", lambda c: slope_in_closed_form(c, last=0.99)),
        ),
    ),
    Claim(
        name="overshooting-loosens-the-bound",
        title="Weights beyond the policy's own loosen the bound, past twice below SFT's",
        kind="limit",
        statement=r"\frac{L(q_s) - L(\pi_{\mathrm{ref}})}{\sum_{D^+} \pi_{\mathrm{ref}} \log^2 u} "
        r"\;\to\; \frac{s\,(2 - s)}{2} \qquad \left(u = \frac{\pi_\theta}{\pi_{\mathrm{ref}}} \to 1"
        r"\right)",
        note="Near the reference the gain over SFT is a parabola in the exponent: largest at s = 1 "
        "and gone at s = 2, a loss beyond.",
        cites=("qin2025iwsft",),
        cases=nearby,
        tolerance=Numerical(),
        assumptions=(
            POSITIVE_REWARD,
            Assumption(
                "pi near ref",
                "far away the bound may fall below SFT's already for s between 1 and 2",
            ),
        ),
        lhs=lambda c: c.gain(),
        rhs=lambda c: c.order_two(),
        mutants=(
            Mutant("gone at s = 1", lambda c: c.order_two(1.0)),
            Mutant("gone at s = 2.1", lambda c: c.order_two(2.1)),
            Mutant("not halved", lambda c: 2 * c.order_two()),
        ),
    ),
    Claim(
        name="stronger-weights-are-not-tighter",
        title="A higher temperature of the weights does not mean a tighter bound",
        kind="refutation",
        relation="<=",
        statement=r"L(q_0) \leq L(q_s) \leq L(q_1) = J, \qquad 0 \leq s \leq 1",
        note="With s = 2.5 the bound lies below that of plain SFT on the policies here. A "
        "length-normalised weight of temperature 10 overshoots like that for responses of fewer "
        "than five tokens.",
        cites=("qin2025iwsft",),
        cases=curated,
        assumptions=(POSITIVE_REWARD, UNCLIPPED),
        lhs=lambda c: on_path(c, 0.0, 0.25, 0.5, 0.75),
        rhs=lambda c: on_path(c, 0.25, 0.5, 0.75, 1.0),
        scale=lambda _: 1.0,
        published=Published(
            statement=r"L(q_0) \leq L(q_s), \qquad s \geq 0",
            lhs=lambda c: on_path(c, 0.0),
            side=lambda c: on_path(c, 2.5),
            cite="qin2025iwsft",
            relation="<=",
            why="the reading on which a control experiment's code raises the ratio to the power 10",
            second_hand=True,
        ),
        mutants=(
            Mutant(
                "the largest exponents 2 and 2.5",
                lambda c: on_path(c, 0.25, 0.5, 2.0, 2.5),
            ),
            Mutant(
                "rising beyond s = 1",
                lambda c: on_path(c, 0.25, 0.5, 0.75, 1.0) - on_path(c, 1.0) + on_path(c, 1.5),
            ),
        ),
    ),
    Claim(
        name="length-normalised-weight-is-nearly-sft",
        title="A length-normalised weight is not the importance weight of the theory",
        kind="refutation",
        statement=r"w = \exp\left(\frac{1}{T} \sum_t \log \frac{\pi_t}{\pi_{\mathrm{ref},t}}\right)"
        r" \;\Longrightarrow\; w^T = \frac{\pi_\theta(y)}{\pi_{\mathrm{ref}}(y)}, \qquad "
        r"q = w\, \pi_{\mathrm{ref}} = q_{1/T}",
        note="The theory weights a response by pi/ref, the released code by its T-th root: the "
        "bound with exponent 1/T on the path, for a thousand tokens that of SFT.",
        cites=("qin2025iwsft",),
        cases=longer,
        assumptions=(POSITIVE_REWARD, UNCLIPPED),
        lhs=lambda c: released(c, c.at.policy.length),
        rhs=lambda c: torch.cat([c.ratio, c.closed(1 / c.at.policy.length).reshape(1)]),
        published=Published(
            statement=r"w = \frac{\pi_\theta(y)}{\pi_{\mathrm{ref}}(y)}, \qquad "
            r"q = w\, \pi_{\mathrm{ref}} = \pi_\theta",
            lhs=lambda c: released(c, 1),
            side=lambda c: torch.cat([c.ratio, c.reward.reshape(1)]),
            cite="qin2025iwsft",
            why="the derivation's weight against that of the released trainer",
        ),
        mutants=(
            Mutant(
                "exponent 1/(T+1)",
                lambda c: torch.cat([c.ratio, c.closed(1 / (c.at.policy.length + 1)).reshape(1)]),
            ),
            Mutant("power T - 1", lambda c: released(c, c.at.policy.length - 1), of="lhs"),
        ),
    ),
)
