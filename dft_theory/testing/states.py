"""Random states of a model, its reference and its past: everything an objective may be given."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.seeding import generator

# What logits, of the model and of others, determine; advantages and samples come from outside.
DETERMINED = {f.name for f in fields(TokenStats)} - {"logp", "mask", "advantage", "sampled"}
SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class State:
    """One batch. Logits, reference and past are `[B, T, V]` float64, labels `[B, T]` unshifted.

    `advantage` is `[B, T-1]` and `sampled` `[B, T-1, K]`. Rows 0 to 3 stand together, as samples
    of one prompt do, with advantages that sum to 0.
    """

    name: str
    logits: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    ref_logits: Tensor = field(repr=False)
    old_logits: Tensor = field(repr=False)
    advantage: Tensor = field(repr=False)
    sampled: Tensor = field(repr=False)

    def __str__(self) -> str:
        b, t, v = self.logits.shape
        return f"{self.name}: B={b} T={t} V={v}"

    def stats(
        self, logits: Tensor | None = None, *, only: Collection[str] | None = None
    ) -> TokenStats:
        """Statistics under `logits` (default: the state's own): all of them, or `only` these."""
        z = self.logits if logits is None else logits
        t = token_stats(
            z,
            self.labels,
            needs=DETERMINED,
            ref_logits=self.ref_logits.to(z.dtype),
            old_logits=self.old_logits.to(z.dtype),
        )
        t = replace(t, advantage=self.advantage.to(z.dtype), sampled=self.sampled)
        if only is None:
            return t
        bare = TokenStats(logp=t.logp, mask=t.mask)
        return replace(bare, **{name: getattr(t, name) for name in only})

    def rows(self, index: Tensor) -> Self:
        """The rows `index`, in that order."""
        return replace(
            self,
            logits=self.logits[index],
            labels=self.labels[index],
            ref_logits=self.ref_logits[index],
            old_logits=self.old_logits[index],
            advantage=self.advantage[index],
            sampled=self.sampled[index],
        )

    def padded(self, width: int) -> Self:
        """The same with `width` masked columns on the right, and noise in everything else."""

        def wider(x: Tensor, more: Tensor) -> Tensor:
            return torch.cat([x, more.expand(-1, width, *x.shape[2:])], 1)

        return replace(
            self,
            logits=wider(self.logits, 2 * self.logits[:, :1] + 1),
            labels=wider(self.labels, torch.full_like(self.labels[:, :1], IGNORE_INDEX)),
            ref_logits=wider(self.ref_logits, -self.ref_logits[:, :1]),
            old_logits=wider(self.old_logits, 3 * self.old_logits[:, :1]),
            advantage=wider(self.advantage, 5 + self.advantage[:, :1]),
            sampled=wider(self.sampled, self.sampled[:, :1]),
        )

    def elsewhere(self, b: int, t: int) -> Self:
        """The same with everything about one target token changed, and nothing about others."""

        def turned(x: Tensor) -> Tensor:
            changed = x.clone()
            changed[b, t] = 2 * x[b, t].flip(-1) - x[b, t].roll(1, -1)
            return changed

        advantage, sampled = self.advantage.clone(), self.sampled.clone()
        advantage[b, t] = 1 - 2 * advantage[b, t]
        sampled[b, t] = (sampled[b, t] + 1) % self.logits.shape[-1]
        return replace(
            self,
            logits=turned(self.logits),
            ref_logits=turned(self.ref_logits.roll(1, -1)).roll(-1, -1),
            old_logits=turned(self.old_logits),
            advantage=advantage,
            sampled=sampled,
        )


def state(
    seed: int, *, rows: int = 4, length: int = 4, vocab: int = 5, scale: float = 1.5
) -> State:
    """A random batch with prompts and padding; advantages of both signs, samples of the policy."""
    g = generator(seed, "state", rows, length, vocab)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    logits = scale * normal(rows, length, vocab)
    labels = torch.randint(vocab, (rows, length), generator=g)
    labels[:, 0] = IGNORE_INDEX
    # Ragged: row b loses b % 3 targets at its end, if it keeps one.
    for b in range(rows):
        labels[b, max(2, length - b % 3) :] = IGNORE_INDEX
    size = (rows, length - 1)
    drawn = torch.multinomial(logits[:, :-1].softmax(-1).flatten(0, 1), SAMPLES, True, generator=g)
    raw = normal(rows, 1)
    return State(
        name=f"state {seed}",
        logits=logits,
        labels=labels,
        ref_logits=logits + 0.7 * normal(*logits.shape),
        old_logits=logits + 0.3 * normal(*logits.shape),
        advantage=(raw - raw.mean()).expand(size).clone(),
        sampled=drawn.unflatten(0, size),
    )


def states() -> tuple[State, ...]:
    """Three batches, from nearly uniform to nearly certain."""
    return (state(0), state(1, scale=0.3), state(2, scale=4.0))


def token(seed: int, *, vocab: int = 4, scale: float = 1.5) -> State:
    """One row with a single target: what happens at one softmax."""
    found = state(seed, rows=1, length=2, vocab=vocab, scale=scale)
    return replace(found, name=f"token {seed}", advantage=torch.full_like(found.advantage, 0.75))
