"""Every figure: its record, its teeth, its independence of everything but the record, its look.

`python tests/test_figures.py` stores the fingerprints of the figures as they are drawn now.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch.overrides import TorchFunctionMode

from dft_theory import results
from dft_theory.claims import claims
from dft_theory.figures import (
    ExpectationFailed,
    Figure,
    FigureData,
    discover,
    find_folder,
    style,
)
from dft_theory.figures.fingerprint import compare, fingerprint
from dft_theory.objectives import OBJECTIVES, Objective, objectives
from dft_theory.registry import Registry

FOLDER = find_folder(Path(__file__).resolve().parents[1])
STORED = Path(__file__).with_name("fingerprints")
FIGURES = {figure.name: figure for figure in discover(FOLDER)}
QUICK = [name for name, figure in FIGURES.items() if figure.cost == "seconds"]

# float64 through well-conditioned arithmetic: another BLAS or another order of summation moves
# the last digits of sixteen, a change of seed or formula the first. An integrated flow repeats
# only to its solver's tolerance, because rounding can change the steps. Relative, absolute.
CLOSE = dict.fromkeys(FIGURES, (1e-10, 0.0))
CLOSE |= {"escape_times": (1e-8, 0.0), "fixed_points": (1e-8, 1e-10)}

# Columns kept for the reader without a statement being made of their order.
FREE = {
    "fixed_points": {"token"},
    "real_model_sequences": {"tokens", "log10_samples"},
    "real_model_tokens": {"tokens", "power-0.5"},
}

every = pytest.mark.parametrize("name", FIGURES)


@cache
def record(name: str) -> FigureData:
    """The stored table of a figure."""
    return FigureData.load(FOLDER / "data" / f"{name}.json")


def numbers(name: str) -> list[str]:
    """The columns of a figure's table that hold numbers, or truths, and not always the same."""
    if not (FOLDER / "data" / f"{name}.json").exists():
        return []  # another test says so
    known = {c: set(record(name).unique(c)) - {None} for c in record(name).columns}
    return [c for c, cells in known.items() if len(cells) > 1 and str not in map(type, cells)]


def replaced(data: FigureData, column: str, cells: Any) -> FigureData:
    """The table with other cells in one column."""
    i = data.columns.index(column)
    rows = zip(data.rows, cells, strict=True)
    return FigureData(data.columns, tuple((*r[:i], c, *r[i + 1 :]) for r, c in rows), data.manifest)


def shuffled(data: FigureData, column: str) -> FigureData:
    """The table with the measured cells of one column in another order."""
    cells = [row[data.columns.index(column)] for row in data.rows]
    seen = [i for i, cell in enumerate(cells) if cell is not None]
    order = np.random.default_rng(1).permutation(seen)
    for i, cell in zip(seen, [cells[j] for j in order], strict=True):
        cells[i] = cell
    return replaced(data, column, cells)


def drawn(figure: Figure, data: FigureData) -> dict[str, Any]:
    with style.use():
        return fingerprint(figure.plot(data))


