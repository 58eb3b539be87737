"""Softmax tables: the policies of the textbook proofs, with a parameter for every logit."""

from abc import abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dft_theory.policies.base import Policy, with_prompt
from dft_theory.seeding import generator


class TablePolicy(Policy):
    """Logits `theta [contexts, rows, V]`; a prompt is one token, the index of its context.

    Responses that share no row share no parameter. Each response visits `length` distinct rows,
    so its score (gradient of log pi) has exactly the entries e_{y_t} - pi(.|row_t).
    """

    def __init__(self, theta: Tensor, length: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)
        self.vocab, self.length = theta.shape[-1], length

    @abstractmethod
    def row_index(self, prefixes: Tensor) -> Tensor:
        """Row `[N]` that holds the logits after each prefix `[N, t]`."""

    def next_logits(self, prompt: Tensor, prefixes: Tensor) -> Tensor:
        """Logits `[N, V]`: one row of the table for each prefix `[N, t]`."""
        return self.theta[int(prompt[0])].index_select(0, self.row_index(prefixes))

    def teacher_forced(self, prompt: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, 1+T, V]` and unshifted labels; the last row predicts nothing and is 0."""
        steps = range(responses.shape[1])
        rows = torch.stack([self.row_index(responses[:, :t]) for t in steps], dim=1)
        # Indexing with [N, T] rows would be the same; the flat form has the faster backward.
        logits = self.theta[int(prompt[0])].index_select(0, rows.flatten()).unflatten(0, rows.shape)
        return F.pad(logits, (0, 0, 0, 1)), with_prompt(prompt, responses)[1]


class TabularPolicy(TablePolicy):
    """One softmax for each (context, position): tokens are independent given the prompt."""

    @classmethod
    def random(
        cls, *, vocab: int, length: int, seed: int, contexts: int = 2, scale: float = 1.0
    ) -> Self:
        """Standard-normal logits times `scale`, float64."""
        g = generator(seed, "policy", "tabular")
        theta = torch.randn(contexts, length, vocab, dtype=torch.float64, generator=g)
        return cls(scale * theta, length)

    def row_index(self, prefixes: Tensor) -> Tensor:
        """The position, whatever the tokens before it."""
        return torch.full((prefixes.shape[0],), prefixes.shape[1], dtype=torch.long)


class AutoregressivePolicy(TablePolicy):
    """One softmax for each (context, prefix): every distribution over responses of `length`."""

    @classmethod
    def random(
        cls, *, vocab: int, length: int, seed: int, contexts: int = 2, scale: float = 1.0
    ) -> Self:
        """Standard-normal logits times `scale`, float64."""
        g = generator(seed, "policy", "autoregressive")
        rows = sum(vocab**t for t in range(length))
        theta = torch.randn(contexts, rows, vocab, dtype=torch.float64, generator=g)
        return cls(scale * theta, length)

    def row_index(self, prefixes: Tensor) -> Tensor:
        """The prefix read as a number in base V, after all shorter prefixes."""
        t = prefixes.shape[1]
        powers = torch.tensor([self.vocab**k for k in range(t - 1, -1, -1)], dtype=torch.long)
        index: Tensor = (prefixes * powers).sum(-1) + sum(self.vocab**k for k in range(t))
        return index
