"""Long responses: where sequence weights underflow, and how fast they degenerate (gap G5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.policy_gradient import policy_cases
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.importance_weight import effective_sample_size, log10_samples_needed
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import dft, dft_geometric, dft_sequence
from dft_theory.policies import TabularPolicy

# exp(x) rounds to 0 in float32 below half of its smallest positive number, 2^-149.
UNDERFLOW = -150 * math.log(2)


@dataclass(frozen=True)
class LongResponse:
    """T tokens of probability p each, in float32."""

    length: int
    p: float
    terms: int = 1

    def __str__(self) -> str:
        return f"{self.length} tokens of probability {self.p:g}"

    @property
    def stats(self) -> TokenStats:
        """As training would see it, `[1, T]`."""
        logp = torch.full((1, self.length), math.log(self.p), dtype=torch.float32)
        return TokenStats(logp=logp, mask=torch.ones(1, self.length, dtype=torch.bool))

    @property
    def log_prob(self) -> Tensor:
        """Log pi(y|x) in float64, from the product formula."""
        return torch.tensor(self.length * math.log(self.p), dtype=torch.float64)

    def weight(self) -> Tensor:
        """The sequence-level DFT weight in float32."""
        return dft_sequence.weight(self.stats).squeeze()


def long_responses(scope: Scope) -> Sequence[LongResponse]:
    """Around the threshold: mean token probability 0.5 to 0.9, 10 to 2,000 tokens."""
    lengths = range(10, 2000, 30 if scope.thorough else 190)
    return [LongResponse(t, p) for t in lengths for p in (0.5, 0.7, 0.9)]


def tabular_cases(scope: Scope) -> Sequence[PolicyCase]:
    """Policies with independent tokens."""
    return [c for c in scope.policy_cases if isinstance(c.policy, TabularPolicy)]


def own_weights_ess(case: PolicyCase) -> Tensor:
    """(E w)^2 / E w^2 of w = pi(y) under y ~ pi, over all responses."""
    p = case.held_probs
    return (p * p).sum() ** 2 / (p * p**2).sum()


def ess_per_token(case: PolicyCase) -> Tensor:
    """The same for each position alone, `[T]`, from the table itself."""
    probs = torch.softmax(case.policy.get_parameter("theta")[int(case.prompt[0])].detach(), -1)
    return probs.square().sum(-1) ** 2 / probs.pow(3).sum(-1)


CLAIMS = (
    Claim(
        name="sequence-weight-underflows",
        title="The sequence weight of a long response is exactly 0 in float32",
        kind="refutation",
        statement=r"\mathrm{fl}_{32}\left(e^{\log \pi(y \mid x)}\right) > 0 \iff "
        r"\log \pi(y \mid x) \geq -150 \log 2 \approx -103.97",
        note="A softmax is never 0, so eq. (5) has full support on paper. In float32 the "
        "weight of eq. (8) is 0 for any response below -104 nats: 210 tokens of probability 0.6.",
        cites=("wu2025dft",),
        cases=long_responses,
        lhs=lambda c: (c.weight() > 0).double(),
        rhs=lambda c: (c.log_prob > UNDERFLOW).double(),
        published=Published(
            statement=r"\mathrm{sg}(\pi_\theta(y^\star \mid x)) > 0 \quad "
            r"\mathrm{for\ every}\ y^\star",
            side=lambda c: torch.ones((), dtype=torch.float64),
            cite="wu2025dft",
            why="equation (8) as it would be computed",
        ),
        mutants=(
            Mutant(
                "threshold of normal numbers",
                lambda c: (c.log_prob > -87.3).double(),
                equivalent_when=lambda c: not -103.9 < float(c.log_prob) < -87.4,
                why="outside the subnormal range",
            ),
            Mutant("threshold of float64", lambda c: (c.log_prob > -745.0).double()),
            Mutant(
                "depends on the length alone",
                lambda c: torch.tensor(float(c.length < 210), dtype=torch.float64),
            ),
        ),
    ),
    Claim(
        name="sequence-weights-degenerate-geometrically",
        title="Sequence weights degenerate geometrically with length",
        kind="identity",
        statement=r"\frac{(\mathbb{E}\, w)^2}{\mathbb{E}\, w^2} = \prod_{t=1}^{T} "
        r"\frac{(\sum_v p_{t,v}^2)^2}{\sum_v p_{t,v}^3}, \qquad w = \pi(y), \; y \sim \pi",
        note="The effective share of a batch that sequence weights leave is a product "
        "over positions, each factor below 1: a few likely responses carry the whole update. "
        "One factor per token is why it fails at length 300, not at length 3.",
        cites=("wu2025dft",),
        cases=tabular_cases,
        assumptions=(
            Assumption(
                "independent tokens",
                "the product becomes a product of matrices",
                holds=lambda c: isinstance(c.policy, TabularPolicy),
            ),
        ),
        lhs=own_weights_ess,
        rhs=lambda c: ess_per_token(c).prod(),
        mutants=(
            Mutant("no loss with length", lambda c: ess_per_token(c)[0]),
            Mutant("arithmetic mean of the factors", lambda c: ess_per_token(c).mean()),
        ),
    ),
    Claim(
        name="effective-sample-size-of-weights",
        title="Kish's effective sample size in log space",
        kind="identity",
        statement=r"\mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}",
        note="The package's log-space computation against plain sums, for w = 1/pi over all "
        "responses.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: torch.tensor(
            effective_sample_size(-c.policy.log_probs(c.prompt, c.responses).sum(-1)),
            dtype=torch.float64,
        ),
        rhs=lambda c: c.importance.sum() ** 2 / c.importance.square().sum(),
        mutants=(
            Mutant("weights pi", lambda c: 1 / c.held_probs.square().sum()),
            Mutant("number of samples", lambda c: torch.tensor(float(c.terms))),
        ),
    ),
    Claim(
        name="samples-needed-to-see-the-demonstration",
        title="How many samples the Monte Carlo form would take",
        kind="identity",
        statement=r"n = \frac{1/\pi(y^\star \mid x) - 1}{\epsilon^2}",
        note="For a relative error eps. Computed in log space, because for real solutions the "
        "number has dozens or hundreds of digits.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: torch.tensor(
            log10_samples_needed(float(c.stats.logp.detach().sum()), relative_error=0.01),
            dtype=torch.float64,
        ),
        rhs=lambda c: ((1 - c.held_probs[c.index]) / c.held_probs[c.index] / 1e-4).log10(),
        mutants=(
            Mutant("error not squared", lambda c: (c.importance[c.index] - 1).log10() + 2),
            Mutant("1/pi", lambda c: c.importance[c.index].log10() + 4),
        ),
    ),
    Claim(
        name="geometric-mean-lies-between",
        title="The geometric-mean weight lies between the rarest token and the average token",
        kind="inequality",
        relation="<=",
        statement=r"\min_t \pi_t \leq \left(\prod_t \pi_t\right)^{1/T} \leq "
        r"\frac{1}{T} \sum_t \pi_t",
        note="The third row of Table 5: it does not underflow, and it does not tell tokens apart.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: torch.stack([_token_weights(c).min(), _geometric(c)]),
        rhs=lambda c: torch.stack([_geometric(c), _token_weights(c).mean()]),
        mutants=(
            Mutant(
                "the product",
                lambda c: torch.stack(
                    [dft_sequence.weight(c.stats.detach()).squeeze(), _token_weights(c).mean()]
                ),
                equivalent_when=lambda c: c.policy.length == 1,
                why="one token",
            ),
            Mutant(
                "above the maximum",
                lambda c: torch.stack([_token_weights(c).max(), _geometric(c)]),
                of="lhs",
                equivalent_when=lambda c: c.policy.length == 1,
                why="one token",
            ),
        ),
    ),
)


def _token_weights(case: PolicyCase) -> Tensor:
    t = case.stats.detach()
    return dft.weight(t)[t.mask]


def _geometric(case: PolicyCase) -> Tensor:
    return dft_geometric.weight(case.stats.detach()).squeeze()
