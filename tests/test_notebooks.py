"""Each committed notebook is its source, executed: same cells, outputs present, nothing foreign."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    return [(c.cell_type, c.source.strip()) for c in notebook.cells]


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text output, without what varies from machine to machine: timings and rounding."""
    texts = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
    return re.sub(r"\d+\.\d+ s\b|worst [\d.e-]+ of tolerance", "", "".join(texts))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_committed_notebook_is_the_source_executed(source: Path) -> None:
    file = source.with_suffix(".ipynb")
    committed = nbformat.read(file, as_version=4)
    assert cells(committed) == cells(jupytext.read(source))
    assert file.stat().st_size <= 300_000
    outputs = [o for c in committed.cells for o in c.get("outputs", [])]
    assert outputs
    assert not any(o.output_type == "error" for o in outputs)
    assert not re.search(r"(^|[\"' ])/(home|root|work|tmp|Users)/", file.read_text())


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_running_it_again_prints_the_same(source: Path) -> None:
    fresh = jupytext.read(source)
    NotebookClient(fresh, timeout=120, resources={"metadata": {"path": FOLDER}}).execute()
    assert printed(fresh) == printed(nbformat.read(source.with_suffix(".ipynb"), as_version=4))


def solutions() -> Iterator[Any]:
    """Notebook, its imports, an exercise and the solution printed below it."""
    for source in SOURCES:
        held = jupytext.read(source).cells
        imports = next(c.source for c in held if c.cell_type == "code")
        for exercise, below in pairwise(held):
            found = re.search(r"<details>.*?```python\n(.*?)```", below.source, re.DOTALL)
            if ".check_attempt(" in exercise.source and found:
                name = re.search(r"check_attempt\((\w+)", exercise.source)[1]
                yield pytest.param(imports, exercise.source, found[1], id=f"{source.stem}-{name}")


@pytest.mark.parametrize(("imports", "exercise", "solution"), tuple(solutions()))
def test_a_printed_solution_passes_the_check_that_its_exercise_fails(imports, exercise, solution):
    attempt, check = exercise.split("\nprint(")
    names: dict[str, Any] = {}
    exec(re.sub(r"(?m)^%.*", "", imports), names)
    for function, right in ((attempt, False), (solution, True)):
        exec(function, names)
        assert eval(check.strip().removesuffix(")"), names).right is right
