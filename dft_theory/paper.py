"""The paper's own numbers as data: tables cell by cell, averages as printed and as recomputed.

Wu et al., arXiv 2508.05629, versions 1 and 3. A printed average that its cells do not give, and a
number in the text that the tables contradict, is told apart from what the tables say; a test
recomputes both. What was only drawn has no values.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from dft_theory.results import read_json

ROUNDING = 0.011  # of cells and average to two decimals, and of averages of rounded averages


@dataclass(frozen=True)
class Row:
    """One method on one model; `cells` by benchmark in percent, `average` as it is printed."""

    model: str
    method: str
    cells: dict[str, float]
    average: float
    averaged: tuple[str, ...]

    @property
    def recomputed(self) -> float:
        """Mean of the cells that the average is of."""
        return sum(self.cells[name] for name in self.averaged) / len(self.averaged)

    @property
    def misprinted(self) -> bool:
        """Whether the printed average is not that of the printed cells."""
        return abs(self.recomputed - self.average) > ROUNDING


@dataclass(frozen=True)
class Table:
    """A published table, with what must be known to read it."""

    name: str
    title: str
    source: str
    metric: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def row(self, model: str, method: str) -> Row:
        """One row. Raises: KeyError where the table has none."""
        for row in self.rows:
            if (row.model, row.method) == (model, method):
                return row
        known = ", ".join(dict.fromkeys(f"{r.model} {r.method}" for r in self.rows))
        raise KeyError(f"{self.source} has no row {model} {method}; it has {known}")


@lru_cache
def _file() -> dict[str, Any]:
    with resources.as_file(resources.files("dft_theory") / "data" / "paper_results.json") as path:
        found: dict[str, Any] = read_json(path)
    return found


def table(name: str) -> Table:
    """A table of version 3 by its number, such as "1"; "2-v1" is the first version's offline table.

    "nq" is the one comparison of section 4.5. Raises: KeyError, naming those that are there.
    """
    known = _file()["tables"]
    if name not in known:
        raise KeyError(f"no table {name!r} is stored; there are {', '.join(known)}")
    held = known[name]
    columns = tuple(held["columns"])
    averaged = columns[2:] if name == "3" else columns  # HumanEval is not in the average
    rows = tuple(
        Row(
            r["model"],
            r["method"],
            dict(zip(columns, r["cells"], strict=True)),
            r["average"],
            averaged,
        )
        for r in held["rows"]
    )
    return Table(
        name, held["title"], held["source"], held["metric"], columns, rows, tuple(held["notes"])
    )


def figure(name: str) -> dict[str, Any]:
    """What a figure's axes say; `values` is None, and `why` says so, where it prints no numbers."""
    found: dict[str, Any] = _file()["figures"][name]
    return found


@dataclass(frozen=True)
class Said:
    """A number in the paper's text beside the same from its table."""

    statement: str
    model: str
    printed: float
    recomputed: float


def text() -> tuple[Said, ...]:
    """Numbers of the text that a table decides, true or not."""
    main, found = table("1"), []
    for entry in _file()["text"]:
        for model, printed in entry["printed"].items():
            base, sft, dft = (main.row(model, method) for method in ("base", "sft", "dft"))
            if entry["kind"] == "gain-ratio":
                value = (dft.average - base.average) / (sft.average - base.average)
            else:
                value = sft.cells["AMC23"] - base.cells["AMC23"]
            found.append(Said(entry["statement"], model, printed, value))
    return tuple(found)
