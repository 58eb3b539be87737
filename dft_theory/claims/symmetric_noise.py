"""Which label noise DFT forgives: the symmetric kind, and no other.

Labels of frequencies r are replaced at rate eta. DFT descends 1 - pi(y), half the mean absolute
error, whose sum over all labels is the same for every policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.gradient_flow import scalars
from dft_theory.claims.noise import FREE_LOGITS
from dft_theory.claims.population_optima import Data
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective, dft, power, sft
from dft_theory.seeding import generator


def every_label(objective: Objective, logits: Tensor) -> Tensor:
    """The objective's potential for each of the V tokens as the label, `[V]`."""
    assert objective.potential is not None
    logp = torch.log_softmax(logits, -1).unsqueeze(-1)
    return objective.potential(TokenStats(logp=logp, mask=torch.ones_like(logp).bool()))[:, 0]


@dataclass(frozen=True)
class Noisy:
    """Label frequencies r, replaced at rate eta by another label, every other one alike."""

    at: TokenCase
    eta: float

    def __str__(self) -> str:
        return f"eta = {self.eta:g}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of labels c."""
        return self.at.terms

    @cached_property
    def r(self) -> Tensor:
        """Clean frequencies, `[c]`."""
        g = generator(self.at.target, "frequencies", self.terms)
        return torch.softmax(torch.randn(self.terms, dtype=torch.float64, generator=g), -1)

    def noisy(self, r: Tensor) -> Tensor:
        """(1 - eta) r + eta (1 - r) / (c - 1), `[c]`."""
        return (1 - self.eta) * r + self.eta * (1 - r) / (self.terms - 1)

    @property
    def slope(self) -> float:
        """1 - eta c / (c - 1)."""
        return 1 - self.eta * self.terms / (self.terms - 1)

    def population_gradient(self, objective: Objective, r: Tensor) -> Tensor:
        """E_{y~r} of the surrogate's logit gradient, `[c]`."""
        each = [
            TokenCase(self.at.logits, y, "").logit_gradient(objective) for y in range(self.terms)
        ]
        return r @ torch.stack(each)

    def likelihood_gradient(self) -> Tensor:
        """Gradient of -E_{y~r}[p(y)] for the clean r, `[c]`."""
        z = self.at.logits.clone().requires_grad_(True)
        return -torch.autograd.grad(self.r @ torch.softmax(z, -1), z)[0]


@lru_cache(maxsize=4)
def _noisy(cases: tuple[TokenCase, ...], largest: int) -> tuple[Noisy, ...]:
    chosen = [c for c in cases if c.terms <= largest]
    return tuple(
        Noisy(c, share * (c.terms - 1) / c.terms) for c in chosen for share in (0.2, 0.6, 0.95)
    )


def noisy(scope: Scope) -> Sequence[Noisy]:
    """Every softmax, at noise from a fifth to nearly all of what leaves the order intact."""
    return _noisy(scope.token_cases, 97)


def noisy_populations(scope: Scope) -> Sequence[Noisy]:
    """The same for few labels, where one gradient for each is cheap."""
    return _noisy(scope.token_cases, 7)


@dataclass(frozen=True)
class Summed:
    """Generalised cross entropy of exponent q, summed over all labels."""

    q: float
    at: TokenCase

    def __str__(self) -> str:
        return f"q = {self.q:g}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of labels c."""
        return self.at.terms

    @cached_property
    def total(self) -> Tensor:
        """sum_j (1 - p_j^q) / q from the catalogue's potential."""
        return every_label(power(self.q), self.at.logits).sum()

    def low(self, exponent: float) -> Tensor:
        """(c - c^exponent) / q."""
        return scalars((self.terms - self.terms**exponent) / self.q)[0]

    def high(self, count: int) -> Tensor:
        """Count / q."""
        return scalars(count / self.q)[0]


@lru_cache(maxsize=4)
def _summed(cases: tuple[TokenCase, ...]) -> tuple[Summed, ...]:
    return tuple(Summed(q, c) for c in cases for q in (0.3, 0.7, 1.0))


def summed(scope: Scope) -> Sequence[Summed]:
    """Every softmax, for three exponents; 1 is the mean absolute error."""
    return _summed(scope.token_cases)


@dataclass(frozen=True)
class Flip:
    """Label frequencies r of which the share eta of the most frequent becomes the second."""

    r: tuple[float, ...]
    eta: float

    def __str__(self) -> str:
        return f"r = {self.r}, {self.eta:g} of label 0 called 1"

    @property
    def terms(self) -> int:
        """Number of labels."""
        return len(self.r)

    @cached_property
    def end(self) -> Estimate:
        """Where DFT's flow on the noisy labels ends, from the uniform policy, `[c]`."""
        moved = self.eta * self.r[0]
        noisy = (self.r[0] - moved, self.r[1] + moved, *self.r[2:])
        return Data(1.0, noisy, (1 / self.terms,) * self.terms).end

    def mode(self, threshold: float) -> Tensor:
        """One-hot at label 1 where eta exceeds the threshold, at label 0 below, `[c]`."""
        return torch.eye(self.terms, dtype=torch.float64)[int(self.eta > threshold)]

    @property
    def threshold(self) -> float:
        """(r_0 - r_1) / (2 r_0)."""
        return (self.r[0] - self.r[1]) / (2 * self.r[0])


@lru_cache(maxsize=2)
def _flips(thorough: bool) -> tuple[Flip, ...]:
    laws = [(0.5, 0.3, 0.2)] + ([(0.6, 0.4), (0.4, 0.25, 0.2, 0.15)] if thorough else [])
    return tuple(Flip(r, eta) for r in laws for eta in (0.05, 0.15, 0.3, 0.5))


