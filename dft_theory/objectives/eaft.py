"""EAFT: each token weighted by how unsure the model is there, whatever the target."""

from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style


def eaft(alpha: float = 1.0, k: int = 20, nats: float = 3.0) -> Objective:
    """Weight (H_k / nats)^alpha, H_k the entropy of the k likeliest tokens, renormalised.

    `nats` is the entropy of weight 1: 3.0 as released (log 20 = 2.996), 1.0 in axolotl's port,
    log V in that of IDFT. Fewer than k tokens in the vocabulary means all of them.

    Raises: ValueError unless alpha > 0, k >= 2 and nats > 0.
    """
    if not (alpha > 0 and k >= 2 and nats > 0):
        raise ValueError(f"needs alpha > 0, k >= 2 and nats > 0, got {alpha}, {k} and {nats}")

    def weight(t: TokenStats) -> Tensor:
        assert t.log_probs is not None
        top = t.log_probs.topk(min(k, t.log_probs.shape[-1])).values.log_softmax(-1)
        # 0 log 0 = 0: a token of probability 0 adds nothing.
        entropy = -(top.exp() * top.clamp_min(-1e30)).sum(-1)
        return (entropy / nats) ** alpha

    return Objective(
        name="eaft" if (alpha, k, nats) == (1.0, 20, 3.0) else f"eaft-{alpha:g}-{k}-{nats:g}",
        title="EAFT" if nats == 3.0 else f"EAFT / {nats:g} nats",
        cite="diao2026eaft",
        equation="w = (H_top20 / 3)^alpha",
        family="state",
        needs=("log_probs",),
        weight=weight,
        optimum=lambda r: r,
        note="The same target never decides the weight, so data that disagree are still fitted: "
        "what changes is when. A certain state, H = 0, does not learn at all. The released "
        "constant 3.0 is log 20 rounded; a port that divides by log V weights a quarter as much.",
        style=Style(color="#AA4499", marker="o", linestyle="-" if nats == 3.0 else ":"),
    )
