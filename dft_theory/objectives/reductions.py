"""From per-token terms to one number: the different estimators that the field all calls "DFT".

The paper's equation (9) sums over tokens, its trainer averages over the tokens of a micro-batch,
most libraries divide by the number of tokens of the whole batch. They weight sequences
differently, so the choice is explicit and separate from the objective.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from dft_theory.objectives.parts import one_of


class Reduction(Protocol):
    """Per-token terms `[B, T]` and their mask `[B, T]` to a scalar."""

    def __call__(self, terms: Tensor, mask: Tensor) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class TokenMean:
    """Sum over target tokens divided by the number of target tokens.

    With `total`, by that number instead: the token count of the *global* batch, which makes
    gradient accumulation over micro-batches exact.
    """

    total: float | None = None

    def __call__(self, terms: Tensor, mask: Tensor) -> Tensor:
        """Scalar mean; 0 with an intact graph when no token is a target."""
        count = mask.sum().clamp_min(1) if self.total is None else max(self.total, 1)
        return terms.sum() / count


@dataclass(frozen=True)
class SequenceMean:
    """Mean over sequences of each sequence's mean over its own target tokens."""

    def __call__(self, terms: Tensor, mask: Tensor) -> Tensor:
        """Scalar; sequences without a target count as 0 in the numerator only."""
        per_sequence = terms.sum(-1) / mask.sum(-1).clamp_min(1)
        return per_sequence.sum() / mask.any(-1).sum().clamp_min(1)


@dataclass(frozen=True)
class SumOver:
    """Sum over target tokens divided by a constant; `SumOver()` is equation (9) as printed."""

    constant: float = 1.0

    def __call__(self, terms: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 (protocol)
        """Scalar sum over tokens / constant."""
        return terms.sum() / self.constant


@dataclass(frozen=True)
class MicrobatchTokenMean:
    """Token means of micro-batches of `size` sequences, accumulated: the official trainer.

    `accumulate="sum"` reproduces that trainer's accumulated gradient, in which the division by
    the number of micro-batches comes after the backward pass and so never reaches the gradient.
    Source: fsdp_dft_trainer.py of the paper's repository, commit e153181.
    """

    size: int
    accumulate: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        one_of(("mean", "sum"), self.accumulate, "MicrobatchTokenMean(accumulate=)")

    def __call__(self, terms: Tensor, mask: Tensor) -> Tensor:
        """Scalar; the last micro-batch may be smaller."""
        parts = zip(terms.split(self.size), mask.split(self.size), strict=True)
        means = [part.sum() / (kept.sum().to(part.dtype) + 1e-8) for part, kept in parts]
        total = sum(means[1:], start=means[0])
        scaled: Tensor = total / len(means) if self.accumulate == "mean" else total
        return scaled
