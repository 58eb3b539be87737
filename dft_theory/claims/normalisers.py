"""The same weights under another normaliser: a threshold written as a loss mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dft_theory.claims.base import Claim, Mutant
from dft_theory.claims.rectification import batch
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import TokenMean, sft, thresholded


def rows(case: PolicyCase) -> TokenStats:
    """Teacher-forced statistics of three demonstrations."""
    return case.policy.stats(case.prompt, case.responses[batch(case)])


@dataclass(frozen=True)
class Kept:
    """Gradients of SFT on the tokens more likely than average, under two normalisers."""

    at: PolicyCase

    def __str__(self) -> str:
        return str(self.at)

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @property
    def stats(self) -> TokenStats:
        """Three demonstrations."""
        return rows(self.at)

    @property
    def cut(self) -> float:
        """The mean probability of their tokens."""
        return float(self.stats.logp.exp().detach().mean())

    @property
    def counts(self) -> tuple[int, int]:
        """Number of tokens, and of those above the cut."""
        p = self.stats.logp.exp()
        return p.numel(), int((p >= self.cut).sum())

    def over_all(self) -> Tensor:
        """Gradient of the thresholded objective, averaged over all tokens, `[D]`."""
        loss = thresholded(self.cut, ">=").surrogate(self.stats, reduction=TokenMean())
        return self.at.gradient(loss)

    def over_kept(self) -> Tensor:
        """The same with the threshold as a loss mask, as trainers do, `[D]`."""
        t = self.stats
        return self.at.gradient(
            sft.surrogate(replace(t, mask=t.logp.exp() >= self.cut), reduction=TokenMean())
        )


def kept(scope: Scope) -> Sequence[Kept]:
    """The first demonstrations of every policy."""
    return [Kept(c) for c in scope.policy_cases[::3]]


CLAIMS = (
    Claim(
        name="kept-tokens-change-the-learning-rate",
        title="Averaging over the kept tokens multiplies the learning rate",
        kind="identity",
        statement=r"\nabla \frac{1}{N_c} \sum_{t:\, p_t \geq c} -\log p_t = \frac{N}{N_c}\, "
        r"\nabla \frac{1}{N} \sum_t -\mathrm{sg}\left(\mathbf{1}[p_t \geq c]\right) \log p_t",
        note="Written as a loss mask, a threshold does two things: it drops tokens, and it raises "
        "the step on the others by the number of all over kept tokens. Comparisons at one "
        "learning rate do not tell them apart.",
        cites=("li2025beyond",),
        cases=kept,
        lhs=lambda c: c.over_kept(),
        rhs=lambda c: c.counts[0] / c.counts[1] * c.over_all(),
        mutants=(
            Mutant("no factor", lambda c: c.over_all()),
            Mutant("the factor upside down", lambda c: c.counts[1] / c.counts[0] * c.over_all()),
        ),
    ),
)
