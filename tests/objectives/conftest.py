"""One ragged batch, and the gradient of a loss written down as its authors print it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.objectives import Objective, SumOver

NEEDS = ("entropy", "log_probs", "ref_logp", "ref_log_probs")


@dataclass(frozen=True)
class Bench:
    """Logits and a reference's `[B, T, V]` with unshifted ragged labels `[B, T]`."""

    logits: torch.Tensor
    reference: torch.Tensor
    labels: torch.Tensor

    def stats(self, logits: torch.Tensor | None = None) -> TokenStats:
        z = self.logits if logits is None else logits
        return token_stats(z, self.labels, needs=NEEDS, ref_logits=self.reference)

    def surrogate(self, objective: Objective) -> torch.Tensor:
        """Gradient of the surrogate, summed over tokens, in the logits."""
        z = self.logits.clone().requires_grad_()
        loss = objective.surrogate(self.stats(z), reduction=SumOver())
        return torch.autograd.grad(loss, z)[0]

    def published(self, loss: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Gradient of sum_n loss(pi, y, b): distributions `[N, V]`, targets `[N]`, reference.

        Reads shift and mask by a loop of its own, nothing of the package.
        """
        z = self.logits.clone().requires_grad_()
        at = [
            (b, t)
            for b in range(self.labels.shape[0])
            for t in range(1, self.labels.shape[1])
            if self.labels[b, t] != IGNORE_INDEX
        ]
        rows = torch.stack([z[b, t - 1].softmax(0) for b, t in at])
        held = torch.stack([self.reference[b, t - 1].softmax(0) for b, t in at])
        targets = torch.stack([self.labels[b, t] for b, t in at])
        return torch.autograd.grad(loss(rows, targets, held).sum(), z)[0]


def bench(vocab: int, seed: int = 0) -> Bench:
    g = torch.Generator().manual_seed(seed)
    logits, reference = (
        2 * torch.randn(3, 5, vocab, dtype=torch.float64, generator=g) for _ in range(2)
    )
    labels = torch.randint(vocab, (3, 5), generator=g)
    labels[0, :2] = labels[1, 3:] = IGNORE_INDEX
    return Bench(logits, reference, labels)


@pytest.fixture
def small() -> Bench:
    """Five tokens."""
    return bench(5)


@pytest.fixture
def large() -> Bench:
    """Forty tokens, more than any top-k read here."""
    return bench(40)


@dataclass(frozen=True)
class Batch:
    """Logits `[4, 6, 5]` of three policies, unshifted labels `[4, 6]` and advantages `[4, 5]`."""

    logits: torch.Tensor
    ref_logits: torch.Tensor
    old_logits: torch.Tensor
    labels: torch.Tensor
    advantage: torch.Tensor

    def stats(self, logits: torch.Tensor) -> TokenStats:
        """Everything an objective of whole responses may need, through the package's own path."""
        found = token_stats(
            logits,
            self.labels,
            needs=(*NEEDS, "old_logp"),
            ref_logits=self.ref_logits,
            old_logits=self.old_logits,
        )
        return replace(found, advantage=self.advantage)

    def logp(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the targets by cross-entropy, 0 where there is none."""
        shifted = logits[:, :-1].transpose(1, 2)
        return -F.cross_entropy(
            shifted, self.labels[:, 1:], ignore_index=IGNORE_INDEX, reduction="none"
        )

    @property
    def ref(self) -> torch.Tensor:
        """As `logp`, of the reference."""
        return self.logp(self.ref_logits)

    @property
    def old(self) -> torch.Tensor:
        """As `logp`, of the earlier policy."""
        return self.logp(self.old_logits)

    @property
    def lengths(self) -> torch.Tensor:
        """Target tokens of each response, `[4]`."""
        return (self.labels[:, 1:] != IGNORE_INDEX).sum(1)

    def gradient(self, objective: Objective) -> torch.Tensor:
        """Gradient of the objective's surrogate in the logits."""
        z = self.logits.clone().requires_grad_(True)
        return torch.autograd.grad(objective.surrogate(self.stats(z), reduction=SumOver()), z)[0]

    def published(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Gradient in the logits of a loss of the targets' log-probabilities `[4, 5]`."""
        z = self.logits.clone().requires_grad_(True)
        return torch.autograd.grad(loss(self.logp(z)), z)[0]


@pytest.fixture
def batch() -> Batch:
    """Four ragged responses, with a reference and an earlier policy."""
    g = torch.Generator().manual_seed(11)
    logits, ref, old = torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=g)
    x = IGNORE_INDEX
    labels = torch.tensor(
        [[x, 1, 0, 4, 2, x], [x, x, 2, 3, x, x], [0, 3, 3, 1, 0, 4], [x, x, x, 2, x, 1]]
    )
    return Batch(
        logits=1.5 * logits,
        ref_logits=1.5 * logits + ref,
        old_logits=1.5 * logits + 0.4 * old,
        labels=labels,
        advantage=torch.randn(4, 5, dtype=torch.float64, generator=g),
    )
