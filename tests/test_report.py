"""The page: self-contained, complete, escaped, and laid out by a real browser if there is one."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dft_theory import pages, report
from dft_theory.claims import Scope, Verdict, claims
from dft_theory.mathml import MathError
from dft_theory.policies import TabularPolicy
from dft_theory.results import write_text

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("sft-is-policy-gradient", "same-direction-for-one-token-only", "sft-logit-gradient")


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    scope = Scope.of(TabularPolicy.random(vocab=3, length=2, seed=0))
    return [claims[name].check(scope) for name in NAMES]


def drawing(width: int = 900, height: int = 300) -> bytes:
    """A PNG of many colours."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(content, "PNG")
    return content.getvalue()


FIGURE = report.FigureItem(
    name="demo", title="A <b>figure</b>", caption="shows $p_0$ & tells of y* and <x*>",
    png=drawing(), claims=(NAMES[0], "unknown-claim"),
)  # fmt: skip


def rendered(verdicts: list[Verdict], *more: report.Chapter) -> str:
    made = {"python": "3", "packages": {"torch": "<2>"}, "seeds": []}
    known = frozenset(v.claim.name for v in verdicts)
    figures = report.Chapter(
        key="figures", title="Figures <all>", brief="one & only", html=report.figure(FIGURE, known)
    )
    last = [report.environment(made), report.sources(verdicts, made)]
    return report.render(verdicts, [report.ledger(verdicts), figures, *more, *last])


@pytest.fixture(scope="module")
def page(verdicts: list[Verdict]) -> str:
    return rendered(verdicts)


def test_nothing_is_requested_from_elsewhere(page: str) -> None:
    assert pages.requests(page) == []
    assert not re.search(r'src\s*=\s*"?(https?:)?//', page)
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page
    assert "<link" not in page
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'none'"
    assert f'content="{policy}"' in page


def test_sources_are_links_that_only_a_reader_follows(page: str) -> None:
    outward = re.findall(r'<(\w+)[^>]*="https?://', page)
    assert set(outward) == {"a"}
    assert '<a href="https://arxiv.org/abs/2508.05629">' in page


@pytest.mark.parametrize(
    "harm",
    [
        '<img src="https://example.org/x.png">',
        "<img src=x.png>",
        "<img srcset='data:image/png;base64,AA x, //example.org/y 2x'>",
        "<script>1</script>",
        '<link rel=stylesheet href="x.css">',
        "<style>@import 'x.css';</style>",
        "<style>p { background: url(https://example.org/x) }</style>",
        '<p style="background: url(//example.org/x)">',
        '<p onclick="1">',
        '<a href="javascript:1">',
        '<iframe src="data:text/html,x"></iframe>',
    ],
)
def test_requests_finds_what_a_browser_would_fetch_or_run(harm: str) -> None:
    assert pages.requests(f"<!doctype html><body>{harm}</body>")


def test_a_page_that_would_load_something_is_refused(
    verdicts: list[Verdict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "_story", lambda _: '<img src="https://example.org/x.png">')
    with pytest.raises(pages.PageError, match=r"example\.org"):
        report.render(verdicts, [])


def test_a_figure_that_is_no_png_is_refused() -> None:
    pdf = replace(FIGURE, png=b"%PDF-1.7")
    with pytest.raises(pages.PageError, match="demo is not a PNG"):
        report.figure(pdf, frozenset())


def test_a_figure_has_its_size_its_claims_and_fewer_bytes() -> None:
    shown = report.figure(FIGURE, frozenset(NAMES), folded=True)
    assert 'width="432" height="144"' in shown  # 900 x 300 at 300 dpi, half as large again
    assert f'<a href="#{NAMES[0]}">' in shown
    assert "unknown-claim" in shown
    assert 'href="#unknown-claim"' not in shown
    assert "<details><summary>What is drawn</summary>" in shown
    (data,) = re.findall(r"base64,([^\"]+)", shown)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.mode, image.size) == ("P", (900, 300))
        difference = [
            abs(a - b)
            for a, b in zip(
                image.convert("L").tobytes(),
                Image.open(io.BytesIO(FIGURE.png)).convert("L").tobytes(),
                strict=True,
            )
        ]
    assert max(difference) <= 4
    noise = replace(FIGURE, png=(ROOT / "paper_figures/out/fig1.png").read_bytes())
    assert len(report.figure(noise, frozenset())) < 0.6 * len(noise.png)


def test_the_contents_name_every_chapter(page: str) -> None:
    for key in ("ledger", "figures", "environment", "sources"):
        assert f'<li><a href="#{key}">' in page
        assert f'<section id="{key}">' in page
    assert "one &amp; only" in page
    assert "Figures &lt;all&gt;" in page


def test_a_statement_that_does_not_render_is_refused(verdicts: list[Verdict]) -> None:
    unknown = replace(verdicts[0].claim, statement=r"\unknowncommand{x}")
    with pytest.raises(MathError, match="unknowncommand"):
        report.ledger([replace(verdicts[0], claim=unknown)])


def test_a_mutant_that_survives_or_changes_nothing_says_so(verdicts: list[Verdict]) -> None:
    first, second = (m.name for m in verdicts[0].claim.mutants[:2])
    page = rendered([replace(verdicts[0], surviving=(first,), equivalent=(second,))])
    assert f"<li>{first} <span class=failure>(not rejected)" in page
    assert f"<li>{second} <span class=without>(equivalent here)" in page
    assert "mutants 1/3 (1 equivalent here)" in page
    assert "These do not hold" in page


def test_every_claim_has_its_anchor_statement_and_sources(page: str) -> None:
    for name in NAMES:
        assert f'id="{name}"' in page
    # theorem, rectified form, three statements, one published statement, one in a caption
    assert page.count("<math") == 7
    assert "As published, and refuted" in page
    assert 'id="wu2025dft"' in page
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))


def test_text_is_escaped(page: str) -> None:
    assert "A &lt;b&gt;figure&lt;/b&gt;" in page
    assert "&amp; tells of y* and &lt;x*&gt;" in page
    assert "torch &lt;2&gt;" in page


def test_a_failing_claim_is_shown_as_failing(verdicts: list[Verdict]) -> None:
    broken = replace(verdicts[0], failing="V=2: 17 times the tolerance")
    page = rendered([broken])
    assert "0 of 1" in page
    assert "V=2: 17 times the tolerance" in page
    assert 'class="claim fails identity"' in page


def test_an_interrupted_write_leaves_the_earlier_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "index.html"
    write_text(target, "earlier")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="intact|earlier|room"):
        write_text(target, "later")
    assert target.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_a_browser_lays_the_formulas_out(page: str, browse) -> None:
    program = """
    const boxes = [...document.querySelectorAll("math")].map((m) => m.getBoundingClientRect());
    const found = {
      formulas: boxes.length,
      drawn: boxes.filter((r) => r.height > 8 && r.width > 10).length,
      fits: document.documentElement.scrollWidth <= innerWidth,
    };"""
    found, _ = browse(page.replace("<details ", "<details open "), program)
    assert found == {"formulas": 7, "drawn": 7, "fits": True}
