"""Weights made from the next-token distribution: IDFT, DEFT, EAFT."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dft_theory.claims.base import Claim, Mutant, Published
from dft_theory.claims.entropy import EAFT, IDFT, entropy, nats
from dft_theory.claims.logit_gradient import token_cases
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.logprobs import TokenStats, target_stats
from dft_theory.objectives import deft_renyi, eaft
from dft_theory.seeding import generator

QWEN = 152_064  # size of Qwen2.5's vocabulary


def cut_exponent(case: TokenCase, low: float = 0.1, high: float = 2.0) -> Tensor:
    """1 / (p e^H), cut."""
    return torch.exp(-case.probs.log()[case.target] - entropy(case.probs)).clamp(low, high)


def deft_log_weight(case: TokenCase) -> Tensor:
    """Log of DEFT's weight."""
    return deft_renyi.weight(case.stats(case.logits))[0, 0].log()


@dataclass(frozen=True)
class Top:
    """The k likeliest tokens and the rest."""

    at: TokenCase
    k: int

    def __str__(self) -> str:
        return f"top {self.k} at {self.at}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.at.terms

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """Mass of the top k, of the rest, and H_binary, H_top, H_rest in nats."""
        ordered = self.at.probs.sort(descending=True).values
        top, rest = ordered[: self.k], ordered[self.k :]
        m, left = top.sum(), rest.sum()
        return m, left, entropy(torch.stack([m, left])), entropy(top / m), entropy(rest / left)


def tops(scope: Scope) -> Sequence[Top]:
    """The top 2 and 5 of every larger vocabulary."""
    return [Top(c, k) for c in scope.token_cases for k in (2, 5) if c.terms > k]


def chain(case: Top) -> Tensor:
    """H_b(m) + m H_top + (1 - m) H_rest, H_top read from EAFT's weight."""
    m, left, binary, _, rest = case.parts
    top = eaft(k=case.k, nats=1.0).weight(case.at.stats(case.at.logits))[0, 0]
    return binary + m * top + left * rest


@dataclass(frozen=True)
class Vocabulary:
    """A next-token distribution over Qwen's vocabulary: `live` tokens of random logits share all.

    The others stand 60 nats below.
    """

    live: int

    terms: int = QWEN

    def __str__(self) -> str:
        return f"{self.live} live tokens of {self.terms}"

    @cached_property
    def stats(self) -> TokenStats:
        """`[1, 1]`, the first live token being the target."""
        g = generator(0, "vocabulary", self.live)
        z = torch.full((1, 1, self.terms), -60.0, dtype=torch.float64)
        z[..., : self.live] = torch.randn(self.live, dtype=torch.float64, generator=g)
        return target_stats(z, torch.zeros(1, 1, dtype=torch.long), needs=("entropy", "log_probs"))

    def closed(self, k: int, scale: float) -> Tensor:
        """Entropy of the k likeliest tokens, renormalised, over `scale` nats."""
        assert self.stats.log_probs is not None
        top = self.stats.log_probs.flatten().exp().sort(descending=True).values[:k]
        return entropy(top / top.sum()) / scale


def vocabularies(scope: Scope) -> Sequence[Vocabulary]:  # noqa: ARG001 (always the same)
    """Sure, unsure, and without a clue."""
    return [Vocabulary(live) for live in (2, 20, 1000, QWEN)]


