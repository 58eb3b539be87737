"""The little Markdown of generated texts, as HTML that escapes everything else."""

import pytest

from dft_theory import catalog, markdown
from dft_theory.mathml import MathError


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("`a<b` **bold** *em*", "<code>a&lt;b</code> <b>bold</b> <em>em</em>"),
        ("**with `code`**", "<b>with <code>code</code></b>"),
        ("pi(y*|x) and y*, 2 * 3 * 4", "pi(y*|x) and y*, 2 * 3 * 4"),
        ("[a](https://x.org/?a&b)", '<a href="https://x.org/?a&amp;b">a</a>'),
        ("costs 5 $", "costs 5 $"),
    ],
)
def test_inline_marks_and_everything_else_is_text(text: str, html: str) -> None:
    assert markdown.inline(text) == html


def test_formulas_are_mathml_or_refused() -> None:
    assert markdown.inline("so $p^2$.").startswith("so <math")
    assert "display=" in markdown.inline("$$p\n= q$$")
    with pytest.raises(MathError):
        markdown.inline(r"$\\unknowncommand$".replace("\\\\", "\\"))


def test_blocks_are_told_apart() -> None:
    text = "### A & b\n\nwords\nmore\n\n- one\n- two\n  goes on\n\n1. first\n2. last"
    assert markdown.html(text) == (
        "<h3>A &amp; b</h3><p>words\nmore</p><ul><li>one</li><li>two\n  goes on</li></ul>"
        "<ol><li>first</li><li>last</li></ol>"
    )
    assert markdown.html("```sh\na < *b*\n\nc\n```") == "<pre>a &lt; *b*\n\nc</pre>"


def test_comments_and_images_are_left_out() -> None:
    text = "<!-- generated: x -->\na\n<!-- end -->\n\n![a picture](out/x.png)\n\n## b"
    assert markdown.html(text) == "<p>a</p><h3>b</h3>"
    assert markdown.html("```\n<!-- kept -->\n```") == "<pre>&lt;!-- kept --&gt;</pre>"


def test_tables_keep_their_bars() -> None:
    text = "| a | |\n|---|---|\n| x \\| y | `z` |\n| 1 | 2 |"
    assert markdown.html(text) == (
        "<div class=scroll><table><tr><th>a</th><th></th></tr>"
        "<tr><td>x | y</td><td><code>z</code></td></tr><tr><td>1</td><td>2</td></tr></table></div>"
    )


def test_the_catalogue_has_as_many_rows_as_objectives() -> None:
    html = markdown.html(catalog.objectives_table())
    assert html.count("<tr>") == len(catalog.OBJECTIVES) + html.count("<table>")
    assert "**" not in html
    assert "|---" not in html
