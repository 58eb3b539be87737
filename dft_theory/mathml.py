"""LaTeX to MathML Core: mathematics that a browser shows without JavaScript, or an error.

`latex2mathml` parses; this module turns its output into the subset that Chromium, Firefox and
Safari draw alike (no `mathvariant` alphabets, no column attributes), gives operators, functions
and signs the spaces TeX gives them, and refuses everything that would print as garbage.
"""

import html
import re
import unicodedata
from typing import Literal
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element


class MathError(ValueError):
    """LaTeX that cannot be shown: the message quotes it and says what to write instead."""


_ALPHABETS = {
    "bold": "BOLD",
    "bold-italic": "BOLD ITALIC",
    "double-struck": "DOUBLE-STRUCK",
    "script": "SCRIPT",
    "bold-script": "BOLD SCRIPT",
    "fraktur": "FRAKTUR",
    "sans-serif": "SANS-SERIF",
    "bold-sans-serif": "SANS-SERIF BOLD",
    "monospace": "MONOSPACE",
}
_CHILDREN = {
    **dict.fromkeys(("mfrac", "msub", "msup", "munder", "mover", "mroot"), 2),
    **dict.fromkeys(("msubsup", "munderover"), 3),
    **dict.fromkeys(("mi", "mn", "mo", "mtext", "mspace"), 0),
}
_ROWS = {"math", "mrow", "mtd", "mstyle", "msqrt", "mpadded", "mphantom"}
_TAGS = {*_CHILDREN, *_ROWS, "mtable", "mtr"}
_ATTRIBUTES = {
    *("display", "displaystyle", "scriptlevel", "style", "mathvariant", "mathcolor"),
    *("form", "fence", "stretchy", "symmetric", "largeop", "movablelimits", "accent"),
    *("lspace", "rspace", "minsize", "maxsize", "linethickness"),
    *("width", "height", "depth", "voffset"),
}
# Layout hints that MathML Core does not know; what they asked for is done by `style` below.
_DROPPED = {"xmlns", "columnalign", "columnspacing", "rowspacing"}
_SCRIPTS = {"msub", "msup", "msubsup", "munder", "mover", "munderover"}
_LIMITS = {"lim", "max", "min", "sup", "inf"}
_ACCENTS = {"^", "~", "¯", "→", "˙", "¨", "―"}
_ORDINARY = {"∇", "∂", "∞", "∅", "⊤"}
_OPENING, _CLOSING = set("([{⟨⌊⌈"), set(")]}⟩⌋⌉|‖!")
_THIN = "0.167em"


def mathml(latex: str, *, display: Literal["inline", "block"] = "inline") -> str:
    """One `<math>` element that shows `latex` (without its dollar signs).

    Raises: MathError for what would not render faithfully: unknown commands, unbalanced braces,
    missing arguments, `$` inside, alignment or line breaks outside an environment.
    """
    source = _prepare(latex)
    try:
        root = convert_to_element(source, display=display)
    except Exception as error:  # the parser has a dozen exception classes without a common base
        raise MathError(f"cannot render {latex!r}: {type(error).__name__} {error}") from error
    _polish(root)
    for element in root.iter():
        _verify(element, latex)
    return tostring(root, encoding="unicode", short_empty_elements=False)


def _prepare(latex: str) -> str:
    """The same formula in words that the parser knows, or an error where it would guess."""
    bare = re.sub(r"\\.", "", latex)
    for sign, advice in (
        ("$", "leave the dollar signs out, and close \\text{} before mathematics"),
        ("#", "macro arguments are not supported"),
        ("%", "write \\% for a per cent sign"),
    ):
        if sign in bare:
            raise MathError(f"cannot render {latex!r}: it contains {sign!r}; {advice}")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        raise MathError(f"cannot render {latex!r}: its braces do not balance")
    latex = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{split}", latex)
    latex = re.sub(r"\\operatorname\*?\{\s*arg\s*(\\[,;: ])?\s*(max|min)\s*\}", r"\\arg\2 ", latex)
    latex = latex.replace(":=", r"\coloneqq ")
    return re.sub(r"(?<!\\)\\(\||[lr]?Vert(?![a-zA-Z]))", "‖", latex)


