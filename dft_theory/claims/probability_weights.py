"""Losses that are a function of the target's probability: signs, shapes and optima."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.optimize import brentq
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.logit_gradient import Probability, one, probabilities, token_cases
from dft_theory.claims.policy_gradient import policy_cases
from dft_theory.claims.rectification import LONGER
from dft_theory.claims.scope import PolicyCase, Scope, TokenCase
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective, chord_phi, focal, power, sed, taylor
from dft_theory.seeding import generator

ALPHAS = (0.5, 1.0, 2.0)
ORDERS = (2, 3, 4)
GAMMAS = (1.0, 2.0, 5.0)


def autograd(case: TokenCase, *losses: Callable[[Tensor], Tensor]) -> Tensor:
    """Logit gradients of functions of the target's probability, `[losses, V]`."""
    z = case.logits.clone().requires_grad_(True)
    p = torch.softmax(z, -1)[case.target]
    return torch.stack([torch.autograd.grad(loss(p), z, retain_graph=True)[0] for loss in losses])


def gradients(case: TokenCase, *objectives: Objective) -> Tensor:
    """Logit gradients of the surrogates, `[objectives, V]`."""
    return torch.stack([case.logit_gradient(o) for o in objectives])


def cross_entropy_of_order(alpha: float) -> Callable[[Tensor], Tensor]:
    """(1 - p^alpha) / alpha."""
    return lambda p: (1 - p**alpha) / alpha


def cut_off(order: int) -> Callable[[Tensor], Tensor]:
    """The first terms of -log p in powers of 1 - p."""
    return lambda p: torch.stack([(1 - p) ** i / i for i in range(1, order + 1)]).sum()


def focal_loss(gamma: float, *, held: bool = False) -> Callable[[Tensor], Tensor]:
    """-(1-p)^gamma log p; `held` stops the gradient in its factor."""

    def loss(p: Tensor) -> Tensor:
        rest = 1 - (p.detach() if held else p)
        return -(rest**gamma) * p.log()

    return loss


def pulled(case: TokenCase, sign: float) -> Tensor:
    """Sign times p^alpha (e_y - pi) for the three alphas, `[3, V]`."""
    weight = torch.stack([case.p**alpha for alpha in ALPHAS])
    return sign * weight.unsqueeze(-1) * (case.onehot - case.probs)


@dataclass(frozen=True)
class Number:
    """One parameter: an exponent, or the strength of a penalty."""

    value: float
    terms: int = 1

    def __str__(self) -> str:
        return f"{self.value:g}"


def numbers(*values: float) -> Callable[[Scope], Sequence[Number]]:
    """The same parameters in every scope."""
    return lambda _: [Number(v) for v in values]


def scalar(x: float) -> Tensor:
    """A float64 scalar."""
    return torch.tensor(x, dtype=torch.float64)


def steepest(alpha: float) -> Tensor:
    """The p at which the logit of the target moves fastest, by the root of an autograd slope."""

    def slope(p: float) -> float:
        at = scalar(p).requires_grad_(True)
        logp = at.log().reshape(1, 1)
        stats = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
        move = power(alpha).weight(stats) * (1 - at)
        return float(torch.autograd.grad(move.sum(), at)[0])

    return scalar(brentq(slope, 1e-9, 1 - 1e-9, xtol=1e-15))


def resting_place(lam: float) -> Tensor:
    """Where the weight of SED-SFT changes sign above 1/2, or 1 where it never does."""

    def weight(p: float) -> float:
        return float(sed(lam).weight_at(scalar(p).reshape(1)))

    return scalar(brentq(weight, 0.5, 1.0, xtol=1e-15) if weight(1.0) < 0 else 1.0)


def interior(lam: float) -> float:
    """The root of 1 = lam p (2p - 1)."""
    return float((lam + (lam**2 + 8 * lam) ** 0.5) / (4 * lam))


