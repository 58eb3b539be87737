"""What a policy is here: a distribution over responses to a prompt, with two ways to read it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Self

import torch
from torch import Tensor, nn

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats

ENUMERABLE = 2_000_000


class NotEnumerableError(ValueError):
    """The support is too large to sum over; the message gives its size and the way out."""


class Policy(nn.Module, ABC):
    """pi(y|x) over responses of `length` tokens from a vocabulary of `vocab`.

    A policy gives logits in two independent ways, and the claims use both: `teacher_forced`
    reads a whole response at once, as training does, in Hugging Face's convention (unshifted
    labels, -100 on the prompt); `next_logits` reads a prefix, as generation does, and involves
    no shift and no mask. Prompts are token ids `[P]`, P >= 1; responses `[N, length]`.
    """

    vocab: int
    length: int

    @abstractmethod
    def teacher_forced(self, prompt: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, P+T, V]` and unshifted labels `[N, P+T]` for responses `[N, T]`."""

    @abstractmethod
    def next_logits(self, prompt: Tensor, prefixes: Tensor) -> Tensor:
        """Logits `[N, V]` of the token after each response prefix `[N, t]`, t >= 0."""

    def stats(
        self,
        prompt: Tensor,
        responses: Tensor,
        *,
        needs: Collection[str] = (),
        reference: "Policy | None" = None,
        old: "Policy | None" = None,
    ) -> TokenStats:
        """Teacher-forced statistics of the response tokens, shapes `[N, P+T-1]`.

        `needs` as in `token_stats`; `reference` and `old` are the policies behind `ref_logp`,
        `ref_log_probs` and `old_logp`. Raises: ValueError for a need that cannot be computed.
        """

        def logits_of(policy: Policy | None) -> Tensor | None:
            return None if policy is None else policy.teacher_forced(prompt, responses)[0]

        return token_stats(
            *self.teacher_forced(prompt, responses),
            needs=needs,
            ref_logits=logits_of(reference),
            old_logits=logits_of(old),
        )

    def perturbed(self, size: float, generator: torch.Generator) -> Self:
        """A copy whose every parameter is moved by N(0, size^2): a reference near this policy."""
        other = copy.deepcopy(self)
        with torch.no_grad():
            for parameter in other.parameters():
                noise = torch.empty_like(parameter).normal_(0.0, size, generator=generator)
                parameter.add_(noise)
        return other

    def log_probs(self, prompt: Tensor, responses: Tensor) -> Tensor:
        """Log pi(y_t | y_<t, x) in nats of each response token, `[N, T]`."""
        return self.stats(prompt, responses).logp[:, -responses.shape[1] :]

    def sample(self, n: int, *, prompt: Tensor, generator: torch.Generator) -> Tensor:
        """`[n, T]` responses drawn from pi(.|x) at temperature 1."""
        drawn = torch.empty(n, 0, dtype=torch.long)
        with torch.no_grad():
            for _ in range(self.length):
                probs = torch.softmax(self.next_logits(prompt, drawn), dim=-1)
                token = torch.multinomial(probs, 1, generator=generator)
                drawn = torch.cat([drawn, token], dim=1)
        return drawn

    def responses(self) -> Tensor:
        """All V^T responses, `[V^T, T]`, in the order of counting.

        Raises: NotEnumerableError where there are more than `ENUMERABLE`.
        """
        count = self.vocab**self.length
        if count > ENUMERABLE:
            raise NotEnumerableError(
                f"{self.vocab}^{self.length} = {count:.2e} responses cannot be summed over. "
                "Use a smaller vocabulary or length, check token by token (each next-token sum "
                "has only V terms), or estimate with `sample`."
            )
        return digits(torch.arange(count), self.vocab, self.length)

    def initialise(self, generator: torch.Generator, scale: float) -> Self:
        """Draw every parameter from N(0, scale^2), biases and gains included."""
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, scale, generator=generator)
        return self


def digits(index: Tensor, base: int, length: int) -> Tensor:
    """Numbers `[N]` in `base` with `length` digits, most significant first, `[N, length]`."""
    powers = torch.tensor([base**k for k in range(length - 1, -1, -1)], dtype=torch.long)
    return index.unsqueeze(-1) // powers % base


def with_prompt(prompt: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids `[N, P+T]` and unshifted labels `[N, P+T]` with -100 on the prompt."""
    tokens = torch.cat([prompt.expand(responses.shape[0], -1), responses], dim=1)
    labels = tokens.clone()
    labels[:, : prompt.shape[0]] = IGNORE_INDEX
    return tokens, labels
