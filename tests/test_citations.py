"""The bibliography: readable, complete, and the same to us as to a real BibTeX parser."""

import re
from importlib import resources

import bibtexparser
import pytest

from dft_theory.citations import Citation, bibliography, citation, format_citation, parse
from dft_theory.claims import CLAIMS
from dft_theory.objectives import OBJECTIVES
from dft_theory.registry import Registry, UnknownNameError

TEXT = resources.files("dft_theory").joinpath("references.bib").read_text(encoding="utf-8")
WORKS = tuple(bibliography().values())


def by_key(work: Citation) -> str:
    return work.key


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_every_objective_cites_a_work_that_exists(objective):
    assert objective.cite in bibliography()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_every_claim_cites_works_that_exist(claim):
    cited = {*claim.cites, *([claim.published.cite] if claim.published else [])}
    assert cited
    assert cited <= set(bibliography())


def test_our_reader_agrees_with_bibtexparser():
    library = bibtexparser.parse_string(TEXT)
    assert not library.failed_blocks
    theirs = {entry.key: {f.key: f.value for f in entry.fields} for entry in library.entries}
    assert list(theirs) == list(bibliography())
    for work in WORKS:
        fields = {k: re.sub(r"[{}]", "", str(v)) for k, v in theirs[work.key].items()}
        assert work.title == fields["title"]
        assert " and ".join(work.authors) == fields["author"]
        assert work.year == int(fields["year"])
        assert work.arxiv == fields.get("eprint", "")
        assert work.venue == fields.get("booktitle", fields.get("journal", ""))


@pytest.mark.parametrize("work", WORKS, ids=by_key)
def test_every_entry_can_be_found_by_its_reader(work):
    assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in work.authors)
    assert re.fullmatch(r"|\d{4}\.\d{4,5}", work.arxiv)
    assert work.url.startswith("https://") or work.venue
    assert format_citation(work).startswith(work.authors[0].partition(",")[0])


@pytest.mark.parametrize("work", [w for w in WORKS if w.arxiv], ids=by_key)
def test_an_arxiv_number_is_not_younger_than_the_work(work):
    assert 2000 + int(work.arxiv[:2]) <= work.year


def test_the_paper_itself():
    paper = citation("wu2025dft")
    assert paper.arxiv == "2508.05629"
    assert paper.url == "https://arxiv.org/abs/2508.05629"
    assert format_citation(paper).startswith("Wu et al. (2026). On the Generalization of SFT: A ")
    assert format_citation(paper).endswith(". arXiv:2508.05629")


def test_few_authors_are_all_named():
    assert format_citation(citation("pang2021gold")).startswith("Pang and He (2021). ")
    assert format_citation(citation("tsallis1988")).startswith("Tsallis (1988). ")


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UnknownNameError, match="wu2025dft"):
        citation("wu2026dft")


GOOD = "@misc{a1,\n  title = {A {B}},\n  author = {Doe, J. and Roe, R.},\n  year = {1999},\n}\n"


def test_a_small_file_is_read_as_written():
    assert parse("% a comment\n\n" + GOOD) == (
        Citation(key="a1", authors=("Doe, J.", "Roe, R."), title="A B", year=1999),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  year = {1999},\n", "", "line 4: a1 has no year"),
        ("{1999}", "{in press}", "line 5: the year of a1"),
        ("{A {B}}", "{A {B}", "line 2: the braces"),
        ("{A {B}}", "{A }B{}", "line 2: the braces"),
        ("{A {B}},", '"A B",', "line 2: cannot read"),
        ("  year", "  title = {C},\n  year", "line 4: a1 has two fields 'title'"),
        ("},\n}\n", "},\n", "a1 is not closed"),
        ("@misc", "misc", "line 1: cannot read"),
    ],
)
def test_a_malformed_entry_is_refused_with_its_line(old, new, message):
    assert old in GOOD
    with pytest.raises(ValueError, match=message):
        parse(GOOD.replace(old, new))


def test_a_key_used_twice_is_refused():
    with pytest.raises(ValueError, match="a1"):
        Registry("citation", parse(GOOD + GOOD))
