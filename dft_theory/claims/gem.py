"""GEM: what the sharpened copy of the model changes, at each step and at the end."""

from collections.abc import Callable

import torch
from torch import Tensor

from dft_theory.claims.anchors import Population, populations, sharpened, zeros
from dft_theory.claims.base import Claim, Mutant
from dft_theory.claims.logit_gradient import one, token_cases
from dft_theory.claims.scope import TokenCase
from dft_theory.objectives import gem, power

BETAS = (0.3, 0.7, 1.5)


def gem_gradient(case: TokenCase, slope: float | None) -> Tensor:
    """Logit gradient of GEM as released, differences weighted by sigmoid(slope (z_v - z_y))."""
    z = case.logits.clone().requires_grad_(True)
    logp = z.log_softmax(-1)
    gaps = (case.logits - case.logits[case.target]) * (slope or 0.0)
    weight = torch.ones_like(gaps) if slope is None else torch.sigmoid(gaps)
    loss = -(sharpened(case, 0.7) * weight * (logp[case.target] - logp)).sum()
    return torch.autograd.grad(loss, z)[0]


def gem_gap(case: TokenCase, times: float) -> Tensor:
    """Distance of GEM from a multiple of its sigmoid-weighted form, summed over logits."""
    return (times * gem_gradient(case, 0.01) - gem_gradient(case, None)).abs().sum()


def gem_bound(case: TokenCase, slope: float) -> Tensor:
    """Slope times the mean distance of the logits from the target's."""
    return slope * (sharpened(case, 0.7) * (case.logits - case.logits[case.target]).abs()).sum()


def others(case: TokenCase, beta: float) -> Tensor:
    """Mass of softmax(z / beta) off the target, summed: 1 - q_y would cancel."""
    return (sharpened(case, beta) * (1 - case.onehot)).sum()


def flattened(case: Population, exponent: Callable[[float], float]) -> Tensor:
    """GEM's population gradients at r to the `exponent` of beta, for each beta, `[3, V]`."""
    found = []
    for beta in BETAS:
        p = case.demos ** exponent(beta)
        found.append(case.gradient(gem(beta), p / p.sum()))
    return torch.stack(found)


def pushed(case: TokenCase, *betas: float) -> Tensor:
    """softmax(z / beta) - e_y, `[betas, V]`."""
    return torch.stack([sharpened(case, beta) - case.onehot for beta in betas])


CLAIMS = (
    Claim(
        name="gem-at-beta-one-is-cross-entropy",
        title="GEM replaces the model's own term by a sharpened one",
        kind="identity",
        statement=r"\nabla_z \mathcal{L}_{\mathrm{GEM}} = \mathrm{softmax}(z/\beta) - e_y, \qquad "
        r"\beta = 1:\; p - e_y",
        note="The released linear loss differentiated, and this package's field for beta 0.7 and "
        "1, against the closed form. All of GEM is in which distribution is pushed down.",
        cites=("li2024gem",),
        cases=token_cases,
        lhs=lambda c: torch.stack(
            [gem_gradient(c, None), c.logit_gradient(gem(0.7)), c.logit_gradient(gem(1.0))]
        ),
        rhs=lambda c: pushed(c, 0.7, 0.7, 1.0),
        scale=one,
        mutants=(
            Mutant("temperature turned", lambda c: pushed(c, 1 / 0.7, 1 / 0.7, 1.0)),
            Mutant("cross-entropy for all", lambda c: pushed(c, 1.0, 1.0, 1.0)),
        ),
    ),
    Claim(
        name="gem-flattens-the-data",
        title="GEM learns the data at a higher temperature",
        kind="identity",
        statement=r"\pi \propto r^{\beta}: \qquad \mathbb{E}_{y\sim r}\left[\nabla_z "
        r"\mathcal{L}_{\mathrm{GEM}}\right] = 0",
        note="For beta 0.3, 0.7 and 1.5. At the optimum GEM is p^alpha with alpha = 1 - 1/beta, "
        "below 0 for beta < 1; the two fields differ everywhere else.",
        cites=("li2024gem",),
        cases=populations,
        lhs=lambda c: flattened(c, lambda beta: beta),
        rhs=lambda c: torch.zeros(3, c.terms, dtype=torch.float64),
        scale=one,
        mutants=(
            Mutant("1 / beta", lambda c: flattened(c, lambda beta: 1 / beta), of="lhs"),
            Mutant("the data themselves", lambda c: flattened(c, lambda _: 1.0), of="lhs"),
        ),
    ),
    Claim(
        name="gem-and-power-share-an-optimum",
        title="GEM and a negative power end at the same distribution",
        kind="identity",
        statement=r"\alpha = 1 - \frac{1}{\beta}: \qquad \pi \propto r^{1/(1-\alpha)} = r^{\beta}",
        note="p^alpha with alpha = -3/7 has the end of GEM with beta = 0.7, by a weight on the "
        "target alone and without a second softmax; its weight has no bound on rare tokens.",
        cites=("li2024gem", "zhang2018gce"),
        cases=populations,
        lhs=lambda c: c.gradient(power(1 - 1 / 0.7), gem(0.7).optimum(c.demos)),  # type: ignore[misc]
        rhs=zeros,
        scale=one,
        mutants=(
            Mutant(
                "alpha = beta - 1",
                lambda c: c.gradient(power(-0.3), gem(0.7).optimum(c.demos)),  # type: ignore[misc]
                of="lhs",
            ),
            Mutant(
                "alpha = 1/beta - 1",
                lambda c: c.gradient(power(1 / 0.7 - 1), gem(0.7).optimum(c.demos)),  # type: ignore[misc]
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="gem-learns-a-single-continuation",
        title="Where one continuation was seen GEM keeps no diversity",
        kind="identity",
        statement=r"-\frac{\partial \mathcal{L}_{\mathrm{GEM}}}{\partial z_y} = \sum_{v \neq y} "
        r"\mathrm{softmax}(z/\beta)_v > 0",
        note="The pull on a lone demonstration has one sign at every p < 1, so p tends to 1 as "
        "under SFT; it only weakens sooner, like ((1-p)/p)^(1/beta). What diversity remains comes "
        "from states with several continuations, shared parameters, or stopping.",
        cites=("li2024gem",),
        cases=token_cases,
        lhs=lambda c: -c.logit_gradient(gem(0.7))[c.target],
        rhs=lambda c: others(c, 0.7),
        scale=one,
        mutants=(
            Mutant("as under SFT", lambda c: others(c, 1.0)),
            Mutant(
                "minus a push back where p is large",
                lambda c: others(c, 0.7) - 0.3 * (c.p - 0.5).clamp_min(0),
            ),
        ),
    ),
    Claim(
        name="gem-sigmoid-is-half-of-linear",
        title="GEM's sigmoid form is half of its linear form",
        kind="inequality",
        relation="<=",
        statement=r"\Vert 2 g_\sigma - g \Vert_1 \leq 0.01 \sum_v q_v\,|z_v - z_y|, \qquad "
        r"q = \mathrm{softmax}(z/\beta)",
        note="sigmoid(0.01 x) is 1/2 to first order: the released option is the linear loss at "
        "half the learning rate, with logits 10 apart to 5 per cent.",
        cites=("li2024gem",),
        cases=token_cases,
        lhs=lambda c: gem_gap(c, 2.0),
        rhs=lambda c: gem_bound(c, 0.01),
        scale=one,
        mutants=(
            Mutant("the same learning rate", lambda c: gem_gap(c, 1.0), of="lhs"),
            Mutant("a third of the slope", lambda c: gem_bound(c, 0.01 / 3)),
        ),
    ),
)
