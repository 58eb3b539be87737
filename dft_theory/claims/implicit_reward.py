"""The reward inside a policy fitted by SFT: soft Q-learning, and and what a step of SFT moves.

Responses are paths of a deterministic token process. The logits of a policy are soft Q-values,
V = log sum exp Q, and after the last token V = 0. Sums run over all responses.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.policy_gradient import one_demo_each
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.objectives import SumOver, sft
from dft_theory.policies import Policy, TabularPolicy

# ---- soft Q-values on the tree of prefixes -------------------------------------------------------


def q_values(policy: Policy, prompt: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
    """Q(s_t, y_t) `[N, T]` and V(s_0), ..., V(s_T) = 0 `[N, T + 1]` along responses `[N, T]`."""
    q, v = [], []
    for t in range(policy.length):
        logits = policy.next_logits(prompt, responses[:, :t])
        q.append(logits.gather(-1, responses[:, t : t + 1]).squeeze(-1))
        v.append(logits.logsumexp(-1))
    return torch.stack(q, 1), torch.stack([*v, torch.zeros_like(v[0])], 1)


@dataclass(frozen=True)
class SoftValues:
    """The logits of a policy read as soft Q-values, with discount gamma."""

    at: PolicyCase
    gamma: float = 1.0

    def __str__(self) -> str:
        return f"gamma = {self.gamma:g}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @cached_property
    def values(self) -> tuple[Tensor, Tensor]:
        """Q `[N, T]` and V `[N, T + 1]` of all responses, with their graph."""
        return q_values(self.at.policy, self.at.prompt, self.at.responses)

    @cached_property
    def reward(self) -> Tensor:
        """Q(s, y) - V(s') of each token of each response, `[N, T]`."""
        q, v = self.values
        return (q - v[:, 1:]).detach()

    @property
    def root(self) -> Tensor:
        """V(s_0)."""
        return self.values[1][0, 0].detach()

    def soft_optimal(self, reward: Tensor, temperature: float = 1.0) -> Tensor:
        """The policy that maximises reward plus temperature times entropy, `[N]`.

        Backward induction from the last token; rewards `[N, T]` must not look ahead.
        """
        vocab, length = self.at.policy.vocab, self.at.policy.length
        value = torch.zeros(self.terms, dtype=reward.dtype)
        steps = []
        for t in reversed(range(length)):
            # Responses in counting order: those that share t + 1 tokens stand together.
            first = reward[:, t].reshape(vocab ** (t + 1), -1)[:, 0]
            q = ((first + value) / temperature).reshape(-1, vocab)
            steps.append(torch.softmax(q, -1).flatten())
            value = temperature * q.logsumexp(-1)
        prob = torch.ones(1, dtype=reward.dtype)
        for step in reversed(steps):
            prob = (prob.unsqueeze(-1) * step.reshape(prob.shape[0], vocab)).flatten()
        return prob

    def imitation_gradient(self) -> Tensor:
        """Minus the gradient of sum_t gamma^t (Q - gamma V') - V(s_0) at the demo, `[D]`."""
        q, v = (x[self.at.index] for x in self.values)
        discount = self.gamma ** torch.arange(q.shape[0], dtype=q.dtype)
        return -self.at.gradient((discount * (q - self.gamma * v[1:])).sum() - v[0])

    def discounted_sft(self, gamma: float, shift: int = 0) -> Tensor:
        """Gradient of SFT with token t weighted by gamma^(t + shift), by the training path."""
        t = self.at.stats
        position = t.mask.cumsum(-1).to(t.logp) - 1 + shift
        weighted = replace(sft, weight=lambda _: gamma**position)
        return self.at.gradient(weighted.surrogate(t, reduction=SumOver()))


@lru_cache(maxsize=4)
def _soft(cases: tuple[PolicyCase, ...], gammas: tuple[float, ...]) -> tuple[SoftValues, ...]:
    return tuple(SoftValues(c, g) for c in cases for g in gammas)


def soft_values(scope: Scope) -> Sequence[SoftValues]:
    """Every policy and demonstration."""
    return _soft(scope.policy_cases, (1.0,))


def discounts(scope: Scope) -> Sequence[SoftValues]:
    """Every policy once, without and with discount."""
    return _soft(tuple(one_demo_each(scope)), (1.0, 0.9, 0.5))


def demo_log_prob(case: SoftValues) -> Tensor:
    """Log pi(y|x) of the demonstration by the training path."""
    return case.at.stats.logp.detach().sum()


# ---- one step of SFT -----------------------------------------------------------------------------


@dataclass(frozen=True)
class OneStep:
    """One step of gradient descent on SFT, of any length."""

    at: PolicyCase
    h: float = 1e-3

    def __str__(self) -> str:
        return f"one SFT step at {self.at}"

    @property
    def terms(self) -> int:
        """Number of responses."""
        return self.at.terms

    @cached_property
    def direction(self) -> Tensor:
        """The ascent direction of the demonstration's log-likelihood, of length one, `[D]`."""
        return -F.normalize(self.at.surrogate_gradient(sft), dim=0)

    def drift(self, lr: float) -> Tensor:
        """KL(pi_before || pi_after) over all responses after a step of length `lr`, in nats."""
        moved, direction, start = copy.deepcopy(self.at.policy), self.direction, 0
        with torch.no_grad():
            for p in enumeration.parameters(moved):
                p += lr * direction[start : start + p.numel()].reshape(p.shape)
                start += p.numel()
        after = enumeration.probabilities(moved, self.at.prompt).detach()
        ratio = after / self.at.held_probs - 1
        # sum p (r - log(1 + r)) with r = p'/p - 1: the same, without a first-order term.
        return self.at.held_probs @ (ratio - ratio.log1p())

    @cached_property
    def curvature(self) -> Estimate:
        """The limit of KL / lr^2 as lr -> 0: even part at h, with the distance from 2h as bar."""

        def even(h: float) -> Tensor:
            return (self.drift(h) + self.drift(-h)) / (2 * h**2)

        fine, coarse = even(self.h), even(2 * self.h)
        # Each ratio rounds by eps, and the slope of r - log(1 + r) there is about h.
        rounding = 8 * torch.finfo(fine.dtype).eps * self.terms**0.5 / self.h
        return Estimate(fine, (fine - coarse).abs() + rounding)

    @cached_property
    def fisher(self) -> Tensor:
        """d^T F d with F = E[score score^T] under the policy."""
        return self.at.held_probs @ (self.at.scores.detach() @ self.direction).square()


@lru_cache(maxsize=4)
def _one_steps(cases: tuple[PolicyCase, ...]) -> tuple[OneStep, ...]:
    return tuple(OneStep(c) for c in cases)


def one_steps(scope: Scope) -> Sequence[OneStep]:
    """Every policy once."""
    return _one_steps(tuple(one_demo_each(scope)))


DETERMINISTIC = Assumption(
    "tokens are appended, and the value after the last one is 0",
    "V(s') is an expectation, and the sum does not telescope",
)


CLAIMS = (
    Claim(
        name="soft-rewards-telescope",
        title="The rewards inside a policy sum up to its log-likelihood",
        kind="identity",
        statement=r"\sum_{t=0}^{T-1} \left(Q(s_t, y_t) - V(s_{t+1})\right) = \log \pi(y \mid x) "
        r"+ V(s_0), \qquad V(s) = \log \sum_a e^{Q(s, a)}",
        note="Each next-token logit is a soft Q-value. The values in between cancel.",
        cites=("li2025densepath", "garg2021iqlearn"),
        cases=soft_values,
        assumptions=(DETERMINISTIC,),
        lhs=lambda c: c.reward[c.at.index].sum(),
        rhs=lambda c: demo_log_prob(c) + c.root,
        scale=lambda c: 1.0 + float(c.reward.abs().max()) * c.at.policy.length,
        mutants=(
            Mutant("value of the start forgotten", demo_log_prob),
            Mutant(
                "value of the state, not of the next one",
                lambda c: (c.values[0] - c.values[1][:, :-1])[c.at.index].sum(),
                of="lhs",
            ),
            Mutant(
                "next values discounted",
                lambda c: (c.values[0] - 0.9 * c.values[1][:, 1:])[c.at.index].sum(),
                of="lhs",
                equivalent_when=lambda c: c.at.policy.length == 1,
                why="one token",
            ),
        ),
    ),
    Claim(
        name="policy-is-optimal-for-its-own-reward",
        title="A policy is soft-optimal for the reward inside it",
        kind="identity",
        statement=r"\pi = \mathrm{argmax}_{\mu}\; \mathbb{E}_{y \sim \mu} \left[\sum_t r_t\right]"
        r" + H(\mu), \qquad r_t = Q(s_t, y_t) - V(s_{t+1})",
        note="By backward induction over the tree. It explains the policy and cannot correct it: "
        "maximising this reward with this entropy bonus leads back to pi.",
        cites=("li2025densepath", "ziebart2008maxent"),
        cases=soft_values,
        assumptions=(DETERMINISTIC,),
        lhs=lambda c: c.soft_optimal(c.reward),
        rhs=lambda c: c.at.held_probs,
        mutants=(
            Mutant(
                "values not taken off",
                lambda c: c.soft_optimal(c.values[0].detach()),
                of="lhs",
                equivalent_when=lambda c: isinstance(c.at.policy, TabularPolicy),
                why="a value that no choice changes",
            ),
            Mutant(
                "values added",
                lambda c: c.soft_optimal((c.values[0] + c.values[1][:, 1:]).detach()),
                of="lhs",
                equivalent_when=lambda c: isinstance(c.at.policy, TabularPolicy),
                why="a value that no choice changes",
            ),
            Mutant("half the entropy bonus", lambda c: c.soft_optimal(c.reward, 0.5), of="lhs"),
        ),
    ),
    Claim(
        name="inverse-soft-q-learning-is-discounted-sft",
        title="Inverse soft Q-learning is SFT, with any discount",
        kind="identity",
        statement=r"-\nabla_\theta \left[\sum_t \gamma^t \left(Q(s_t, y_t) - \gamma\, "
        r"V(s_{t+1})\right) - V(s_0)\right] = -\nabla_\theta \sum_t \gamma^t \log \pi(y_t \mid "
        r"s_t)",
        note="Nothing is special about gamma = 1: a discount only weights early tokens more.",
        cites=("li2025densepath", "garg2021iqlearn"),
        cases=discounts,
        assumptions=(DETERMINISTIC,),
        lhs=lambda c: c.imitation_gradient(),
        rhs=lambda c: c.discounted_sft(c.gamma),
        scale=lambda c: 1.0 + float(c.discounted_sft(1.0).abs().max()),
        mutants=(
            Mutant(
                "undiscounted",
                lambda c: c.discounted_sft(1.0),
                equivalent_when=lambda c: c.gamma == 1.0,
                why="no discount",
            ),
            Mutant(
                "discount counted from one",
                lambda c: c.discounted_sft(c.gamma, shift=1),
                equivalent_when=lambda c: c.gamma == 1.0,
                why="no discount",
            ),
        ),
    ),
    Claim(
        name="drift-grows-with-the-square-of-the-step",
        title="One step of SFT drifts by the square of the learning rate",
        kind="limit",
        statement=r"\lim_{\eta \to 0} \frac{\mathrm{KL}(\pi_\theta \Vert \pi_{\theta + \eta d})}"
        r"{\eta^2} = \frac{1}{2}\, d^{\top} F d, \qquad F = \mathbb{E}_{y \sim \pi}\left[\nabla "
        r"\log \pi(y)\, \nabla \log \pi(y)^{\top}\right]",
        note="Twice the learning rate, four times the drift: why a small one alone keeps SFT near "
        "its reference. Nothing in the SFT loss does.",
        cites=("wang2025implicit",),
        cases=one_steps,
        tolerance=Numerical(),
        lhs=lambda c: c.curvature,
        rhs=lambda c: c.fisher / 2,
        mutants=(
            Mutant("one half forgotten", lambda c: c.fisher),
            Mutant(
                "drift in proportion to the step",
                lambda c: c.drift(c.h) / c.h,
                of="lhs",
            ),
            Mutant(
                "the demonstration's score alone",
                lambda c: (c.at.scores[c.at.index].detach() @ c.direction).square() / 2,
            ),
        ),
    ),
)
