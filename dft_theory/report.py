"""The page of the report and its ledger: the story, its chapters, what they rest on and cite."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

from dft_theory import markdown
from dft_theory.citations import citation, format_citation
from dft_theory.claims import Verdict
from dft_theory.mathml import mathml
from dft_theory.pages import PageError, page

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
METHOD = "wu2025dft"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class FigureItem:
    """A drawn figure. `claims` are names of claims that it illustrates."""

    name: str
    title: str
    caption: str
    png: bytes
    claims: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A part of the page: its anchor, its title, one line of what is in it, and its HTML."""

    key: str
    title: str
    brief: str
    html: str


def render(verdicts: Sequence[Verdict], chapters: Sequence[Chapter]) -> str:
    """The page. Every text is escaped, every formula is MathML, every image is inside.

    Raises: MathError for a statement that cannot be rendered, PageError for a page that would
    load something.
    """
    contents = "".join(
        f'<li><a href="#{c.key}">{escape(c.title)}</a> <span>{escape(c.brief)}</span></li>'
        for c in chapters
    )
    head = f"{_story(verdicts)}<ol class=contents>{contents}</ol>"
    return page(
        "Dynamic Fine-Tuning: what it is, and when it helps",
        head,
        [(c.key, c.title, c.html) for c in chapters],
    )


def _story(verdicts: Sequence[Verdict]) -> str:
    held = sum(v.holds for v in verdicts)
    rejected = sum(v.rejected for v in verdicts)
    false = sum(v.claim.kind == "refutation" for v in verdicts)
    hearsay = sum(v.claim.standing == "known only second-hand" for v in verdicts)
    declared = sum(len(v.claim.mutants) for v in verdicts)
    failing = "".join(
        f'<li><a href="#{escape(v.claim.name)}">{escape(v.claim.title)}</a></li>'
        for v in verdicts
        if not v.holds
    )
    return (
        "<p>Supervised fine-tuning follows a policy gradient: its reward is 1 for the "
        "demonstration and 0 otherwise, its importance weight is one over the probability of the "
        "response.</p>"
        f"<div class=math>{mathml(THEOREM, display='block')}</div>"
        "<p>Dynamic Fine-Tuning multiplies each token by the stop-gradient of its own probability. "
        "The weight is gone, and what remains ascends the probabilities themselves.</p>"
        f"<div class=math>{mathml(RECTIFIED, display='block')}</div>"
        '<p><a href="explorer.html">The explorer</a> beside this page has sliders for what the '
        "weight does to one token.</p>"
        f"<p class=tally><b>{held} of {len(verdicts)}</b> claims hold, "
        f"<b>{rejected} of {declared}</b> wrong statements were rejected, "
        f"<b>{sum(v.cases for v in verdicts):,}</b> cases, "
        f"{sum(v.seconds for v in verdicts):.0f} seconds. "
        f"{false} published statements are false or loose, {hearsay} of them known to us only "
        "second-hand; each stands beside its correction.</p>"
        + (f"<p class=failure>These do not hold:</p><ul>{failing}</ul>" if failing else "")
    )


def ledger(verdicts: Sequence[Verdict]) -> Chapter:
    """Every claim with its verdict, the claims that were reached in this run."""
    lead = (
        "<p>Each claim compares two sides computed by independent routes. <i>Worst</i> is the "
        "largest error as a fraction of the tolerance; <i>mutants</i> are wrong statements that "
        "the claim rejected. Open a row for its assumptions and sources.</p>"
    )
    count = {kind: sum(v.claim.kind == kind for v in verdicts) for kind in KINDS}
    choices = [("all", f"all {len(verdicts)}")]
    choices += [(kind, f"{KINDS[kind]} {n}") for kind, n in count.items() if n]
    radios = "".join(
        f'<label><input type=radio name=kind value="{key}"{" checked" if key == "all" else ""}> '
        f"{escape(text)}</label>"
        for key, text in choices
    )
    return Chapter(
        key="ledger",
        title="Ledger",
        brief=f"{len(verdicts)} statements, each with its verdict, reached in this run",
        html=f"{lead}<p class=filter>{radios}</p>{''.join(_claim(v) for v in verdicts)}",
    )


