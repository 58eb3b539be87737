"""What every objective of the catalogue promises: its field, its reward, its optimum, its clock.

These claims loop over the registry, so a new objective is checked by them without another line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import minimize
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.gradient_flow import integrated, scalars
from dft_theory.claims.scope import NEEDS, ObjectiveCase, ObjectiveToken, Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.dynamics import reach, spread, symmetric_start
from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import OBJECTIVES, Objective, sft
from dft_theory.seeding import generator

# ---- one token -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Token(ObjectiveToken):
    """An objective at a single softmax, with a reference, an earlier policy and an advantage."""

    @cached_property
    def stats(self) -> TokenStats:
        """`[1, 1]`."""
        return self.at.stats(self.at.logits)

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the surrogate in the logits, by autograd through the training path, `[V]`."""
        return self.at.logit_gradient(self.objective)

    @cached_property
    def weight(self) -> Tensor:
        """The target's weight w."""
        return self.objective.weight(self.stats).expand(1, 1)[0, 0]

    @cached_property
    def mass(self) -> Tensor:
        """What each next token is given: w at the target plus the objective's target, `[V]`."""
        mass = self.weight * self.at.onehot
        return (
            mass
            if self.objective.target is None
            else mass + self.objective.target(self.stats)[0, 0]
        )

    def policy_gradient(self, reward: Tensor) -> Tensor:
        """-E_{a~pi}[r(a) grad log pi(a)] summed over all V actions, without a logarithm, `[V]`."""
        z = self.at.logits.clone().requires_grad_(True)
        return -torch.autograd.grad((reward * torch.softmax(z, -1)).sum(), z)[0]

    @property
    def size(self) -> float:
        """Size of what cancels in w (e_y - pi) + A - (sum A) pi."""
        return float(self.mass.abs().sum())


@lru_cache(maxsize=4)
def _tokens(cases: tuple[TokenCase, ...]) -> tuple[Token, ...]:
    chosen = [o for o in OBJECTIVES if o.level != "group"]
    return tuple(Token(o, c) for c in cases if c.p > 1e-12 for o in chosen)


def tokens(scope: Scope) -> Sequence[Token]:
    """Every objective that a single response suffices for, at every softmax."""
    return _tokens(scope.token_cases)


def every_objective(scope: Scope) -> Sequence[ObjectiveCase]:
    """Every objective on every policy."""
    return scope.objective_cases


def pulled(case: ObjectiveCase, field: Tensor) -> Tensor:
    """Gradient in the parameters of a constant pull on the logits, `[D]`."""
    logits, _ = case.at.policy.teacher_forced(case.at.prompt, case.at.responses[case.index])
    return -case.at.gradient((field.detach() * logits[:, :-1]).sum())


def pulled_size(case: ObjectiveCase) -> float:
    """Size of what a sum over rows cancels."""
    return max(1.0, float(case.objective.field(case.stats).detach().abs().sum()))


