"""Well-known wrong forms of DFT, as objectives: what a loss really does when a line is off.

Each `note` says what is wrong. They are not in the catalogue: an X-ray looks for them.
"""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective


def _batch_mean(values: Tensor, t: TokenStats) -> Tensor:
    return values.masked_fill(~t.mask, 0.0).sum() / t.mask.sum().clamp_min(1)


def _log_probs(t: TokenStats) -> Tensor:
    assert t.log_probs is not None
    return t.log_probs


def _softmax_of_softmax(t: TokenStats) -> Tensor:
    """The target of cross-entropy on probabilities q = softmax(pi): A = pi (e_y - q)."""
    assert t.targets is not None
    probs = _log_probs(t).exp()
    onehot = torch.zeros_like(probs).scatter(-1, t.targets.unsqueeze(-1), 1.0)
    return probs * (onehot - torch.softmax(probs, -1))


WRONG_FORMS: tuple[Objective, ...] = (
    Objective(
        name="dft-without-stop-gradient",
        title="DFT without stop-gradient",
        equation="w = p (1 + log p)",
        weight=lambda t: t.logp.exp() * (1 + t.logp),
        note="p is not detached: the gradient is that of -p log p, with the factor 1 + log p, "
        "and pushes every target with p < 1/e down.",
    ),
    Objective(
        name="dft-detached-logarithm",
        title="DFT with the stop-gradient on log p",
        equation="w = p log p",
        weight=lambda t: t.logp.exp() * t.logp,
        note="The wrong factor is detached: the loss -p sg(log p) falls as p falls, so every "
        "target is pushed down.",
    ),
    Objective(
        name="dft-twice",
        title="DFT with the weight applied twice",
        equation="w = p^2",
        weight=lambda t: (2 * t.logp).exp(),
        note="Two places multiply the loss by p, for instance a kernel and a trainer.",
    ),
    Objective(
        name="dft-inverted",
        title="DFT with the inverse weight",
        equation="w = 1/p",
        weight=lambda t: (-t.logp).exp(),
        note="The sign in exp(-loss) is lost: the weight is 1/p and grows without bound on rare "
        "targets.",
    ),
    Objective(
        name="dft-complement",
        title="DFT with weight 1 - p",
        equation="w = 1 - p",
        weight=lambda t: -torch.expm1(t.logp),
        note="The complement of p weights the loss: rare targets count most, the opposite of DFT.",
    ),
    Objective(
        name="dft-most-likely",
        title="DFT with the probability of the most likely token",
        equation="w = max_v pi(v)",
        family="state",
        needs=("log_probs",),
        weight=lambda t: _log_probs(t).exp().amax(-1),
        note="The weight is the maximum of the softmax, not the probability of the target.",
    ),
    Objective(
        name="dft-batch-loss",
        title="DFT with one weight exp(-mean loss)",
        equation="w = exp(mean log p)",
        level="batch",
        weight=lambda t: _batch_mean(t.logp, t).exp(),
        note="The loss is averaged before it is weighted: one weight for the whole batch, so the "
        "direction is that of SFT.",
    ),
    Objective(
        name="dft-batch-probability",
        title="DFT with the mean probability of the batch",
        equation="w = mean p",
        level="batch",
        weight=lambda t: _batch_mean(t.logp.exp(), t),
        note="The probabilities are averaged before they weight the loss: one weight for the "
        "whole batch, so the direction is that of SFT.",
    ),
    Objective(
        name="sft-softmax-twice",
        title="cross-entropy of probabilities",
        equation="w = 0, A = pi (e_y - softmax(pi))",
        needs=("log_probs",),
        weight=lambda t: torch.zeros_like(t.logp),
        target=_softmax_of_softmax,
        note="The loss takes the softmax of a softmax: the gradient vanishes on rare targets and "
        "never lets p reach 1.",
    ),
)
