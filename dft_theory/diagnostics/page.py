"""A diagnosis as one HTML page that needs nothing but itself, with its pictures."""

from collections.abc import Sequence
from html import escape
from typing import get_args

from torch import Tensor

from dft_theory.diagnostics import pictures
from dft_theory.diagnostics.advice import LIMITS, Advice, advise, furthest
from dft_theory.diagnostics.escape import ratio_by_sgd
from dft_theory.diagnostics.measures import CERTAIN, RARE, Diagnosis
from dft_theory.diagnostics.regime import Scoring, fitted, predict
from dft_theory.diagnostics.text import (
    agreement,
    coherence_line,
    common,
    conflict_line,
    escape_note,
    loss_line,
    shared_note,
    sizes,
    starving_line,
)
from dft_theory.diagnostics.wording import number, percent
from dft_theory.pages import page

_STYLE = """
.plot { max-width: 620px; } svg { display: block; width: 100%; height: auto; }
svg text { font: 9.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft); }
svg .head { font-size: 10.5px; font-weight: 600; fill: var(--ink); }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; }
svg line { stroke: var(--soft); stroke-width: 1; } svg .grid { stroke: var(--line); }
svg .weight { stroke: var(--ink); stroke-width: 1.4; } svg .mark { stroke-dasharray: 2 3; }
svg .curve { fill: none; stroke-width: 2; } svg .band { opacity: .18; }
svg .cell { fill: var(--accent); }
svg .over { fill: #fff; font-weight: 600; }
svg .frame { fill: none; stroke: var(--bad); stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg path, svg circle, svg rect[fill] { filter: brightness(1.5); } }
.advice { border-left: 4px solid var(--soft); background: var(--panel); border-radius: 5px;
  padding: 10px 14px; margin: 10px 0; }
.advice h3 { margin: 0 0 .3em; } .advice p { margin: .3em 0; }
.advice.measured, .advice.exact { border-left-color: var(--good); }
.advice.predicted { border-left-color: var(--accent); }
.chip { font: .74rem system-ui, sans-serif; color: var(--soft); border: 1px solid var(--line);
  border-radius: 9px; padding: 1px 8px; white-space: nowrap; }
td code { white-space: pre; } .num { text-align: right; }
section p, section li { overflow-wrap: anywhere; }
"""


def render(d: Diagnosis) -> str:
    """The page. Raises: PageError where it would load something."""
    chapters = [
        ("do", "What to do", "".join(map(_advice, advise(d)))),
        ("loss", "What will be printed", _paragraph(loss_line(d)) + _objectives(d)),
        ("gradient", "Where the gradient goes", _gradient(d)),
        ("hungry", "Tokens with almost no gradient", _hungry(d)),
        ("conflicts", "Confident conflicts", _conflicts(d)),
        ("agree", "Do the demonstrations agree?", _agreement(d)),
        ("time", "How long a rare token takes", _time(d)),
        ("regime", "Can the winner be foretold?", _regime(d)),
        ("limits", "What this cannot know", _bullets(LIMITS)),
    ]
    return page(f"Before training: {d.model}", _tally(d), chapters, style=_STYLE)


def _tally(d: Diagnosis) -> str:
    t = d.tokens
    return (
        f"<p class=tally><b>{t.demonstrations}</b> demonstrations of {escape(d.data)}, "
        f"<b>{len(t):,}</b> response tokens, planned: {escape(plan_in_words(d))}. Nothing was "
        "trained; each answer says how sure it is.</p>"
    )


def plan_in_words(d: Diagnosis) -> str:
    """The planned run."""
    steps = "" if d.plan.steps is None else f", {d.plan.steps:,} steps"
    return f"{d.plan.optimizer} at {d.plan.lr:g}, {d.plan.batch} demonstrations a batch{steps}"


def _advice(a: Advice) -> str:
    claims = f" Claims: {', '.join(a.claims)}." if a.claims else ""
    return (
        f'<div class="advice {a.confidence.split()[0]}"><h3>{escape(a.question)} '
        f"<span class=chip>{escape(a.confidence + (a.doubt and f': {a.doubt}'))}</span></h3>"
        f"<p>{escape(a.answer[:1].upper() + a.answer[1:])}.</p>"
        f"<p class=without>Evidence: {escape(a.evidence)}.{escape(claims)}</p></div>"
    )


def _objectives(d: Diagnosis) -> str:
    t = d.tokens
    size = t.pull.sum(-1) / t.pull[0].sum()
    rows = [
        (
            o.title,
            f"{t.losses[i]:.3f}",
            f"{float(size[i]):.2g}",
            percent(float(t.pull[i][t.rare].sum() / t.pull[i].sum())),
            f"{sizes(d)[i]:,.0f}",
            f"{int(t.starved(i).sum()):,}",
        )
        for i, o in enumerate(t.objectives)
    ]
    note = (
        f"Gradient: its size, tokens added up, in units of SFT's; rare: its share on p < {RARE:g}; "
        "ESS: effective number of tokens; none: tokens that get almost no gradient."
    )
    return _table(("", "loss", "gradient", "rare", "ESS", "none"), rows) + _paragraph(note)


