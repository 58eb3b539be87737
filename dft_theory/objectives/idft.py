"""IDFT: p^gamma, milder for tokens that look in-distribution and stronger for others."""

from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given


def idft(beta: float = 1.0, low: float = 0.1, high: float = 2.0) -> Objective:
    """Weight p^g with g = exp(-(log p + H)/beta) cut to [low, high].

    log p + H is the log-likelihood minus its mean under the model, in nats; at beta = 1 the
    exponent is 1/(p e^H). Where it is cut the weight is a power of p, and conservative.

    Raises: ValueError unless beta > 0 and 0 < low < high.
    """
    if not (beta > 0 and 0 < low < high):
        raise ValueError(f"needs beta > 0 and 0 < low < high, got {beta}, {low} and {high}")

    def weight(t: TokenStats) -> Tensor:
        exponent = (-(t.logp + given(t.entropy)) / beta).exp().clamp(low, high)
        return (exponent * t.logp).exp()

    other = (low, high) != (0.1, 2.0)
    return Objective(
        name=f"idft-{beta:g}" + other * f"-cut-{low:g}-{high:g}",
        title=f"IDFT, β = {beta:g}" + other * f", exponent {low:g} to {high:g}",
        cite="zhang2026idft",
        equation=f"w = p^g, g = exp(-(log p + H) / beta) in [{low:g}, {high:g}]",
        family="state",
        needs=("entropy",),
        weight=weight,
        note="Two of the released loss functions return a detached value and so train nothing. "
        "Data that always take the likeliest token score above the model's own, whoever wrote it.",
        style=Style(color="#332288", marker="D", linestyle="-."),
    )