@contextmanager
def no_tensor() -> Iterator[None]:
    """Fail on any operation of torch."""

    class Forbidden(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            raise AssertionError(f"plot calls {func}: compute belongs into `compute`")

    with Forbidden():
        yield


_WATCHED: list[str] = []
_watching = False


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(args[0], str | Path):
        path = Path(args[0]).absolute()
        code = path.suffix in {".py", ".pyc", ".mplstyle"}
        if not code and path.is_relative_to(FOLDER.parent) and not path.is_relative_to(sys.prefix):
            _WATCHED.append(str(path))


sys.addaudithook(_note)  # cannot be removed, so it listens only inside `no_file`


@contextmanager
def no_file() -> Iterator[None]:
    """Fail if a data file of the repository is opened."""
    global _watching
    _WATCHED.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _WATCHED, f"plot opens {_WATCHED}"


# --- the record ---------------------------------------------------------------------------------


@every
def test_the_record_says_where_it_comes_from(name: str) -> None:
    manifest = record(name).manifest
    assert manifest["figure"] == name
    assert {"command", "packages", "platform", "source", "utc", "seeds"} <= set(manifest)
    assert name in manifest["command"]
    text = (FOLDER / "data" / f"{name}.json").read_text(encoding="utf-8")
    assert '"/' not in text, "an absolute path in the record"
    assert len(text) < 300_000


@every
def test_the_claims_are_in_the_ledger(name: str) -> None:
    assert FIGURES[name].claims
    for claim in FIGURES[name].claims:
        assert claims[claim].name == claim


@pytest.mark.parametrize("name", QUICK)
def test_recomputing_gives_the_stored_numbers(name: str) -> None:
    stored, again = record(name), FIGURES[name].compute()
    how = f"`dft-theory figures {name} --recompute`, if the change is meant"
    assert again.columns == stored.columns, how
    assert len(again.rows) == len(stored.rows), how
    for column in stored.columns:
        old, new = stored.column(column), again.column(column)
        if old.dtype.kind == "f":
            rtol, atol = CLOSE[name]
            np.testing.assert_allclose(new, old, rtol=rtol, atol=atol, err_msg=f"{column}: {how}")
        else:
            assert old.tolist() == new.tolist(), f"{column}: {how}"


# --- the expectation ----------------------------------------------------------------------------


@every
def test_the_record_shows_what_the_caption_says(name: str) -> None:
    FIGURES[name].check(record(name))


@pytest.mark.parametrize(("name", "column"), [(n, c) for n in FIGURES for c in numbers(n)])
def test_shuffled_numbers_are_noticed(name: str, column: str) -> None:
    wrong = shuffled(record(name), column)
    assert wrong.rows != record(name).rows
    if column in FREE.get(name, ()):
        FIGURES[name].check(wrong)  # else it is not free: take it off the list
    else:
        with pytest.raises(ExpectationFailed):
            FIGURES[name].check(wrong)


# --- the drawing --------------------------------------------------------------------------------


@every
def test_the_plot_reads_only_the_record(name: str) -> None:
    with no_tensor(), no_file():
        drawn(FIGURES[name], record(name))


@pytest.mark.parametrize(
    "plot",
    [
        lambda data: torch.ones(1).exp(),
        lambda data: (FOLDER / "data" / "gradient_norm.json").read_text(encoding="utf-8"),
    ],
    ids=["computes", "reads"],
)
def test_a_plot_that_computes_or_reads_is_noticed(plot: Any) -> None:
    with pytest.raises(AssertionError, match="plot (calls|opens)"), no_file(), no_tensor():
        plot(record("gradient_norm"))


@every
def test_other_numbers_give_another_drawing(name: str) -> None:
    stored, seen = drawn(FIGURES[name], record(name)), set()
    for column in numbers(name):
        try:
            seen.add(drawn(FIGURES[name], shuffled(record(name), column))["sha256"])
        except ValueError:  # the plot looks rows up by this column, and finds too few
            continue
    assert seen - {stored["sha256"]}


@every
def test_the_drawing_is_the_stored_one(name: str) -> None:
    path = STORED / f"{name}.json"
    how = "`python tests/test_figures.py` stores it, once somebody has looked at the figure"
    assert path.exists(), f"no fingerprint of {name}: {how}"
    difference = compare(results.read_json(path), drawn(FIGURES[name], record(name)))
    assert not difference, f"{difference}; {how}"


@every
def test_the_figure_fits_the_page_and_is_legible(name: str) -> None:
    with style.use():
        figure = FIGURES[name].plot(record(name))
        figure.draw_without_rendering()
    assert figure.get_figwidth() in (style.COLUMN, style.TEXT)
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in texts) >= 7


@every
def test_the_printed_files_are_there(name: str) -> None:
    png = (FOLDER / "out" / f"{name}.png").read_bytes()
    pdf = (FOLDER / "out" / f"{name}.pdf").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert pdf.startswith(b"%PDF")
    assert pdf.rstrip().endswith(b"%%EOF")
    wide = int.from_bytes(png[16:20], "big")
    assert wide in (round(300 * style.COLUMN), round(300 * style.TEXT))


def test_no_record_or_drawing_is_without_a_figure() -> None:
    kept = [*(FOLDER / "data").iterdir(), *(FOLDER / "out").iterdir(), *STORED.iterdir()]
    assert {path.stem for path in kept} == set(FIGURES)


def test_a_new_objective_gains_a_line_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = FIGURES["implied_reward"]
    cube = Objective(name="cube", title="p cubed", weight=lambda t: (3 * t.logp).exp())
    known = figure.compute.__globals__
    monkeypatch.setitem(known, "OBJECTIVES", (*OBJECTIVES, cube))
    monkeypatch.setitem(known, "objectives", Registry("objective", (*objectives.values(), cube)))
    data = figure.compute()
    figure.check(data)
    with style.use():
        lines = figure.plot(data).axes[0].get_lines()
    (line,) = (line for line in lines if line.get_label() == "p cubed")
    np.testing.assert_allclose(line.get_ydata(), np.asarray(line.get_xdata()) ** 3, rtol=1e-12)


def store() -> None:
    """Write the fingerprint of every figure as it is drawn now."""
    for name, figure in FIGURES.items():
        results.write_text(STORED / f"{name}.json", json.dumps(drawn(figure, record(name))) + "\n")


if __name__ == "__main__":
    store()
