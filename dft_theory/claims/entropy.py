"""Entropy and the centred log-likelihood: what they say of data and of a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.claims.base import Claim, Mutant, Published
from dft_theory.claims.catalogue import Token
from dft_theory.claims.logit_gradient import token_cases
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, FiniteDifference
from dft_theory.logprobs import target_stats
from dft_theory.objectives import dft, eaft, idft, sft

EAFT, IDFT = eaft(), idft()
DIFFERENCE = FiniteDifference()


def entropy(p: Tensor) -> Tensor:
    """-sum p log p in nats, with 0 log 0 = 0."""
    terms: Tensor = torch.special.entr(p)
    return terms.sum(-1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats, for p from a softmax or one-hot."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def centred(case: TokenCase) -> Tensor:
    """Phi = log p_v + H for every token v as the target, by the training path, `[V]`."""
    rows = case.logits.expand(case.terms, 1, -1)
    t = target_stats(rows, torch.arange(case.terms).unsqueeze(-1), needs=("entropy",))
    assert t.entropy is not None
    return (t.logp + t.entropy).squeeze(-1)


def nats(case: TokenCase) -> float:
    """Size of what cancels in log p + H, averaged."""
    return max(1.0, float(case.probs @ case.probs.log().abs()))


@dataclass(frozen=True)
class Data:
    """Next tokens drawn from a law q, scored by the model p."""

    at: TokenCase
    law: str

    def __str__(self) -> str:
        return f"data of {self.law} under {self.at}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.at.terms

    @cached_property
    def q(self) -> Tensor:
        """The law of the data, `[V]`."""
        z = self.at.logits
        laws = {
            "another model": torch.softmax(self.at.ref_logits, -1),
            "the model at temperature 2": torch.softmax(z / 2, -1),
            "the model at temperature 1/2": torch.softmax(2 * z, -1),
            "the model, greedy": torch.eye(self.terms, dtype=z.dtype)[int(z.argmax())],
        }
        return laws[self.law]

    @cached_property
    def score(self) -> Tensor:
        """E_q[log p + H(p)]."""
        return self.q @ centred(self.at)

    def after(self) -> Tensor:
        """Another softmax near the model, as after some training, `[V]`."""
        return torch.softmax(self.at.old_logits, -1)

    def code_length_change(self) -> Tensor:
        """E_q[-log p'] - E_q[-log p] by cross-entropy, in nats."""
        losses = [F.cross_entropy(z, self.q) for z in (self.at.old_logits, self.at.logits)]
        return losses[0] - losses[1]


LAWS = (
    "another model",
    "the model at temperature 2",
    "the model at temperature 1/2",
    "the model, greedy",
)


@lru_cache(maxsize=4)
def _data(cases: tuple[TokenCase, ...]) -> tuple[Data, ...]:
    return tuple(Data(c, law) for c in cases for law in LAWS)


def data(scope: Scope) -> Sequence[Data]:
    """Four sources of data at every softmax; the first softmaxes are uniform."""
    return _data(scope.token_cases)


@dataclass(frozen=True)
class Tempered:
    """Data of the model itself at temperature 1/beta."""

    at: TokenCase
    beta: float

    def __str__(self) -> str:
        return f"temperature {1 / self.beta:g} on {self.at}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.at.terms

    def law(self, beta: float) -> Tensor:
        """Softmax of beta times the logits, `[V]`."""
        return torch.softmax(beta * self.at.logits, -1)

    def slope(self) -> Estimate:
        """Slope of E_q[log p + H] in beta, by differences."""
        phi = centred(self.at)
        found = DIFFERENCE.derivative(lambda s: self.law(self.beta + s) @ phi)
        # What cancels in log p + H rounds by more than the mean shows, which is 0 at beta = 1.
        rounding = 8 * torch.finfo(phi.dtype).eps * nats(self.at) / DIFFERENCE.h
        return Estimate(found.value, found.error + rounding)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and mean square of log p under the data."""
        q, logp = self.law(self.beta), self.at.probs.log()
        return q @ logp, q @ logp.square()


def tempered(scope: Scope) -> Sequence[Tempered]:
    """Hotter, as it is, colder."""
    return [Tempered(c, b) for c in scope.token_cases for b in (0.5, 1.0, 2.0)]


@lru_cache(maxsize=4)
def _steps(cases: tuple[TokenCase, ...]) -> tuple[Token, ...]:
    return tuple(Token(o, c) for c in cases for o in (sft, dft, EAFT, IDFT))


def steps(scope: Scope) -> Sequence[Token]:
    """One step of SFT, DFT, EAFT or IDFT at every softmax."""
    return _steps(scope.token_cases)


def entropy_slope(case: Token) -> Tensor:
    """dH/ds along one step of the objective: autograd of the entropy, times the step."""
    z = case.at.logits.clone().requires_grad_(True)
    return -torch.autograd.grad(entropy(torch.softmax(z, -1)), z)[0] @ case.gradient


def entropy_change(case: Token, phi: Tensor, power_of_p: int = 2) -> Tensor:
    """-w (p_y phi_y - sum_v p_v^power phi_v)."""
    p = case.at.probs
    return -case.weight * (p[case.at.target] * phi[case.at.target] - p**power_of_p @ phi)


CLAIMS = (
    Claim(
        name="centred-log-likelihood-averages-to-zero",
        title="The model's own tokens have centred log-likelihood zero",
        kind="identity",
        statement=r"\mathbb{E}_{v \sim p}[\phi_v] = 0, \qquad \phi_v = \log p_v + H(p)",
        note="The statistic behind IDFT: how much likelier a token is than the model's tokens are "
        "on average.",
        cites=("zhang2026idft",),
        cases=token_cases,
        lhs=lambda c: c.probs @ centred(c),
        rhs=lambda c: torch.zeros_like(c.p),
        scale=nats,
        mutants=(
            Mutant("entropy in bits", lambda c: entropy(c.probs) * (1 / math.log(2) - 1)),
            Mutant("not centred", lambda c: c.probs @ c.probs.log()),
            Mutant("over uniform tokens", lambda c: centred(c).mean()),
        ),
    ),
    Claim(
        name="off-policy-data-can-score-high",
        title="Off-policy data can have a positive centred log-likelihood",
        kind="refutation",
        statement=r"\mathbb{E}_{v \sim q}[\phi_v] = H(p) - H(q) - \mathrm{KL}(q \Vert p)",
        note="Three things are mixed. Data of lower entropy than the model's own score high, "
        "whoever wrote them: greedy text is not on-policy and has a positive mean. Data of the "
        "same model at temperature two score low.",
        cites=("zhang2026idft",),
        cases=data,
        lhs=lambda c: c.score,
        rhs=lambda c: entropy(c.at.probs) - entropy(c.q) - divergence(c.q, c.at.probs),
        scale=lambda c: nats(c.at) + float(c.q @ c.at.probs.log().abs()),
        published=Published(
            statement=r"q \neq p \;\Longrightarrow\; \mathbb{E}_{v \sim q}[\phi_v] \leq 0",
            side=lambda c: torch.zeros_like(c.at.p),
            cite="zhang2026idft",
            relation="<=",
            why="the centred log-likelihood read as a test for data that the model would not "
            "produce",
            second_hand=True,
        ),
        mutants=(
            Mutant(
                "divergence the other way round",
                lambda c: entropy(c.at.probs) - entropy(c.q) - divergence(c.at.probs, c.q),
            ),
            Mutant(
                "entropy of the data forgotten",
                lambda c: entropy(c.at.probs) - divergence(c.q, c.at.probs),
            ),
            Mutant("divergence forgotten", lambda c: entropy(c.at.probs) - entropy(c.q)),
        ),
    ),
    Claim(
        name="greedy-text-scores-highest",
        title="No data score higher than the model's own greedy text",
        kind="inequality",
        relation="<=",
        statement=r"\mathbb{E}_{v \sim q}[\phi_v] \leq H(p) + \log \max_v p_v",
        note="The bound is positive unless p is uniform. A filter that keeps what scores high "
        "keeps what is dull, not what is the model's.",
        cites=("zhang2026idft",),
        cases=data,
        lhs=lambda c: c.score,
        rhs=lambda c: entropy(c.at.probs) + c.at.probs.max().log(),
        scale=lambda c: nats(c.at) + float(c.q @ c.at.probs.log().abs()),
        mutants=(
            Mutant(
                "mean of the logarithm instead of the maximum",
                lambda c: entropy(c.at.probs) + c.at.probs.log() @ c.at.probs,
            ),
            Mutant("half the entropy", lambda c: entropy(c.at.probs) / 2 + c.at.probs.max().log()),
        ),
    ),
    Claim(
        name="temperature-moves-the-score",
        title="The score of the model's own text rises as it is sampled colder",
        kind="identity",
        statement=r"\frac{\mathrm{d}}{\mathrm{d}\beta}\, \mathbb{E}_{v \sim q_\beta}[\phi_v] = "
        r"\mathrm{Var}_{v \sim q_\beta}(\log p_v) \geq 0, \qquad q_\beta \propto p^\beta",
        note="Zero at beta = 1: one model alone gives data of every sign.",
        cites=("zhang2026idft",),
        cases=tempered,
        tolerance=DIFFERENCE,
        lhs=lambda c: c.slope(),
        rhs=lambda c: c.moments()[1] - c.moments()[0] ** 2,
        scale=lambda c: max(1.0, float(c.moments()[1])),
        mutants=(
            Mutant("not centred", lambda c: c.moments()[1]),
            Mutant(
                "standard deviation",
                lambda c: (c.moments()[1] - c.moments()[0] ** 2).clamp_min(0).sqrt(),
            ),
        ),
    ),
    Claim(
        name="entropy-change-of-one-step",
        title="What one step does to the entropy",
        kind="identity",
        statement=r"\frac{\mathrm{d}H}{\mathrm{d}s} = -w \left(p_y \phi_y - \sum_v p_v^2 "
        r"\phi_v\right), \qquad \dot z = w\,(e_y - p)",
        note="Learning a token that is likelier than usual sharpens the model, a rarer one "
        "flattens it; the weight says only how fast.",
        cites=("zhang2026idft", "wu2025dft"),
        cases=steps,
        lhs=entropy_slope,
        rhs=lambda c: entropy_change(c, centred(c.at)),
        scale=lambda c: max(1.0, float(c.weight)) * nats(c.at),
        mutants=(
            Mutant("opposite sign", lambda c: -entropy_change(c, centred(c.at))),
            Mutant("not centred", lambda c: entropy_change(c, c.at.probs.log())),
            Mutant("p instead of its square", lambda c: entropy_change(c, centred(c.at), 1)),
        ),
    ),
    Claim(
        name="code-length-change-is-a-difference-of-divergences",
        title="What training costs in code length is a difference of divergences",
        kind="identity",
        statement=r"\mathbb{E}_{v \sim q}[-\log p'_v] - \mathbb{E}_{v \sim q}[-\log p_v] = "
        r"\mathrm{KL}(q \Vert p') - \mathrm{KL}(q \Vert p)",
        note="TALR's measure of forgetting: q is text of the general kind, p and p' the model "
        "before and after. The entropy of q cancels.",
        cites=("lin2025talr",),
        cases=data,
        lhs=lambda c: c.code_length_change(),
        rhs=lambda c: divergence(c.q, c.after()) - divergence(c.q, c.at.probs),
        scale=lambda c: nats(c.at) + float(c.q @ c.at.probs.log().abs()),
        mutants=(
            Mutant(
                "divergences the other way round",
                lambda c: divergence(c.after(), c.q) - divergence(c.at.probs, c.q),
            ),
            Mutant(
                "before and after swapped",
                lambda c: divergence(c.q, c.at.probs) - divergence(c.q, c.after()),
            ),
            Mutant("divergence of the models", lambda c: divergence(c.at.probs, c.after())),
        ),
    ),
)
