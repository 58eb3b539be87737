"""Ratios to a frozen policy: clips, sigmoids and divergences that make a trust region of SFT."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.catalogue import Population
from dft_theory.claims.logit_gradient import token_cases
from dft_theory.claims.policy_gradient import one_demo_each, policy_cases
from dft_theory.claims.scope import PolicyCase, Scope, TokenCase
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, dft, f_divergence, iw_sft, minor_sft, psft, sft
from dft_theory.seeding import generator

LOW, HIGH = 0.2, 0.28  # PSFT's recipe
BETA = 0.5

# ---- one ratio -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """A ratio rho = pi / pi_old of one token, for statements about functions of rho."""

    rho: float

    terms: int = 1

    def __str__(self) -> str:
        return f"rho = {self.rho:g}"

    def with_slope(self, *, low: bool = True, high: bool = True, pessimist: bool = True) -> Tensor:
        """Value and autograd slope of PSFT's minimum, or of parts of it, `[2]`."""
        rho = torch.tensor(self.rho, dtype=torch.float64, requires_grad=True)
        clip = rho.clamp(1 - LOW if low else None, 1 + HIGH if high else torch.inf)
        value = torch.minimum(rho, clip) if pessimist else clip
        return torch.stack([value.detach(), torch.autograd.grad(value, rho)[0]])

    def capped(self, ceiling: float = 1 + HIGH) -> Tensor:
        """min(rho, ceiling) and its slope, written by cases, `[2]`."""
        pair = (self.rho, 1.0) if self.rho <= ceiling else (ceiling, 0.0)
        return torch.tensor(pair, dtype=torch.float64)


@lru_cache(maxsize=2)
def _ratios(thorough: bool) -> tuple[Ratio, ...]:
    # 0.0137 off the round numbers at which the clips close.
    return tuple(Ratio(0.0137 + 0.05 * k) for k in range(400 if thorough else 60))


def ratios(scope: Scope) -> Sequence[Ratio]:
    """0.01 to 3."""
    return _ratios(scope.thorough)


def rho(case: TokenCase) -> float:
    """The ratio pi / pi_old of the target."""
    return float(case.p / torch.softmax(case.old_logits, -1)[case.target])


def clipped(case: TokenCase, low: float, high: float, *, pessimist: bool = True) -> Tensor:
    """Logit gradient of the published loss -min(rho, clip(rho, 1 - low, 1 + high)), `[V]`."""
    z = case.logits.clone().requires_grad_(True)
    old = torch.softmax(case.old_logits, -1)[case.target]
    ratio = torch.softmax(z, -1)[case.target] / old
    clip = ratio.clamp(1 - low, 1 + high)
    return torch.autograd.grad(-(torch.minimum(ratio, clip) if pessimist else clip), z)[0]


# ---- whole responses -------------------------------------------------------------------------


def against(case: PolicyCase, frozen: TokenStats | None = None) -> TokenStats:
    """The demonstration with the reference's log-probabilities, or the policy's own."""
    own = case.stats.logp.detach()
    base = own if frozen is None else frozen.logp.detach()
    return replace(case.stats, ref_logp=base, old_logp=base)


def reference_stats(case: PolicyCase) -> TokenStats:
    """Teacher-forced statistics of the demonstration under the reference."""
    return case.reference.stats(case.prompt, case.demo)


def minor(case: PolicyCase) -> Tensor:
    """Gradient of minorSFT at the reference itself and at the policy, `[2, D]`."""
    bases = (against(case), against(case, reference_stats(case)))
    return torch.stack(
        [case.gradient(minor_sft(BETA).surrogate(t, reduction=SumOver())) for t in bases]
    )


def faded(case: PolicyCase, first: float = 0.5, sign: float = 1.0) -> Tensor:
    """-beta / (1 + (pi / pi_ref)^beta) grad log pi from generated probabilities, `[2, D]`."""
    ref = enumeration.probabilities(case.reference, case.prompt).detach()[case.index]
    ratio = (case.held_probs[case.index] / ref) ** (sign * BETA)
    score = case.gradient(case.probs[case.index].log())
    return -torch.stack([first * BETA * score, BETA / (1 + ratio) * score])


# ---- divergences -----------------------------------------------------------------------------


Kind = Literal["kl", "hellinger", "js", "chi2"]


