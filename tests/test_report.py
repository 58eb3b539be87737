"""The page: self-contained, complete, escaped, and laid out by a real browser if there is one."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dft_theory import pages, report
from dft_theory.claims import Scope, Verdict, claims
from dft_theory.mathml import MathError
from dft_theory.policies import TabularPolicy
from dft_theory.results import write_text

NAMES = ("sft-is-policy-gradient", "same-direction-for-one-token-only", "sft-logit-gradient")


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    scope = Scope.of(TabularPolicy.random(vocab=3, length=2, seed=0))
    return [claims[name].check(scope) for name in NAMES]


@pytest.fixture(scope="module")
def page(verdicts: list[Verdict]) -> str:
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (900).to_bytes(4, "big") + b"\x00" * 20
    figure = report.FigureItem(
        name="demo", title="A <b>figure</b>", caption="shows & tells", png=png, claims=(NAMES[0],)
    )
    section = report.Section(
        title="Numbers", paragraphs=("1 < 2",), columns=("a",), rows=(("<script>",),)
    )
    return report.render(verdicts, [figure], [section], {"python": "3", "packages": {"torch": "2"}})


def test_nothing_is_requested_from_elsewhere(page: str) -> None:
    assert pages.requests(page) == []
    assert not re.search(r'src\s*=\s*"?(https?:)?//', page)
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page
    assert "<link" not in page


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
        report.render(verdicts, [], [], {})


def test_a_figure_that_is_no_png_is_refused(verdicts: list[Verdict]) -> None:
    pdf = report.FigureItem(name="demo", title="", caption="", png=b"%PDF-1.7", claims=())
    with pytest.raises(pages.PageError, match="demo is not a PNG"):
        report.render(verdicts, [pdf], [], {})


def test_a_statement_that_does_not_render_is_refused(verdicts: list[Verdict]) -> None:
    unknown = replace(verdicts[0].claim, statement=r"\unknowncommand{x}")
    with pytest.raises(MathError, match="unknowncommand"):
        report.render([replace(verdicts[0], claim=unknown)], [], [], {})


def test_a_mutant_that_survives_or_changes_nothing_says_so(verdicts: list[Verdict]) -> None:
    first, second = (m.name for m in verdicts[0].claim.mutants[:2])
    page = report.render(
        [replace(verdicts[0], surviving=(first,), equivalent=(second,))], [], [], {}
    )
    assert f"<li>{first} <span class=failure>(not rejected)" in page
    assert f"<li>{second} <span class=without>(equivalent here)" in page
    assert "mutants 1/3 (1 equivalent here)" in page
    assert "These do not hold" in page


def test_every_claim_has_its_anchor_statement_and_sources(page: str) -> None:
    for name in NAMES:
        assert f'id="{name}"' in page
    # theorem, rectified form, three statements and one published statement
    assert page.count("<math") == 6
    assert "As published, and refuted" in page
    assert 'id="wu2025dft"' in page
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))


def test_text_is_escaped(page: str) -> None:
    assert "A &lt;b&gt;figure&lt;/b&gt;" in page
    assert "shows &amp; tells" in page
    assert "&lt;script&gt;" in page


def test_a_failing_claim_is_shown_as_failing(verdicts: list[Verdict]) -> None:
    broken = replace(verdicts[0], failing="V=2: 17 times the tolerance")
    page = report.render([broken], [], [], {})
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


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_lays_the_formulas_out(page: str, tmp_path: Path) -> None:
    probe = (
        "<script>const b=[...document.querySelectorAll('math')].map(m=>m.getBoundingClientRect());"
        "document.title=b.length+' '+b.filter(r=>r.height>8&&r.width>20).length+' '+"
        "(document.documentElement.scrollWidth<=innerWidth)</script></body>"
    )
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", probe).replace("<details ", "<details open "))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    done = subprocess.run(
        ["chromium", *flags.split(), *quiet.split(), "--window-size=390,900",
         f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr[-500:]
    assert title[1] == "6 6 true"
