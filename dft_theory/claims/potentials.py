"""Which objectives are the gradient of a loss, and which only look like one.

A field over the logits is a gradient exactly where its Jacobian is symmetric. All logits of a
batch are taken together, so that a weight which reads other tokens is caught as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.entropy import IDFT
from dft_theory.claims.entropy_weights import cut_exponent
from dft_theory.claims.scope import NEEDS, ObjectiveToken, Scope, TokenCase
from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import OBJECTIVES, Objective, SumOver, power, sft
from dft_theory.seeding import generator

RESPONSES, LENGTH = 4, 2


def held(objective: Objective) -> Objective:
    """The same objective with its weight and target constant in the logits."""
    target = objective.target
    return replace(
        objective,
        weight=lambda t: objective.weight(t.detach()),
        target=None if target is None else lambda t: target(t.detach()),
    )


@dataclass(frozen=True)
class Joint:
    """An objective on four responses of two tokens, every logit being a variable of its own."""

    objective: Objective
    vocab: int
    seed: int

    def __str__(self) -> str:
        return f"{self.objective.name}, V = {self.vocab}, batch {self.seed}"

    @property
    def terms(self) -> int:
        """Number of logits."""
        return RESPONSES * LENGTH * self.vocab

    @cached_property
    def drawn(self) -> tuple[Tensor, ...]:
        """Logits, those of the reference and of the past `[4, 2, V]`; targets, samples `[4, 2]`."""
        g = generator(self.seed, "joint", self.vocab)
        shape = (RESPONSES, LENGTH, self.vocab)
        z, ref, old = (torch.randn(shape, dtype=torch.float64, generator=g) for _ in range(3))
        targets, sampled = (torch.randint(self.vocab, shape[:2], generator=g) for _ in range(2))
        return z, z + 0.5 * ref, z + 0.1 * old, targets, sampled

    def stats(self, logits: Tensor) -> TokenStats:
        """Everything an objective may need, at `logits [4, 2, V]`."""
        _, ref, old, targets, sampled = self.drawn
        rows = [torch.cat([x, torch.zeros_like(x[:, :1])], 1) for x in (logits, ref, old)]
        labels = torch.cat([torch.full_like(targets[:, :1], -100), targets], 1)
        t = token_stats(rows[0], labels, needs=NEEDS, ref_logits=rows[1], old_logits=rows[2])
        sign = torch.tensor([[0.75], [-0.5], [0.75], [-0.5]], dtype=logits.dtype)
        return replace(t, advantage=sign.expand(RESPONSES, LENGTH), sampled=sampled.unsqueeze(-1))

    def jacobian_of(self, objective: Objective) -> Tensor:
        """Of a field, in all logits, `[D, D]`."""
        z = self.drawn[0]
        found: Tensor = jacobian(lambda x: objective.field(self.stats(x)), z, vectorize=True)
        return found.reshape(self.terms, self.terms)

    @cached_property
    def jacobian(self) -> Tensor:
        """Of the objective's own field."""
        return self.jacobian_of(self.objective)

    def hessian_of(self, loss: Callable[[TokenStats], Tensor]) -> Tensor:
        """Of a scalar, in all logits, `[D, D]`."""
        found: Tensor = hessian(lambda x: loss(self.stats(x)), self.drawn[0])
        return found.reshape(self.terms, self.terms)

    def potential(self, t: TokenStats) -> Tensor:
        """The declared potential, summed."""
        return self.objective.potential_value(t, reduction=SumOver())


@lru_cache(maxsize=4)
def _joint(seeds: int) -> tuple[Joint, ...]:
    return tuple(Joint(o, 4, s) for o in OBJECTIVES for s in range(seeds))


def with_potential(scope: Scope) -> Sequence[Joint]:
    """Every objective that declares a potential."""
    cases = _joint(3 if scope.thorough else 1)
    return [c for c in cases if c.objective.potential is not None]


def without_potential(scope: Scope) -> Sequence[Joint]:
    """Every objective that declares none."""
    cases = _joint(3 if scope.thorough else 1)
    return [c for c in cases if c.objective.potential is None]


def twist(jacobian: Tensor) -> Tensor:
    """Size of the antisymmetric part of a Jacobian, relative to the Jacobian's."""
    ratio: Tensor = (jacobian - jacobian.T).norm() / jacobian.norm()
    return ratio


def constant(case: Joint) -> bool:
    """Whether weight and target do not move with the logits."""
    return bool(torch.equal(case.jacobian, case.jacobian_of(held(case.objective))))