@dataclass(frozen=True)
class Spectrum:
    """Frequencies r of demonstrated tokens."""

    r: tuple[float, ...]

    def __str__(self) -> str:
        return f"r = {tuple(round(x, 3) for x in self.r)}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return len(self.r)

    @property
    def demos(self) -> Tensor:
        """r, `[V]`."""
        return torch.tensor(self.r, dtype=torch.float64)

    def filled(self, nu: float) -> Tensor:
        """max(0, 1 - nu/r), `[V]`."""
        return (1 - nu / self.demos).clamp_min(0)

    def level(self) -> float:
        """The nu at which `filled` sums to 1, by bracketing."""
        bracket = 0.0, float(self.demos.max())
        return float(brentq(lambda nu: float(self.filled(nu).sum()) - 1, *bracket, xtol=1e-16))


@lru_cache(maxsize=2)
def _spectra(thorough: bool) -> tuple[Spectrum, ...]:
    cases = [Spectrum((0.6, 0.4)), Spectrum((0.5, 0.3, 0.15, 0.05))]
    for vocab in (3, 8):
        for seed in range(20 if thorough else 3):
            z = torch.randn(vocab, dtype=torch.float64, generator=generator(seed, "water", vocab))
            cases.append(Spectrum(tuple(z.softmax(0).tolist())))
    return tuple(cases)


def spectra(scope: Scope) -> Sequence[Spectrum]:
    """Two to eight tokens, some of them rare."""
    return _spectra(scope.thorough)


def token_losses(case: PolicyCase) -> Tensor:
    """f_alpha of every target token of the demonstration, `[3, T]`."""
    losses = [power(alpha).potential for alpha in ALPHAS]
    return torch.cat([f(case.stats) for f in losses if f is not None])


def alphas() -> Tensor:
    """The exponents, `[3]`."""
    return torch.tensor(ALPHAS, dtype=torch.float64)


def slope(case: Probability, f: Callable[[Tensor], Tensor]) -> Tensor:
    """Df/dp by autograd."""
    p = case.tensor.requires_grad_(True)
    return torch.autograd.grad(f(p), p)[0]


