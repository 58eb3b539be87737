"""The fixed batches on which losses are checked: small, deterministic, with known probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.seeding import generator

# From certain to hopeless, and away from the round numbers at which gates open and close.
PROBABILITIES = (0.83, 0.03, 0.62, 0.9993, 0.37, 2e-3, 0.13, 1e-6)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call: logits `[B, T, V]` float64, labels `[B, T]` unshifted, and the global count N."""

    name: str
    logits: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    count: int | None = None

    def __str__(self) -> str:
        b, t, v = self.logits.shape
        return f"{self.name}: B={b} T={t} V={v} N={self.count}"

    @property
    def targets(self) -> int:
        """Number of target tokens; the first label of a row is not one."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def with_count(self, count: int | None) -> Self:
        """The same batch with another global count."""
        return replace(self, count=count)


def case(
    name: str,
    labels: Sequence[Sequence[int]],
    *,
    vocab: int,
    probabilities: Sequence[float] = PROBABILITIES,
) -> Case:
    """A batch whose target tokens have the given probabilities, taken in turn.

    The other logits are standard normal. `labels` as a model takes them: unshifted, -100 where
    there is no target.
    """
    y = torch.tensor(labels)
    logits = torch.randn(*y.shape, vocab, dtype=torch.float64, generator=generator(0, name))
    for turn, (b, t) in enumerate((y[:, 1:] != IGNORE_INDEX).nonzero().tolist()):
        p, target = probabilities[turn % len(probabilities)], int(y[b, t + 1])
        row = logits[b, t]
        rivals = torch.cat([row[:target], row[target + 1 :]]).logsumexp(0)
        row[target] = rivals + torch.logit(torch.tensor(p, dtype=torch.float64))
    return Case(name=name, logits=logits, labels=y)


_ = IGNORE_INDEX


def one_token() -> Case:
    """A single target of middling probability."""
    return case("one token", [[_, 1]], vocab=3, probabilities=(0.37,))


def one_rare_token() -> Case:
    """A single target that the model finds unlikely."""
    return case("one rare token", [[_, 2]], vocab=3, probabilities=(0.013,))


def one_likely_token() -> Case:
    """A single target that the model finds likely."""
    return case("one likely token", [[_, 0]], vocab=3, probabilities=(0.83,))


def ragged() -> Case:
    """Prompts and padding of different lengths: 5, 3, 1 and 6 targets."""
    rows = [
        [_, _, 3, 1, 4, 2, 5, _],
        [_, _, _, 0, 6, 1, _, _],
        [_, 2, _, _, _, _, _, _],
        [_, 6, 5, 3, 0, 2, 1, _],
    ]
    return case("ragged batch", rows, vocab=7)


def documents() -> Case:
    """Two documents of equal length, to be packed into one row."""
    return case("two documents", [[_, 1, 4, 2], [_, 0, 3, 3]], vocab=5)


def single_targets() -> Case:
    """One target in each row, at different places: its gradient says how labels are shifted."""
    rows = [[_, _, _, 1, _, _], [_, _, 4, _, _, _], [_, _, _, 0, _, _]]
    return case("one target a row", rows, vocab=5, probabilities=(0.83, 0.03, 0.37))


def nothing_to_learn() -> Case:
    """A batch without any target: what truncation leaves of a long prompt."""
    return case("all labels masked", [[_, _, _], [_, _, _]], vocab=4)


def confident(vocab: int = 8192) -> Case:
    """Confident and middling tokens over a large vocabulary: where half precision gives out."""
    g = generator(0, "confident")
    y = torch.randint(vocab, (2, 13), generator=g)
    y[:, 0] = IGNORE_INDEX
    sure = (0.9995, 0.999, 0.9998, 0.998, 0.83, 0.9995, 0.37, 0.9992, 0.13, 0.9997)
    return case("confident tokens", y.tolist(), vocab=vocab, probabilities=sure)


def ordinary() -> tuple[Case, ...]:
    """What every loss meets every day, smallest first, with the count given and not."""
    small = (one_token(), one_rare_token(), one_likely_token(), single_targets(), ragged())
    return small + tuple(c.with_count(40) for c in (one_token(), ragged()))