CLAIMS = (
    Claim(
        name="idft-exponent-is-inverse-relative-probability",
        title="IDFT's exponent is the perplexity's share over p",
        kind="identity",
        statement=r"\log w = \min\left(2, \max\left(\frac{1}{10}, \frac{1}{p\, e^{H}}\right)"
        r"\right) \log p, \qquad \beta = 1",
        note="e^H is the effective number of tokens: a token as likely as one of them has "
        "exponent 1, which is DFT; a rarer one up to 2.",
        cites=("zhang2026idft",),
        cases=token_cases,
        lhs=lambda c: IDFT.weight(c.stats(c.logits))[0, 0].log(),
        rhs=lambda c: cut_exponent(c) * c.probs.log()[c.target],
        scale=lambda c: 1.0 + abs(float(c.p.log())),
        mutants=(
            Mutant("not cut above", lambda c: cut_exponent(c, high=1e9) * c.p.log()),
            Mutant("entropy forgotten", lambda c: (1 / c.p).clamp(0.1, 2.0) * c.p.log()),
            Mutant("beta = 2", lambda c: cut_exponent(c, 0.01, 4.0).sqrt() * c.p.log()),
        ),
    ),
    Claim(
        name="deft-lies-between-dft-and-nearly-sft",
        title="DEFT's weight lies between DFT's and the V-th root of it",
        kind="inequality",
        relation="<=",
        statement=r"p \leq p^{\sum_v \pi_v^2} \leq p^{1/V}",
        note="The exponent is the probability that two draws agree: 1/V where the model has no "
        "opinion, 1 where it is certain.",
        cites=("wang2026deft",),
        cases=token_cases,
        lhs=lambda c: torch.stack([c.p.log(), deft_log_weight(c)]),
        rhs=lambda c: torch.stack([deft_log_weight(c), c.p.log() / c.terms]),
        scale=lambda c: abs(float(c.p.log())) + 1e-9,
        mutants=(
            Mutant(
                "never below the root of p",
                lambda c: torch.stack([c.p.log() / 2, deft_log_weight(c)]),
                of="lhs",
            ),
            Mutant(
                "twice the upper exponent",
                lambda c: torch.stack([deft_log_weight(c), 2 * c.p.log() / c.terms]),
            ),
        ),
    ),
    Claim(
        name="top-k-entropy-chain-rule",
        title="What the entropy of the top k tokens leaves out",
        kind="identity",
        statement=r"H = H_b(m) + m\, H_{\mathrm{top}} + (1 - m)\, H_{\mathrm{rest}}, \qquad "
        r"m = \sum_{v \in \mathrm{top}} p_v",
        note="EAFT reads H_top of 20 tokens. Where they hold nearly everything that is nearly H; "
        "where the model has no idea it stays at log 20.",
        cites=("diao2026eaft",),
        cases=tops,
        lhs=lambda c: c.at.stats(c.at.logits).entropy[0, 0],
        rhs=chain,
        scale=lambda c: nats(c.at),
        mutants=(
            Mutant("which part it is, forgotten", lambda c: chain(c) - c.parts[2]),
            Mutant(
                "masses swapped",
                lambda c: c.parts[2] + c.parts[1] * c.parts[3] + c.parts[0] * c.parts[4],
            ),
            Mutant("top alone", lambda c: c.parts[3]),
        ),
    ),
    Claim(
        name="eaft-divides-by-three-nats",
        title="EAFT's unit is 3 nats, not the logarithm of the vocabulary",
        kind="refutation",
        statement=r"w_{\mathrm{EAFT}} = \frac{H_{\mathrm{top\,20}}}{3}",
        note="The baseline in another method's repository divides the entropy of the whole "
        "vocabulary by log V = 11.9. Where 20 tokens hold the mass its weights are a quarter of "
        "EAFT's, a smaller learning rate; where the model is lost both are near 1.",
        cites=("diao2026eaft", "zhang2026idft"),
        cases=vocabularies,
        lhs=lambda c: EAFT.weight(c.stats)[0, 0],
        rhs=lambda c: c.closed(20, 3.0),
        published=Published(
            statement=r"w_{\mathrm{EAFT}} = \frac{H}{\log V}",
            side=lambda c: c.closed(c.terms, math.log(c.terms)),
            cite="zhang2026idft",
            why="the EAFT trainer of the released code",
        ),
        mutants=(
            Mutant("log V for 20 tokens", lambda c: c.closed(20, math.log(c.terms))),
            Mutant("ten tokens", lambda c: c.closed(10, 3.0)),
            Mutant("log 20 instead of 3", lambda c: c.closed(20, math.log(20))),
        ),
    ),
)