CLAIMS = (
    Claim(
        name="probability-losses-push-the-target-up",
        title="A loss that falls with p raises the target's logit",
        kind="refutation",
        statement=r"\nabla_z f(p_y) = f'(p_y)\, p_y\,(e_y - p), \qquad "
        r"f(p) = \frac{1 - p^{\alpha}}{\alpha}:\; -p_y^{\alpha}\,(e_y - p)",
        note="Lemma 3.1 as printed has the gradient with the opposite sign: a descent step would "
        "unlearn. Its weight -f'(p) p (1 - p) is right, and so is the method.",
        cites=("li2025beyond",),
        cases=token_cases,
        lhs=lambda c: autograd(c, *map(cross_entropy_of_order, ALPHAS)),
        rhs=lambda c: pulled(c, -1.0),
        scale=one,
        published=Published(
            statement=r"\nabla_z f(p_y) = -f'(p_y)\, p_y\,(e_y - p)",
            side=lambda c: pulled(c, 1.0),
            cite="li2025beyond",
            why="Lemma 3.1: a line of its proof equates a quantity with its negative",
        ),
        mutants=(
            Mutant("exponent off by one", lambda c: c.p * pulled(c, -1.0)),
            Mutant("target term forgotten", lambda c: pulled(c, -1.0) * (1 - c.onehot)),
        ),
    ),
    Claim(
        name="log-of-one-minus-p-falls",
        title="log(1 - p) falls with p; -log(1 - p) rises",
        kind="refutation",
        statement=r"\frac{d}{dp} \log(1 - p) = -\frac{1}{1 - p} \leq 0",
        note="The premise of the family is a loss that does not rise with p. The printed example "
        "has the opposite sign and would drive the demonstrated token to 0.",
        cites=("li2025beyond",),
        cases=probabilities,
        lhs=lambda c: slope(c, lambda p: torch.log1p(-p)),
        rhs=lambda c: -1 / (1 - c.tensor),
        published=Published(
            statement=r"\frac{d}{dp}\left(-\log(1 - p)\right) \leq 0",
            lhs=lambda c: slope(c, lambda p: -torch.log1p(-p)),
            side=lambda _: scalar(0.0),
            cite="li2025beyond",
            relation="<=",
            why="given as an example of a non-increasing f",
        ),
        mutants=(
            Mutant("steeper than it is", lambda c: -1 / (1 - c.tensor) ** 2),
            Mutant("slope of -log p", lambda c: -1 / (1 - c.tensor) - 1 / c.tensor),
        ),
    ),
    Claim(
        name="losses-of-a-product-do-not-add",
        title="Only the logarithm of a response's probability is a sum over its tokens",
        kind="refutation",
        statement=r"1 - \alpha f\left(\prod_t p_t\right) = \prod_t \left(1 - \alpha f(p_t)\right), "
        r"\qquad f(p) = \frac{1 - p^{\alpha}}{\alpha}",
        note="The token sum is another objective, not the sequence's: its terms combine like "
        "compound interest, and add up only as alpha tends to 0.",
        cites=("li2025beyond", "tsallis1988"),
        cases=policy_cases,
        assumptions=(LONGER,),
        lhs=lambda c: 1 - alphas() * (1 - c.held_probs[c.index] ** alphas()) / alphas(),
        rhs=lambda c: (1 - alphas().unsqueeze(-1) * token_losses(c)).prod(-1),
        scale=one,
        published=Published(
            statement=r"f\left(\prod_t p_t\right) = \sum_t f(p_t)",
            side=lambda c: 1 - alphas() * token_losses(c).sum(-1),
            cite="li2025beyond",
            why="equation (2) written as an equality for every f",
        ),
        mutants=(
            Mutant("alpha forgotten", lambda c: (1 - token_losses(c)).prod(-1)),
            Mutant(
                "the last token left out",
                lambda c: (1 - alphas().unsqueeze(-1) * token_losses(c))[:, :-1].prod(-1),
            ),
        ),
    ),
    Claim(
        name="steepest-probability",
        title="Which tokens p^alpha moves most",
        kind="identity",
        statement=r"\argmax_p\, p^{\alpha}(1 - p) = \frac{\alpha}{1 + \alpha}",
        note="SFT moves the least likely tokens most, DFT those at 1/2, alpha = 10 those at 0.91: "
        "the exponent says which tokens an objective believes.",
        cites=("li2025beyond",),
        cases=numbers(0.1, 0.5, 1.0, 2.0, 10.0),
        lhs=lambda c: steepest(c.value),
        rhs=lambda c: scalar(c.value / (1 + c.value)),
        mutants=(
            Mutant("always one half", lambda _: scalar(0.5)),
            Mutant("1 / (1 + alpha)", lambda c: scalar(1 / (1 + c.value))),
            Mutant("alpha / (1 + 2 alpha)", lambda c: scalar(c.value / (1 + 2 * c.value))),
        ),
    ),
    Claim(
        name="chord-weight-descends-a-square",
        title="CHORD's weight descends half the squared distance of p from 1",
        kind="identity",
        statement=r"-p_y\,(1 - p_y)\,(e_y - p) = \nabla_z\, \frac{1}{2}(1 - p_y)^2",
        note="The Brier score without its terms for the other tokens. The weight is largest at "
        "1/2, its effect on the logit at 1/3.",
        cites=("zhang2025chord",),
        cases=token_cases,
        lhs=lambda c: gradients(c, chord_phi),
        rhs=lambda c: autograd(c, lambda p: (1 - p) ** 2 / 2),
        scale=one,
        mutants=(
            Mutant("factor 1/2 forgotten", lambda c: autograd(c, lambda p: (1 - p) ** 2)),
            Mutant(
                "stop-gradient forgotten", lambda c: autograd(c, lambda p: -p * (1 - p) * p.log())
            ),
        ),
    ),
    Claim(
        name="chord-optimum-is-water-filling",
        title="From data that disagree CHORD's weight keeps a few tokens and drops the rest",
        kind="identity",
        statement=r"p_v = \max\left(0,\, 1 - \frac{\nu}{r_v}\right), \qquad \sum_v p_v = 1",
        note="For r = (0.5, 0.3, 0.15, 0.05) the end is (0.625, 0.375, 0, 0): sparse, unlike every "
        "power below 1, and not only the mode, unlike DFT. One side sorts, the other brackets nu.",
        cites=("zhang2025chord",),
        cases=spectra,
        lhs=lambda c: chord_phi.optimum(c.demos),  # type: ignore[misc]
        rhs=lambda c: c.filled(c.level()),
        mutants=(
            Mutant("the data", lambda c: c.demos),
            Mutant("twice the level", lambda c: c.filled(2 * c.level())),
            Mutant(
                "no token dropped",
                lambda c: 1 - (c.terms - 1) / (1 / c.demos).sum() / c.demos,
                equivalent_when=lambda c: bool((c.filled(c.level()) > 0).all()),
                why="every token stays above the water",
            ),
        ),
    ),
    Claim(
        name="taylor-weights",
        title="Cut-off cross-entropy between DFT and SFT",
        kind="identity",
        statement=r"-\left(1 - (1 - p_y)^{t}\right)(e_y - p) = \nabla_z \sum_{i=1}^{t} "
        r"\frac{(1 - p_y)^i}{i}",
        note="Order 1 is DFT, all orders together are SFT. A cut-off keeps t times DFT's pull on "
        "a rare token: linear in p still.",
        cites=("feng2020taylor",),
        cases=token_cases,
        lhs=lambda c: gradients(c, *map(taylor, ORDERS)),
        rhs=lambda c: autograd(c, *map(cut_off, ORDERS)),
        scale=one,
        mutants=(
            Mutant("one term more", lambda c: autograd(c, *(cut_off(t + 1) for t in ORDERS))),
            Mutant("one term less", lambda c: autograd(c, *(cut_off(t - 1) for t in ORDERS))),
        ),
    ),
    Claim(
        name="focal-weights",
        title="The focal loss tilts the other way",
        kind="identity",
        statement=r"\left((1 - p_y)^{\gamma} - \gamma\, p_y (1 - p_y)^{\gamma - 1} \log p_y\right)"
        r"(p - e_y) = \nabla_z \left(-(1 - p_y)^{\gamma} \log p_y\right)",
        note="Here the factor is differentiated, as its authors do: stopping the gradient, as all "
        "relatives of DFT do, would drop the second term.",
        cites=("lin2017focal",),
        cases=token_cases,
        assumptions=(
            Assumption(
                "p is not 1 to rounding",
                "autograd of 1 - p cancels there",
                holds=lambda c: float(c.rest) > 1e-12,
            ),
        ),
        lhs=lambda c: gradients(c, *map(focal, GAMMAS)),
        rhs=lambda c: autograd(c, *map(focal_loss, GAMMAS)),
        scale=one,
        mutants=(
            Mutant(
                "factor held constant",
                lambda c: autograd(c, *(focal_loss(g, held=True) for g in GAMMAS)),
            ),
            Mutant("one power more", lambda c: autograd(c, *(focal_loss(g + 1) for g in GAMMAS))),
        ),
    ),
    Claim(
        name="sed-still-learns-to-one",
        title="A pull towards p = 1/2 that does not stop short of p = 1",
        kind="identity",
        statement=r"\argmin_p \left(-\log p + \lambda\left(p - \frac{1}{2}\right)^2\right) = "
        r"\min\left(1,\, \frac{\lambda + \sqrt{\lambda^2 + 8\lambda}}{4\lambda}\right)",
        note="At the published lambda = 1 a single demonstration is still learned to the end: the "
        "penalty slows the last stretch, and speeds up p < 1/2. Diversity is kept at the optimum "
        "only for lambda > 1, for instance p = 0.879 at 1.5.",
        cites=("chen2026sed",),
        cases=numbers(0.2, 0.5, 1.0, 1.5, 2.0, 4.0),
        assumptions=(
            Assumption("one demonstration, penalty not masked", "a mask only removes the penalty"),
        ),
        lhs=lambda c: resting_place(c.value),
        rhs=lambda c: scalar(min(1.0, interior(c.value))),
        mutants=(
            Mutant("always 1", lambda _: scalar(1.0)),
            Mutant("always inside", lambda c: scalar(interior(c.value))),
            Mutant("one half", lambda _: scalar(0.5)),
        ),
    ),
)
