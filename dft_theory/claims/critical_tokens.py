"""Which tokens and which inputs: critical tokens, noisy embeddings, masks by top-k mass."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.scope import Scope
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.logprobs import target_stats
from dft_theory.objectives import SumOver, critical_tokens, sed_masked, sft
from dft_theory.policies import AutoregressivePolicy
from dft_theory.seeding import generator

PROMPT = torch.tensor([0])

# ---- critical tokens -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """A random policy, `share` of whose responses are correct, and a correct demonstration.

    The demonstration is the policy's likeliest correct response.
    """

    vocab: int
    length: int
    seed: int
    share: float

    def __str__(self) -> str:
        return (
            f"V = {self.vocab}, T = {self.length}, {int(self.correct.sum())} correct, {self.demo}"
        )

    @property
    def terms(self) -> int:
        """Number of responses."""
        return int(self.vocab**self.length)

    @cached_property
    def policy(self) -> AutoregressivePolicy:
        """One softmax for each prefix."""
        return AutoregressivePolicy.random(vocab=self.vocab, length=self.length, seed=self.seed)

    @cached_property
    def correct(self) -> Tensor:
        """Which responses are correct `[N]`, in counting order: at least one."""
        g = generator(self.seed, "correct", self.vocab, self.length)
        count = max(1, round(self.share * self.terms))
        chosen = torch.randperm(self.terms, generator=g)[:count]
        return torch.zeros(self.terms, dtype=torch.bool).index_fill(0, chosen, True)

    @cached_property
    def demo(self) -> tuple[int, ...]:
        """The demonstration y."""
        probs = enumeration.probabilities(self.policy, PROMPT).detach()
        index = int((probs * self.correct).argmax())
        return tuple(self.policy.responses()[index].tolist())

    def index(self, response: Sequence[int]) -> int:
        """Place of a response in counting order."""
        place = 0
        for token in response:
            place = place * self.vocab + token
        return place

    def greedy(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        """The response that decoding the likeliest token continues `prefix` to."""
        while len(prefix) < self.length:
            logits = self.policy.next_logits(PROMPT, torch.tensor([prefix], dtype=torch.long))
            prefix = (*prefix, int(logits.argmax()))
        return prefix

    def others(self, t: int) -> list[tuple[int, ...]]:
        """The demonstration up to token t, with each other token there."""
        return [(*self.demo[:t], a) for a in range(self.vocab) if a != self.demo[t]]

    def succeeds(self, prefix: tuple[int, ...]) -> bool:
        """Whether greedy decoding makes a correct response of `prefix`."""
        return bool(self.correct[self.index(self.greedy(prefix))])

    @cached_property
    def critical(self) -> Tensor:
        """1 where every other token, continued greedily, gives a wrong response, `[T]`."""
        return flags(not any(map(self.succeeds, self.others(t))) for t in range(self.length))

    @cached_property
    def necessary(self) -> Tensor:
        """1 where no response at all that differs there, after the same start, is correct, `[T]`.

        Counted in the set of correct responses, without the policy.
        """
        correct = self.policy.responses()[self.correct]
        demo = torch.tensor(self.demo)
        return flags(
            not bool(((correct[:, :t] == demo[:t]).all(1) & (correct[:, t] != demo[t])).any())
            for t in range(self.length)
        )

    def gradient(self, mask: Tensor) -> Tensor:
        """Gradient of the critical-token objective on the demonstration, `[D]`."""
        t = self.policy.stats(PROMPT, torch.tensor([self.demo]))
        given = replace(t, advantage=mask.to(t.logp).reshape(1, -1))
        return enumeration.gradient(
            critical_tokens.surrogate(given, reduction=SumOver()), self.policy
        )

    def sft_gradient(self) -> Tensor:
        """Gradient of SFT on the demonstration, `[D]`."""
        t = self.policy.stats(PROMPT, torch.tensor([self.demo]))
        return enumeration.gradient(sft.surrogate(t, reduction=SumOver()), self.policy)


def flags(values: Iterable[bool]) -> Tensor:
    """Truth values as float64, `[T]`."""
    return torch.tensor(list(values), dtype=torch.float64)


@lru_cache(maxsize=2)
def _trees(thorough: bool) -> tuple[Tree, ...]:
    seeds = range(20 if thorough else 6)
    sizes = ((2, 3), (3, 3), (4, 3)) + (((3, 4),) if thorough else ())
    return tuple(
        Tree(v, t, s, share) for v, t in sizes for share in (0.0, 0.15, 0.4) for s in seeds
    )


def trees(scope: Scope) -> Sequence[Tree]:
    """Random trees with one, some and many correct responses."""
    return _trees(scope.thorough)


# ---- noisy embeddings ----------------------------------------------------------------------------


@dataclass(frozen=True)
class NoisyInput:
    """A linear softmax head on a flattened input of L embeddings of d numbers, with uniform noise.

    NEFTune adds alpha / sqrt(L d) times U(-1, 1) to every number.
    """

    vocab: int
    size: int  # L d
    seed: int
    alpha: float = 0.02

    def __str__(self) -> str:
        return f"V = {self.vocab}, L d = {self.size}, seed {self.seed}"

    @property
    def terms(self) -> int:
        """Nodes of the quadrature."""
        return int(12**self.size)

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Head `[V, L d]` and input `[L d]`."""
        g = generator(self.seed, "neftune", self.vocab, self.size)
        head = torch.randn(self.vocab, self.size, dtype=torch.float64, generator=g)
        return head, torch.randn(self.size, dtype=torch.float64, generator=g)

    def loss(self, x: Tensor) -> Tensor:
        """Cross-entropy of token 0 at inputs `[n, L d]`, `[n]`, in nats."""
        return F.cross_entropy(
            x @ self.parts[0].T, torch.zeros(x.shape[0], dtype=torch.long), reduction="none"
        )

    def excess(self, alpha: float) -> Tensor:
        """(E loss(x + noise) - loss(x)) / alpha^2, by tensor-product Gauss-Legendre quadrature.

        Twelve nodes a dimension integrate polynomials up to degree 23 exactly.
        """
        nodes, weights = np.polynomial.legendre.leggauss(12)
        grid = torch.tensor(list(itertools.product(nodes, repeat=self.size)))
        mass = torch.tensor(list(itertools.product(weights / 2, repeat=self.size))).prod(-1)
        x = self.parts[1]
        noisy = self.loss(x + alpha / math.sqrt(self.size) * grid)
        # Averaged after subtraction: what is small is never the difference of two averages.
        return mass @ (noisy - self.loss(x.unsqueeze(0))) / alpha**2

    @cached_property
    def measured(self) -> Estimate:
        """The excess as alpha -> 0: at alpha, with its distance from that at 2 alpha as bar.

        The next term grows with alpha^2, so the distance is three times what is left out.
        """
        fine, coarse = self.excess(self.alpha), self.excess(2 * self.alpha)
        rounding = 64 * torch.finfo(fine.dtype).eps / self.alpha
        return Estimate(fine, (fine - coarse).abs() + rounding)

    @cached_property
    def spread(self) -> Tensor:
        """Trace of the Hessian in the input: the variance of the head's rows under the softmax."""
        head, x = self.parts
        p = torch.softmax(head @ x, 0)
        return p @ (head - p @ head).square().sum(-1)

    @cached_property
    def slope(self) -> Tensor:
        """Squared length of the loss's gradient in the input."""
        head, x = self.parts
        p = torch.softmax(head @ x, 0)
        return (p @ head - head[0]).square().sum()


