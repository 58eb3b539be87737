"""From a diagnosis to what to do: an answer, the evidence for it, and how sure one may be.

Answers follow from numbers of this model and these demonstrations. What no number of the first
gradient can settle is answered by the experiment that would settle it.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dft_theory.diagnostics.bins import (
    distance,
)
from dft_theory.diagnostics.escape import ratio_by_sgd
from dft_theory.diagnostics.measures import (
    RARE,
    STARVED,
    STRUCTURE,
    Diagnosis,
)
from dft_theory.diagnostics.regime import predict
from dft_theory.diagnostics.wording import listed, number, percent

ALIKE = 0.1  # objectives that share all but this of their gradient mass are called alike
FLOORED = 8  # token ids that are named
ALPHAS = (1.0, 0.75, 0.5, 0.25)  # p^alpha, DFT first

Confidence = Literal["exact", "measured on these tokens", "predicted", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One question of somebody about to train; `claims` are names in the ledger.

    `doubt`: in a few words, why it cannot be told.
    """

    question: str
    answer: str
    evidence: str
    confidence: Confidence
    claims: tuple[str, ...] = ()
    doubt: str = ""


LIMITS = (
    "All of it is the first gradient, before any step. Training changes the probabilities, and "
    "with them every weight.",
    "Probabilities cannot separate a demonstration that is new and right from one that is wrong: "
    "both are improbable to the model, and their histograms are the same.",
    "Agreement is that of the SFT gradient in the head's weights, of a tied head the part that "
    "comes through the head. Shared form raises it as shared knowledge does. Errors that the model "
    "itself believes give little gradient and hide from it.",
    "Escape times are those of one token that every batch brings, moved by the head alone. Layers "
    "below make it faster, other tokens slower; between objectives the ratio carries over better.",
    "Adam divides by the size of the gradient, so on parameters of its own a rare token takes the "
    "same steps under every positive weight. On parameters that it shares with likely tokens its "
    "small weight still counts: the truth lies between the two rows.",
    "Kinds of tokens are guessed from their text; format is layout and punctuation.",
)


def advise(d: Diagnosis) -> tuple[Advice, ...]:
    """Answers to the questions before a training run and after a bad one, most useful first."""
    return (
        _which(d),
        _floor(d),
        *([_worse(d)] if furthest(d) else []),
        _rate(d),
        _first(d),
        _alpha(d),
        _reading(d),
        _anchor(d),
    )


def _which(d: Diagnosis) -> Advice:
    t = d.tokens
    moved = {
        o.name: distance(t.pull[0], pull)
        for o, pull in zip(t.objectives[1:], t.pull[1:], strict=True)
    }
    numbers = listed({name: percent(x) for name, x in moved.items()}) or "no other was asked for"
    if not moved or max(moved.values()) < ALIKE:
        return Advice(
            question="SFT or another?",
            answer="it hardly matters at the start: they spend their gradient alike",
            evidence=f"gradient that each spends elsewhere than SFT: {numbers}",
            confidence="measured on these tokens",
        )
    regime = predict(d.evidence())
    if regime.name != "cannot tell":
        named = regime.name.replace("dft", "DFT").replace("sft", "SFT")
        sure = "" if regime.probability is None else f", with probability {regime.probability:.2f}"
        return Advice(
            question="SFT or another?",
            answer=f"{named} by greedy accuracy after training{sure}; check on a held-out split, "
            "each at its own best learning rate",
            evidence=f"{regime.because}; gradient spent elsewhere than SFT: {numbers}",
            confidence="predicted",
        )
    return Advice(
        question="SFT or another?",
        answer="read the conflicts: SFT learns them first, which is good if they are right and "
        "bad if they are wrong. Then train both, each at its own best learning rate, and score a "
        "held-out split greedily and sampled",
        evidence=f"{regime.because}. Gradient spent elsewhere than SFT: {numbers}",
        confidence="cannot tell",
        doubt=regime.because.partition(":")[0],
    )


