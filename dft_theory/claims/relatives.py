"""Potentials, limits and prior art: what DFT was called before (gap G16)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.logit_gradient import one, token_cases
from dft_theory.claims.scope import ObjectiveCase, Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.objectives import OBJECTIVES, Limit, Objective, SumOver, dft, objectives, power
from dft_theory.seeding import generator


def objective_cases(scope: Scope) -> Sequence[ObjectiveCase]:
    """Every objective with a potential, on every policy."""
    return [c for c in scope.objective_cases if c.objective.potential is not None]


def potential_gradient(case: ObjectiveCase) -> Tensor:
    """True gradient of the declared potential, `[D]`."""
    return case.at.gradient(case.objective.potential_value(case.stats, reduction=SumOver()))


def attached_gradient(case: ObjectiveCase) -> Tensor:
    """Gradient of the surrogate's formula without its stop-gradient, `[D]`."""
    t, objective = case.stats, case.objective
    terms = objective.weight(t) * t.logp * t.mask
    if objective.target is not None and t.log_probs is not None:
        terms = terms + (objective.target(t) * t.log_probs).sum(-1) * t.mask
    return case.at.gradient(-terms.sum())


def held_constant(case: ObjectiveCase) -> bool:
    """Whether weight and target do not move with the policy, so that no stop-gradient matters."""
    t, objective = case.stats, case.objective
    parts = [objective.weight(t)] + ([objective.target(t)] if objective.target else [])
    return not any(part.requires_grad for part in parts)


@dataclass(frozen=True)
class LimitCase:
    """A declared limit of a family of objectives."""

    source: Objective
    limit: Limit
    terms: int = 1

    def __str__(self) -> str:
        return f"{self.source.name}: {self.limit.parameter} -> {self.limit.at:g}"

    @cached_property
    def tokens(self) -> tuple[TokenCase, ...]:
        """Softmaxes over five tokens with the target at 0.0001 to 0.9, rivals uneven."""
        g = generator(0, "limits")
        rivals = torch.randn(5, dtype=torch.float64, generator=g)
        cases = []
        for p in (1e-4, 1e-2, 0.1, 0.3, 0.7, 0.9):
            z = rivals.clone()
            z[2] = torch.cat([z[:2], z[3:]]).logsumexp(0) + math.log(p / (1 - p))
            cases.append(TokenCase(z, 2, "limit"))
        return tuple(cases)

    def approach(self) -> Estimate:
        """Fields at distances 1e-1 ... 1e-6 from the limit, with the declared error bars."""
        at = self.limit.at
        # Towards the interior of [0, 1], where the families with a limit at 1 live.
        side = -1.0 if at == 1.0 else 1.0
        steps = [10.0**-k for k in range(1, 7)]
        found = [
            self.target(self.limit.family(1 / h if math.isinf(at) else at + side * h))[0]
            for h in steps
        ]
        size = torch.stack([c.p.log().abs().clamp_min(1) for c in self.tokens]).unsqueeze(-1)
        bars = [(h * self.limit.rate * size).expand_as(found[0]) for h in steps]
        return Estimate(torch.stack(found), torch.stack(bars))

    def target(self, objective: Objective) -> Tensor:
        """Fields of an objective in the logits, once for every distance, `[6, 6, V]`."""
        return torch.stack([-c.logit_gradient(objective) for c in self.tokens]).expand(6, -1, -1)


def limits(scope: Scope) -> Sequence[LimitCase]:  # noqa: ARG001 (the catalogue is the scope)
    """Every limit declared in the catalogue."""
    return [LimitCase(o, limit) for o in OBJECTIVES for limit in o.limits]


def logit_gradient(case: TokenCase, loss: str) -> Tensor:
    """Logit gradient of a published loss, written out as its authors do, `[V]`."""
    z = case.logits.clone().requires_grad_(True)
    nll = F.cross_entropy(z.unsqueeze(0), torch.tensor([case.target]))
    p = torch.softmax(z, -1)
    values = {
        "gce-1/2": lambda: (1 - p[case.target].sqrt()) / 0.5,
        "gce-1/2 unscaled": lambda: 1 - p[case.target].sqrt(),
        "mixce": lambda: torch.exp(-nll.detach()) * nll,
        "mixce attached": lambda: torch.exp(-nll) * nll,
        "mae": lambda: 0.5 * (p - case.onehot).abs().sum(),
        "mae unscaled": lambda: (p - case.onehot).abs().sum(),
        "brier": lambda: 0.5 * (p - case.onehot).square().sum(),
    }
    return torch.autograd.grad(values[loss](), z)[0]


