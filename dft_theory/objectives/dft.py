"""Dynamic Fine-Tuning: the target's own probability as weight, at three levels (Table 5)."""

import torch
import torch.nn.functional as F

from dft_theory.objectives.base import Objective, Style

dft = Objective(
    name="dft",
    title="DFT (token)",
    cite="wu2025dft",
    equation="(9)",
    weight=lambda t: t.logp.exp(),
    potential=lambda t: -t.logp.exp(),
    optimum=lambda r: F.one_hot(r.argmax(-1), r.shape[-1]).to(r),
    style=Style(color="#D55E00", marker="s"),
)

# One weight for the whole response: pi(y*|x). Its potential is shared out evenly over the
# response's tokens so that their sum is -pi(y*|x).
dft_sequence = Objective(
    name="dft-sequence",
    title="DFT (sequence)",
    cite="wu2025dft",
    equation="(8)",
    level="sequence",
    weight=lambda t: t.sequence_logp().exp(),
    potential=lambda t: -t.sequence_logp().exp() / t.lengths().clamp_min(1) * t.mask,
    optimum=dft.optimum,
    style=Style(color="#882255", marker="v", linestyle="--"),
)

# One weight for the whole response: the geometric mean of its token probabilities. Over responses
# of T tokens it acts as pi^(1/T), so where it ends depends on T and no optimum is declared.
dft_geometric = Objective(
    name="dft-geometric",
    title="DFT (geometric mean)",
    cite="wu2025dft",
    equation="Table 5",
    level="geometric-mean",
    weight=lambda t: (t.sequence_logp() / t.lengths().clamp_min(1)).exp(),
    potential=lambda t: -torch.exp(t.sequence_logp() / t.lengths().clamp_min(1)) * t.mask,
    style=Style(color="#AA4499", marker="^", linestyle="-."),
)
