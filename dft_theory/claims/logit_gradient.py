"""What one token does to its logits: bounds, the stop-gradient, and the value of the DFT loss."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.scope import ObjectiveToken, Scope, TokenCase
from dft_theory.objectives import OBJECTIVES, Objective, SumOver, dft, sft


@dataclass(frozen=True)
class WeightedToken(ObjectiveToken):
    """An objective at a single token."""

    @cached_property
    def weight(self) -> Tensor:
        """The objective's weight at this token's probability."""
        return self.objective.weight_at(self.at.p.reshape(1))[0]

    def held_constant(self) -> bool:
        """Whether the weight does not move with the logits."""
        z = self.at.logits.clone().requires_grad_(True)
        return not self.objective.weight(self.at.stats(z)).requires_grad

    def attached(self) -> Tensor:
        """Logit gradient of -w(p) log p with the weight differentiated too, `[V]`."""
        z = self.at.logits.clone().requires_grad_(True)
        t = self.at.stats(z)
        loss = -(self.objective.weight(t) * t.logp * t.mask).sum()
        return torch.autograd.grad(loss, z)[0]


def token_cases(scope: Scope) -> Sequence[TokenCase]:
    """Single softmaxes."""
    return scope.token_cases


def weighted_tokens(scope: Scope) -> Sequence[WeightedToken]:
    """Every weight w(p) at every softmax whose target is not astronomically unlikely."""
    chosen = [o for o in OBJECTIVES if o.is_function_of_p]
    return [WeightedToken(o, c) for c in scope.token_cases if c.p > 1e-12 for o in chosen]


def one(_: TokenCase) -> float:
    """Size of the terms of p - e_y, which cancel as p -> 1."""
    return 1.0


def norm(objective: Objective) -> Callable[[TokenCase], Tensor]:
    """Euclidean norm of the objective's logit gradient."""
    return lambda c: c.logit_gradient(objective).norm()


def entropy_like(case: TokenCase) -> Tensor:
    """d/dz_y of -p log p by autograd, the weight not detached."""
    z = case.logits.clone().requires_grad_(True)
    p = torch.softmax(z, -1)[case.target]
    return torch.autograd.grad(-p * p.log(), z)[0][case.target]


def reward_form(case: WeightedToken) -> Tensor:
    """-E_{a~p}[1[a=y] r grad log p(a)] with r = w/p, summed over all V actions, `[V]`."""
    z = case.at.logits.clone().requires_grad_(True)
    probs = torch.softmax(z, -1)
    r = case.at.onehot * case.objective.implied_reward(case.at.p.reshape(1))[0]
    return -torch.autograd.grad((r * probs).sum(), z)[0]


@dataclass(frozen=True)
class Probability:
    """A probability p of the target on a grid, for statements about functions of p."""

    p: float

    terms: int = 1

    def __str__(self) -> str:
        return f"p = {self.p:g}"

    @property
    def tensor(self) -> Tensor:
        """p, float64."""
        return torch.tensor(self.p, dtype=torch.float64)

    def slope(self) -> Tensor:
        """d/dp of -p log p, by autograd."""
        p = self.tensor.requires_grad_(True)
        return torch.autograd.grad(-p * p.log(), p)[0]


def probabilities(scope: Scope) -> Sequence[Probability]:
    """0.001 to 0.999."""
    n = 400 if scope.thorough else 50
    return [Probability(float(p)) for p in torch.linspace(0.001, 0.999, n, dtype=torch.float64)]


def one_probability(scope: Scope) -> Sequence[Probability]:  # noqa: ARG001 (one case, always)
    """A single case, for a statement about one number."""
    return [Probability(0.5)]


def flip_point(_: Probability) -> Tensor:
    """Where the logit gradient of -p log p (no stop-gradient) changes sign, by root finding."""

    def slope(gap: float) -> float:
        z = torch.tensor([gap, 0.0], dtype=torch.float64)
        return float(entropy_like(TokenCase(z, 0, "two tokens")))

    gap = brentq(slope, -5.0, 5.0, xtol=1e-14)
    return torch.sigmoid(torch.tensor(gap, dtype=torch.float64))


def below_peak(case: TokenCase) -> Tensor:
    """-p log p, the value of the DFT loss, read from the training path."""
    return dft.surrogate(case.stats(case.logits), reduction=SumOver())