@lru_cache(maxsize=2)
def _noisy(thorough: bool) -> tuple[NoisyInput, ...]:
    seeds = range(6 if thorough else 2)
    return tuple(NoisyInput(v, n, s) for v in (2, 5) for n in (1, 2, 3) for s in seeds)


def noisy(scope: Scope) -> Sequence[NoisyInput]:
    """Small heads, up to three numbers of input."""
    return _noisy(scope.thorough)


# ---- masks by top-k mass -------------------------------------------------------------------------


@dataclass(frozen=True)
class Masses:
    """Softmaxes of random logits over 200 tokens, and the mass of their likeliest ones."""

    scale: float
    seed: int
    kept: float = 0.3  # the share of tokens to be masked in: 1 - r, with r = 0.7 as released
    count: int = 500

    def __str__(self) -> str:
        shares = f"{float(self.share(10, 10)):.3f} becomes {float(self.share(2, 10)):.3f}"
        return f"logit scale {self.scale:g}, seed {self.seed}: a share of {shares}"

    @property
    def terms(self) -> int:
        """Number of softmaxes."""
        return self.count

    @cached_property
    def logits(self) -> Tensor:
        """`[count, 200]`, in descending order."""
        g = generator(self.seed, "masses", str(self.scale))
        z = self.scale * torch.randn(self.count, 200, dtype=torch.float64, generator=g)
        return z.sort(descending=True).values

    def mass(self, k: int) -> Tensor:
        """Of the k likeliest tokens, `[count]`."""
        return torch.softmax(self.logits, -1)[:, :k].sum(-1)

    def share(self, k: int, k_threshold: int) -> Tensor:
        """Share of softmaxes whose top-k mass lies below the quantile of top-`k_threshold` mass."""
        threshold = self.mass(k_threshold).quantile(self.kept)
        return (self.mass(k) < threshold).double().mean()

    def penalised(self, k: int, ratio: float) -> Tensor:
        """Share of tokens that SED-SFT weights other than SFT does; the runner-up is the target."""
        targets = torch.ones(1, self.count, dtype=torch.long)
        t = target_stats(self.logits.unsqueeze(0), targets, needs=("log_probs",))
        return (sed_masked(1.0, k=k, ratio=ratio).weight(t) != 1).double().mean()


