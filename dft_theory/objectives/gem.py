"""GEM: push down what a sharpened copy of the model would say, instead of the model itself."""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Limit, Objective, Style
from dft_theory.objectives.parts import given


def gem(beta: float = 0.7) -> Objective:
    """Ascent e_y - q with q = softmax(z / beta); potential -z_y + beta logsumexp(z / beta).

    Weight 1 and -q on every token: the total is 0. Population optimum r^beta, normalised.
    Raises: ValueError unless beta > 0.
    """
    if not beta > 0:
        raise ValueError(f"beta is a temperature above 0, got {beta}")

    def scaled(t: TokenStats) -> Tensor:
        return given(t.log_probs) / beta

    return Objective(
        name=f"gem-{beta:g}",
        title=f"GEM, β = {beta:g}",
        cite="li2024gem",
        equation="w = 1, A = -softmax(z / beta)",
        family="anchored",
        needs=("log_probs",),
        weight=lambda t: torch.ones_like(t.logp),
        target=lambda t: -scaled(t).softmax(-1),
        potential=lambda t: -t.logp + beta * scaled(t).logsumexp(-1),
        optimum=lambda r: torch.softmax(beta * r.log(), dim=-1),
        # |dq_v/dbeta| = q_v |log q_v + H(q)| / beta, and q_v H <= 0.3 + log(V) / 4: 3.3 for
        # vocabularies up to e^12 = 160 thousand.
        limits=(Limit(parameter="beta", at=1.0, family=gem, objective="sft", rate=4.0),),
        note="Flatter than the data where several continuations were seen. Where only one was, "
        "the end is still p = 1, reached more slowly. The released loss may also "
        "weight token v by sigmoid(0.01 (z_v - z_y)): half this gradient, to a few per cent.",
        style=Style(color="#332288", marker="h", linestyle="-."),
    )