# ---- one token -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slope(ObjectiveToken):
    """A weight at one softmax, and its slope in the logits."""

    def jacobian_of(self, objective: Objective) -> Tensor:
        """Of a field, `[V, V]`."""
        found: Tensor = jacobian(lambda z: objective.field(self.at.stats(z))[0, 0], self.at.logits)
        return found

    @cached_property
    def jacobian(self) -> Tensor:
        """Of the objective's own field."""
        return self.jacobian_of(self.objective)

    @cached_property
    def slope(self) -> Tensor:
        """Gradient of the weight in the logits, `[V]`; 0 for a constant one."""
        z = self.at.logits.clone().requires_grad_(True)
        weight = self.objective.weight(self.at.stats(z)).sum()
        return torch.autograd.grad(weight, z)[0] if weight.requires_grad else torch.zeros_like(z)

    def wedge(self, score: Tensor) -> Tensor:
        """The antisymmetric score slope^T - slope score^T, `[V, V]`."""
        return score.outer(self.slope) - self.slope.outer(score)

    @property
    def size(self) -> float:
        """Size of what cancels."""
        return max(1.0, float(self.jacobian.abs().max()), float(self.slope.abs().max()))

    def power_field(self, exponent: float) -> Tensor:
        """Jacobian of the field of p^exponent, `[V, V]`."""
        return self.jacobian_of(power(exponent))


@lru_cache(maxsize=4)
def _slopes(cases: tuple[TokenCase, ...]) -> tuple[Slope, ...]:
    weights = [o for o in OBJECTIVES if o.target is None and o.level not in ("batch", "group")]
    # Neither uniform nor nearly one-hot: there every slope vanishes.
    random = [c for c in cases if c.terms <= 7 and c.label.endswith(("scale 1", "scale 3"))]
    return tuple(Slope(o, c) for c in random for o in weights)


def slopes(scope: Scope) -> Sequence[Slope]:
    """Every weight of a token or a response, at random softmaxes over 3 and 7 tokens."""
    return [c for c in _slopes(scope.token_cases) if c.terms > 2]


def pairs(scope: Scope) -> Sequence[Slope]:
    """The same with two tokens."""
    return [c for c in _slopes(scope.token_cases) if c.terms == 2]


@lru_cache(maxsize=4)
def _idft(cases: tuple[TokenCase, ...]) -> tuple[Slope, ...]:
    return tuple(Slope(IDFT, c) for c in cases)


def idft_tokens(scope: Scope) -> Sequence[Slope]:
    """IDFT at every softmax."""
    return _idft(scope.token_cases)


def cut(case: Slope) -> bool:
    """Whether IDFT's exponent is held at an end, well away from the kink."""
    free = float(cut_exponent(case.at, 0.0, float("inf")))
    return free < 0.099 or free > 2.01


def end(case: Slope) -> float:
    """The end at which the exponent is held."""
    return 2.0 if float(cut_exponent(case.at, 0.0, float("inf"))) > 1 else 0.1


