"""Training on log pi_SFT - log pi_ref, the dense reward read off an SFT policy.

Exact optimisation over all distributions of responses: where it ends, for each anchor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.entropy import divergence
from dft_theory.claims.policy_gradient import one_demo_each
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.claims.simplex import minimiser
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.logprobs import TokenStats
from dft_theory.policies.base import digits

Anchor = Literal["ref", "sft"]


@dataclass(frozen=True)
class Recovered:
    """Reward log pi_SFT - log pi_ref, less beta times the divergence from an anchor."""

    at: PolicyCase
    beta: float = 1.0
    anchored: Anchor = "ref"

    def __str__(self) -> str:
        return f"beta = {self.beta:g} to {self.anchored}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of responses."""
        return self.at.terms

    @cached_property
    def sft(self) -> Tensor:
        """pi_SFT of all responses, `[N]`."""
        return self.at.held_probs

    @cached_property
    def ref(self) -> Tensor:
        """pi_ref of all responses, `[N]`."""
        return enumeration.probabilities(self.at.reference, self.at.prompt).detach()

    @property
    def anchor(self) -> Tensor:
        """The policy that the divergence is taken to, `[N]`."""
        return {"ref": self.ref, "sft": self.sft}[self.anchored]

    @cached_property
    def stats(self) -> TokenStats:
        """Training-path statistics of all responses, with log pi_ref."""
        return self.at.policy.stats(
            self.at.prompt, self.at.responses, needs=("ref_logp",), reference=self.at.reference
        ).detach()

    @cached_property
    def reward(self) -> Tensor:
        """Sum of the token rewards of each response by the training path, `[N]`."""
        assert self.stats.ref_logp is not None
        return (self.stats.logp - self.stats.ref_logp).sum(-1)

    @cached_property
    def best(self) -> Estimate:
        """The optimum that a search over all distributions finds, `[N]`."""
        return minimiser(
            lambda m: self.beta * divergence(m, self.anchor) - m @ self.reward, self.terms
        )

    def tilted(self, sft: float, ref: float) -> Tensor:
        """pi_SFT^sft pi_ref^ref, normalised, `[N]`."""
        return torch.softmax(sft * self.sft.log() + ref * self.ref.log(), 0)

    @cached_property
    def winner(self) -> Tensor:
        """One-hot at the largest ratio pi_SFT / pi_ref, `[N]`."""
        return onehot(self.sft / self.ref)

    def nearly_free(self) -> Estimate:
        """The optimum at an anchor so weak that at most e^-40 of every rival's odds remains."""
        gaps = self.reward.max() - self.reward
        # The runner-up decides: beta is a fortieth of its distance.
        beta = gaps.sort().values[1] / 40
        bar = math.exp(-40) / self.anchor.min()
        return Estimate(torch.softmax(self.anchor.log() + self.reward / beta, 0), bar)


def onehot(x: Tensor) -> Tensor:
    """1 at the largest entry of `x [N]`, 0 elsewhere."""
    return torch.eye(x.shape[0], dtype=x.dtype)[int(x.argmax())]


@lru_cache(maxsize=4)
def _recovered(
    cases: tuple[PolicyCase, ...], anchored: Anchor, betas: tuple[float, ...]
) -> tuple[Recovered, ...]:
    return tuple(Recovered(c, beta, anchored) for c in cases for beta in betas)


def to_reference(scope: Scope) -> Sequence[Recovered]:
    """Every policy once, the divergence taken to the reference at beta = 1."""
    return _recovered(tuple(one_demo_each(scope)), "ref", (1.0,))


def searched(anchored: Anchor, betas: tuple[float, ...]) -> Callable[[Scope], Sequence[Recovered]]:
    """Policies of at most nine responses, on which a search is quick, or else the smallest one."""

    def cases(scope: Scope) -> Sequence[Recovered]:
        able = [c for c in one_demo_each(scope) if c.terms <= 256]
        small = [c for c in able if c.terms <= 9] or able[:1]
        return _recovered(tuple(small), anchored, betas)

    return cases


def state_divergences(case: Recovered) -> Tensor:
    """Sum over prefixes of pi_SFT(prefix) KL(pi_SFT(.|prefix) || pi_ref(.|prefix)), in nats."""
    policy, other, prompt = case.at.policy, case.at.reference, case.at.prompt
    reached, total = torch.ones(1, dtype=case.sft.dtype), torch.zeros((), dtype=case.sft.dtype)
    for t in range(policy.length):
        prefixes = digits(torch.arange(policy.vocab**t), policy.vocab, t)
        step, ref = (torch.softmax(p.next_logits(prompt, prefixes), -1) for p in (policy, other))
        total = total + reached @ divergence(step, ref)
        reached = (reached.unsqueeze(-1) * step).flatten()
    return total.detach()


EXACT = Assumption(
    "exact optimisation over all policies", "a model class, or a few steps, may end elsewhere"
)


