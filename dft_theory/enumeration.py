"""Exact sums over all V^T responses of a policy, batched and memory-bounded.

Two routes, kept independent so that their agreement means something. The *generative* route
walks the tree of prefixes and multiplies probabilities, as sampling would. The *teacher-forced*
route reads whole responses through the label shift and log-softmax, as training does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dft_theory.policies.base import Policy, digits
from dft_theory.policies.tabular import TablePolicy

BUDGET = 256 * 2**20  # bytes of activations that one batch of responses may take
BLOCK = 16  # responses whose scores are taken by one batched backward pass


def parameters(policy: Policy) -> tuple[Tensor, ...]:
    """The trainable parameters, in order."""
    return tuple(p for p in policy.parameters() if p.requires_grad)


def gradient(value: Tensor, policy: Policy) -> Tensor:
    """Gradient of a scalar in the policy's parameters, flat `[D]`; 0 where it does not depend."""
    held = parameters(policy)
    grads = torch.autograd.grad(value, held, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(grads, held, strict=True)
        ]
    )


def probabilities(policy: Policy, prompt: Tensor) -> Tensor:
    """pi(y|x) of all responses `[V^T]` in counting order: products along the tree of prefixes.

    The generative route: plain softmax and products, no labels, no shift, no logarithm.
    Differentiable. Cost: sum_t V^t rows instead of T V^T.
    Raises: NotEnumerableError.
    """
    policy.responses()
    prob = torch.ones(1, dtype=parameters(policy)[0].dtype)
    for t in range(policy.length):
        prefixes = digits(torch.arange(policy.vocab**t), policy.vocab, t)
        step = torch.softmax(policy.next_logits(prompt, prefixes), dim=-1)
        prob = (prob.unsqueeze(-1) * step).flatten()
    return prob


def chunks(policy: Policy, prompt: Tensor, *, budget: int = BUDGET) -> Iterator[Tensor]:
    """All responses `[n, T]` in batches whose logits and gradients fit `budget` bytes."""
    everything = policy.responses()
    # logits, log-softmax, their gradients and the masked copy: about eight arrays of this size.
    row = 8 * 8 * (prompt.shape[0] + policy.length) * policy.vocab
    yield from everything.split(max(1, budget // row))


def expectation(
    policy: Policy, prompt: Tensor, f: Callable[[Tensor], Tensor], *, budget: int = BUDGET
) -> Tensor:
    """E_{y~pi}[f(y)], exactly, for f from responses `[n, T]` to values `[n, ...]`."""
    total = torch.zeros(())
    with torch.no_grad():
        for batch in chunks(policy, prompt, budget=budget):
            prob = policy.log_probs(prompt, batch).sum(-1).exp()
            total = total + torch.einsum("n,n...->...", prob, f(batch).to(prob.dtype))
    return total


def policy_gradient(
    policy: Policy,
    prompt: Tensor,
    coefficient: Callable[[Tensor, Tensor], Tensor],
    *,
    budget: int = BUDGET,
) -> Tensor:
    """E_{y~pi}[c(y) grad log pi(y|x)], exactly, flat `[D]`; one backward pass for each batch.

    `coefficient(responses [n, T], logp [n])` gives c `[n]` (reward times weight), held constant.
    """
    total = torch.zeros(sum(p.numel() for p in parameters(policy)))
    for batch in chunks(policy, prompt, budget=budget):
        logp = policy.log_probs(prompt, batch).sum(-1)
        held = logp.detach()
        term = (held.exp() * coefficient(batch, held) * logp).sum()
        total = total + gradient(term, policy)
    return total


def scores(policy: Policy, prompt: Tensor, responses: Tensor) -> Tensor:
    """The score grad log pi(y|x) of each response, `[n, D]`, by batched backward passes."""
    # A batched backward over n outputs of one forward costs n^2 rows: hence blocks.
    return torch.cat([_block_scores(policy, prompt, part) for part in responses.split(BLOCK)])


def _block_scores(policy: Policy, prompt: Tensor, responses: Tensor) -> Tensor:
    logp = policy.log_probs(prompt, responses).sum(-1)
    held = parameters(policy)
    eye = torch.eye(logp.shape[0], dtype=logp.dtype)
    rows = torch.autograd.grad(logp, held, eye, is_grads_batched=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros(eye.shape[0], *p.shape, dtype=p.dtype) if r is None else r).flatten(1)
            for r, p in zip(rows, held, strict=True)
        ],
        dim=1,
    )


def score_square_norms(policy: Policy, prompt: Tensor, responses: Tensor) -> Tensor:
    """||grad log pi(y|x)||^2 of each response, `[n]`.

    For a table it is the sum over the visited rows of ||e_{y_t} - pi(.|row)||^2, which needs no
    score in full (`[10^6, D]` would not fit); any other policy takes its scores.
    """
    if not isinstance(policy, TablePolicy):
        blocks = responses.split(BLOCK)
        return torch.cat([scores(policy, prompt, part).square().sum(-1) for part in blocks])
    logits, _ = policy.teacher_forced(prompt, responses)
    probs = torch.softmax(logits[:, :-1], dim=-1)
    chosen = probs.gather(-1, responses.unsqueeze(-1)).squeeze(-1)
    return (probs.square().sum(-1) - 2 * chosen + 1).sum(-1).detach()


@dataclass(frozen=True, kw_only=True)
class Moments:
    """First and second moments of the one-sample estimator c(y) grad log pi(y|x), y ~ pi.

    `mean` `[D]`; `variance` is the trace of the covariance; `covariance` `[D, D]` if asked for.
    """

    mean: Tensor
    variance: float
    covariance: Tensor | None


def estimator_moments(
    policy: Policy,
    prompt: Tensor,
    coefficient: Callable[[Tensor, Tensor], Tensor],
    *,
    covariance: bool = False,
    budget: int = BUDGET,
) -> Moments:
    """Exact mean, variance and, if asked for, covariance of a policy-gradient estimator.

    Raises: NotEnumerableError; ValueError where the `[D, D]` covariance would exceed `budget`.
    """
    size = sum(p.numel() for p in parameters(policy))
    if covariance and 8 * size**2 > budget:
        raise ValueError(
            f"the covariance of {size} parameters takes {8 * size**2 / 2**30:.1f} GiB: raise "
            "`budget`, or ask for the variance only"
        )
    mean = policy_gradient(policy, prompt, coefficient, budget=budget)
    second = torch.zeros(size, size, dtype=mean.dtype) if covariance else None
    square = 0.0
    for batch in chunks(policy, prompt, budget=budget):
        with torch.no_grad():
            logp = policy.log_probs(prompt, batch).sum(-1)
        weight = logp.exp() * coefficient(batch, logp).square()
        square += float((weight * score_square_norms(policy, prompt, batch)).sum())
        if second is not None:
            rows = max(1, budget // (8 * 4 * size))
            for part, w in zip(batch.split(rows), weight.split(rows), strict=True):
                s = scores(policy, prompt, part)
                second += s.T @ (w.unsqueeze(-1) * s)
    return Moments(
        mean=mean,
        variance=square - float(mean.square().sum()),
        covariance=None if second is None else second - mean.outer(mean),
    )
