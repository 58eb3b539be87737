"""ASFT with the other KL, and with the one-token estimate that some trainers use for it."""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.asft import anchor
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given, log_ratio


def asft_reverse(lam: float = 0.05) -> Objective:
    """DFT plus lam KL(pi || ref): weight p and -lam pi (log pi - log ref) on every token.

    No limit at lam = 0 is declared: its rate is the largest log pi/ref, which nothing bounds.
    Raises: ValueError unless lam >= 0.
    """
    anchor(lam)
    return Objective(
        name=f"asft-reverse-{lam:g}",
        title=f"DFT + {lam:g} KL(π‖ref)",
        cite="zhu2025asft",
        equation="w = p, A = -lam pi log(pi / pi_ref)",
        family="anchored",
        needs=("log_probs", "ref_log_probs"),
        weight=lambda t: t.logp.exp(),
        target=lambda t: -lam * _drift(t),
        potential=lambda t: -t.logp.exp() + lam * _drift(t).sum(-1),
        note="The KL of RLHF, not the one of ASFT: it lets the policy drop what the reference "
        "knows, and forbids what the reference excludes.",
        style=Style(color="#882255", marker="^", linestyle="-."),
    )


def asft_k3(lam: float = 0.05) -> Objective:
    """DFT plus lam (q - 1 - log q), q = ref/pi of the target: weight p + lam (q - 1).

    Raises: ValueError unless lam >= 0.
    """
    anchor(lam)

    def excess(t: TokenStats) -> Tensor:
        """Log q."""
        return given(t.ref_logp) - t.logp

    return Objective(
        name=f"asft-k3-{lam:g}",
        title=f"DFT + {lam:g} k3",
        cite="schulman2020kl",
        equation="w = p + lam (pi_ref(y) / p - 1)",
        family="anchored",
        needs=("ref_logp",),
        weight=lambda t: t.logp.exp() + lam * torch.expm1(excess(t)),
        potential=lambda t: -t.logp.exp() + lam * (torch.expm1(excess(t)) - excess(t)),
        note="Not a KL: k3 estimates KL(pi || ref) from tokens that pi sampled, and its gradient "
        "is not the KL's even then. On demonstrations it only holds p near the reference's, and "
        "the weight is negative where p exceeds that and lam outweighs p. Coefficients do not "
        "carry over to a KL over the vocabulary.",
        style=Style(color="#882255", marker="v", linestyle=":"),
    )


def _drift(t: TokenStats) -> Tensor:
    """Pi (log pi - log ref) of every next token, `[B, T, V]`; 0 log 0 and 0 log (0/0) are 0."""
    logp = given(t.log_probs)
    return logp.exp() * log_ratio(finite(logp), t.ref_log_probs)