@lru_cache(maxsize=2)
def _masses(thorough: bool) -> tuple[Masses, ...]:
    seeds = range(5 if thorough else 2)
    return tuple(Masses(scale, s) for scale in (1.0, 2.5, 4.0) for s in seeds)


def masses(scope: Scope) -> Sequence[Masses]:
    """Flat, middling and sharp."""
    return _masses(scope.thorough)


CLAIMS = (
    Claim(
        name="greedy-criticality-is-not-necessity",
        title="A critical token need not be necessary",
        kind="refutation",
        relation="<=",
        statement=r"\mathrm{necessary}_t \Longrightarrow \mathrm{critical}_t",
        note="Critical: every other token, continued greedily, ends wrong. Necessary: no "
        "continuation of another token is correct. Greedy decoding looks at one continuation, so "
        "tokens are called critical that have a correct alternative, and more so where only the "
        "next two candidates are tried. The converse holds.",
        cites=("ruan2025cft",),
        cases=trees,
        lhs=lambda c: c.necessary,
        rhs=lambda c: c.critical,
        published=Published(
            statement=r"\mathrm{critical}_t \Longrightarrow \mathrm{necessary}_t",
            lhs=lambda c: c.critical,
            side=lambda c: c.necessary,
            cite="ruan2025cft",
            relation="<=",
            why="the reading that the word indispensable invites: no other token leads to success",
            second_hand=True,
        ),
        mutants=(
            Mutant(
                "one position late",
                lambda c: c.critical.roll(1),
                equivalent_when=lambda c: bool((c.critical == c.critical[0]).all()),
                why="all alike",
            ),
            Mutant(
                "the demonstrated token counted as an alternative",
                lambda c: flags(
                    not any(map(c.succeeds, [*c.others(t), c.demo[: t + 1]]))
                    for t in range(c.length)
                ),
            ),
            Mutant("critical where greedy decoding succeeds", lambda c: 1 - c.critical),
        ),
    ),
    Claim(
        name="one-correct-response-makes-every-token-critical",
        title="With one correct response, critical tokens are all tokens",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{CFT}} = \nabla_\theta "
        r"\mathcal{L}_{\mathrm{SFT}}",
        note="The method selects by how many ways lead to success. Where there is one, it is SFT, "
        "up to the normaliser, which then counts all tokens as well.",
        cites=("ruan2025cft",),
        cases=trees,
        assumptions=(
            Assumption(
                "exactly one response is correct",
                "tokens with a correct alternative get no gradient",
                holds=lambda c: int(c.correct.sum()) == 1,
            ),
        ),
        lhs=lambda c: c.gradient(c.critical),
        rhs=lambda c: c.sft_gradient(),
        mutants=(
            Mutant(
                "all but the last token",
                lambda c: c.gradient(torch.arange(c.length) < c.length - 1),
            ),
            Mutant("all but the first token", lambda c: c.gradient(torch.arange(c.length) > 0)),
            Mutant("a mean instead of a sum", lambda c: c.sft_gradient() / c.length),
        ),
    ),
    Claim(
        name="neftune-is-a-penalty-on-curvature",
        title="Noisy embeddings add the curvature of the loss, to second order",
        kind="limit",
        statement=r"\mathbb{E}\left[\ell\left(x + \frac{\alpha\, u}{\sqrt{L d}}\right)\right] = "
        r"\ell(x) + \frac{\alpha^2}{6 L d}\, \mathrm{tr}\, \nabla_x^2 \ell + O(\alpha^4), \qquad "
        r"u \sim U(-1, 1)^{L d}",
        note="Never negative for a linear head: the trace is the variance of the head's rows "
        "under the softmax, so the noise prefers confident states. It changes inputs, not weights.",
        cites=("jain2024neftune",),
        cases=noisy,
        assumptions=(
            Assumption("a linear softmax head", "the Hessian of a network may have any sign"),
        ),
        tolerance=Numerical(),
        lhs=lambda c: c.measured,
        rhs=lambda c: c.spread / (6 * c.size),
        mutants=(
            Mutant("variance of U(-1, 1) taken for 1", lambda c: c.spread / (2 * c.size)),
            Mutant(
                "not divided by the size",
                lambda c: c.spread / 6,
                equivalent_when=lambda c: c.size == 1,
                why="one number",
            ),
            Mutant("gradient squared instead of curvature", lambda c: c.slope / (6 * c.size)),
        ),
    ),
    Claim(
        name="threshold-and-mask-must-count-alike",
        title="A threshold on the top 10 masks in too much of the top 2",
        kind="refutation",
        relation="<=",
        statement=r"\frac{1}{N} \sum_t \mathbf{1}[m_{10,t} < \tau_{10}] \leq \frac{1}{N} \sum_t "
        r"\mathbf{1}[m_{2,t} < \tau_{10}], \qquad m_{2,t} \leq m_{10,t}",
        note="Two tokens never hold more than ten, so the share can only grow; by how much depends "
        "on the model. As released, the threshold is a quantile of the top-10 mass and the mask "
        "compares the top-2 mass with it.",
        cites=("chen2026sed",),
        cases=masses,
        lhs=lambda c: c.share(10, 10),
        rhs=lambda c: c.share(2, 10),
        published=Published(
            statement=r"\frac{1}{N} \sum_t \mathbf{1}[m_{2,t} < \tau_{10}] = 1 - r",
            lhs=lambda c: c.share(2, 10),
            side=lambda c: torch.tensor(c.kept, dtype=torch.float64),
            cite="chen2026sed",
            why="the defaults of the released script, r = 0.7",
        ),
        mutants=(
            Mutant("mask of more tokens than the threshold", lambda c: c.share(20, 10)),
            Mutant("threshold of the top 2, mask of the top 10", lambda c: c.share(10, 2)),
        ),
    ),
    Claim(
        name="a-matching-threshold-keeps-its-share",
        title="Counted alike, the mask keeps the share it was asked for",
        kind="identity",
        statement=r"\frac{1}{N} \left| \{t : m_{k,t} < \tau_k\} \right| = 1 - r, \qquad \tau_k = "
        r"\mathrm{quantile}_{1-r}(m_k)",
        note="Up to one token of N, for any k.",
        cites=("chen2026sed",),
        cases=masses,
        tolerance=Numerical(),
        lhs=lambda c: torch.stack([c.penalised(k, 1 - c.kept) for k in (2, 10)]),
        rhs=lambda c: Estimate(
            torch.full((2,), c.kept, dtype=torch.float64), torch.tensor(1 / c.count)
        ),
        mutants=(
            Mutant(
                "r instead of 1 - r",
                lambda c: torch.stack([c.penalised(k, c.kept) for k in (2, 10)]),
                of="lhs",
            ),
            Mutant(
                "threshold of the top 10",
                lambda c: torch.stack([c.share(k, 10) for k in (2, 10)]),
                of="lhs",
            ),
        ),
    ),
)