def _worse(d: Diagnosis) -> Advice:
    """Where to look first if a run under the objective furthest from SFT came out worse."""
    t, i = d.tokens, furthest(d)
    name = t.objectives[i].title
    hungry = structure_starved(d, i)
    share = [_rare_share(d, k) for k in (0, i)]
    reasons = []
    if hungry:
        reasons.append(f"answers run on or lose their form: {hungry} get almost no gradient")
    if share[1] < share[0] / 2:
        reasons.append(
            f"rare targets get {percent(share[1])} of its gradient, {percent(share[0])} of SFT's: "
            "more steps or SFT first"
        )
    size = float(t.pull[i].sum() / t.pull[0].sum())
    if d.plan.optimizer == "sgd":
        reasons.append(f"its gradient is {size:.2g} of SFT's, and the learning rate was not raised")
    else:
        reasons.append("the learning rate, and a clip that bit only under SFT")
    reasons.append("checkpoints chosen by its loss; scores at one temperature")
    return Advice(
        question=f"{name} came out worse?",
        answer="in this order: "
        + "; ".join(f"({k}) {reason}" for k, reason in enumerate(reasons, start=1)),
        evidence="counts and shares are measured on these tokens; that they are the cause is not",
        confidence="predicted",
        claims=("dft-gradient-vanishes-on-rare-tokens", "clipping-ignores-gradient-scale"),
    )


def _rate(d: Diagnosis) -> Advice:
    t = d.tokens
    size = t.pull.sum(-1) / t.pull[0].sum()
    mass = listed({o.name: f"{float(x):.2g}" for o, x in zip(t.objectives, size, strict=True)})
    if d.plan.optimizer == "adam":
        return Advice(
            question="Learning rate?",
            answer="with Adam start from SFT's and scan both ways; a clip that bites under SFT "
            "may not bite here",
            evidence=f"size of the first gradient, tokens added up, in units of SFT's: {mass}; "
            "Adam divides one factor for all tokens out",
            confidence="measured on these tokens",
            claims=("adam-ignores-gradient-scale",),
        )
    return Advice(
        question="Learning rate?",
        answer="with SGD divide SFT's by these sizes to move the logits as far at the first step, "
        f"and scan around that: {mass}",
        evidence="sum over tokens of the gradient's norm in the logits, in units of SFT's",
        confidence="measured on these tokens",
    )


def _floor(d: Diagnosis) -> Advice:
    names = d.tokens.objectives[1:]
    found = {o.name: structure_starved(d, i) for i, o in enumerate(names, start=1)}
    found = {name: text for name, text in found.items() if text}
    ids = structure_ids(d)
    if not found:
        return Advice(
            question="A floor for format and end?",
            answer="not needed: all of them get more than almost none under every objective here",
            evidence=f"none with p < 1/2 is below {STARVED:.0%} of the mean weight",
            confidence="measured on these tokens",
        )
    return Advice(
        question="A floor for format and end?",
        answer="yes: `from dft_theory.objectives import with_floor`, with_floor(objective, "
        f"token_ids={ids[:FLOORED]}, floor=0.1), or SFT first; they would probably be learned last",
        evidence=f"below {STARVED:.0%} of the mean weight: {listed(found)}"
        + (f"; {len(ids) - FLOORED} more token ids" if len(ids) > FLOORED else ""),
        confidence="measured on these tokens",
        claims=("dft-gradient-vanishes-on-rare-tokens", "floors-touch-named-tokens-only"),
    )


def _alpha(d: Diagnosis) -> Advice:
    t = d.tokens
    structure = t.kind < len(STRUCTURE)
    shares, largest = {}, None
    for alpha in ALPHAS:
        weight = t.p**alpha
        shares[f"{alpha:g}:"] = percent(_share(weight * t.pull[0], t.rare))
        hungry = (t.p < 0.5) & (weight < STARVED * weight.mean())
        if largest is None and not bool((hungry & structure).any()):
            largest = alpha
    evidence = f"share of the gradient on p < {RARE:g} at alpha {listed(shares)}"
    if largest is None:
        answer = f"none down to {ALPHAS[-1]:g} feeds every format token: take a floor instead"
    elif largest == 1:
        answer = "format and end allow any, DFT's 1 too; smaller keeps more of the rare targets"
    else:
        answer = f"{largest:g} is the largest tried that starves none of format and end"
    return Advice(
        question="Which alpha in p^alpha?",
        answer=answer,
        evidence=evidence,
        confidence="measured on these tokens",
    )


