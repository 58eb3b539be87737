"""The works that objectives and claims cite: `references.bib`, read without dependencies."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from dft_theory.registry import Registry

_ENTRY = re.compile(r"@(?P<kind>[a-z]+)\{(?P<key>[a-z][a-z0-9-]*),")
_FIELD = re.compile(r"  (?P<name>[a-z]+) = \{(?P<value>.+)\},")


@dataclass(frozen=True, kw_only=True)
class Citation:
    """One work. `authors` are "Family, Given"; `venue`, `arxiv` and `url` are "" where unknown."""

    key: str
    authors: tuple[str, ...]
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""
    url: str = ""

    @property
    def name(self) -> str:
        """The key: what a registry calls it."""
        return self.key


def citation(key: str) -> Citation:
    """The work of that bib key. Raises: UnknownNameError, with the nearest keys."""
    return bibliography()[key]


@functools.cache
def bibliography() -> Registry[Citation]:
    """Every work in the package's own `references.bib`, in its order."""
    source = resources.files("dft_theory") / "references.bib"
    return Registry("citation", parse(source.read_text(encoding="utf-8")))


def format_citation(work: Citation) -> str:
    """One line: authors (the first alone where there are more than three), year, title, place."""
    families = [author.partition(",")[0] for author in work.authors]
    if len(families) > 3:
        names = f"{families[0]} et al."
    else:
        names = " and ".join(filter(None, [", ".join(families[:-1]), families[-1]]))
    place = f"arXiv:{work.arxiv}" if work.arxiv else work.url
    return ". ".join(filter(None, [f"{names} ({work.year})", work.title, work.venue, place]))


def parse(text: str) -> tuple[Citation, ...]:
    """The entries of a bib file of our own form: one `name = {value},` a line, % for comments.

    Raises: ValueError with the line for anything else, and for an entry without its title,
    author or year, or with a field twice.
    """
    works: list[Citation] = []
    key, fields = "", dict[str, str]()
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"references.bib, line {number}"
        if key and line == "}":
            works.append(_work(key, fields, where))
            key = ""
        elif key and (field := _FIELD.fullmatch(line)):
            if field["name"] in fields:
                raise ValueError(f"{where}: {key} has two fields {field['name']!r}")
            fields[field["name"]] = _plain(field["value"], where)
        elif not key and (entry := _ENTRY.fullmatch(line)):
            key, fields = entry["key"], {}
        elif key or (line.strip() and not line.startswith("%")):
            raise ValueError(f"{where}: cannot read {line!r}; write one `name = {{value}},` a line")
    if key:
        raise ValueError(f"references.bib: {key} is not closed by a line with one brace")
    return tuple(works)


def _plain(value: str, where: str) -> str:
    """A value without the braces that protect its capitals."""
    depth = 0
    for character in value:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        raise ValueError(f"{where}: the braces of {value!r} are not balanced")
    return value.replace("{", "").replace("}", "")


def _work(key: str, fields: Mapping[str, str], where: str) -> Citation:
    missing = [name for name in ("title", "author", "year") if name not in fields]
    if missing:
        raise ValueError(f"{where}: {key} has no {' and no '.join(missing)}")
    if not re.fullmatch(r"\d{4}", fields["year"]):
        raise ValueError(f"{where}: the year of {key} is not four digits: {fields['year']!r}")
    arxiv, doi = fields.get("eprint", ""), fields.get("doi", "")
    return Citation(
        key=key,
        authors=tuple(fields["author"].split(" and ")),
        title=fields["title"],
        year=int(fields["year"]),
        venue=fields.get("booktitle", fields.get("journal", "")),
        arxiv=arxiv,
        url=fields.get("url")
        or (f"https://doi.org/{doi}" if doi else "")
        or (f"https://arxiv.org/abs/{arxiv}" if arxiv else ""),
    )