@dataclass(frozen=True)
class Divergence:
    """An f-divergence objective at an implicit reward x = beta log (pi / pi_ref)."""

    kind: Kind
    x: float

    terms: int = 1

    def __str__(self) -> str:
        return f"{self.kind} at x = {self.x:.2f}"

    def phi(self, x: Tensor) -> Tensor:
        """The concave function of the reward."""
        found = {
            "kl": lambda: -torch.exp(-x - 1),
            "hellinger": lambda: 1 - 1 / (1 + x),
            "js": lambda: torch.log(2 - torch.exp(-x)),
            "chi2": lambda: 0.5 - (1 - x) ** 2 / 2,
        }
        return found[self.kind]()

    def secant(self, step: float) -> Tensor:
        """Mean slope of phi between x and x + step, times beta."""
        x = torch.tensor(self.x, dtype=torch.float64)
        return BETA * (self.phi(x + step) - self.phi(x)) / step

    @property
    def weight(self) -> Tensor:
        """The objective's weight, from log-probabilities."""
        logp = torch.full((1, 1), -20.0, dtype=torch.float64)
        t = TokenStats(
            logp=logp + self.x / BETA, mask=torch.ones(1, 1, dtype=torch.bool), ref_logp=logp
        )
        return f_divergence(self.kind, BETA).weight(t)[0, 0]


@lru_cache(maxsize=2)
def _divergences(thorough: bool) -> tuple[Divergence, ...]:
    n = 200 if thorough else 20
    grid = torch.linspace(-0.4, 3.0, n, dtype=torch.float64).tolist()
    return tuple(Divergence(k, x) for k in get_args(Kind) for x in grid)


def divergences(scope: Scope) -> Sequence[Divergence]:
    """Four divergences, x from -0.4 to 3."""
    return _divergences(scope.thorough)


# ---- populations -----------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _weighted(thorough: bool) -> tuple[Population, ...]:
    g = generator(0, "ratio populations")
    objective = iw_sft("token", clamp=None)
    draw = torch.softmax(
        torch.randn(60 if thorough else 12, 2, 4, dtype=torch.float64, generator=g), -1
    )
    return tuple(Population(objective, tuple(r.tolist()), tuple(b.tolist())) for r, b in draw)


def weighted(scope: Scope) -> Sequence[Population]:
    """Token-level importance weights on random data and references."""
    return _weighted(scope.thorough)


def weighted_value(case: Population) -> Tensor:
    """E_{y~r}[pi(y) / b(y)] at ten random policies and at the declared optimum, `[11]`."""
    g = generator(0, "ratio policies")
    policies = torch.softmax(3 * torch.randn(10, 4, dtype=torch.float64, generator=g), -1)
    return torch.cat([-case.potential(p) for p in (*policies, case.optimum)])


