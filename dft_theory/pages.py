"""A page that needs nothing but itself: one shape for all of them, checked before it is written."""

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from html.parser import HTMLParser
from importlib import resources

_FETCHING = frozenset(("script", "link", "iframe", "frame", "object", "embed", "base", "form"))
_SOURCES = frozenset(("src", "poster", "background", "data", "xlink:href", "action"))


class PageError(ValueError):
    """A page that would not be whole: it loads something, or shows what it cannot."""


def page(
    title: str,
    head: str,
    chapters: Sequence[tuple[str, str, str]],
    *,
    style: str = "",
    bar: str = "",
    script: str = "",
) -> str:
    """The page of chapters (anchor, title, HTML) under a title and a head of HTML.

    `bar` is HTML that stays in sight with the links. `script` is the one program of the page, and
    the browser is told by its digest to run no other, and to load nothing at all.
    Raises: PageError for one that would load something.
    """
    contents = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in chapters)
    body = "".join(
        f'<section id="{key}"><h2>{escape(name)}</h2>{text}</section>'
        for key, name, text in chapters
    )
    common = (resources.files("dft_theory") / "report.css").read_text(encoding="utf-8")
    whole = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        f"<title>{escape(title)}</title><style>{common}{style}</style></head><body>"
        f"<header><p class=kicker>dft_theory</p><h1>{escape(title)}</h1>{head}</header>"
        f"<nav>{contents}{bar}</nav><main>{body}</main></body></html>\n"
    )
    loads = requests(whole)
    if loads:
        raise PageError(f"the page is not self-contained: it would load {loads[0]}")
    return whole.replace("</body>", f"<script>{script}</script></body>") if script else whole


def _policy(script: str) -> str:
    """What a browser may do for the page: its own style, images inside, this script, no request."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    run = f"'sha256-{digest}'" if script else "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {run}"


def requests(page: str) -> list[str]:
    """What a browser would fetch or run to show the page, in words; links are not followed."""
    reader = _Requests()
    reader.feed(page)
    reader.close()
    return reader.found


class _Requests(HTMLParser):
    """Collects resources and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        if tag in _FETCHING:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            text = (value or "").strip()
            if name.startswith("on") or text.lower().startswith("javascript:"):
                self.found.append(f"<{tag} {name}>")
            if name == "srcset" or (name in _SOURCES and not text.startswith(("data:", "#"))):
                self.found.append(f"<{tag} {name}={text}>")
            if name == "style":
                self._search(text)

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._search(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def _search(self, css: str) -> None:
        found = re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", css, re.IGNORECASE)
        self.found.extend(found)