CLAIMS = (
    Claim(
        name="declared-potentials-are-whole",
        title="Where a potential is declared, the field is its gradient in every direction",
        kind="identity",
        statement=r"\frac{\partial F_i}{\partial z_j} = -\frac{\partial^2 \Phi}{\partial z_i\, "
        r"\partial z_j} = \frac{\partial F_j}{\partial z_i}",
        note="The Jacobian of the closed-form field against the Hessian of the potential, over "
        "all logits of a batch: for these objectives a trainer can print a number that falls.",
        cites=("wu2025dft", "zhang2018gce"),
        cases=with_potential,
        lhs=lambda c: c.jacobian,
        rhs=lambda c: -c.hessian_of(c.potential),
        scale=lambda c: max(1.0, float(c.jacobian.abs().max())),
        mutants=(
            Mutant(
                "the weight held constant",
                lambda c: c.jacobian_of(held(c.objective)),
                of="lhs",
                equivalent_when=constant,
                why="it is constant",
            ),
            Mutant(
                "half the potential",
                lambda c: -c.hessian_of(lambda t: c.potential(t) / 2),
                equivalent_when=lambda c: bool(c.jacobian.abs().max() < 1e-12),
                why="nothing moves with the logits",
            ),
        ),
    ),
    Claim(
        name="no-potential-where-none-is-declared",
        title="Where none is declared there is none: the field turns",
        kind="inequality",
        relation="<=",
        statement=r"\frac{1}{100} \leq \frac{\Vert J - J^{\top} \Vert}{\Vert J \Vert}, \qquad "
        r"J_{ij} = \frac{\partial F_i}{\partial z_j}",
        note="Weights that read the entropy (EAFT, IDFT, exp(-H), DEFT) or the batch. The value of "
        "such a loss is not what training minimises: neither its descent nor a finite difference "
        "of it says anything.",
        cites=("diao2026eaft", "zhang2026idft", "wang2026deft", "lin2025talr"),
        cases=without_potential,
        assumptions=(
            Assumption(
                "a weight without jumps",
                "a mask that switches with the whole batch is constant, and symmetric, wherever "
                "it does not switch",
                holds=lambda c: not c.objective.name.startswith("sed-masked"),
            ),
        ),
        lhs=lambda _: torch.tensor(0.01, dtype=torch.float64),
        rhs=lambda c: twist(c.jacobian),
        mutants=(
            Mutant("the weight held constant", lambda c: twist(c.jacobian_of(held(c.objective)))),
            Mutant("SFT", lambda c: twist(c.jacobian_of(sft))),
            Mutant(
                "two tokens instead of four",
                lambda c: twist(Joint(c.objective, 2, c.seed).jacobian),
                equivalent_when=lambda c: c.objective.level == "batch",
                why="what turns is one token against another position",
            ),
        ),
    ),
    Claim(
        name="weights-turn-off-the-score",
        title="A weight has a potential where its slope lies along the score",
        kind="identity",
        statement=r"J - J^{\top} = (e_y - \pi)\, (\nabla_z w)^{\top} - \nabla_z w\, "
        r"(e_y - \pi)^{\top}",
        note="It vanishes if the gradient of w is a multiple of e_y - pi, which is the gradient of "
        "log p: if w depends on the logits through p alone. One line decides for any new weight.",
        cites=("li2025beyond",),
        cases=slopes,
        lhs=lambda c: c.jacobian - c.jacobian.T,
        rhs=lambda c: c.wedge(c.at.onehot - c.at.probs),
        scale=lambda c: c.size,
        mutants=(
            Mutant(
                "opposite sign",
                lambda c: -c.wedge(c.at.onehot - c.at.probs),
                equivalent_when=lambda c: c.objective.potential is not None,
                why="both are 0",
            ),
            Mutant(
                "e_y for the score",
                lambda c: c.wedge(c.at.onehot),
                equivalent_when=lambda c: bool((c.slope == 0).all()),
                why="the weight does not move",
            ),
        ),
    ),
    Claim(
        name="two-tokens-always-have-a-potential",
        title="With two tokens every weight has a potential",
        kind="identity",
        statement=r"V = 2 \;\Longrightarrow\; J = J^{\top}",
        note="Only the difference of the logits counts, and a line has no room to turn. A check on "
        "binary toys cannot tell a loss from a mere field.",
        cites=("li2025beyond",),
        cases=pairs,
        lhs=lambda c: c.jacobian,
        rhs=lambda c: c.jacobian.T,
        scale=lambda c: c.size,
        mutants=(
            Mutant("antisymmetric", lambda c: -c.jacobian.T),
            Mutant(
                "the weight's slope at the target alone",
                lambda c: c.at.onehot.outer(c.slope) + c.jacobian_of(held(c.objective)),
                of="lhs",
                equivalent_when=lambda c: bool((c.slope == 0).all()),
                why="the weight does not move",
            ),
        ),
    ),
    Claim(
        name="idft-is-a-power-where-it-is-cut",
        title="IDFT has a potential where its exponent is cut, and only there",
        kind="identity",
        statement=r"\frac{1}{p\, e^{H}} \notin \left[\frac{1}{10}, 2\right] \;\Longrightarrow\; "
        r"J_{\mathrm{IDFT}} = J_{p^{\gamma}}, \qquad \gamma \in \left\{\frac{1}{10}, 2\right\}",
        note="There it is a member of the power family: a test that happens to draw such a state "
        "finds a symmetric Jacobian and proves nothing about the method.",
        cites=("zhang2026idft",),
        cases=idft_tokens,
        assumptions=(
            Assumption(
                "the exponent is cut", "it moves with the entropy, and the field turns", holds=cut
            ),
        ),
        lhs=lambda c: c.jacobian,
        rhs=lambda c: c.power_field(end(c)),
        mutants=(
            Mutant("DFT", lambda c: c.power_field(1.0)),
            Mutant("the other end", lambda c: c.power_field(0.2 / end(c))),
        ),
    ),
)
