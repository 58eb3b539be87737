"""Gradients in the head's weights of whole demonstrations, without a backward pass.

For one token it is (e_y - pi) h^T with h the last hidden state. Inner products of demonstrations
are summed over slices of the vocabulary, so no matrix as large as the head is held. In a tied head
it is the part of the gradient that comes through the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dft_theory.diagnostics import CONTENT_TOKENS, RARE_TOKENS, Tokens
from dft_theory.diagnostics.coherence import Coherence, coherence
from dft_theory.diagnostics.escape import Plan
from dft_theory.llm.pretrained import Pretrained
from dft_theory.seeding import generator

COMPARED = 128  # demonstrations whose gradients are compared at most; the cost grows as its square
ENTRIES = 1 << 25  # of the demonstrations' gradients in the head that are held at once


@dataclass(frozen=True, eq=False)
class States:
    """Last hidden states `[T, H]`, log-normalisers `[T]` and targets `[T]` of one response."""

    hidden: Tensor
    log_z: Tensor
    targets: Tensor


def pace(states: Sequence[States], plan: Plan) -> float:
    """How far one step at learning rate 1 moves a logit through the head alone, per unit of weight.

    Adam moves every entry of the token's row by one: |h|_1. SGD: |h|^2, over the tokens of a batch.
    """
    hidden = torch.cat([s.hidden for s in states]).double()
    if plan.optimizer == "adam":
        return float(hidden.abs().sum(-1).mean())
    return float(hidden.square().sum(-1).mean()) / (plan.batch * len(hidden) / len(states))


def compared(
    source: Pretrained, tokens: Tokens, states: Sequence[States], seed: int
) -> tuple[Coherence, ...]:
    """Agreement of the demonstrations' SFT gradients in the head, on rare and on content tokens."""
    head: Any = source.model.get_output_embeddings()
    count = min(len(states), COMPARED)
    hidden, log_z, targets = (
        torch.cat([getattr(s, name) for s in states[:count]])
        for name in ("hidden", "log_z", "targets")
    )
    row = tokens.row[: len(hidden)]
    found = []
    for name, chosen in (
        (RARE_TOKENS, tokens.rare),
        (CONTENT_TOKENS, tokens.content),
    ):
        kept = chosen[: len(hidden)].to(hidden.device)
        bias = None if head.bias is None else head.bias.detach()
        gram = head_gram(
            hidden[kept],
            head.weight.detach(),
            bias,
            log_z[kept],
            targets[kept],
            row.to(hidden.device)[kept],
            count,
        )
        chance = generator(seed, "halves", name)
        found.append(coherence(gram, of=name, tokens=int(kept.sum()), generator=chance))
    return tuple(found)


def head_gram(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    log_z: Tensor,
    targets: Tensor,
    row: Tensor,
    rows: int,
) -> Tensor:
    """Inner products of demonstrations' gradients sum_t (e_y - pi) h^T in the head, `[K, K]`.

    Shapes: `hidden` `[N, H]`, `head` `[V, H]`, `bias` `[V]`; log-normalisers, targets and the
    demonstration of each token, in order, `[N]`. Exact, a sum over slices of the vocabulary;
    float64, on the CPU.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    hidden, log_z = hidden.to(dtype), log_z.to(dtype)
    sizes = torch.bincount(row, minlength=rows).tolist()
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    size = max(1, ENTRIES // (rows * head.shape[1]))
    for first in range(0, len(head), size):
        weight = head[first : first + size].to(dtype)
        logits = hidden @ weight.T
        if bias is not None:
            logits = logits + bias[first : first + size].to(dtype)
        residual = -(logits - log_z[:, None]).exp()
        inside = (targets >= first) & (targets < first + len(weight))
        residual[inside.nonzero().squeeze(-1), targets[inside] - first] += 1
        pairs = zip(residual.split(sizes), hidden.split(sizes), strict=True)
        gradients = torch.stack([(u.T @ h).flatten() for u, h in pairs])
        gram += (gradients @ gradients.T).double().cpu()
    return gram
