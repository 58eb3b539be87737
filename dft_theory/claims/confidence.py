"""Unlikely tokens in a certain and in an unsure model, and contexts that were never visited.

The gradient of a rare token is bounded; what differs between methods is whether they can tell a
token that the model rules out (a conflict) from one of many that it has no opinion about.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.gradient_flow import integrated, scalars
from dft_theory.claims.policy_gradient import SUPPORT, one_demo_each, policy_cases
from dft_theory.claims.rectification import table_cases
from dft_theory.claims.scope import PolicyCase, Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, FiniteDifference, Numerical
from dft_theory.dynamics import reach, symmetric_start
from dft_theory.objectives import Objective, deft_renyi, dft, eaft, idft, sft
from dft_theory.policies import Policy, TablePolicy
from dft_theory.seeding import generator

EAFT, IDFT = eaft(), idft()
DIFFERENCE = FiniteDifference()

# ---- at one token ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two softmaxes that give the target the same p and split the rest differently."""

    p: float
    vocab: int
    seed: int

    def __str__(self) -> str:
        return f"p = {self.p:g}, V = {self.vocab}, split {self.seed}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    def norm(self, sharpness: float) -> Tensor:
        """Norm of SFT's logit gradient with rivals of random logits times `sharpness`."""
        g = generator(self.seed, "split", self.vocab)
        z = sharpness * torch.randn(self.vocab, dtype=torch.float64, generator=g)
        z[0] = z[1:].logsumexp(0) + math.log(self.p / (1 - self.p))
        gradient: Tensor = TokenCase(z, 0, "split").logit_gradient(sft)
        return gradient.square().sum().sqrt()

    @cached_property
    def ratio(self) -> Tensor:
        """From one rival, or a few, to rivals all alike."""
        return torch.stack([self.norm(100.0), self.norm(1.0)]) / self.norm(0.0)

    def limit(self, power: float = 0.5) -> Tensor:
        """(2 (V-1)/V)^power, twice."""
        return scalars(*2 * [(2 * (self.vocab - 1) / self.vocab) ** power])


def pairs(scope: Scope) -> Sequence[Pair]:
    """From hardly possible to nearly certain targets."""
    seeds = range(5 if scope.thorough else 2)
    ps = (1e-6, 0.01, 0.3, 0.9)
    return [Pair(p, v, k) for v in (3, 5, 50) for p in ps for k in seeds]


@dataclass(frozen=True)
class ConflictAndDiffuse:
    """A target of probability p against one certain rival, and one among V equal tokens."""

    p: float
    vocab: int

    def __str__(self) -> str:
        return f"conflict at p = {self.p:g}, diffuse over {self.vocab} tokens"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    @cached_property
    def weights(self) -> Tensor:
        """Weights of SFT, DFT, EAFT and DEFT, conflict and diffuse, `[4, 2]`."""
        z = torch.full((self.vocab,), -800.0, dtype=torch.float64)
        z[0], z[1] = math.log(self.p), math.log1p(-self.p)
        states = TokenCase(z, 0, "conflict"), TokenCase(torch.zeros_like(z), 0, "diffuse")
        ways = (sft, dft, EAFT, deft_renyi)
        found = [w.weight(c.stats(c.logits)).reshape(()) for w in ways for c in states]
        return torch.stack(found).reshape(4, 2)

    def closed(self, top: int = 20, collision: int = 2) -> Tensor:
        """The same by hand: 1; p; H/3 over the top tokens; p^(sum pi^2), `[4, 2]`."""
        p, v = self.p, self.vocab
        certain = p**collision + (1 - p) ** collision
        rows = [
            1,
            1,
            p,
            1 / v,
            binary_entropy(p) / 3,
            math.log(min(top, v)) / 3,
            p**certain,
            v ** (-1 / v),
        ]
        return scalars(*rows).reshape(4, 2)


def conflicts(scope: Scope) -> Sequence[ConflictAndDiffuse]:  # noqa: ARG001 (always the same)
    """Small and large vocabularies; the last two at the same p."""
    settings = ((1e-4, 1000), (0.2, 30), (1e-3, 1000), (0.01, 100))
    return [ConflictAndDiffuse(*s) for s in settings]


# ---- the clocks of EAFT and IDFT -------------------------------------------------------------


