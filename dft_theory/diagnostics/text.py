"""A diagnosis for the terminal, on one screen, and as plain data."""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from dft_theory.diagnostics.advice import Advice, advise, furthest
from dft_theory.diagnostics.bins import (
    bin_index,
    bin_labels,
    share_by_bin,
)
from dft_theory.diagnostics.coherence import Coherence
from dft_theory.diagnostics.escape import ratio_by_sgd
from dft_theory.diagnostics.measures import (
    CERTAIN,
    KINDS,
    RARE,
    STARVED,
    STRUCTURE,
    Diagnosis,
)
from dft_theory.diagnostics.wording import listed, number, percent
from dft_theory.importance_weight import effective_sample_size

WIDTH, HEIGHT = 98, 46
COLUMNS = 4  # objectives in the terminal's table


def lines(d: Diagnosis) -> list[str]:
    """The diagnosis in at most HEIGHT lines of WIDTH characters; what does not fit is said."""
    out = _table(d)
    said = [loss_line(d), starving_line(d, furthest(d)), conflict_line(d), coherence_line(d)]
    said += [_told(a) for a in advise(d)]
    whole = True
    for text in said:
        wrapped = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        if len(out) + len(wrapped) <= HEIGHT - 1:
            out += wrapped
        else:  # a shorter one may still fit
            whole = False
    if not whole:
        out.append("More advice, the tokens themselves and the limits: --html FILE, --json FILE.")
    return out


def _told(a: Advice) -> str:
    sure = f"{a.confidence}: {a.doubt}" if a.doubt else a.confidence
    return f"{a.question} {a.answer[:1].upper()}{a.answer[1:]}. [{sure}]"


def _table(d: Diagnosis) -> list[str]:
    t = d.tokens
    shown = range(min(COLUMNS, len(t.objectives)))
    wide = [max(8, len(t.objectives[i].name) + 2) for i in shown]

    def row(head: str, middle: str, cells: Sequence[str]) -> str:
        body = "".join(f"{cell:>{w}}" for cell, w in zip(cells, wide, strict=False))
        return f"{head:<26}{middle:>7} {body}".rstrip()

    out = [
        f"{d.model}, {t.demonstrations} demonstrations of {d.data}, {len(t):,} response tokens; "
        "not trained",
        row("", "tokens", [t.objectives[i].name for i in shown]),
        row("loss printed at first", "", [f"{t.losses[i]:.3f}" for i in shown]),
    ]
    count = torch.bincount(bin_index(t.p), minlength=len(bin_labels()))
    shares = [share_by_bin(t.pull[i], t.p) for i in shown]
    for b, label in enumerate(bin_labels()):
        head = f"{'gradient on p' if b == 0 else '':<15}{label}"
        cells = [percent(float(s[b])) for s in shares]
        out.append(row(head, percent(int(count[b]) / len(t)), cells))
    size = sizes(d)
    out.append(row("effective tokens (ESS)", f"{len(t):,}", [f"{size[i]:,.0f}" for i in shown]))
    starved = [int(t.starved(i).sum()) for i in shown]
    out.append(row("almost no gradient", "tokens", [f"{x:,}" for x in starved]))
    times = escapes(d)
    between = "; the truth lies between the two rows" if len(times) > 1 else ""
    note = f"  ({escape_note(d)}{between})"
    return out + [row(*cells) for cells in times] + ([note] if times else [])


def escapes(d: Diagnosis) -> list[tuple[str, str, list[str]]]:
    """Rows of the steps from the rarest 1 % of targets to p = 1/2; empty where none is rare."""
    objectives = d.tokens.objectives
    rows = []
    for name, p in list(d.starts().items())[:1]:
        head = f"{name}, p {p:.0e} to 1/2"
        if d.pace is not None:
            rows.append((head, "steps", [number(d.steps(o, p)) for o in objectives]))
            head = ""
        if d.pace is None or d.plan.optimizer == "adam":
            times = [number(ratio_by_sgd(o, p, vocab=d.vocab)) for o in objectives]
            rows.append((head or "  times SFT's, by SGD", "times" if head else "", times))
    return rows


def escape_note(d: Diagnosis) -> str:
    """Of what the steps are."""
    if d.pace is None:
        return "by SGD, in units of SFT's; a token in every batch"
    return f"{d.plan.optimizer} at {d.plan.lr:g} by the head; a token in every batch"


# --- sentences ----------------------------------------------------------------------------------


