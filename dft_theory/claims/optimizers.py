"""Do large gradients make large steps? Clipping, Adam, and the official accumulation (gap G15)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.scope import Scope
from dft_theory.claims.tolerance import Exact
from dft_theory.logprobs import target_stats
from dft_theory.objectives import MicrobatchTokenMean, Reduction, TokenMean, dft
from dft_theory.seeding import generator


@dataclass(frozen=True)
class Training:
    """Five fixed gradients of seven parameters, and the same multiplied by 1/p."""

    seed: int
    p: float
    terms: int = 7

    def __str__(self) -> str:
        return f"seed {self.seed}, gradients times 1/{self.p:g}"

    @cached_property
    def gradients(self) -> Tensor:
        """`[5, 7]`."""
        g = generator(self.seed, "optimizer")
        return torch.randn(5, self.terms, dtype=torch.float64, generator=g)

    def run(self, make: Callable[[list[Tensor]], torch.optim.Optimizer], *, scale: float) -> Tensor:
        """Parameters after five steps from 0 with the gradients times `scale`."""
        theta = torch.zeros(self.terms, dtype=torch.float64, requires_grad=True)
        optimizer = make([theta])
        for gradient in self.gradients:
            theta.grad = scale * gradient
            optimizer.step()
        return theta.detach()

    def adam(self, *, scale: float = 1.0) -> Tensor:
        """Adam with a negligible epsilon."""
        return self.run(lambda held: torch.optim.Adam(held, lr=0.01, eps=1e-30), scale=scale)

    def sgd(self, *, scale: float = 1.0) -> Tensor:
        """Plain gradient descent."""
        return self.run(lambda held: torch.optim.SGD(held, lr=0.01), scale=scale)

    def clipped(self, *, scale: float) -> Tensor:
        """The first gradient times `scale`, clipped to norm 1 by torch."""
        theta = nn.Parameter(torch.zeros(self.terms, dtype=torch.float64))
        theta.grad = scale * self.gradients[0]
        nn.utils.clip_grad_norm_([theta], 1.0)
        return theta.grad


def trainings(scope: Scope) -> Sequence[Training]:
    """Gradients magnified by 1/p."""
    seeds = range(20 if scope.thorough else 4)
    return [Training(s, p) for s in seeds for p in (0.5, 0.01, 1e-6)]


@dataclass(frozen=True)
class RaggedBatch:
    """Eight sequences of different lengths, in micro-batches of two."""

    seed: int
    terms: int = 48

    def __str__(self) -> str:
        return f"seed {self.seed}"

    def draw(self) -> tuple[Tensor, Tensor]:
        """Logits `[8, 6, 5]` and targets `[8, 6]` of 1 to 6 tokens each."""
        g = generator(self.seed, "ragged")
        logits = torch.randn(8, 6, 5, dtype=torch.float64, generator=g).requires_grad_(True)
        labels = torch.randint(5, (8, 6), generator=g)
        lengths = torch.randint(1, 7, (8, 1), generator=g)
        labels = labels.masked_fill(torch.arange(6) >= lengths, -100)
        return logits, labels

    def gradient(self, reduction: Reduction) -> Tensor:
        """Logit gradient of the DFT surrogate under a reduction, `[8, 6, 5]`."""
        logits, labels = self.draw()
        loss = dft.surrogate(target_stats(logits, labels), reduction=reduction)
        return torch.autograd.grad(loss, logits)[0]

    def by_hand(self) -> Tensor:
        """Backward after each micro-batch's own token mean, gradients added up and undivided."""
        logits, labels = self.draw()
        for z, y in zip(logits.split(2), labels.split(2), strict=True):
            rows, targets = z[y != -100], y[y != -100]
            nll = nn.functional.cross_entropy(rows, targets, reduction="none")
            weight = torch.softmax(rows, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            ((weight.detach() * nll).sum() / (targets.numel() + 1e-8)).backward()
        assert logits.grad is not None
        return logits.grad


def ragged_batches(scope: Scope) -> Sequence[RaggedBatch]:
    """Batches with different numbers of target tokens."""
    return [RaggedBatch(s) for s in range(30 if scope.thorough else 6)]


CLAIMS = (
    Claim(
        name="adam-ignores-gradient-scale",
        title="Adam takes the same steps whatever the scale of the gradient",
        kind="refutation",
        statement=r"\mathrm{Adam}(c\, g_1, \ldots, c\, g_n) = \mathrm{Adam}(g_1, \ldots, g_n) "
        r"\qquad \mathrm{for\ every}\ c > 0",
        note="'Large gradients make training unstable' skips the optimiser. Adam divides "
        "by its running root mean square, so a common factor 1/p changes nothing; only the "
        "weights of tokens relative to one another do.",
        cites=("wu2025dft", "kingma2015adam"),
        cases=trainings,
        assumptions=(
            Assumption("epsilon far below the gradients", "tiny gradients are damped by epsilon"),
        ),
        lhs=lambda c: c.adam(scale=1 / c.p),
        rhs=lambda c: c.adam(),
        published=Published(
            statement=r"\Delta \theta \propto \frac{1}{\pi_\theta(y^\star \mid x)}",
            side=lambda c: c.adam() / c.p,
            cite="wu2025dft",
            why="disproportionately large gradients lead to instability",
        ),
        mutants=(
            Mutant("gradient descent", lambda c: c.sgd(scale=1 / c.p)),
            Mutant("one step fewer", lambda c: 0.8 * c.adam()),
        ),
    ),
    Claim(
        name="clipping-ignores-gradient-scale",
        title="Clipping by norm removes the scale of large gradients",
        kind="identity",
        statement=r"\mathrm{clip}_1(c\, g) = \frac{g}{\Vert g \Vert} \qquad "
        r"\mathrm{whenever}\ c\, \Vert g \Vert \geq 1",
        note="The official recipe clips at norm 1. Once clipping bites, the factor 1/p is gone.",
        cites=("wu2025dft",),
        cases=trainings,
        # torch divides by the norm plus 1e-6.
        tolerance=Exact(c=1e11),
        assumptions=(
            Assumption(
                "norm above the threshold",
                "smaller gradients pass unchanged",
                holds=lambda c: float(c.gradients[0].norm()) / c.p >= 1,
            ),
        ),
        lhs=lambda c: c.clipped(scale=1 / c.p),
        rhs=lambda c: c.gradients[0] / c.gradients[0].norm(),
        mutants=(
            Mutant("not clipped", lambda c: c.gradients[0] / c.p),
            Mutant("clipped by element", lambda c: (c.gradients[0] / c.p).clamp(-1, 1)),
        ),
    ),
    Claim(
        name="official-accumulation-is-a-sum-of-means",
        title="The official trainer adds up micro-batch means",
        kind="refutation",
        statement=r"g_{\mathrm{official}} = \sum_{m=1}^{M} \nabla \frac{1}{n_m} \sum_{t \in m} "
        r"\ell_t",
        note="Its division by the number of micro-batches comes after the backward pass, so the "
        "accumulated gradient is M times a mean (8 in the published setting), and tokens of "
        "short micro-batches weigh more. Adam hides the factor; clipping at norm 1 does not.",
        cites=("wu2025dft",),
        cases=ragged_batches,
        lhs=lambda c: c.by_hand(),
        rhs=lambda c: c.gradient(MicrobatchTokenMean(2, accumulate="sum")),
        published=Published(
            statement=r"g = \nabla \frac{1}{n} \sum_t \ell_t",
            side=lambda c: c.gradient(TokenMean()),
            cite="wu2025dft",
            why="the mean over the tokens of the batch that the recipe describes",
        ),
        mutants=(
            Mutant("mean over micro-batches", lambda c: c.gradient(MicrobatchTokenMean(2))),
            Mutant("four times the token mean", lambda c: 4 * c.gradient(TokenMean())),
        ),
    ),
)
