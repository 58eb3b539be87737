"""LaTeX to MathML: what is shown is what was written, and what cannot be shown is refused."""

import re
from xml.etree.ElementTree import Element, fromstring

import pytest

from dft_theory.claims import CLAIMS
from dft_theory.mathml import MathError, mathml

THEOREM = (
    r"\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\mathbb{E}_{y\sim\pi_\theta}\left["
    r"\frac{\mathbf{1}[y=y^\star]}{\pi_\theta(y\mid x)}\nabla_\theta\log\pi_\theta(y\mid x)\right]"
)
STATEMENTS = {c.name: c.statement for c in CLAIMS} | {
    f"{c.name}/published": c.published.statement for c in CLAIMS if c.published is not None
}


def shown(latex: str) -> str:
    """The characters on the page, in order."""
    return "".join(fromstring(mathml(latex)).itertext())


def find(latex: str, path: str) -> Element:
    found = fromstring(mathml(latex)).find(path)
    assert found is not None
    return found


def test_the_theorem_shows_every_symbol() -> None:
    assert shown(THEOREM) == "∇θℒSFT=−𝔼y∼πθ[𝟏[y=y⋆]πθ(y∣x)∇θlogπθ(y∣x)]"


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_statement_of_the_ledger_renders(name: str) -> None:
    text = mathml(STATEMENTS[name], display="block")
    assert "\\" not in text
    assert "http" not in text
    assert "&#" not in text
    assert len(shown(STATEMENTS[name])) > 3
    fromstring(text)


@pytest.mark.parametrize(
    ("latex", "characters"),
    [
        (r"\mathbf{x}\mathbb{E}\mathcal{D}\mathfrak{g}\mathsf{A}\mathtt{x}", "𝐱𝔼𝒟𝔤𝖠𝚡"),
        (r"\boldsymbol{\theta}\mathbf{\Sigma}\mathbb{1}", "𝜽𝚺𝟙"),
        (r"\mathbb{RC}\mathcal{LB}", "ℝℂℒℬ"),
        (r"a<b>c", "a<b>c"),
        (r"\|x\|_2\lVert y\rVert", "‖x‖2‖y‖"),
        (r"\operatorname*{arg\,max}_y f", "arg\u2009maxyf"),
        (r"\begin{aligned} a &= b \\ &:= c \end{aligned}", "a=b≔c"),
        (r"99\,\%\ \text{of }\{y\}", "99%\xa0of\xa0{y}"),
    ],
)
def test_symbols_arrive_as_the_right_characters(latex: str, characters: str) -> None:
    assert shown(latex) == characters


@pytest.mark.parametrize(
    ("latex", "reason"),
    [
        (r"\unknown{x}", "unknown command"),
        (r"x \hfill y", "unknown command"),
        (r"x^{y", "braces do not balance"),
        (r"a}b{", "braces do not balance"),
        (r"\frac{a}", "1 parts, not 2"),
        (r"\left( a", "ExtraLeft"),
        (r"a_b_c", "DoubleSubscripts"),
        (r"", "NoAvailableTokens"),
        (r"\text{if $x$}", "dollar signs"),
        (r"100%", r"write \\%"),
        (r"a & b", "stray &"),
        (r"a \\ b", "line break"),
        (r"\operatorname*{ess\,sup}_x", "empty symbol"),
        (r"\href{https://example.org}{x}", "href"),
        (r"\text{snake\_case}", "unknown command"),
    ],
)
def test_what_cannot_be_shown_is_refused(latex: str, reason: str) -> None:
    with pytest.raises(MathError, match=reason) as caught:
        mathml(latex)
    assert repr(latex) in str(caught.value)


@pytest.mark.parametrize("latex", [r"-x", r"= -x", r"(-x)", r"a,-x", r"\left[-x\right]", r"e^{-x}"])
def test_a_sign_without_a_left_operand_binds_to_the_right(latex: str) -> None:
    signs = [e for e in fromstring(mathml(latex)).iter("mo") if e.text == "−"]
    assert [e.get("form") for e in signs] == ["prefix"]


def test_a_difference_keeps_its_spaces() -> None:
    (sign,) = [e for e in fromstring(mathml(r"(a)_t - b")).iter("mo") if e.text == "−"]
    assert sign.get("form") is None


@pytest.mark.parametrize(
    ("latex", "spaces"),
    [(r"\log\pi", 1), (r"\log(\pi)", 0), (r"a\log\pi", 2), (r"=\log\left(x\right)", 0)],
)
def test_function_names_are_set_off_as_in_tex(latex: str, spaces: int) -> None:
    assert len(list(fromstring(mathml(latex)).iter("mspace"))) == spaces


def test_limits_stand_below_in_display_and_beside_in_text() -> None:
    under = find(r"\max_y f", ".//munder")
    assert under[0].get("movablelimits") == "true"  # the browser moves them by display style
    assert 'display="block"' in mathml(r"\max_y f", display="block")


def test_signs_inside_a_script_have_no_spaces() -> None:
    assert find(r"y_{<t}", ".//msub//mo").get("lspace") == "0"
    assert find(r"y<t", ".//mo").get("lspace") is None


def test_only_attributes_that_browsers_know_remain() -> None:
    text = mathml(r"\begin{cases} 1 & x>0 \\ 0 & \text{else}\end{cases}\mathcal{L}\bar{x}")
    assert set(re.findall(r'mathvariant="([^"]*)"', text)) <= {"normal"}
    assert "columnalign" not in text
    assert "xmlns" not in text
