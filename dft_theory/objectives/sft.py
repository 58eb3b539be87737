"""Supervised fine-tuning: maximum likelihood, weight 1 on every target token."""

import torch

from dft_theory.objectives.base import Objective, Style

sft = Objective(
    name="sft",
    title="SFT (cross-entropy)",
    cite="wu2025dft",
    equation="w = 1, equations (1)-(2)",
    weight=lambda t: torch.ones_like(t.logp),
    potential=lambda t: -t.logp,
    optimum=lambda r: r,
    note="Its value may be compared: nats per token, between models of one tokenizer. As a policy "
    "gradient it has the reward 1/p, without a bound; its pull at the logits has one.",
    style=Style(color="#0072B2", marker="o"),
)
