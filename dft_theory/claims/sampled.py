"""The identity for a policy that cannot be enumerated: samples, an analytic bar, or a way out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dft_theory.claims.tolerance import MonteCarlo
from dft_theory.importance_weight import importance_weight, log10_samples_needed
from dft_theory.policies import Policy


@dataclass(frozen=True, kw_only=True)
class SampledVerdict:
    """E_{y~pi}[1[y = y*] / pi(y)] = 1 from samples.

    `estimate` and `bar` are the sample mean and Bernstein's bar from the exact variance
    1/pi - 1; `holds` is None where the bar exceeds 1 and the samples could show nothing.
    """

    samples: int
    log_prob: float
    estimate: float
    bar: float
    holds: bool | None

    def __str__(self) -> str:
        if self.holds is None:
            needed = log10_samples_needed(self.log_prob)
            return (
                f"cannot tell: log pi(y*|x) = {self.log_prob:.1f} nats, so {self.samples} samples "
                f"show nothing; an estimate to 10 % takes about 10^{needed:.0f}. Check token by "
                "token instead (dft_theory.llm.token_identity), or use a shorter response"
            )
        word = "ok" if self.holds else "NO"
        return f"{word}  {self.estimate:.4f} against 1, allowed {self.bar:.4f}"


def verify_by_sampling(
    policy: Policy,
    prompt: Tensor,
    demo: Tensor,
    *,
    generator: torch.Generator,
    tolerance: MonteCarlo | None = None,
) -> SampledVerdict:
    """Reward times weight has mean one, for a demonstration `[1, T]` of any policy.

    Times the score of y* this is the policy-gradient form of the SFT gradient: one number decides
    it. Samples come from generation, the weight from teacher forcing.
    """
    tolerance = MonteCarlo() if tolerance is None else tolerance
    logp = policy.log_probs(prompt, demo).detach().double().sum()
    weight = importance_weight(logp)
    drawn = policy.sample(tolerance.n, prompt=prompt, generator=generator)
    values = (drawn == demo).all(-1).double() * weight
    # |1[y = y*]/pi - 1| is at most 1/pi, unless pi is near 1.
    found = tolerance.mean(values, variance=weight - 1, reach=weight.clamp_min(1.0))
    bar = float(found.error)
    off = abs(float(found.value) - 1)
    return SampledVerdict(
        samples=tolerance.n,
        log_prob=float(logp),
        estimate=float(found.value),
        bar=bar,
        holds=None if bar > 1 else off <= bar,
    )
