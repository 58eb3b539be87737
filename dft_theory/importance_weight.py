"""The importance weight 1/pi that turns supervised fine-tuning into a policy gradient."""

import math

import torch
from torch import Tensor


def importance_weight(logp: Tensor) -> Tensor:
    """1 / pi(y|x) from log pi(y|x) in nats, same shape. +inf where it overflows.

    Source: Wu et al. 2025, equation (6).
    """
    return torch.exp(-logp)


def effective_sample_size(log_weight: Tensor) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2 of the weights exp(log_weight), `[N]`.

    Computed in log space, so weights such as 1/pi of a long sequence do not overflow. Between 1
    (one weight carries everything) and N (all equal); 0 for no weights or for weights all zero.
    """
    log_weight = log_weight.detach().double().flatten()
    if log_weight.numel() == 0 or bool(torch.isneginf(log_weight).all()):
        return 0.0
    numerator = 2 * torch.logsumexp(log_weight, 0)
    return float(torch.exp(numerator - torch.logsumexp(2 * log_weight, 0)))


def log10_samples_needed(logp: float, *, relative_error: float = 0.1) -> float:
    """log10 of the on-policy samples that estimate an SFT gradient to `relative_error`.

    The estimator (1/N) sum_i 1[y_i = y*] / pi(y*) has relative variance (1/pi - 1) / N, so
    N = (1/pi - 1) / relative_error^2. Source: related to gap G3 of the paper's variance argument.
    """
    # log10(1/pi - 1) without forming 1/pi, which overflows for real solutions.
    log_odds = -logp + math.log(-math.expm1(logp)) if logp < 0 else -math.inf
    return (log_odds - 2 * math.log(relative_error)) / math.log(10)
