"""Weights given from outside: rewards, accepted responses, critical tokens, dense rewards."""

from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given, log_ratio, weighted_nll


def _accepted(t: TokenStats) -> Tensor:
    """1[A > 0]."""
    return (given(t.advantage) > 0).to(t.logp.dtype)


def _return_to_go(t: TokenStats) -> Tensor:
    """sum_{s >= t} log (pi_old / pi_ref) of the tokens from t on, `[B, T]`."""
    reward = log_ratio(finite(given(t.old_logp)), t.ref_logp)
    return reward.flip(-1).cumsum(-1).flip(-1)


# The policy gradient on sampled responses, whose reward minus baseline the caller computed.
reinforce = Objective(
    name="reinforce",
    title="REINFORCE",
    cite="williams1992reinforce",
    equation="w = A",
    family="sampled",
    weight=lambda t: given(t.advantage),
    potential=lambda t: weighted_nll(given(t.advantage), t),
    needs=("advantage",),
    note="A policy gradient only for responses drawn from the policy itself; with A = 1 on "
    "demonstrations it is SFT. A negative advantage pushes log pi down without end.",
    style=Style(color="#117733", marker="o", linestyle="-"),
)

# SFT on the sampled responses that were good enough: RFT with a verifier, RAFT with a ranking.
filtered_sft = Objective(
    name="filtered-sft",
    title="filtered SFT (RFT, RAFT)",
    cite="dong2023raft",
    equation="w = 1[A > 0]",
    family="sampled",
    weight=_accepted,
    potential=lambda t: weighted_nll(_accepted(t), t),
    optimum=lambda r: r,  # of the responses that are kept
    needs=("advantage",),
    note="The advantage is the reward, less a threshold where responses are ranked. A mean over "
    "all tokens counts the rejected ones too; over the kept ones it is larger by N / N_kept.",
    style=Style(color="#117733", marker="P", linestyle="--"),
)

# SFT on the tokens whose replacement makes the answer wrong; the mask stands in `advantage`.
critical_tokens = Objective(
    name="critical-tokens",
    title="critical tokens (CFT)",
    cite="ruan2025cft",
    equation="w = c",
    family="sampled",
    weight=_accepted,
    potential=lambda t: weighted_nll(_accepted(t), t),
    needs=("advantage",),
    note="c is 1 where `advantage` is positive. The paper's normaliser was not at hand: a mean "
    "over all tokens is smaller than one over critical tokens by N_kept / N, at most 0.12 there.",
    style=Style(color="#117733", marker="X", linestyle=":"),
)

# Dense-Path REINFORCE on sampled responses; `old_logp` is the SFT policy's, `ref_logp` that of
# its own half-trained checkpoint, and their log-ratio the reward of each token.
dense_path = Objective(
    name="dense-path",
    title="Dense-Path REINFORCE",
    cite="li2025densepath",
    equation="w_t = sum_{s >= t} log (pi_SFT / pi_half)",
    family="sampled",
    level="sequence",
    weight=_return_to_go,
    potential=lambda t: weighted_nll(_return_to_go(t), t),
    needs=("old_logp", "ref_logp"),
    note="Without the baseline and the KL to the SFT policy, which belong to the trainer.",
    style=Style(color="#117733", marker="D", linestyle="-."),
)