def _claim(v: Verdict) -> str:
    claim = v.claim
    verdict = "holds" if v.holds else "fails"
    words = f"{v.words}; the corrected statement holds" if v.holds and claim.published else v.words
    bar = f'<span class=bar><span style="width:{min(v.worst, 1):.1%}"></span></span>'
    body = [f"<p>{escape(claim.note)}</p>"]
    if not v.holds:
        body.append(f"<p class=failure>{escape(v.reason)}</p>")
    if claim.published is not None:
        published = claim.published
        body.append(
            f"<div class=published><h4>As published, and refuted</h4>"
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
    wrong = "".join(f"<li>{escape(m.name)}{_fate(v, m.name)}</li>" for m in claim.mutants)
    body.append(f"<h4>Must reject</h4><ul>{wrong}</ul>")
    links = ", ".join(f'<a href="#{key}">{escape(key)}</a>' for key in claim.cites)
    body.append(f"<p class=cites>Sources: {links}</p>")
    mutants = f"mutants {v.rejected}/{len(claim.mutants)}"
    if v.equivalent:
        mutants += f" ({len(v.equivalent)} equivalent here)"
    return (
        f'<details class="claim {verdict} {claim.kind}" id="{escape(claim.name)}"><summary>'
        f"<span class=head><span class=title>{escape(claim.title)}</span>"
        f'<span class="kind {claim.kind}">{KINDS[claim.kind]}</span></span>'
        f"<div class=math>{mathml(claim.statement, display='block')}</div>"
        f"<span class=facts><span class=verdict>{words}</span>"
        f"<span>{v.cases} cases</span><span>worst {v.worst:.2g} {bar}</span>"
        f"<span>{mutants}</span><span>{v.seconds:.2f} s</span>"
        f"<code>{escape(claim.name)}</code></span></summary>{''.join(body)}</details>"
    )


def _fate(v: Verdict, mutant: str) -> str:
    """What became of a mutant, said only where it was not rejected."""
    if mutant in v.surviving:
        return " <span class=failure>(not rejected)</span>"
    return " <span class=without>(equivalent here)</span>" if mutant in v.equivalent else ""


def figure(item: FigureItem, known: frozenset[str], *, folded: bool = False) -> str:
    """A figure with its caption, links to the claims in `known`; `folded` hides the caption.

    Raises: PageError for what is no PNG image.
    """
    if not item.png.startswith(_PNG):
        raise PageError(f"figure {item.name} is not a PNG image")
    links = ", ".join(
        f'<a href="#{n}">{escape(n)}</a>' if n in known else escape(n) for n in item.claims
    )
    caption = f"{markdown.inline(item.caption)} <span class=cites>Claims: {links}</span>"
    if folded:
        caption = f"<details><summary>What is drawn</summary><p>{caption}</p></details>"
    with Image.open(io.BytesIO(item.png)) as image:
        small, (wide, high) = _compact(image), image.size
    # At 300 dpi, half as large again as in print; both sizes, so that nothing moves later.
    width, height = (round(n / 300 * 96 * 1.5) for n in (wide, high))
    return (
        f'<figure id="figure-{escape(item.name)}"><h4>{escape(item.title)}</h4>'
        f'<div class=scroll><img class="{"wide" if width > 600 else "narrow"}" width="{width}" '
        f'height="{height}" alt="{escape(item.title)}" '
        f'src="data:image/png;base64,{base64.b64encode(small).decode()}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _compact(image: Image.Image) -> bytes:
    """The image in 128 colours: a third of the bytes, the same look."""
    content = io.BytesIO()
    flat = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    flat.save(content, "PNG", optimize=True)
    return content.getvalue()


def environment(found: Mapping[str, Any]) -> Chapter:
    """What the numbers of this run were made with."""
    rows = []
    for key, value in found.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        else:
            text = "" if value is None else str(value)
        if text and text != "[]":
            rows.append([escape(key.replace("_", " ")), escape(text)])
    return Chapter(
        key="environment",
        title="Environment",
        brief="versions and machine of this run",
        html=markdown.table([], rows),
    )


def sources(verdicts: Sequence[Verdict], found: Mapping[str, Any]) -> Chapter:
    """The works that the claims cite, and how to cite the method and this page."""
    return Chapter(
        key="sources",
        title="Sources",
        brief="the works cited, and how to cite this one",
        html=f"{_sources(verdicts)}<h3>How to cite</h3>{_citing(found)}",
    )


def _sources(verdicts: Sequence[Verdict]) -> str:
    keys = dict.fromkeys(key for v in verdicts for key in v.claim.cites)
    items = "".join(
        f'<li id="{escape(key)}"><b>{escape(key)}</b> '
        f"{_linked(format_citation(citation(key)))}</li>"
        for key in sorted(keys)
    )
    return f"<ul class=sources>{items}</ul>"


def _linked(text: str) -> str:
    """Text whose arXiv numbers and addresses are links that a reader may follow."""
    text = re.sub(r"(https?://[^\s&]+)", r'<a href="\1">\1</a>', escape(text))
    return re.sub(
        r"(?<!/)arXiv:(\d+\.\d+)", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text
    )


def _citing(environment: Mapping[str, Any]) -> str:
    version = environment.get("packages", {}).get("dft-theory", "")
    commit = (environment.get("git") or {}).get("commit", "")
    software = f"dft_theory {version}".strip() + (f", commit {commit[:12]}" if commit else "")
    return (
        f"<p>The method: {_linked(format_citation(citation(METHOD)))}</p>"
        f"<p>This page: {escape(software)}; the file <code>CITATION.cff</code> of the repository "
        "has both in machine-readable form.</p>"
    )