def flips(scope: Scope) -> Sequence[Flip]:
    """Noise on both sides of the threshold."""
    return _flips(scope.thorough)


MINORITY = Assumption(
    "eta < (c - 1)/c",
    "more noise than that makes the true label the rarest, and the slope negative",
    holds=lambda c: c.slope > 0,
)

CLAIMS = (
    Claim(
        name="generalised-cross-entropy-sums-are-bounded",
        title="Summed over all labels, the losses of the power family are bounded",
        kind="inequality",
        relation="<=",
        statement=r"\frac{c - c^{1-q}}{q} \leq \sum_{j=1}^{c} \frac{1 - \pi_j^q}{q} \leq "
        r"\frac{c-1}{q}, \qquad 0 < q \leq 1",
        note="Attained by the uniform policy and by a certain one. At q = 1, DFT, the bounds meet: "
        "the sum is c - 1 whatever the policy, and that is what forgives symmetric noise. As q "
        "tends to 0 the upper bound diverges: SFT forgives nothing.",
        cites=("zhang2018gce",),
        cases=summed,
        lhs=lambda c: torch.stack([c.low(1 - c.q), c.total]),
        rhs=lambda c: torch.stack([c.total, c.high(c.terms - 1)]),
        mutants=(
            Mutant(
                "lower bound with c^((1-q)/2)",
                lambda c: torch.stack([c.low((1 - c.q) / 2), c.total]),
                of="lhs",
            ),
            Mutant(
                "upper bound without 1/q",
                lambda c: torch.stack([c.total, c.q * c.high(c.terms - 1)]),
            ),
            Mutant("upper bound c - 2", lambda c: torch.stack([c.total, c.high(c.terms - 2)])),
        ),
    ),
    Claim(
        name="noisy-risk-is-affine",
        title="Symmetric noise only rescales the risk of DFT",
        kind="identity",
        statement=r"\mathbb{E}_{\tilde y \mid y}[1 - \pi_{\tilde y}] = "
        r"\left(1 - \frac{\eta c}{c-1}\right)(1 - \pi_y) + \eta",
        note="A label is replaced at rate eta by one of the c - 1 others, each alike. The same "
        "policies have the smallest risk, with noise and without.",
        cites=("zhang2018gce",),
        cases=noisy,
        assumptions=(MINORITY,),
        lhs=lambda c: c.noisy(c.at.onehot) @ (1 + every_label(dft, c.at.logits)),
        rhs=lambda c: c.slope * c.at.rest + c.eta,
        scale=lambda _: 1.0,
        mutants=(
            Mutant("slope 1 - eta", lambda c: (1 - c.eta) * c.at.rest + c.eta),
            Mutant(
                "slope 1 - eta (c-1)/c",
                lambda c: (1 - c.eta * (c.terms - 1) / c.terms) * c.at.rest + c.eta,
            ),
            Mutant("offset forgotten", lambda c: c.slope * c.at.rest),
        ),
    ),
    Claim(
        name="symmetric-noise-only-slows-dft",
        title="Under symmetric noise DFT takes the same path, slower",
        kind="identity",
        statement=r"\mathbb{E}_{\tilde y}\left[\nabla_z \mathcal{L}_{\mathrm{DFT}}"
        r"(\tilde y)\right] "
        r"= \left(1 - \frac{\eta c}{c-1}\right) \nabla_z\left(-\mathbb{E}_{y \sim r}[\pi_y]\right)",
        note="Not only the optimum is unchanged but the whole flow, up to time. For SFT the noise "
        "is part of the data: it learns the noisy frequencies.",
        cites=("zhang2018gce", "wu2025dft"),
        cases=noisy_populations,
        assumptions=(MINORITY, FREE_LOGITS),
        lhs=lambda c: c.population_gradient(dft, c.noisy(c.r)),
        rhs=lambda c: c.slope * c.likelihood_gradient(),
        scale=lambda _: 1.0,
        mutants=(
            Mutant("not slower at all", lambda c: c.likelihood_gradient()),
            Mutant("slower by 1 - eta", lambda c: (1 - c.eta) * c.likelihood_gradient()),
            Mutant(
                "SFT's gradient",
                lambda c: c.slope * c.population_gradient(sft, c.r),
            ),
        ),
    ),
    Claim(
        name="one-sided-noise-moves-dft",
        title="Noise with a direction moves what DFT learns",
        kind="identity",
        statement=r"\lim_{t \to \infty} \pi = \begin{cases} "
        r"e_0 & \eta < \frac{r_0 - r_1}{2 r_0} \\ "
        r"e_1 & \eta > \frac{r_0 - r_1}{2 r_0} \end{cases}",
        note="The share eta of the most frequent label is written as the second, as an annotator "
        "with a habit would. With r = (.5, .3, .2) a fifth of them is enough, where symmetric "
        "noise may replace two thirds of all labels. Robust to noise means: to symmetric noise.",
        cites=("zhang2018gce", "mei2020softmax"),
        cases=flips,
        assumptions=(
            FREE_LOGITS,
            Assumption(
                "label 1 the second most frequent",
                "otherwise the modes meet elsewhere",
                holds=lambda c: c.r[1] == sorted(c.r)[-2],
            ),
        ),
        tolerance=Numerical(),
        lhs=lambda c: c.end,
        rhs=lambda c: c.mode(c.threshold),
        mutants=(
            Mutant("the clean mode, whatever the noise", lambda c: c.mode(1.0)),
            Mutant("threshold without the 2", lambda c: c.mode(2 * c.threshold)),
        ),
    ),
)