CLAIMS = (
    Claim(
        name="sft-logit-gradient",
        title="The SFT gradient in the logits",
        kind="identity",
        statement=r"\nabla_z(-\log p_y) = p - e_y",
        note="Bounded, whatever 1/p does: the score of a rare token does not blow up.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=lambda c: c.logit_gradient(sft),
        rhs=lambda c: c.probs - c.onehot,
        scale=one,
        mutants=(
            Mutant("opposite sign", lambda c: c.onehot - c.probs),
            Mutant("target term forgotten", lambda c: c.probs),
            Mutant(
                "divided by p",
                lambda c: (c.probs - c.onehot) / c.p,
                equivalent_when=lambda c: float(c.rest) < 1e-9,
                why="p = 1 to rounding",
            ),
        ),
    ),
    Claim(
        name="weighted-logit-gradient",
        title="Every objective scales p - e_y by its weight",
        kind="identity",
        statement=r"\nabla_z \mathcal{L} = w(p_y)\,(p - e_y)",
        note="At one token every objective here is the same vector times a number: it can change "
        "how fast a token is learned, never towards what.",
        cites=("wu2025dft", "li2025beyond"),
        cases=weighted_tokens,
        lhs=lambda c: c.at.logit_gradient(c.objective),
        rhs=lambda c: c.weight * (c.at.probs - c.at.onehot),
        scale=lambda c: float(c.weight),
        mutants=(
            Mutant(
                "weight differentiated too",
                lambda c: c.attached(),
                equivalent_when=lambda c: c.held_constant(),
                why="a constant weight has no derivative",
            ),
            Mutant(
                "weight at 1 - p",
                lambda c: (
                    c.objective.weight_at(c.at.rest.clamp(1e-300).reshape(1))[0]
                    * (c.at.probs - c.at.onehot)
                ),
            ),
        ),
    ),
    Claim(
        name="weight-is-reward-times-probability",
        title="Every weight is a reward in disguise",
        kind="identity",
        statement=r"\nabla_z \mathcal{L} = -\mathbb{E}_{a \sim p}\left[\mathbf{1}[a = y]\, "
        r"\frac{w(p_y)}{p_y}\, \nabla_z \log p_a \right]",
        note="The implied reward r = w/p: 1/p for SFT, 1 for DFT, p^(alpha-1) between. An exact "
        "one-step policy gradient, summed over all V actions.",
        cites=("wu2025dft",),
        cases=weighted_tokens,
        lhs=lambda c: c.at.logit_gradient(c.objective),
        rhs=reward_form,
        scale=lambda c: float(c.weight),
        mutants=(
            Mutant("reward w", lambda c: c.at.p * reward_form(c)),
            Mutant(
                "reward for the other actions",
                lambda c: c.weight / c.at.p * (c.at.onehot - c.at.probs) * c.at.rest,
                equivalent_when=lambda c: float(c.weight) == 0.0,
                why="weight 0",
            ),
        ),
    ),
    Claim(
        name="logit-gradient-lower-bound",
        title="How small the SFT gradient can be at probability p",
        kind="inequality",
        relation="<=",
        statement=r"(1 - p)\sqrt{\frac{V}{V - 1}} \leq \Vert \nabla_z(-\log p_y) \Vert",
        note="Attained when the other tokens share the rest evenly.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=lambda c: c.rest * math.sqrt(c.terms / (c.terms - 1)),
        rhs=norm(sft),
        scale=one,
        mutants=(
            Mutant(
                "without the square root", lambda c: c.rest * (c.terms / (c.terms - 1)), of="lhs"
            ),
            Mutant("one rival", lambda c: c.rest * math.sqrt(2), of="lhs"),
        ),
    ),
    Claim(
        name="sft-gradient-is-bounded",
        title="The SFT gradient is bounded, not 1/p",
        kind="refutation",
        relation="<=",
        statement=r"\Vert \nabla_z(-\log p_y) \Vert \leq \sqrt{2}\,(1 - p) \leq \sqrt{2}",
        note="The weight 1/p is unbounded, its product with the rare event is not: as p "
        "falls the gradient tends to at most the square root of 2.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=norm(sft),
        rhs=lambda c: math.sqrt(2) * c.rest,
        published=Published(
            statement=r"\Vert \nabla \mathcal{L}_{\mathrm{SFT}} \Vert \propto \frac{1}{\pi_\theta}"
            r"\to \infty",
            side=lambda c: c.rest / c.p,
            cite="wu2025dft",
            relation="=",
            why="disproportionately large gradients when the model gives y* low probability",
        ),
        scale=one,
        mutants=(
            Mutant("constant 1", lambda c: c.rest),
            Mutant(
                "constant of the even rivals",
                lambda c: c.rest * math.sqrt(c.terms / (c.terms - 1)),
                equivalent_when=lambda c: c.terms == 2,
                why="one rival is even",
            ),
        ),
    ),
    Claim(
        name="dft-gradient-vanishes-on-rare-tokens",
        title="The DFT gradient vanishes on rare tokens",
        kind="inequality",
        relation="<=",
        statement=r"\Vert \nabla_z \mathcal{L}_{\mathrm{DFT}} \Vert \leq \sqrt{2}\, p\,(1 - p) "
        r"\leq \frac{\sqrt{2}}{4}",
        note="The other side: at most 0.354, at p = 1/2, and proportional to p below. A "
        "token that the model thinks impossible stays so.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=norm(dft),
        rhs=lambda c: torch.minimum(
            math.sqrt(2) * c.p * c.rest, torch.full_like(c.p, math.sqrt(2) / 4)
        ),
        scale=lambda c: float(c.p),
        mutants=(
            Mutant("p squared", lambda c: math.sqrt(2) * c.p**2 * c.rest),
            Mutant(
                "half the maximum",
                lambda c: (math.sqrt(2) * c.p * c.rest).clamp_max(math.sqrt(2) / 8),
            ),
        ),
    ),
    Claim(
        name="dft-is-scaled-sft-at-one-token",
        title="At one token DFT is SFT times p",
        kind="identity",
        statement=r"\nabla_z \mathcal{L}_{\mathrm{DFT}} = p_y \nabla_z \mathcal{L}_{\mathrm{SFT}}",
        note="The true part of 'same direction': scale 1/p against 1 in the gradient of p.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=lambda c: c.logit_gradient(dft),
        rhs=lambda c: c.p * c.logit_gradient(sft),
        scale=lambda c: float(c.p),
        mutants=(
            Mutant("p squared", lambda c: c.p**2 * c.logit_gradient(sft)),
            Mutant("1 - p", lambda c: c.rest * c.logit_gradient(sft)),
        ),
    ),
    Claim(
        name="stop-gradient-decides-the-sign",
        title="Without the stop-gradient, rare tokens are pushed down",
        kind="refutation",
        statement=r"\frac{\partial}{\partial z_y}(-p \log p) = -(1 + \log p)\, p\,(1 - p), \qquad "
        r"\frac{\partial \mathcal{L}_{\mathrm{DFT}}}{\partial z_y} = -p\,(1 - p)",
        note="Below p = 1/e the two have opposite signs. The paper's README lacked the "
        "detach for a few hours; some frameworks still do.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=lambda c: torch.stack([entropy_like(c), c.logit_gradient(dft)[c.target]]),
        rhs=lambda c: torch.stack([-(1 + c.p.log()) * c.p * c.rest, -c.p * c.rest]),
        published=Published(
            statement=r"\frac{\partial}{\partial z_y}(-p \log p) = -p\,(1 - p)",
            side=lambda c: torch.stack([-c.p * c.rest, -c.p * c.rest]),
            cite="wu2025dft",
            why="README one-liner at commit 597a4fa, mended the same day",
        ),
        scale=one,
        mutants=(
            Mutant(
                "log 2 instead of 1",
                lambda c: torch.stack([-(math.log(2) + c.p.log()) * c.p * c.rest, -c.p * c.rest]),
            ),
            Mutant(
                "opposite sign",
                lambda c: torch.stack([(1 + c.p.log()) * c.p * c.rest, -c.p * c.rest]),
            ),
        ),
    ),
    Claim(
        name="sign-flips-at-one-over-e",
        title="The sign flips at p = 1/e",
        kind="identity",
        statement=r"-(1 + \log p)\, p\,(1 - p) = 0 \iff p = \frac{1}{e}",
        note="Root of the autograd slope by Brent's method: 0.3679. Below it, a DFT loss without "
        "stop-gradient unlearns its own demonstrations.",
        cites=("wu2025dft",),
        cases=one_probability,
        lhs=flip_point,
        rhs=lambda c: torch.tensor(math.exp(-1), dtype=torch.float64),
        mutants=(
            Mutant("at one half", lambda c: torch.tensor(0.5, dtype=torch.float64)),
            Mutant("at one third", lambda c: torch.tensor(1 / 3, dtype=torch.float64)),
        ),
    ),
    Claim(
        name="dft-loss-value-misleads",
        title="A falling DFT loss does not mean that the target is learned",
        kind="refutation",
        statement=r"\frac{d}{dp}(-p \log p) = -(1 + \log p)",
        note="The printed value -p log p is 0 at p = 0 and at p = 1: below 1/e it falls "
        "when p falls. Watch the mean of p and the plain negative log-likelihood instead.",
        cites=("wu2025dft",),
        cases=probabilities,
        lhs=lambda c: c.slope(),
        rhs=lambda c: -(1 + c.tensor.log()),
        published=Published(
            statement=r"\frac{d}{dp}(-p \log p) \leq 0",
            relation="<=",
            side=lambda c: torch.zeros((), dtype=torch.float64),
            cite="wu2025dft",
            why="reading the logged loss as the quantity that is minimised",
        ),
        mutants=(
            Mutant("slope of -log p", lambda c: -1 / c.tensor),
            Mutant("slope of -p", lambda c: -torch.ones((), dtype=torch.float64)),
        ),
    ),
    Claim(
        name="dft-loss-value-is-bounded",
        title="The value of the DFT loss never exceeds 1/e",
        kind="inequality",
        relation="<=",
        statement=r"-p \log p \leq \frac{1}{e}",
        note="Why DFT prints losses ten times smaller than SFT: 0.37 nats per token is the most "
        "it can ever print.",
        cites=("wu2025dft",),
        cases=token_cases,
        lhs=below_peak,
        rhs=lambda c: torch.tensor(math.exp(-1), dtype=torch.float64),
        assumptions=(
            Assumption(
                "the value of the surrogate, not of the potential -p",
                "the potential lies between -1 and 0",
            ),
        ),
        mutants=(
            Mutant("bounded by 1/4", lambda c: torch.tensor(0.25, dtype=torch.float64)),
            Mutant("value of SFT", lambda c: -c.p.log(), of="lhs"),
        ),
    ),
)