@dataclass(frozen=True)
class Gated:
    """Learning one of two tokens from p0 to 1/2 under a weight that reads the entropy."""

    objective: Objective
    p0: float

    terms: int = 2

    def __str__(self) -> str:
        return f"{self.objective.name} from p0 = {self.p0:g}"

    @cached_property
    def time(self) -> Estimate:
        """By integration of the objective's own field, `[1]`."""
        start = symmetric_start(self.p0, vocab=2)
        return integrated(
            lambda r: scalars(reach(self.objective, start=start, target=0, p1=0.5, rtol=r)[0])
        )

    def area(self, weight: Callable[[float, float], float]) -> Estimate:
        """Integral of dp / (2 p (1-p)^2 w(p, H)) over the log-odds, `[1]`."""

        def slowness(x: float) -> float:
            p = 1 / (1 + math.exp(-x))
            return 1 / (2 * (1 - p) * weight(p, binary_entropy(p)))

        kink = math.log(KINK / (1 - KINK))
        first = math.log(self.p0 / (1 - self.p0))
        parts = [quad(slowness, a, b, epsabs=0, epsrel=1e-11, limit=400)
                 for a, b in ((first, kink), (kink, 0.0))]  # fmt: skip
        value, error = (sum(x) for x in zip(*parts, strict=True))
        return Estimate(scalars(value), scalars(10 * error + 1e-9 * value))

    def weight(self, p: float, entropy: float) -> float:
        """H/3 for EAFT, p^(1/(p e^H)) with the exponent at most 2 for IDFT."""
        if self.objective is EAFT:
            return entropy / 3
        return float(p ** min(2.0, math.exp(-entropy) / p))

    def law(self) -> Tensor:
        """Its leading term: 3 / (2 p0 log(1/p0)), or 1 / (4 p0^2)."""
        p0 = self.p0
        if self.objective is EAFT:
            return scalars(3 / (2 * p0 * -math.log(p0)))
        return scalars(1 / (4 * p0**2))

    def scaled(self, unit: Tensor) -> Estimate:
        """The integrated time in some unit."""
        return Estimate(self.time.value / unit, self.time.error / unit)

    def one(self) -> Estimate:
        """1, with the declared rate: 5 / log^2(1/p0) for EAFT, 17 p0 for IDFT."""
        rate = 5 / math.log(self.p0) ** 2 if self.objective is EAFT else 17 * self.p0
        return Estimate(scalars(1.0), scalars(rate))


def binary_entropy(p: float) -> float:
    """-p log p - (1-p) log(1-p) in nats."""
    return -p * math.log(p) - (1 - p) * math.log1p(-p)


# Below this p e^H < 1/2, and IDFT's exponent is cut at 2: its weight is p^2.
KINK = float(brentq(lambda p: p * math.exp(binary_entropy(p)) - 0.5, 0.01, 0.5))


@lru_cache(maxsize=2)
def _gated(thorough: bool) -> tuple[Gated, ...]:
    starts = (0.2, 1e-2, 1e-4, 1e-6) if thorough else (0.2, 1e-4)
    return tuple(Gated(o, p0) for p0 in starts for o in (EAFT, IDFT))


def gated(scope: Scope) -> Sequence[Gated]:
    """EAFT and IDFT from likely and from rare tokens."""
    return _gated(scope.thorough)


# ---- contexts that are not visited -----------------------------------------------------------


def elsewhere(case: PolicyCase) -> Tensor:
    """The other prompt."""
    return 1 - case.prompt


def trained(case: PolicyCase, step: float) -> Policy:
    """The policy after one step of DFT on the demonstration."""
    other = copy.deepcopy(case.policy)
    held = enumeration.parameters(other)
    with torch.enable_grad():
        gradient = case.surrogate_gradient(dft).split([p.numel() for p in held])
    with torch.no_grad():
        for p, g in zip(held, gradient, strict=True):
            p -= step * g.reshape(p.shape)
    return other


def logits_at(policy: Policy, case: PolicyCase, prompt: Tensor) -> Tensor:
    """Logits of all responses to the prompt, `[N T V]`."""
    return policy.teacher_forced(prompt, case.responses)[0].flatten()


def displacement(case: PolicyCase, prompt: Tensor) -> Tensor:
    """How far one whole step moved these logits."""
    with torch.no_grad():
        before, after = (logits_at(p, case, prompt) for p in (case.policy, trained(case, step=1.0)))
    return after - before


def drift(case: PolicyCase) -> Estimate:
    """d/dt of a random mean of the logits at the other prompt, by finite differences."""
    mix = mixture(case)
    with torch.no_grad():
        return DIFFERENCE.derivative(
            lambda step: mix @ logits_at(trained(case, step), case, elsewhere(case))
        )


def mixture(case: PolicyCase) -> Tensor:
    """Random coefficients of those logits, `[N T V]`."""
    n = logits_at(case.policy, case, case.prompt).shape[0]
    return torch.randn(n, dtype=torch.float64, generator=generator(case.index, "mixture", n)) / n


def through_parameters(case: PolicyCase, prompt: Tensor) -> Tensor:
    """-<gradient of that mean, gradient of the loss>: the tangent kernel."""
    mean = mixture(case) @ logits_at(case.policy, case, prompt)
    return -case.gradient(mean) @ case.surrogate_gradient(dft)


