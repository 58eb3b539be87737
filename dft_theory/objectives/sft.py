"""Supervised fine-tuning: maximum likelihood, weight 1 on every target token."""

import torch

from dft_theory.objectives.base import Objective, Style

sft = Objective(
    name="sft",
    title="SFT (cross-entropy)",
    cite="wu2025dft",
    equation="(1)-(2)",
    weight=lambda t: torch.ones_like(t.logp),
    potential=lambda t: -t.logp,
    optimum=lambda r: r,
    style=Style(color="#0072B2", marker="o"),
)