CLAIMS = (
    Claim(
        name="recovered-reward-leads-back-to-sft",
        title="Trained on its own reward, an SFT policy stays where it is",
        kind="refutation",
        statement=r"\mathrm{argmax}_{\pi}\; \mathbb{E}_{y \sim \pi}\left[\log \frac{\pi_{\mathrm"
        r"{SFT}}(y)}{\pi_{\mathrm{ref}}(y)}\right] - \mathrm{KL}(\pi \Vert \pi_{\mathrm{ref}}) = "
        r"\pi_{\mathrm{SFT}}",
        note="With the divergence taken to the reference at beta = 1 the optimum is the SFT policy "
        "itself: in the ideal case nothing is gained. Gains come from another anchor, another "
        "beta, or from SFT that was not finished.",
        cites=("li2025densepath",),
        cases=searched("ref", (1.0,)),
        assumptions=(EXACT,),
        tolerance=Numerical(),
        lhs=lambda c: c.best,
        rhs=lambda c: c.sft,
        published=Published(
            statement=r"\left\Vert \pi^\star - \pi_{\mathrm{SFT}} \right\Vert > 0",
            lhs=lambda c: ((c.best.value - c.sft).abs() > c.best.error).any().double(),
            side=lambda c: torch.ones((), dtype=c.sft.dtype),
            cite="li2025densepath",
            why="reinforcement learning on the recovered reward as an improvement of the policy "
            "it was recovered from",
            second_hand=True,
        ),
        mutants=(
            Mutant("the reference", lambda c: c.ref),
            Mutant("anchored at the SFT policy", lambda c: c.tilted(2.0, -1.0)),
        ),
    ),
    Claim(
        name="anchored-at-sft-it-extrapolates",
        title="Anchored at the SFT policy, the recovered reward extrapolates",
        kind="identity",
        statement=r"\mathrm{argmax}_{\pi}\; \mathbb{E}_{y \sim \pi}\left[\log \frac{\pi_{\mathrm"
        r"{SFT}}(y)}{\pi_{\mathrm{ref}}(y)}\right] - \beta\, \mathrm{KL}(\pi \Vert "
        r"\pi_{\mathrm{SFT}}) \propto \frac{\pi_{\mathrm{SFT}}(y)^{1 + 1/\beta}}"
        r"{\pi_{\mathrm{ref}}(y)^{1/\beta}}",
        note="A step further along the line from the reference to the SFT policy, in log-space: "
        "what SFT changed is exaggerated, right or wrong.",
        cites=("li2025densepath",),
        cases=searched("sft", (0.5, 2.0)),
        assumptions=(EXACT,),
        tolerance=Numerical(),
        lhs=lambda c: c.best,
        rhs=lambda c: c.tilted(1 + 1 / c.beta, -1 / c.beta),
        mutants=(
            Mutant("anchored at the reference", lambda c: c.tilted(1 / c.beta, 1 - 1 / c.beta)),
            Mutant("the SFT policy", lambda c: c.sft),
            Mutant("beta for 1/beta", lambda c: c.tilted(1 + c.beta, -c.beta)),
        ),
    ),
    Claim(
        name="recovered-reward-averages-to-a-divergence",
        title="The SFT policy's own recovered reward is its divergence from the reference",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_{\mathrm{SFT}}}\left[\sum_t \log \frac{\pi_{\mathrm"
        r"{SFT}}(y_t \mid s_t)}{\pi_{\mathrm{ref}}(y_t \mid s_t)}\right] = \sum_s "
        r"\pi_{\mathrm{SFT}}(s)\, \mathrm{KL}(\pi_{\mathrm{SFT}}(\cdot \mid s) \Vert "
        r"\pi_{\mathrm{ref}}(\cdot \mid s))",
        note="Never negative, whatever was learned: the mean reward measures how far SFT went.",
        cites=("li2025densepath",),
        cases=to_reference,
        lhs=lambda c: c.sft @ c.reward,
        rhs=state_divergences,
        scale=lambda _: 1.0,
        mutants=(
            Mutant("divergence the other way round", lambda c: divergence(c.ref, c.sft)),
            Mutant("responses of the reference", lambda c: c.ref @ c.reward, of="lhs"),
        ),
    ),
    Claim(
        name="without-an-anchor-the-largest-ratio-wins",
        title="Without an anchor, one response wins: the one that SFT raised most",
        kind="limit",
        statement=r"\lim_{\beta \to 0} \pi^\star_\beta = \mathbf{1}\left[y = \mathrm{argmax}_{y'} "
        r"\frac{\pi_{\mathrm{SFT}}(y')}{\pi_{\mathrm{ref}}(y')}\right]",
        note="It need not be a likely one: what was raised most is often rare under both.",
        cites=("li2025densepath",),
        cases=to_reference,
        assumptions=(EXACT,),
        tolerance=Numerical(),
        lhs=lambda c: c.nearly_free(),
        rhs=lambda c: c.winner,
        mutants=(
            Mutant("the likeliest response of the SFT policy", lambda c: onehot(c.sft)),
            Mutant("the smallest ratio", lambda c: onehot(c.ref / c.sft)),
        ),
    ),
)