# ---- populations -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """An objective on demonstrations of frequencies r for one prompt, near a reference b."""

    objective: Objective
    r: tuple[float, ...]
    b: tuple[float, ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{x:.2g}" for x in self.r)
        return f"{self.objective.name} on r = ({shown})"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return len(self.r)

    @cached_property
    def demos(self) -> Tensor:
        """r, `[V]`."""
        return scalars(*self.r)

    @cached_property
    def reference(self) -> Tensor:
        """b, `[V]`."""
        return scalars(*self.b)

    @cached_property
    def optimum(self) -> Tensor:
        """The distribution that the objective declares, `[V]`."""
        assert self.objective.optimum is not None
        anchored = "ref_log_probs" in self.objective.needs or "ref_logp" in self.objective.needs
        given = (self.demos, self.reference) if anchored else (self.demos,)
        return self.objective.optimum(*given)

    def stats(self, logits: Tensor) -> TokenStats:
        """One row for every possible target, `[V, 1]`, the earlier policy being this one."""
        rows = logits.expand(self.terms, 2, -1)
        labels = torch.tensor([[-100, v] for v in range(self.terms)])
        ref = self.reference.log().expand(self.terms, 2, -1)
        found = token_stats(rows, labels, needs=NEEDS, ref_logits=ref, old_logits=rows)
        return replace(found, advantage=torch.ones_like(found.logp))

    def field(self, probs: Tensor) -> Tensor:
        """E_{y~r}[field] at the policy `probs [V]`, `[V]`."""
        return self.demos @ self.objective.field(self.stats(probs.log()))[:, 0]

    def potential(self, probs: Tensor) -> Tensor:
        """E_{y~r}[potential] at the policy `probs [V]`, `[1]`."""
        return self._potential(probs.clamp_min(1e-300).log()).reshape(1)

    def _potential(self, logits: Tensor) -> Tensor:
        assert self.objective.potential is not None
        terms = self.objective.potential(self.stats(logits))[:, 0]
        # A token that never occurs costs nothing, also where its potential is infinite.
        return torch.where(self.demos > 0, self.demos * terms, 0.0).sum()

    @cached_property
    def minimum(self) -> Tensor:
        """Least mean potential that BFGS finds from four starts, `[1]`."""
        g = generator(0, "starts", self.terms)
        starts = torch.randn(4, self.terms, dtype=torch.float64, generator=g)

        def value(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            z = torch.from_numpy(theta).requires_grad_(True)
            loss = self._potential(z)
            return float(loss.detach()), torch.autograd.grad(loss, z)[0].numpy()

        found = [minimize(value, s.numpy(), jac=True, method="BFGS") for s in starts]
        return scalars(min(float(f.fun) for f in found))


@lru_cache(maxsize=2)
def _populations(thorough: bool) -> tuple[Population, ...]:
    g = generator(0, "populations")
    laws = [
        tuple(torch.softmax(torch.randn(v, dtype=torch.float64, generator=g), -1).tolist())
        for v in (3, 4, 3, 5) + ((3, 4, 5, 6) if thorough else ())
    ]
    pairs = [(laws[i], laws[(i + 2) % len(laws)]) for i in range(len(laws))]
    settled = [o for o in OBJECTIVES if o.optimum is not None and o.level != "batch"]
    return tuple(Population(o, r, b) for r, b in pairs if len(r) == len(b) for o in settled)


def settled(scope: Scope) -> Sequence[Population]:
    """Objectives with a declared optimum, on random data."""
    return _populations(scope.thorough)


def minimised(scope: Scope) -> Sequence[Population]:
    """Those of them that are the gradient of a potential."""
    return [c for c in settled(scope) if c.objective.potential is not None]


def temperature(case: Population, beta: float) -> Tensor:
    """r^beta, normalised, `[V]`."""
    return case.demos**beta / (case.demos**beta).sum()


# ---- clocks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """Learning one demonstration from p0 to p1 under any weight w(p) > 0."""

    objective: Objective
    vocab: int
    p0: float
    p1: float

    def __str__(self) -> str:
        return f"{self.objective.name}, V = {self.vocab}, p {self.p0:g} -> {self.p1:g}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    @cached_property
    def integrated(self) -> Estimate:
        """Time by integration of the objective's own update of V logits, `[1]`."""
        start = symmetric_start(self.p0, vocab=self.vocab)
        return integrated(
            lambda r: scalars(reach(self.objective, start=start, target=0, p1=self.p1, rtol=r)[0])
        )

    def area(self, power: int = 1, objective: Objective | None = None) -> Estimate:
        """(1/k) times the integral of dp / (p^power (1-p)^2 w(p)), over the log-odds, `[1]`."""
        held = objective or self.objective

        def slowness(x: float) -> float:
            p = 1 / (1 + math.exp(-x))
            weight = float(held.weight_at(scalars(p)))
            return 1 / (p ** (power - 1) * (1 - p) * weight)

        ends = [math.log(p / (1 - p)) for p in (self.p0, self.p1)]
        # Weights with a floor or a threshold have a kink: quad is told of none and says how far
        # it may be off.
        value, error = quad(slowness, *ends, epsabs=0.0, epsrel=1e-11, limit=400)
        k = spread(self.vocab)
        return Estimate(scalars(value / k), scalars(10 * error / k))


@lru_cache(maxsize=2)
def _clocks(thorough: bool) -> tuple[Clock, ...]:
    spans = [(0.05, 0.8)] + ([(1e-3, 0.5), (0.3, 0.95)] if thorough else [])
    grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    moving = [o for o in OBJECTIVES if o.is_function_of_p and bool((o.weight_at(grid) > 0).all())]
    return tuple(Clock(o, v, *span) for v in (2, 7) for span in spans for o in moving)


def clocks(scope: Scope) -> Sequence[Clock]:
    """Every objective whose weight is a positive function of p."""
    return _clocks(scope.thorough)


CLAIMS = (
    Claim(
        name="surrogate-gradient-is-the-declared-field",
        title="Every objective moves the logits by its declared field",
        kind="identity",
        statement=r"-\nabla_z \mathcal{L} = w\,(e_y - \pi) + A - \left(\sum_v A_v\right) \pi",
        note="The frame of the catalogue. A weight pulls towards the target, a target A over the "
        "vocabulary pulls towards anything; what sums up is taken from everybody in proportion "
        "to pi. Autograd through shift, mask and log-softmax on one side, the closed form on the "
        "other.",
        cites=("wu2025dft", "li2025beyond"),
        cases=tokens,
        lhs=lambda c: -c.gradient,
        rhs=lambda c: c.objective.field(c.stats)[0, 0],
        scale=lambda c: c.size,
        mutants=(
            Mutant(
                "what is given is not taken from anybody",
                lambda c: c.mass,
                equivalent_when=lambda c: abs(float(c.mass.sum())) < 1e-9 * c.size,
                why="the target's total is zero",
            ),
            Mutant(
                "the target over the vocabulary forgotten",
                lambda c: c.weight * (c.at.onehot - c.at.probs),
                equivalent_when=lambda c: c.objective.target is None,
                why="there is none",
            ),
        ),
    ),
    Claim(
        name="field-reaches-the-parameters",
        title="The field in the logits is the gradient in the parameters",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L} = -\sum_{b,t} J_{b,t}^{\top} F_{b,t}, \qquad "
        r"J_{b,t} = \frac{\partial z_{b,t}}{\partial \theta}",
        note="For every objective of the catalogue on every policy, also those that compare "
        "responses (DPO) or read the whole batch: what the field says of the logits is what the "
        "optimiser gets.",
        cites=("wu2025dft",),
        cases=every_objective,
        lhs=lambda c: c.surrogate_gradient,
        rhs=lambda c: pulled(c, c.objective.field(c.stats)),
        scale=pulled_size,
        mutants=(
            Mutant(
                "SFT's field",
                lambda c: pulled(c, sft.field(c.stats)),
                equivalent_when=lambda c: bool(
                    torch.allclose(c.objective.field(c.stats), sft.field(c.stats), rtol=1e-9)
                ),
                why="on these tokens it is SFT",
            ),
            Mutant(
                "one row further on",
                lambda c: pulled(c, c.objective.field(c.stats).roll(1, 1)),
            ),
        ),
    ),
    Claim(
        name="every-field-is-a-policy-gradient",
        title="Every objective is a one-step policy gradient",
        kind="identity",
        statement=r"-\nabla_z \mathcal{L} = \mathbb{E}_{a \sim \pi}\left[ r(a)\, \nabla_z \log "
        r"\pi(a) \right], \qquad r(a) = \frac{w\, \mathbf{1}[a = y] + A(a)}{\pi(a)}",
        note="The implied reward of the whole catalogue: a reward for the demonstrated token, and "
        "with a target over the vocabulary one for every token. For an entropy bonus it is the "
        "surprise, for a KL anchor the ratio of the reference to the policy.",
        cites=("wu2025dft", "williams1992reinforce"),
        cases=tokens,
        lhs=lambda c: c.gradient,
        rhs=lambda c: c.policy_gradient(c.mass / c.at.probs),
        scale=lambda c: c.size,
        mutants=(
            Mutant(
                "reward w instead of w/pi",
                lambda c: c.policy_gradient(c.mass),
                equivalent_when=lambda c: c.size == 0.0 or float(c.at.rest) < 1e-9,
                why="weight 0, or p = 1 to rounding",
            ),
            Mutant(
                "opposite sign",
                lambda c: -c.policy_gradient(c.mass / c.at.probs),
                equivalent_when=lambda c: bool(c.gradient.abs().max() < 1e-9 * c.size),
                why="nothing moves",
            ),
        ),
    ),
    Claim(
        name="declared-optimum-is-stationary",
        title="At its declared optimum a population update rests",
        kind="identity",
        statement=r"\pi = \pi^\star(r, b) \;\Longrightarrow\; \sum_y r_y\, F(y; \pi) = 0",
        note="For every objective with a known end point: the data for SFT and for weights that "
        "read only the state, a tempered law for p^alpha and GEM, a mixture with the reference "
        "for KL anchors.",
        cites=("wu2025dft", "li2025beyond"),
        cases=settled,
        assumptions=(
            Assumption(
                "every context has its own softmax",
                "with shared parameters contexts pull on one another",
            ),
        ),
        lhs=lambda c: c.field(c.optimum),
        rhs=lambda c: torch.zeros_like(c.demos),
        scale=lambda _: 1.0,
        mutants=(
            Mutant(
                "already at rest on uniform",
                lambda c: c.field(torch.full_like(c.demos, 1 / c.terms)),
                of="lhs",
            ),
            Mutant(
                "at rest on sharpened data",
                lambda c: c.field(temperature(c, 1.5)),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="declared-optimum-minimises-the-potential",
        title="No policy has a lower mean potential than the declared optimum",
        kind="inequality",
        relation="<=",
        statement=r"\mathbb{E}_{y \sim r}[\phi(y; \pi^\star)] \leq "
        r"\min_\pi\, \mathbb{E}_{y \sim r}[\phi(y; \pi)]",
        note="The minimum is searched by BFGS over free logits from four starts, which knows "
        "nothing of the closed form.",
        cites=("wu2025dft", "zhang2018gce"),
        cases=minimised,
        tolerance=Numerical(),
        lhs=lambda c: c.potential(c.optimum),
        rhs=lambda c: Estimate(c.minimum, 1e-9 * c.minimum.abs().clamp_min(1.0)),
        mutants=(
            Mutant(
                "the data",
                lambda c: c.potential(c.demos),
                of="lhs",
                equivalent_when=lambda c: bool(torch.allclose(c.optimum, c.demos, atol=1e-9)),
                why="that is the optimum",
            ),
            Mutant("the data, flattened", lambda c: c.potential(temperature(c, 0.9)), of="lhs"),
        ),
    ),
    Claim(
        name="escape-time-of-any-weight",
        title="The time in which any weight w(p) learns one demonstration",
        kind="identity",
        statement=r"t = \frac{V-1}{V} \int_{p_0}^{p_1} \frac{\mathrm{d}p}{p\, w(p)\, (1-p)^2}",
        note="One quadrature replaces the training run: where w is small the integrand is large, "
        "and a weight that vanishes like p^alpha costs 1/p0^alpha.",
        cites=("wu2025dft", "mei2020softmax"),
        cases=clocks,
        tolerance=Numerical(),
        assumptions=(
            Assumption(
                "one prompt, one demonstrated token, equally likely rivals",
                "other rivals change the time by a factor of at most two",
            ),
        ),
        lhs=lambda c: c.integrated,
        rhs=lambda c: c.area(),
        mutants=(
            Mutant("without the p of grad p", lambda c: c.area(power=0)),
            Mutant(
                "SFT's weight",
                lambda c: c.area(objective=sft),
                equivalent_when=lambda c: bool(
                    (c.objective.weight_at(scalars(0.1, 0.5)) == 1.0).all()
                ),
                why="that is SFT",
            ),
        ),
    ),
)