CLAIMS = (
    Claim(
        name="surrogate-descends-its-potential",
        title="Where a potential is declared, the surrogate descends it",
        kind="identity",
        statement=r"\nabla_\theta \sum_t -\mathrm{sg}(w_t) \log \pi_t = \nabla_\theta \sum_t "
        r"\phi(\log \pi_t)",
        note="The surrogate's value means nothing, but where the weight field is conservative "
        "there is a loss whose value does: -p for DFT, (1 - p^alpha)/alpha between.",
        cites=("wu2025dft", "zhang2018gce"),
        cases=objective_cases,
        lhs=lambda c: c.surrogate_gradient,
        rhs=potential_gradient,
        mutants=(
            Mutant(
                "twice the potential",
                lambda c: 2 * potential_gradient(c),
                equivalent_when=lambda c: bool((potential_gradient(c) == 0).all()),
                why="no token passes the threshold",
            ),
            Mutant(
                "the surrogate's own value",
                attached_gradient,
                equivalent_when=held_constant,
                why="a constant weight has no derivative",
            ),
        ),
    ),
    Claim(
        name="declared-limits-are-reached",
        title="Families reach their declared limits at the declared rate",
        kind="limit",
        statement=r"\Vert F_h - F_0 \Vert_\infty \leq C\, h\, \max(1, |\log p|)",
        note="F is the field in the logits, w (e_y - pi) plus any target. p^alpha tends to SFT and "
        "to DFT, floors, mixtures and anchors to their ends; six distances h from 0.1 to 1e-6.",
        cites=("zhang2018gce", "pang2021gold"),
        cases=limits,
        tolerance=Numerical(),
        lhs=lambda c: c.approach(),
        rhs=lambda c: c.target(objectives[c.limit.objective]),
        mutants=(
            Mutant("p squared", lambda c: c.target(power(2.0))),
            Mutant(
                "the other end",
                lambda c: c.target(objectives["dft" if c.limit.objective == "sft" else "sft"]),
            ),
        ),
    ),
    Claim(
        name="power-weights-are-generalised-cross-entropy",
        title="The family p^alpha is generalised cross entropy (2018)",
        kind="identity",
        statement=r"\nabla_z \frac{1 - p_y^{\alpha}}{\alpha} = p_y^{\alpha}\,(p - e_y), \qquad "
        r"\alpha = \frac{1}{2}",
        note="Zhang and Sabuncu's loss for noisy labels; alpha is their q.",
        cites=("zhang2018gce",),
        cases=token_cases,
        lhs=lambda c: c.logit_gradient(power(0.5)),
        rhs=lambda c: logit_gradient(c, "gce-1/2"),
        scale=one,
        mutants=(
            Mutant("1/alpha forgotten", lambda c: logit_gradient(c, "gce-1/2 unscaled")),
            Mutant("alpha = 1", lambda c: logit_gradient(c, "mae")),
        ),
    ),
    Claim(
        name="dft-is-mixce-at-ratio-zero",
        title="DFT is MixCE with mixing ratio 0 (2023)",
        kind="identity",
        statement=r"\nabla_z \mathcal{L}_{\mathrm{DFT}} = \nabla_z \left( \mathrm{sg}"
        r"(e^{-\mathrm{CE}})\, \mathrm{CE} \right)",
        note="The same two lines appear in MixCE's language-model code.",
        cites=("zhang2023mixce",),
        cases=token_cases,
        lhs=lambda c: c.logit_gradient(dft),
        rhs=lambda c: logit_gradient(c, "mixce"),
        scale=one,
        mutants=(
            Mutant("stop-gradient forgotten", lambda c: logit_gradient(c, "mixce attached")),
            Mutant("weight forgotten", lambda c: c.probs - c.onehot),
        ),
    ),
    Claim(
        name="dft-is-mean-absolute-error",
        title="DFT descends half the mean absolute error",
        kind="identity",
        statement=r"\nabla_z \mathcal{L}_{\mathrm{DFT}} = \nabla_z\, \frac{1}{2} "
        r"\Vert p - e_y \Vert_1 = \nabla_z\,(1 - p_y)",
        note="The loss known since 2017 to be robust to label noise and slow to learn: "
        "both of DFT's faces are in the literature under that name.",
        cites=("zhang2018gce",),
        cases=token_cases,
        assumptions=(
            Assumption(
                "rounding does not tie p and e_y",
                "the absolute value has a kink at 0",
                holds=lambda c: float(c.rest) > 1e-12,
            ),
        ),
        lhs=lambda c: c.logit_gradient(dft),
        rhs=lambda c: logit_gradient(c, "mae"),
        scale=one,
        mutants=(
            Mutant("factor 1/2 forgotten", lambda c: logit_gradient(c, "mae unscaled")),
            Mutant("squared error", lambda c: logit_gradient(c, "brier")),
        ),
    ),
)
