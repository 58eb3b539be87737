"""EAFT: each token weighted by how unsure the model is there, whatever the target."""

from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given


def eaft(alpha: float = 1.0, k: int = 20, nats: float = 3.0) -> Objective:
    """Weight (H_k / nats)^alpha, H_k the entropy of the k likeliest tokens, renormalised.

    `nats` is the entropy of weight 1: 3.0 as released (log 20 = 2.996), 1.0 in axolotl's port.
    That of the IDFT repository takes the entropy of the whole vocabulary over log V: k = V,
    nats = log V. Fewer than k tokens in the vocabulary means all of them.

    Raises: ValueError unless alpha > 0, k >= 2 and nats > 0.
    """
    if not (alpha > 0 and k >= 2 and nats > 0):
        raise ValueError(f"needs alpha > 0, k >= 2 and nats > 0, got {alpha}, {k} and {nats}")

    def weight(t: TokenStats) -> Tensor:
        log_probs = given(t.log_probs)
        top = log_probs.topk(min(k, log_probs.shape[-1])).values.log_softmax(-1)
        entropy = -(top.exp() * finite(top)).sum(-1)
        return (entropy / nats) ** alpha

    released = (alpha, k, nats) == (1.0, 20, 3.0)
    return Objective(
        name="eaft" if released else f"eaft-{alpha:g}-{k}-{nats:g}",
        title="EAFT" if released else f"EAFT, α = {alpha:g}, top {k} / {nats:g} nats",
        cite="diao2026eaft",
        equation=f"w = (H_top{k} / {nats:g})^alpha",
        family="state",
        needs=("log_probs",),
        weight=weight,
        optimum=lambda r: r,
        note="The same target never decides the weight, so data that disagree are still fitted: "
        "what changes is when. A certain state, H = 0, does not learn at all. The released "
        "constant 3.0 is log 20 rounded. A port takes the whole vocabulary's entropy over log V, "
        "at V = 150,000 a quarter of the weight where 20 tokens hold the mass, and more elsewhere.",
        style=Style(color="#AA4499", marker="o", linestyle="-" if nats == 3.0 else ":"),
    )
