"""Dynamic Fine-Tuning: the target's own probability as weight, at three levels (Table 5)."""

import torch
import torch.nn.functional as F

from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import spread_over_tokens

dft = Objective(
    name="dft",
    title="DFT (token)",
    cite="wu2025dft",
    equation="w = p, equation (9)",
    weight=lambda t: t.logp.exp(),
    potential=lambda t: -t.logp.exp(),
    optimum=lambda r: F.one_hot(r.argmax(-1), r.shape[-1]).to(r),
    note="The level that is trained. The loss it prints, -p log p, is at most 1/e per token and "
    "falls on both sides of p = 1/e: it measures nothing. A token the model thinks impossible "
    "stays so.",
    style=Style(color="#D55E00", marker="s"),
)

# One weight for the whole response, pi(y*|x).
dft_sequence = Objective(
    name="dft-sequence",
    title="DFT (sequence)",
    cite="wu2025dft",
    equation="w = prod_t p_t, equation (8)",
    level="sequence",
    weight=lambda t: t.sequence_logp().exp(),
    potential=lambda t: spread_over_tokens(-t.sequence_logp().exp(), t),
    optimum=dft.optimum,
    note="In float32 the weight is 0 beyond 104 nats, a hundred tokens at one nat each: such a "
    "response teaches nothing.",
    style=Style(color="#882255", marker="v", linestyle="--"),
)

# One weight for the whole response, the geometric mean of its token probabilities.
dft_geometric = Objective(
    name="dft-geometric",
    title="DFT (geometric mean)",
    cite="wu2025dft",
    equation="w = (prod_t p_t)^(1/T), Table 5",
    level="geometric-mean",
    weight=lambda t: (t.sequence_logp() / t.lengths().clamp_min(1)).exp(),
    potential=lambda t: -torch.exp(t.sequence_logp() / t.lengths().clamp_min(1)) * t.mask,
    note="Over responses of T tokens it acts as pi^(1/T): where it ends depends on T, and no "
    "optimum is declared.",
    style=Style(color="#AA4499", marker="^", linestyle="-."),
)