TWO_TOKENS = Assumption(
    "one prompt, two tokens", "with more the time also depends on how the rivals share the rest"
)
CLAIMS = (
    Claim(
        name="implied-reward-variance",
        title="The variance of SFT's implied reward",
        kind="identity",
        statement=r"\mathrm{Var}_{y \sim \pi}\left[\frac{\mathbf{1}[y = y^\star]}"
        r"{\pi_\theta(y)}\right] = \frac{1}{\pi_\theta(y^\star)} - 1",
        note="This diverges as the demonstration becomes unlikely: the reward of an estimator that "
        "nobody samples. The gradient in the logits does not (sft-gradient-is-bounded).",
        cites=("wu2025dft",),
        cases=policy_cases,
        assumptions=(SUPPORT,),
        lhs=lambda c: c.held_probs @ (c.reward * c.importance - 1).square(),
        rhs=lambda c: 1 / c.held_probs[c.index] - 1,
        scale=lambda c: float(1 / c.held_probs[c.index]),
        mutants=(
            Mutant("second moment", lambda c: 1 / c.held_probs[c.index]),
            Mutant("squared", lambda c: (1 / c.held_probs[c.index] - 1) ** 2),
        ),
    ),
    Claim(
        name="conflict-and-diffuse-gradients-are-alike",
        title="At equal p, a certain model is not pushed harder than an unsure one",
        kind="inequality",
        relation="<=",
        statement=r"p = p' \;\Longrightarrow\; \frac{\Vert \nabla_z(-\log p) \Vert}"
        r"{\Vert \nabla_{z'}(-\log p') \Vert} \leq \sqrt{\frac{2\,(V-1)}{V}} < \sqrt{2}",
        note="One token that the model rules out in favour of a single rival, another as likely as "
        "all others: in the logits their SFT gradients differ by the square root "
        "of 2 at most. A conflict does not explode.",
        cites=("wu2025dft", "diao2026eaft"),
        cases=pairs,
        assumptions=(
            Assumption(
                "gradients in the logits of one token",
                "in the parameters the Jacobian of the logits differs from context to context",
            ),
        ),
        lhs=lambda c: c.ratio,
        rhs=lambda c: c.limit(),
        mutants=(
            Mutant("no difference at all", lambda c: torch.ones_like(c.ratio)),
            Mutant("exponent 0.45", lambda c: c.limit(power=0.45)),
            Mutant("square root of (V-1)/V", lambda c: c.limit() / math.sqrt(2)),
        ),
    ),
    Claim(
        name="entropy-tells-conflict-from-diffuse",
        title="EAFT and DEFT see whether the model is sure, DFT only how likely the token is",
        kind="identity",
        statement=r"\begin{aligned} w_{\mathrm{EAFT}} &= \frac{H_b(p)}{3}, & w'_{\mathrm{EAFT}} &= "
        r"\frac{\log \min(20, V)}{3} \\ w_{\mathrm{DEFT}} &= p^{\,p^2 + (1-p)^2}, & "
        r"w'_{\mathrm{DEFT}} &= V^{-1/V} \\ w_{\mathrm{DFT}} &= p, & w'_{\mathrm{DFT}} &= "
        r"\frac{1}{V} \end{aligned}",
        note="Left a token of probability p against one rival, right (with prime) one of V equal "
        "tokens. At p = 1/V = 0.001 DFT gives both the same weight, EAFT the diffuse one 379 times "
        "as much and DEFT 980 times.",
        cites=("diao2026eaft", "wang2026deft", "wu2025dft"),
        cases=conflicts,
        lhs=lambda c: c.weights,
        rhs=lambda c: c.closed(),
        mutants=(
            Mutant("entropy of all tokens", lambda c: c.closed(top=c.vocab)),
            Mutant("a certain model has concentration 1", lambda c: c.closed(collision=1)),
            Mutant("states exchanged", lambda c: c.closed().flip(1)),
        ),
    ),
    Claim(
        name="entropy-gated-escape-time",
        title="The time in which EAFT and IDFT learn one of two tokens",
        kind="identity",
        statement=r"t = \int_{p_0}^{1/2} \frac{\mathrm{d}p}{2\,p\,(1-p)^2\, w}, \qquad "
        r"w_{\mathrm{EAFT}} = \frac{H(p)}{3}, \quad w_{\mathrm{IDFT}} = p^{\min(2,\, 1/(p e^H))}",
        note="With two tokens the entropy is a function of p and one quadrature is enough. The "
        "other side integrates the field of the objective, gate and all.",
        cites=("diao2026eaft", "zhang2026idft"),
        cases=gated,
        assumptions=(TWO_TOKENS,),
        tolerance=Numerical(),
        lhs=lambda c: c.time,
        rhs=lambda c: c.area(c.weight),
        mutants=(
            Mutant("SFT's weight", lambda c: c.area(lambda p, h: 1.0)),
            Mutant("DFT's weight", lambda c: c.area(lambda p, h: p)),
            Mutant(
                "the exponent cut at 1",
                lambda c: c.area(lambda p, h: p ** min(1.0, math.exp(-h) / p)),
            ),
        ),
    ),
    Claim(
        name="entropy-gated-escape-law",
        title="From a confident conflict EAFT is nearly as slow as DFT, and IDFT slower",
        kind="limit",
        statement=r"t_{\mathrm{EAFT}} \sim \frac{3}{2 p_0 \log \frac{1}{p_0}}, "
        r"\qquad t_{\mathrm{IDFT}} \sim \frac{1}{4 p_0^2} \qquad (p_0 \to 0)",
        note="Time to reach 1/2. SFT takes log(1/p0)/2 and DFT 1/(2 p0). EAFT's optimum is the "
        "data, as SFT's; but where the model is sure, getting there takes as long as under DFT.",
        cites=("diao2026eaft", "zhang2026idft"),
        cases=gated,
        assumptions=(
            TWO_TOKENS,
            Assumption(
                "p0 small",
                "EAFT's next order is smaller by log^2(1/p0) only",
                holds=lambda c: c.p0 <= 1e-2,
            ),
        ),
        tolerance=Numerical(),
        lhs=lambda c: c.scaled(c.law()),
        rhs=lambda c: c.one(),
        mutants=(
            Mutant("DFT's time", lambda c: c.scaled(scalars(1 / (2 * c.p0))), of="lhs"),
            Mutant("SFT's time", lambda c: c.scaled(scalars(-math.log(c.p0) / 2)), of="lhs"),
            Mutant(
                "log(1/p0) + 1, the entropy over p0",
                lambda c: c.scaled(c.law() / (1 - 1 / math.log(c.p0))),
                of="lhs",
                equivalent_when=lambda c: c.objective is IDFT,
                why="another law",
            ),
            Mutant("without the constant 3", lambda c: c.scaled(c.law() / 3), of="lhs"),
        ),
    ),
    Claim(
        name="tables-do-not-generalise",
        title="In a table the logits of an unvisited context do not move",
        kind="identity",
        statement=r"x' \neq x \;\Longrightarrow\; z_{x'}(\theta - \eta \nabla_\theta "
        r"\mathcal{L}(x, y^\star)) = z_{x'}(\theta)",
        note="Whatever is said about generalisation or forgetting cannot be tested on a table: "
        "every context but the trained one is out of reach, whatever the objective. Here one DFT "
        "step.",
        cites=("wu2025dft",),
        cases=table_cases,
        assumptions=(
            Assumption(
                "a parameter for each logit of each context",
                "shared parameters move the others too (shared-parameters-move-other-contexts)",
                holds=lambda c: isinstance(c.policy, TablePolicy),
            ),
        ),
        lhs=lambda c: displacement(c, elsewhere(c)),
        rhs=lambda c: torch.zeros_like(displacement(c, elsewhere(c))),
        scale=lambda _: 1.0,
        mutants=(
            Mutant("the context that was trained", lambda c: displacement(c, c.prompt), of="lhs"),
            Mutant(
                "a tenth of it leaks",
                lambda c: displacement(c, elsewhere(c)) + 0.1 * displacement(c, c.prompt),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="shared-parameters-move-other-contexts",
        title="What moves an unvisited context are the parameters it shares",
        kind="identity",
        statement=r"\frac{\mathrm{d}}{\mathrm{d}t} z_{x'} = -J_{x'} \nabla_\theta \mathcal{L}(x, "
        r"y^\star) = J_{x'} J_x^\top F_x, \qquad J = \frac{\partial z}{\partial \theta}",
        note="The tangent kernel: 0 for two contexts of a table, not 0 in a transformer, so "
        "generalisation and forgetting begin there. One random mean of the logits, its slope by "
        "finite differences.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        tolerance=DIFFERENCE,
        lhs=drift,
        rhs=lambda c: through_parameters(c, elsewhere(c)),
        scale=lambda _: 1.0,
        mutants=(
            Mutant(
                "nothing moves",
                lambda c: torch.zeros((), dtype=torch.float64),
                equivalent_when=lambda c: isinstance(c.policy, TablePolicy),
                why="nothing does",
            ),
            Mutant(
                "opposite sign",
                lambda c: -through_parameters(c, elsewhere(c)),
                equivalent_when=lambda c: isinstance(c.policy, TablePolicy),
                why="nothing moves",
            ),
            Mutant("the visited context", lambda c: through_parameters(c, c.prompt)),
        ),
    ),
)