def _polish(element: Element) -> None:
    """Rewrite a tree in place, leaves first."""
    for child in element:
        _polish(child)
    element[:] = [_unwrapped(child) for child in element]
    if len(element) == 0 and element.text:
        _polish_leaf(element)
    if element.get("width") == "negativethinmathspace":
        element.set("width", "-" + _THIN)
    if element.tag == "mtd":
        element[:] = [child for child in element if child.tag != "mi" or child.text]
        align = element.get("columnalign")
        if align:
            element.set("style", f"text-align:{align}")
    if element.tag == "mtable" and element.get("columnspacing", "").startswith("0em"):
        # Pairs of columns meet at the relation sign, as in LaTeX's aligned.
        for cell in element.iter("mtd"):
            style = cell.get("style", "text-align:right")
            side = "right" if style == "text-align:right" else "left"
            cell.set("style", f"text-align:{side};padding-{side}:0")
    if element.tag in {"mover", "munder"} and len(element) == 2 and element[1].text in _ACCENTS:
        element.set("accent", "true")
    if element.tag in {"msub", "msubsup"} and len(element) and element[0].get("movablelimits"):
        element.tag = {"msub": "munder", "msubsup": "munderover"}[element.tag]
    if element.tag in _SCRIPTS:
        _tighten(element)
    if element.tag in _ROWS:
        _space(element)
    for name in list(element.attrib):
        if name in _DROPPED or (element.tag == "mpadded" and element.attrib[name][0] in "+-"):
            del element.attrib[name]


def _unwrapped(element: Element) -> Element:
    """The only child of a bare row, or the row; letters of an upright word become one word."""
    if element.tag != "mrow" or element.attrib:
        return element
    if len(element) == 1:
        return element[0]
    if len(element) and all(c.tag == "mi" and c.get("mathvariant") == "normal" for c in element):
        word = Element("mi")
        word.text = "".join(c.text or "" for c in element)
        return word
    return element


def _polish_leaf(element: Element) -> None:
    raw = element.text or ""
    text = html.unescape(raw)
    variant = element.attrib.pop("mathvariant", None)
    if variant == "normal":
        element.set("mathvariant", "normal")
    elif element.tag == "mtext" and variant:
        bold = "font-weight:bold" if "bold" in variant else "font-style:italic"
        element.set("style", bold)
    elif variant in _ALPHABETS:
        text = "".join(_letter(character, _ALPHABETS[variant]) for character in text)
    if element.tag == "mi" and text == "~":
        text = "∼"  # \sim
    if element.tag == "mi" and len(text) == 1:
        if text.isascii() and text.isalpha() and raw != text:
            element.set("mathvariant", "normal")  # \mathrm of one letter arrives as a code point
        elif text not in _ORDINARY | set("%&#_$…") and unicodedata.category(text)[0] in "SP":
            element.tag = "mo"
    if element.tag == "mo" and text in _ORDINARY:
        element.tag = "mi"
        element.set("mathvariant", "normal")
    if element.tag == "mo" and len(text) > 1 and text[0].isalpha():
        if text in _LIMITS or element.get("movablelimits"):
            element.set("movablelimits", "true")
        else:
            element.tag = "mi"  # \operatorname
    if element.tag == "mo" and text in {"|", "‖"}:
        element.attrib.update(lspace="0", rspace="0")
    if element.tag == "mo" and text in _OPENING | _CLOSING and not element.get("fence"):
        element.set("stretchy", "false")  # only \left and \right stretch
    element.text = text