def _first(d: Diagnosis) -> Advice:
    t, i = d.tokens, furthest(d)
    hungry, name = t.starved(i), t.objectives[i].name
    if not bool(hungry.any()):
        return Advice(
            question="SFT first, then anneal?",
            answer="no token asks for it",
            evidence=f"no token with p < 1/2 gets almost no gradient under {name}",
            confidence="measured on these tokens",
        )
    p = float(t.p[hungry].median())
    slower = ratio_by_sgd(t.objectives[i], p, vocab=d.vocab)
    evidence = f"{name} starves {int(hungry.sum()):,} of {len(t):,} tokens, median p = {p:.1g}"
    if slower is not None:
        times = "never reaches 1/2" if math.isinf(slower) else f"takes {number(slower)} x SFT's"
        evidence += f"; by SGD such a token alone {times} steps".replace("1/2 steps", "1/2")
    planned, needed = d.plan.steps, d.steps(t.objectives[i], p)
    if planned is not None and needed is not None:
        evidence += (
            f"; moved by the head alone it takes {number(needed)} steps, of {planned:,} planned"
        )
    return Advice(
        question="SFT first, then anneal?",
        answer=f"if these are facts to be learned, anneal(sft, {name}, steps) or "
        f"warm_up({name}, steps); if they are errors, not: read them",
        evidence=evidence,
        confidence="cannot tell",
        doubt="facts and errors look alike",
        claims=("escape-time-of-any-weight", "sft-escape-law", "power-escape-law"),
    )


def _reading(d: Diagnosis) -> Advice:
    t = d.tokens
    printed = listed(
        {o.name: f"{x:.3g}" for o, x in zip(t.objectives[1:], t.losses[1:], strict=True)}
    )
    return Advice(
        question="What to watch?",
        answer="log the plain NLL beside the loss, and compare and stop by scores: -p log p also "
        "falls when p falls below 1/e, so a falling DFT loss proves nothing",
        evidence=f"NLL {t.nll:.3g} nats prints as {printed or 'itself'}",
        confidence="exact",
        claims=("dft-loss-value-misleads", "dft-loss-value-is-bounded"),
    )


def _anchor(d: Diagnosis) -> Advice:
    pulls = [o.name for o in d.tokens.objectives if o.family == "anchored"]
    return Advice(
        question="An anchor (KL)?",
        answer="not before training: log KL to the model as "
        "it is now during the first run, on other tasks too, and add an anchor if it grows",
        evidence="before the first step the model is its own reference, and a KL anchor pulls by "
        f"exactly 0{' in ' + ', '.join(pulls) if pulls else ''}",
        confidence="cannot tell",
        doubt="drift comes with training",
    )


# --- numbers and words ---------------------------------------------------------------------------


def furthest(d: Diagnosis) -> int:
    """Index of the objective that spends its gradient least like SFT; 0 where there is only SFT."""
    pull = d.tokens.pull
    return max(range(len(pull)), key=lambda i: distance(pull[0], pull[i]))


def structure_starved(d: Diagnosis, index: int) -> str:
    """End of turn, special and format tokens that an objective starves, counted in words."""
    t = d.tokens
    hungry, counts = t.starved(index), []
    for k, kind in enumerate(STRUCTURE):
        count = int((hungry & (t.kind == k)).sum())
        if count:
            counts.append(f"{count} of {int((t.kind == k).sum())} {kind}")
    return ", ".join(counts)


def structure_ids(d: Diagnosis) -> list[int]:
    """Ids of the structural tokens that some objective starves, most frequent first."""
    t = d.tokens
    hungry = torch.stack([t.starved(i) for i in range(len(t.objectives))]).any(0)
    return [i for i, _ in Counter(t.ids[hungry & (t.kind < len(STRUCTURE))].tolist()).most_common()]


def _rare_share(d: Diagnosis, index: int) -> float:
    return _share(d.tokens.pull[index], d.tokens.rare)


def _share(mass: Tensor, chosen: Tensor) -> float:
    return float(mass[chosen].sum() / mass.sum().clamp_min(1e-300))
