"""Taylor cross-entropy: -log p cut off after the term of order t in 1 - p."""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style


def taylor(order: int) -> Objective:
    """Weight 1 - (1-p)^t; potential sum_{i=1}^t (1-p)^i / i, the first t terms of -log p.

    Order 1 is DFT. As t grows the weight tends to 1, that is SFT, but only where p >> 1/t: no
    rate in 1/t holds for all p, so this end is not a declared limit.

    Raises: ValueError unless t is a whole number >= 1.
    """
    if order < 1 or order != int(order):
        raise ValueError(f"the order of a Taylor series is a whole number >= 1, got {order}")

    def powers(t: TokenStats) -> list[Tensor]:
        """1, q, ..., q^order with q = 1 - p."""
        rest = -torch.expm1(t.logp)
        return [rest**i for i in range(order + 1)]

    return Objective(
        name=f"taylor-{order}",
        title=f"Taylor cross-entropy of order {order}",
        cite="feng2020taylor",
        equation="w = 1 - (1 - p)^t",
        # p (1 + q + ... + q^(t-1)): 1 - q^t without cancelling at small p.
        weight=lambda t: t.logp.exp() * torch.stack(powers(t)[:-1]).sum(0),
        potential=lambda t: torch.stack([q / i for i, q in enumerate(powers(t)) if i]).sum(0),
        note="Order 1 is DFT and a high order SFT, except for tokens rarer than 1/t, which even "
        "then have weight t p.",
        style=Style(color="#117733", marker=("s", "^", "v", ">", "<")[order % 5]),
    )