def _letter(character: str, alphabet: str) -> str:
    """A letter or digit of a mathematical alphabet, or the character where there is none."""
    name = unicodedata.name(character, "")
    name = re.sub(r"^(LATIN|GREEK) (CAPITAL|SMALL) LETTER ", r"\2 ", name)
    for full in (f"MATHEMATICAL {alphabet} {name}", f"{alphabet} {name}", f"BLACK-LETTER {name}"):
        if full.startswith("BLACK") and alphabet != "FRAKTUR":
            continue
        try:
            return unicodedata.lookup(full)
        except KeyError:
            continue
    return character


def _core(element: Element | None) -> Element | None:
    """The base that decides how an element behaves in a row: pi of pi_theta."""
    while element is not None and element.tag in _SCRIPTS and len(element):
        element = element[0]
    return element


def _opens(element: Element | None) -> bool:
    if element is not None and element.tag == "mrow" and len(element):
        return _opens(element[0])
    return element is not None and element.tag == "mo" and (element.text or "") in _OPENING


def _operates(element: Element | None) -> bool:
    """Whether a sign after this element has no left operand."""
    return element is None or (
        element.tag == "mo"
        and element.get("form") != "postfix"
        and (element.text or "") not in _CLOSING
    )


def _is_word(element: Element | None) -> bool:
    return element is not None and len(element.text or "") > 1 and (element.text or "")[0].isalpha()


def _space(row: Element) -> None:
    """TeX's spaces around function names; signs without a left operand bind to the right."""
    spaced: list[Element] = []
    children = list(row)
    for i, child in enumerate(children):
        after = _core(children[i + 1]) if i + 1 < len(children) else None
        solid = [e for e in spaced if e.tag != "mspace"]
        before = _core(solid[-1]) if solid else None
        touching = bool(spaced) and spaced[-1].tag != "mspace"
        core = _core(child)
        if core is not None and core.tag == "mo" and (core.text or "") in {"−", "+", "±", "∓"}:
            if _operates(before):
                core.set("form", "prefix")
        elif core is not None and core.tag == "mo" and _is_word(core):
            core.set("lspace", "0" if _operates(before) else _THIN)
            core.set("rspace", "0" if _opens(after) else _THIN)
        elif core is not None and core.tag == "mi" and _is_word(core):
            if touching and not _operates(before):
                spaced.append(Element("mspace", width=_THIN))
            spaced.append(child)
            if after is not None and after.tag not in {"mo", "mspace"} and not _opens(after):
                spaced.append(Element("mspace", width=_THIN))
            continue
        spaced.append(child)
    row[:] = spaced


def _tighten(script: Element) -> None:
    """No spaces around the signs inside a script, as in TeX: y<t below an index is one thing."""
    for part in script[1:]:
        for sign in part.iter("mo"):
            if "lspace" not in sign.attrib and "accent" not in script.attrib:
                sign.attrib.update(lspace="0", rspace="0")


def _verify(element: Element, latex: str) -> None:
    text = element.text or ""
    problem = ""
    if "\\" in text:
        problem = f"unknown command {text}"
    elif element.tag not in _TAGS:
        problem = f"<{element.tag}> is not MathML Core"
    elif element.tag in _CHILDREN and len(element) != _CHILDREN[element.tag]:
        problem = f"<{element.tag}> has {len(element)} parts, not {_CHILDREN[element.tag]}"
    elif element.tag in {"mi", "mo", "mn"} and not text:
        problem = "an empty symbol; for arg max write \\argmax"
    elif element.get("linebreak"):
        problem = "a line break outside an environment; write \\begin{aligned}"
    elif text == "&":
        problem = "a stray &; alignment needs \\begin{aligned}, words need \\text{}"
    elif not set(element.attrib) <= _ATTRIBUTES:
        problem = f"attribute {sorted(set(element.attrib) - _ATTRIBUTES)[0]!r} is not MathML Core"
    if problem:
        raise MathError(f"cannot render {latex!r}: {problem}")
