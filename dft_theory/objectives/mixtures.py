"""Hybrids of imitation and reinforcement: objectives on several sources of tokens, with shares.

A hybrid changes *which* tokens an objective sees (demonstrations, hints, rollouts) and how much
each source counts. Rewards enter as the `advantage` of each token; what a method needs beyond
that (advantages of a prefix, a share that adapts) stands in `mixture_rules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective
from dft_theory.objectives.reductions import Reduction
from dft_theory.objectives.reinforce import reinforce
from dft_theory.objectives.sft import sft
from dft_theory.objectives.srft import srft_reward, srft_weight
from dft_theory.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Term:
    """`coefficient` times `objective`, on the tokens of one source."""

    source: str
    objective: Objective
    coefficient: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A sum of objectives, each on tokens of its own source."""

    name: str
    title: str
    terms: tuple[Term, ...]
    cite: str
    note: str = ""

    def surrogate(self, sources: Mapping[str, TokenStats], *, reduction: Reduction) -> Tensor:
        """The scalar whose *gradient* is the mixture's; each source is reduced by itself.

        A term of coefficient 0 asks for no tokens. Raises: ValueError for a source that is
        missing or lacks a statistic.
        """
        used = [term for term in self.terms if term.coefficient]
        missing = {term.source for term in used} - set(sources)
        if missing:
            raise ValueError(f"{self.name} needs tokens of {', '.join(sorted(missing))}")
        parts = [
            term.coefficient * term.objective.surrogate(sources[term.source], reduction=reduction)
            for term in used
        ]
        return sum(parts[1:], start=parts[0])


# ---- the published mixtures --------------------------------------------------------------------


def chord_mu(mu: float) -> Mixture:
    """CHORD-mu: (1 - mu) RL + mu SFT, with mu decayed from 0.9 to 0.05 during training."""
    return Mixture(
        name=f"chord-mu-{mu:g}",
        title=f"CHORD, μ = {mu:g}",
        terms=_shared(mu),
        cite="zhang2025chord",
    )


def amft(mu: float) -> Mixture:
    """AMFT: (1 - mu) RL + mu SFT, with mu moved by `amft_step`."""
    return Mixture(
        name=f"amft-{mu:g}",
        title=f"AMFT, μ = {mu:g}",
        terms=_shared(mu),
        cite="he2025amft",
        note="Its authors requested the withdrawal of the paper in October 2025, during an "
        "investigation: do not cite its numbers as evidence.",
    )


def hpt(accuracy: float, gate: float = 0.0) -> Mixture:
    """HPT for one prompt: SFT where the accuracy of its rollouts is at most `gate`, else RL."""
    imitate = accuracy <= gate
    return Mixture(
        name="hpt-imitating" if imitate else "hpt-exploring",
        title=f"HPT, {'imitating' if imitate else 'exploring'}",
        terms=_shared(1.0 if imitate else 0.0),
        cite="lv2025unified",
        note="The published gate is 0 for Qwen and 2/8 for LLaMA models, with 8 rollouts.",
    )


def cgl(share: float) -> Mixture:
    """CGL: RL + share SFT; where the two gradients conflict, SFT's is cut by `without_conflict`."""
    return Mixture(
        name=f"cgl-{share:g}",
        title=f"CGL, λ = {share:g}",
        terms=(Term(source="rollouts", objective=reinforce), _imitation(share)),
        cite="yao2026cgl",
        note="The surrogate is the sum before the projection, which acts on whole gradients.",
    )


def srft() -> Mixture:
    """SRFT: SFT with weight exp(-H) / 2, RL on demonstrations, RL on rollouts.

    Successful rollouts (positive advantage) have the further weight exp(H) / 10.
    """
    return Mixture(
        name="srft",
        title="SRFT",
        terms=(
            Term(source="demonstrations", objective=srft_weight("paper")),
            Term(source="demonstrations", objective=reinforce),
            Term(source="rollouts", objective=srft_reward),
        ),
        cite="fu2025srft",
        note="Signs of the entropies as printed; the released code has exp(+H) in the SFT weight.",
    )


def uft(beta: float) -> Mixture:
    """UFT: beta SFT on the tokens of the hint, RL on what the policy adds to it.

    Over hint lengths l, position h of a solution receives beta P(l > h): `hint_survival`.
    """
    return Mixture(
        name=f"uft-{beta:g}",
        title=f"UFT, β = {beta:g}",
        terms=(
            Term(source="hints", objective=sft, coefficient=beta),
            Term(source="continuations", objective=reinforce),
        ),
        cite="liu2025uft",
        note="The released code's share is 0.001. The paper's KL to a reference on the "
        "continuation belongs to its RL objective.",
    )


def prefix_rft() -> Mixture:
    """Prefix-RFT: RL on rollouts, on continuations of a demonstration's prefix, on the prefix.

    Advantages by `prefix_advantages`; the prefix through `top_entropy`.
    """
    return Mixture(
        name="prefix-rft",
        title="Prefix-RFT",
        terms=tuple(
            Term(source=source, objective=reinforce)
            for source in ("rollouts", "continuations", "prefixes")
        ),
        cite="huang2025prefix",
    )


def _imitation(share: float) -> Term:
    return Term(source="demonstrations", objective=sft, coefficient=share)


def _shared(mu: float) -> tuple[Term, Term]:
    if not 0 <= mu <= 1:
        raise ValueError(f"mu is the share of SFT, in [0, 1]; got {mu}")
    rest = Term(source="rollouts", objective=reinforce, coefficient=1 - mu)
    return rest, _imitation(mu)


# Shares where a method's authors start, or (AMFT, CGL) for illustration.
MIXTURES: tuple[Mixture, ...] = (
    uft(0.001),
    prefix_rft(),
    chord_mu(0.9),
    srft(),
    amft(0.5),
    hpt(0.0),
    hpt(1.0),
    cgl(0.1),
)

mixtures: Registry[Mixture] = Registry("mixture", MIXTURES)
