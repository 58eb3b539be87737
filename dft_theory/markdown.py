"""The little Markdown that generated texts use, as HTML: the same words in README and on a page.

Blocks, apart by blank lines: headings (one size), paragraphs, lists (- or 1.), tables with a head,
code fences; images and comments are left out. Inside a line: `code`, **bold**, *emphasis*,
[text](address), $formula$; $$formula$$ stands in a line of its own. The rest is text, escaped.
"""

import re
from html import escape

from dft_theory.mathml import mathml

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|(?<!\w)\*(?P<em>[^*\s][^*]*)\*(?!\w)"
    r"|\[(?P<text>[^\]]+)\]\((?P<address>[^)\s]+)\)|\$\$(?P<display>.+?)\$\$|\$(?P<math>[^$]+)\$",
    re.DOTALL,
)
_FENCE = re.compile(r"^```\w*\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
_LEFT_OUT = re.compile(r"<!--.*?-->\n?|^!\[[^\]]*\]\([^)]*\)$", re.DOTALL | re.MULTILINE)
_ITEM = re.compile(r"^(?:-|\d+\.) ", re.MULTILINE)


def html(text: str) -> str:
    """The blocks of `text`. Raises: MathError for a formula that cannot be shown."""
    parts = _FENCE.split(text.strip())
    return "".join(
        f"<pre>{escape(part)}</pre>"
        if i % 2
        else "".join(map(_block, _blocks(_LEFT_OUT.sub("", part))))
        for i, part in enumerate(parts)
    )


def inline(text: str) -> str:
    """One run of text. Raises: MathError for a formula that cannot be shown."""
    found, at = [], 0
    for match in _INLINE.finditer(text):
        found += [escape(text[at : match.start()]), _marked(match)]
        at = match.end()
    return "".join([*found, escape(text[at:])])


def _marked(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "code":
        return f"<code>{escape(match['code'])}</code>"
    if kind == "bold":
        return f"<b>{inline(match['bold'])}</b>"
    if kind == "em":
        return f"<em>{inline(match['em'])}</em>"
    if kind == "address":
        return f'<a href="{escape(match["address"])}">{inline(match["text"])}</a>'
    if kind == "display":
        return f"<span class=math>{mathml(match['display'], display='block')}</span>"
    return mathml(match["math"])


def _blocks(text: str) -> list[str]:
    return [block.strip("\n") for block in re.split(r"\n\s*\n", text) if block.strip()]


def _block(block: str) -> str:
    if heading := re.fullmatch(r"#+ (.+)", block):
        return f"<h3>{inline(heading[1])}</h3>"
    if block.startswith("|"):
        return _table(block.splitlines())
    if _ITEM.match(block):
        kind = "ul" if block.startswith("-") else "ol"
        items = "".join(f"<li>{inline(item.strip())}</li>" for item in _ITEM.split(block)[1:])
        return f"<{kind}>{items}</{kind}>"
    return f"<p>{inline(block)}</p>"


def _table(lines: list[str]) -> str:
    r"""A head, a rule, rows; `\|` is a bar inside a cell."""
    head, _, *rows = ([c.strip() for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines)
    return table([inline(_bar(c)) for c in head], [[inline(_bar(c)) for c in row] for row in rows])


def _bar(cell: str) -> str:
    return cell.replace("\\|", "|")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML; without a head where all its cells are empty."""
    top = "".join(f"<th>{c}</th>" for c in head) if any(head) else ""
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return f"<div class=scroll><table>{top and f'<tr>{top}</tr>'}{body}</table></div>"