def loss_line(d: Diagnosis) -> str:
    """What the trainers will print, and whether the likelihood is plausible at all."""
    t = d.tokens
    rest = listed(
        {
            f"{o.title} will print about": f"{x:.2g}"
            for o, x in zip(t.objectives[1:], t.losses[1:], strict=True)
        }
    )
    text = f"Your NLL is {t.nll:.3g} nats per token"
    text += f"; {rest}: normal, and not comparable." if rest else "."
    if t.nll > math.log(d.vocab):
        text += " That is worse than guessing uniformly: is this tokenizer the model's?"
    return text


def starving_line(d: Diagnosis, index: int) -> str:
    """Which tokens get (almost) no gradient under an objective, the structural ones by name."""
    t = d.tokens
    hungry, name = t.starved(index), t.objectives[index].title
    rule = f"p < 1/2, under {STARVED:.0%} of the mean weight"
    guess = "kinds are guessed from the text"
    if not bool(hungry.any()):
        return f"Every token gets a gradient under {name} (none has {rule})."
    parts = []
    for k, kind in enumerate(KINDS):
        count = int((hungry & (t.kind == k)).sum())
        if count:
            parts.append(f"{count} of {int((t.kind == k).sum())} {kind}{_most(d, hungry, k)}")
    return f"Almost no gradient under {name} ({rule}; {guess}): {', '.join(parts)}."


def _most(d: Diagnosis, chosen: Tensor, kind: int) -> str:
    """The most frequent structural tokens among the chosen, in brackets; words need more room."""
    if kind >= len(STRUCTURE):
        return ""
    t = d.tokens
    ids = t.ids[chosen & (t.kind == kind)].tolist()
    return f" ({' '.join(repr(d.texts.get(i, str(i))) for i, _ in Counter(ids).most_common(3))})"


def conflict_line(d: Diagnosis) -> str:
    """How many confident conflicts there are, and which words they are most often."""
    t = d.tokens
    words = " ".join(repr(text) for text, *_ in common(d, t.conflicts, 4))
    return (
        f"Confident conflicts (p < {RARE:g}, and the model in under {CERTAIN:g} nat of doubt): "
        f"{int(t.conflicts.sum())} of {int(t.rare.sum())} rare tokens"
        + (f", most often {words}" if words else "")
        + ". New knowledge and noise look alike here."
    )


def coherence_line(d: Diagnosis) -> str:
    """The part of the gradients that demonstrations share, or why it is not known."""
    if not d.coherence:
        return f"Agreement of the demonstrations: not measured; {d.incoherent}."
    parts = [
        f"{c.of} {c.shared:.3f} ± {c.error:.3f}"
        if c.shared is not None
        else f"{c.of} in too few demonstrations ({c.demonstrations})"
        for c in d.coherence
    ]
    return f"Shared part of two demonstrations' gradients: {'; '.join(parts)}. {shared_note(d)}"


def shared_note(d: Diagnosis) -> str:
    """What a shared part means, and when it means less."""
    note = "0 is chance; on the toy 0.03 went with noise, 0.07 with new facts."
    if d.copies:
        note += (
            f" Responses that repeat another word for word raise it: {d.copies} of "
            f"{d.tokens.demonstrations}."
        )
    return note


def agreement(c: Coherence) -> str:
    """One agreement in full: the part shared by a pair, its standard error, and the cosine."""
    if c.shared is None or c.error is None or c.cosine is None:
        return f"{c.of}: too few demonstrations have them ({c.demonstrations})"
    return (
        f"{c.of}: {c.shared:.3f} ± {c.error:.3f} shared by two; cosine between halves of "
        f"{c.demonstrations}: {c.cosine:.2f}"
    )


def common(d: Diagnosis, chosen: Tensor, most: int = 20) -> list[tuple[str, str, int, float]]:
    """The most frequent of the chosen tokens `[N]`: text, kind, how often, median p."""
    t = d.tokens
    rows = []
    for i, count in Counter(t.ids[chosen].tolist()).most_common(most):
        here = chosen & (t.ids == i)
        kind = KINDS[int(t.kind[here][0])]
        rows.append((d.texts.get(i, str(i)), kind, count, float(t.p[here].median())))
    return rows


def sizes(d: Diagnosis) -> list[float]:
    """Effective sample size of the weights under each objective, in tokens."""
    return [effective_sample_size(w.abs().log()) for w in d.tokens.weight]