CLAIMS = (
    Claim(
        name="psft-lower-clip-is-inert",
        title="PSFT's lower clip has no effect",
        kind="refutation",
        statement=r"\min\left(\rho,\, \mathrm{clip}(\rho,\, 1 - \epsilon_l,\, 1 + \epsilon_h)"
        r"\right) = \min(\rho,\, 1 + \epsilon_h)",
        note="PSFT is PPO with advantage 1, and PPO's minimum bounds only what an update may win. "
        "A token that the policy has grown away from is learned with its full ratio, whatever "
        "the lower bound of the recipe (0.2) says. Value and slope, by autograd.",
        cites=("zhu2025psft", "schulman2017ppo"),
        cases=ratios,
        lhs=lambda c: c.with_slope(),
        rhs=lambda c: c.capped(),
        published=Published(
            statement=r"1 - \epsilon_l \leq \min\left(\rho,\, \mathrm{clip}(\rho,\, "
            r"1 - \epsilon_l,\, 1 + \epsilon_h)\right)",
            lhs=lambda c: torch.tensor(1 - LOW, dtype=torch.float64),
            side=lambda c: c.with_slope()[0],
            cite="zhu2025psft",
            relation="<=",
            why="the reading that the reported range 0.2 / 0.28 invites: ratios held from below",
            second_hand=True,
        ),
        mutants=(
            Mutant("the clip without the minimum", lambda c: c.with_slope(pessimist=False)),
            Mutant("capped at 1 + eps_l", lambda c: c.capped(1 + LOW)),
            Mutant("no upper clip", lambda c: c.with_slope(high=False)),
        ),
    ),
    Claim(
        name="psft-gradient",
        title="PSFT weights SFT by the ratio, up to the clip",
        kind="identity",
        statement=r"\nabla_z \left(-\min(\rho,\, \mathrm{clip}(\rho,\, 1 - \epsilon_l,\, "
        r"1 + \epsilon_h))\right) = -\rho\, \mathbf{1}[\rho \leq 1 + \epsilon_h]\,(e_y - \pi)",
        note="DFT's weight p, divided by what p was at the last outer step: with one inner step "
        "it is SFT, with many it lets go of a token once it has gained 28 %.",
        cites=("zhu2025psft",),
        cases=token_cases,
        lhs=lambda c: c.logit_gradient(psft(LOW, HIGH)),
        rhs=lambda c: clipped(c, LOW, HIGH),
        scale=rho,
        mutants=(
            Mutant(
                "not clipped",
                lambda c: clipped(c, LOW, 1e9),
                equivalent_when=lambda c: rho(c) <= 1 + HIGH,
                why="the clip is open",
            ),
            Mutant(
                "clipped on both sides",
                lambda c: clipped(c, LOW, HIGH, pessimist=False),
                equivalent_when=lambda c: rho(c) >= 1 - LOW,
                why="the lower clip is open",
            ),
            Mutant("SFT", lambda c: c.logit_gradient(sft)),
        ),
    ),
    Claim(
        name="psft-first-step-is-sft",
        title="The first inner step of PSFT is SFT",
        kind="identity",
        statement=r"\pi_{\mathrm{old}} = \pi_\theta \;\Longrightarrow\; \nabla_\theta "
        r"\mathcal{L}_{\mathrm{PSFT}} = -\nabla_\theta \log \pi_\theta(y^\star \mid x)",
        note="At ratio 1 nothing is clipped: only a second step on the same batch, or a lagging "
        "copy, differs from SFT at all.",
        cites=("zhu2025psft",),
        cases=policy_cases,
        lhs=lambda c: c.gradient(psft().surrogate(against(c), reduction=SumOver())),
        rhs=lambda c: -c.gradient(c.probs[c.index].log()),
        mutants=(
            Mutant(
                "an older policy",
                lambda c: c.gradient(
                    psft().surrogate(against(c, reference_stats(c)), reduction=SumOver())
                ),
                of="lhs",
            ),
            Mutant("DFT", lambda c: c.surrogate_gradient(dft)),
        ),
    ),
    Claim(
        name="minor-sft-fades",
        title="minorSFT begins at half of beta and fades",
        kind="identity",
        statement=r"\nabla_\theta \left(-\log \sigma\left(\beta \log "
        r"\frac{\pi_\theta}{\pi_{\mathrm{ref}}}\right)\right) = "
        r"-\frac{\beta}{1 + (\pi_\theta / \pi_{\mathrm{ref}})^{\beta}}\, "
        r"\nabla_\theta \log \pi_\theta",
        note="At the reference the weight is beta/2, beyond it smaller: a one-sided trust region "
        "without an edge. This is the form of the released library; the paper divides by the "
        "number of tokens. Left: the training path; right: probabilities of whole responses.",
        cites=("xie2024minorsft",),
        cases=one_demo_each,
        lhs=minor,
        rhs=faded,
        mutants=(
            Mutant("begins at beta", lambda c: faded(c, first=1.0)),
            Mutant("grows with the ratio", lambda c: faded(c, sign=-1.0)),
        ),
    ),
    Claim(
        name="f-divergence-weights-fall",
        title="Under any f-divergence the weight falls as the policy outgrows its reference",
        kind="inequality",
        relation="<=",
        statement=r"\beta\, \frac{\phi(x + h) - \phi(x)}{h} \leq w(x) \leq "
        r"\beta\, \frac{\phi(x) - \phi(x - h)}{h}, \qquad "
        r"x = \beta \log \frac{\pi_\theta}{\pi_{\mathrm{ref}}}",
        note="phi is concave for KL, Hellinger, Jensen-Shannon and chi squared, so its slope lies "
        "between its secants: a soft trust region that SFT, with phi linear, lacks.",
        cites=("wang2025implicit", "garg2021iqlearn"),
        cases=divergences,
        assumptions=(
            Assumption(
                "x above the poles of phi, at -1 (Hellinger) and -log 2 (Jensen-Shannon)",
                "the weight is infinite there and means nothing below",
            ),
        ),
        lhs=lambda c: torch.stack([c.secant(0.05), c.weight]),
        rhs=lambda c: torch.stack([c.weight, c.secant(-0.05)]),
        mutants=(
            Mutant(
                "the weight rises",
                lambda c: torch.stack([c.weight, c.secant(0.05)]),
            ),
            Mutant(
                "SFT's constant weight",
                lambda c: torch.stack([torch.full_like(c.weight, BETA), c.secant(-0.05)]),
            ),
        ),
    ),
    Claim(
        name="ratio-weights-learn-the-largest-ratio",
        title="Weighted by p/b, training learns what the reference underrates most",
        kind="inequality",
        relation="<=",
        statement=r"\mathbb{E}_{y \sim r}\left[\frac{\pi(y)}{b(y)}\right] \leq "
        r"\max_y \frac{r(y)}{b(y)}",
        note="The objective of token-level iw-SFT without a clamp is linear in the policy, so its "
        "optimum is one token: not the most frequent one but the one that the reference "
        "underrates most, however rare it is. The clamp of the released code stops it on the way.",
        cites=("qin2025iwsft",),
        cases=weighted,
        lhs=weighted_value,
        rhs=lambda c: (c.demos / c.reference).max().expand(11),
        mutants=(
            Mutant(
                "the mode of the data",
                lambda c: (c.demos / c.reference)[c.demos.argmax()].expand(11),
                equivalent_when=lambda c: bool(
                    (c.demos / c.reference).argmax() == c.demos.argmax()
                ),
                why="the mode has the largest ratio",
            ),
            Mutant("the data", lambda c: (c.demos**2 / c.reference).sum().expand(11)),
        ),
    ),
)
