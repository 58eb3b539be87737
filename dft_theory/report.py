"""The ledger, the figures and the numbers as one HTML page that needs nothing but itself."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from dft_theory.citations import citation, format_citation
from dft_theory.claims import Verdict
from dft_theory.mathml import mathml

THEOREM = (
    r"\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\mathbb{E}_{y \sim \pi_\theta}\left["
    r"\frac{\mathbf{1}[y = y^\star]}{\pi_\theta(y \mid x)}\, \nabla_\theta \log \pi_\theta(y|x)"
    r"\right]"
)
RECTIFIED = (
    r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\nabla_\theta \sum_t "
    r"\pi_\theta(y^\star_t \mid y^\star_{<t}, x)"
)
KINDS = {
    "identity": "identity",
    "inequality": "inequality",
    "limit": "limit",
    "refutation": "false as published",
}


@dataclass(frozen=True, kw_only=True)
class FigureItem:
    """A drawn figure. `claims` are names of claims that it illustrates."""

    name: str
    title: str
    caption: str
    png: bytes
    claims: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Prose and at most one table, both plain text."""

    title: str
    paragraphs: tuple[str, ...]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def render(
    verdicts: Sequence[Verdict],
    figures: Sequence[FigureItem],
    sections: Sequence[Section],
    environment: Mapping[str, Any],
) -> str:
    """The page. Every text is escaped, every formula is MathML, every image is inside.

    Raises: MathError for a statement that cannot be rendered.
    """
    known = {v.claim.name for v in verdicts}
    parts = [
        _section("ledger", "The ledger", _ledger(verdicts)),
        _section("figures", "Figures", "".join(_figure(f, known) for f in figures)),
        *(_section(f"s{i}", s.title, _prose(s)) for i, s in enumerate(sections)),
        _section("environment", "Environment", _environment(environment)),
        _section("sources", "Sources", _sources(verdicts)),
    ]
    titles = [("ledger", "Ledger"), ("figures", "Figures")]
    titles += [(f"s{i}", s.title) for i, s in enumerate(sections)]
    titles += [("environment", "Environment"), ("sources", "Sources")]
    contents = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in titles)
    style = (resources.files("dft_theory") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>Dynamic Fine-Tuning: the ledger</title><style>{style}</style></head><body>"
        f"<header><p class=kicker>dft_theory</p><h1>Dynamic Fine-Tuning: the ledger</h1>"
        f"{_story(verdicts)}</header><nav>{contents}</nav><main>{''.join(parts)}</main>"
        "</body></html>\n"
    )


def _story(verdicts: Sequence[Verdict]) -> str:
    held = sum(v.holds for v in verdicts)
    rejected = sum(v.rejected for v in verdicts)
    false = sum(v.claim.kind == "refutation" for v in verdicts)
    declared = sum(len(v.claim.mutants) for v in verdicts)
    return (
        "<p>Supervised fine-tuning follows a policy gradient: its reward is 1 for the "
        "demonstration and 0 otherwise, its importance weight is one over the probability of the response.</p>"
        f"<div class=math>{mathml(THEOREM, display='block')}</div>"
        "<p>Dynamic Fine-Tuning multiplies each token by the stop-gradient of its own probability. "
        "The weight is gone, and what remains ascends the probabilities themselves.</p>"
        f"<div class=math>{mathml(RECTIFIED, display='block')}</div>"
        f"<p class=tally><b>{held} of {len(verdicts)}</b> claims hold, "
        f"<b>{rejected} of {declared}</b> wrong statements were rejected, "
        f"<b>{sum(v.cases for v in verdicts):,}</b> cases, "
        f"{sum(v.seconds for v in verdicts):.0f} seconds. "
        f"{false} published statements are false or loose; each stands beside its correction.</p>"
    )


def _ledger(verdicts: Sequence[Verdict]) -> str:
    lead = (
        "<p>Each claim compares two sides computed by independent routes. <i>Worst</i> is the "
        "largest error as a fraction of the tolerance; <i>mutants</i> are wrong statements that "
        "the claim rejected. Open a row for its assumptions and sources.</p>"
    )
    return lead + "".join(_claim(v) for v in verdicts)


def _claim(v: Verdict) -> str:
    claim = v.claim
    verdict = "holds" if v.holds else "fails"
    bar = f'<span class=bar><span style="width:{min(v.worst, 1):.1%}"></span></span>'
    body = [f"<p>{escape(claim.note)}</p>"]
    if not v.holds:
        body.append(f"<p class=failure>{escape(v.reason)}</p>")
    if claim.published is not None:
        published = claim.published
        body.append(
            f"<div class=published><h4>As published</h4>"
            f"<div class=math>{mathml(published.statement, display='block')}</div>"
            f"<p>{escape(published.why)}. Counterexample: {escape(v.counterexample)}.</p></div>"
        )
    if claim.assumptions:
        rows = "".join(
            f"<li>{escape(a.text)} "
            f"<span class=without>(without it: {escape(a.without)})</span></li>"
            for a in claim.assumptions
        )
        body.append(f"<h4>Assumes</h4><ul>{rows}</ul>")
    mutants = "".join(f"<li>{escape(m.name)}</li>" for m in claim.mutants)
    body.append(f"<h4>Rejects</h4><ul>{mutants}</ul>")
    links = ", ".join(f'<a href="#{key}">{escape(key)}</a>' for key in claim.cites)
    body.append(f"<p class=cites>Sources: {links}</p>")
    total = len(claim.mutants)
    return (
        f'<details class="claim {verdict}" id="{claim.name}"><summary>'
        f"<span class=head><span class=title>{escape(claim.title)}</span>"
        f'<span class="kind {claim.kind}">{KINDS[claim.kind]}</span></span>'
        f"<div class=math>{mathml(claim.statement, display='block')}</div>"
        f"<span class=facts><span class=verdict>{verdict}</span>"
        f"<span>{v.cases} cases</span><span>worst {v.worst:.2g} {bar}</span>"
        f"<span>mutants {v.rejected}/{total}</span><span>{v.seconds:.2f} s</span>"
        f"<code>{claim.name}</code></span></summary>{''.join(body)}</details>"
    )


def _figure(item: FigureItem, known: set[str]) -> str:
    links = ", ".join(
        f'<a href="#{n}">{escape(n)}</a>' if n in known else escape(n) for n in item.claims
    )
    data = base64.b64encode(item.png).decode()
    return (
        f'<figure id="figure-{item.name}"><h3>{escape(item.title)}</h3>'
        f'<img alt="{escape(item.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(item.caption)} <span class=cites>Claims: {links}</span>"
        "</figcaption></figure>"
    )


def _prose(section: Section) -> str:
    text = "".join(f"<p>{escape(p)}</p>" for p in section.paragraphs)
    return text + (_table(section.columns, section.rows) if section.rows else "")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _environment(environment: Mapping[str, Any]) -> str:
    rows = []
    for key, value in environment.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        else:
            text = "" if value is None else str(value)
        if text and text != "[]":
            rows.append((key.replace("_", " "), text))
    return _table(("", ""), rows)


def _sources(verdicts: Sequence[Verdict]) -> str:
    keys = dict.fromkeys(key for v in verdicts for key in v.claim.cites)
    items = "".join(
        f'<li id="{key}"><b>{escape(key)}</b> {escape(format_citation(citation(key)))}</li>'
        for key in sorted(keys)
    )
    return f"<ul class=sources>{items}</ul>"


def _section(key: str, title: str, body: str) -> str:
    return f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>'