def _gradient(d: Diagnosis) -> str:
    return _plot(
        pictures.histogram(d),
        "Percentages of all target tokens, and of each objective's first gradient, by the "
        "probability of the target (the bins of the paper's Figure 2; the first four are decades). "
        "Bars: gradient in the logits. Thin lines: weight alone, at the top where they leave the "
        "scale, which all panels share.",
    )


def _hungry(d: Diagnosis) -> str:
    t, i = d.tokens, furthest(d)
    starved = t.starved(i)
    return _paragraph(starving_line(d, i)) + _token_table(d, starved)


def _conflicts(d: Diagnosis) -> str:
    return (
        _paragraph(conflict_line(d))
        + _plot(
            pictures.conflict_map(d),
            "How many targets have which probability (across) where the next token has which "
            f"entropy (up). Framed: p < {RARE:g} and under {CERTAIN:g} nat, the model confidently "
            "expects another token. SFT pushes hardest here; DFT nearly not.",
        )
        + _worst(d)
        + _token_table(d, d.tokens.conflicts)
    )


def _worst(d: Diagnosis) -> str:
    """The conflicts of least p, each where it stands."""
    if not d.worst:
        return ""
    rows = [
        (c.demonstration, repr(c.before)[1:-1], repr(c.target), f"{c.p:.1e}", repr(c.expected),
         f"{c.p_expected:.2f}")
        for c in d.worst
    ]  # fmt: skip
    head = ("demonstration", "after", "target", "p", "the model expects", "p")
    return _paragraph("The worst of them, to be read:") + _table(head, rows)


def _agreement(d: Diagnosis) -> str:
    if not d.coherence:
        return _paragraph(coherence_line(d))
    return _bullets([*(agreement(c) for c in d.coherence), shared_note(d)]) + _plot(
        pictures.agreements(d.coherence),
        "Cosine between the summed SFT gradients of two halves of the demonstrations. It grows "
        "with their number; the part that two demonstrations share does not. Points: measured. "
        "Curves: expected from the shared part, with two standard errors.",
    )


def _time(d: Diagnosis) -> str:
    t, rows = d.tokens, []
    for name, p in d.starts().items():
        for o in t.objectives:
            times = number(ratio_by_sgd(o, p, vocab=d.vocab))
            rows.append((f"{p:.1e}, {name}", o.title, number(d.steps(o, p)), times))
    head = ("p at the start", "objective", f"steps, {d.plan.optimizer}", "times SFT's, by SGD")
    return (
        _paragraph(f"Steps to p = 1/2 ({escape_note(d)}). Objectives whose weight reads more "
                   "than the token's own probability have no such time and show a dash.")
        + _table(head, rows)
        + _plot(
            pictures.escapes(d),
            "By SGD, how many times SFT's steps one token alone takes to p = 1/2. Dashed: the "
            "rarest 1 % and 5 % of these targets. Adam makes all equal where the token has "
            "parameters of its own.",
        )
    )  # fmt: skip


def _regime(d: Diagnosis) -> str:
    told = []
    for scoring in get_args(Scoring):
        found = predict(d.evidence(), scoring)
        sure = "" if found.probability is None else f" with probability {found.probability:.2f}"
        told.append(f"By {scoring} accuracy after training: {found.name}{sure}; {found.because}.")
    picture = _plot(
        pictures.power(fitted()["power"]),
        "Toy cases that the fit has not seen: how often the prediction was right, wrong about a "
        "draw, named the wrong winner, or did not tell. On your model none of this is measured.",
    )
    return _bullets(told + [power(scoring) for scoring in get_args(Scoring)]) + picture


def power(scoring: str) -> str:
    """How well the prediction did on toy scenarios of kinds that it was not fitted on."""
    found = fitted()["power"][scoring]
    return (
        f"Its power by {scoring} accuracy, on {found['n']:.0f} toy scenarios of kinds that it was "
        f"not fitted on: of {found['asked']:.0f} cases it named a winner or a draw in "
        f"{found['answered']:.0f}; {found['right']:.0f} were right, {found['opposite']:.0f} had "
        "the other winner. Rank correlation of the shared part with the gap DFT - SFT "
        f"{found['rho']:.2f} (95 % interval {found['low']:.2f} to {found['high']:.2f}); Brier "
        f"score {found['brier']:.2f}, of a constant forecast {found['constant']:.2f}."
    )


# --- parts --------------------------------------------------------------------------------------


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _bullets(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(i)}</li>' for i in items)}</ul>"


def _plot(svg: str, caption: str) -> str:
    return f"<figure class=plot>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _token_table(d: Diagnosis, chosen: Tensor) -> str:
    rows = common(d, chosen, 12)
    if not rows:
        return ""
    body = "".join(
        f"<tr><td><code>{escape(repr(text))}</code></td><td>{escape(kind)}</td>"
        f"<td class=num>{count}</td><td class=num>{p:.1e}</td></tr>"
        for text, kind, count, p in rows
    )
    head = "<tr><th>token</th><th>kind</th><th class=num>times</th><th class=num>median p</th></tr>"
    return f"<div class=scroll><table>{head}{body}</table></div>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    ).replace(" %", "&nbsp;%")
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"
