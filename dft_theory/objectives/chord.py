"""CHORD's token weight p (1 - p): neither what is unlikely nor what is known already."""

import torch
from torch import Tensor

from dft_theory.objectives.base import Objective, Style


def water_filling(r: Tensor) -> Tensor:
    """max(0, 1 - nu/r) with nu such that it sums to 1; `[V]` to `[V]`.

    With only the k most frequent tokens nu would be (k-1) / sum_{v<=k} 1/r_v: the largest of these
    is nu. Sparse: tokens with r below nu have probability exactly 0.
    """
    frequent = r.sort(descending=True).values
    count = torch.arange(r.shape[-1], dtype=r.dtype, device=r.device)
    nu = (count / (1 / frequent).cumsum(-1)).amax(-1)
    return torch.where(r > nu, 1 - nu / r, 0.0)


chord_phi = Objective(
    name="chord-phi",
    title="CHORD-φ: p (1 - p)",
    cite="zhang2025chord",
    equation="w = p (1 - p)",
    weight=lambda t: -t.logp.exp() * torch.expm1(t.logp),
    potential=lambda t: torch.expm1(t.logp).square() / 2,
    optimum=water_filling,
    note="CHORD trains mu = 0.1 parts of this and 1 - mu of a policy-gradient loss on sampled "
    "responses; here it stands alone, as an SFT objective.",
    style=Style(color="#117733", marker="h", linestyle="-."),
)
