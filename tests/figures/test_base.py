"""Figures: data that cannot lie by a gap, drawings that read only data, files that repeat."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from dft_theory.figures import (
    ExpectationFailed,
    Figure,
    FigureData,
    FigureError,
    base,
    discover,
    draw,
    find_folder,
    recompute,
    require,
    style,
)
from dft_theory.results import RecordError

P = (0.1, 0.5, 1.0)


def compute() -> FigureData:
    rows = tuple((p, name, p**power) for name, power in (("sft", 0), ("dft", 1)) for p in P)
    return FigureData(("p", "objective", "weight"), rows, {"seeds": [7]})


def plot(data: FigureData) -> matplotlib.figure.Figure:
    figure, axes = style.panels()
    for name in data.unique("objective"):
        line = data.where(objective=name)
        axes[0, 0].plot(line.column("p"), line.column("weight"), label=name)
    axes[0, 0].set(xlabel=r"$\pi_\theta$", ylabel="weight")
    axes[0, 0].legend()
    return figure


def expect(data: FigureData) -> None:
    weight = data.where(objective="dft").column("weight")
    require(np.all(np.diff(weight) > 0), "DFT's weight grows with the probability")


FIGURE = Figure(
    "weights",
    title="Token weights",
    paper_ref="equation (9)",
    claims=("dft-weight",),
    cost="seconds",
    compute=compute,
    plot=plot,
    expect=expect,
    caption="The weight of a token.",
)


def test_columns_are_typed_arrays() -> None:
    data = FigureData(
        ("f", "gap", "i", "name", "ok"), [[0.5, None, 1, "a", True], [1, 2, 2, "b", False]]
    )
    assert data.column("f").dtype == np.float64
    assert data.column("i").dtype.kind == "i"
    assert data.column("ok").dtype == np.bool_
    assert list(data.column("name")) == ["a", "b"]
    gap = data.column("gap")
    assert math.isnan(gap[0])
    assert gap[1] == 2.0


def test_where_selects_and_unique_keeps_order() -> None:
    data = compute()
    assert data.unique("objective") == ("sft", "dft")
    assert list(data.where(objective="dft").column("weight")) == list(P)
    assert data.where(objective="dft", p=0.5).rows == ((0.5, "dft", 0.5),)


def test_an_empty_selection_or_an_unknown_column_is_an_error() -> None:
    with pytest.raises(FigureError, match=r"objective has 'sft', 'dft'"):
        compute().where(objective="dtf")
    with pytest.raises(FigureError, match="there are p, objective, weight"):
        compute().column("w")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(FigureError, match=r"row 1, column 'x'.*write None"):
        FigureData(("x",), ((1.0,), (bad,)))


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        (("a", "a"), ((1, 2),), "distinct"),
        ((), ((),), "distinct"),
        (("a",), (), "no rows"),
        (("a",), ((1, 2),), "2 cells for 1"),
        (("a",), (([1],),), "a cell is a list"),
    ],
)
def test_malformed_tables_are_refused(
    columns: tuple[str, ...], rows: tuple[tuple[float, ...], ...], words: str
) -> None:
    with pytest.raises(FigureError, match=words):
        FigureData(columns, rows)


def test_from_columns_takes_arrays_of_one_length() -> None:
    data = FigureData.from_columns({"x": np.arange(3), "y": np.ones(3, np.float32)})
    assert data.rows == ((0, 1.0), (1, 1.0), (2, 1.0))
    assert {type(cell) for row in data.rows for cell in row} == {int, float}
    with pytest.raises(FigureError, match="different lengths"):
        FigureData.from_columns({"x": [1], "y": [1, 2]})


def test_a_table_survives_its_file_one_row_a_line(tmp_path: Path) -> None:
    data = FigureData(("x", "gap", "t"), ((0.1, None, "π"), (1e-300, 3, 'a"b')), {"seeds": [1]})
    path = data.save(tmp_path / "x.json")
    assert FigureData.load(path) == data
    text = path.read_text(encoding="utf-8")
    assert '\n[0.1, null, "π"],\n' in text
    assert list(json.loads(text)) == ["manifest", "columns", "rows"]


def test_a_foreign_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"columns": [], "rows": []}')
    with pytest.raises(FigureError, match="exactly manifest, columns and rows"):
        FigureData.load(path)
    path.write_text('{"manifest": {}, "columns": ["x"], "rows": [[NaN]]}')
    with pytest.raises(RecordError, match="damaged"):
        FigureData.load(path)


def test_recompute_records_where_the_data_came_from(tmp_path: Path) -> None:
    data = recompute(FIGURE, tmp_path)
    assert FigureData.load(tmp_path / "data" / "weights.json") == data
    assert data.manifest["seeds"] == [7]
    assert data.manifest["figure"] == "weights"
    assert data.manifest["wall_seconds"] >= 0
    assert len(data.manifest["source"]) == 64


def test_redrawing_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    recompute(FIGURE, tmp_path)
    first = [path.read_bytes() for path in draw(FIGURE, tmp_path)]
    time.sleep(1.1)  # a time stamp of whole seconds would change
    paths = draw(FIGURE, tmp_path)
    assert [path.read_bytes() for path in paths] == first
    assert [path.name for path in paths] == ["weights.pdf", "weights.png"]
    pdf, png = first
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    assert b"matplotlib" not in png
    assert int.from_bytes(png[16:20], "big") == round(style.COLUMN * 300)


def test_drawing_reads_the_file_and_not_the_computation(tmp_path: Path) -> None:
    recompute(FIGURE, tmp_path)

    def never() -> FigureData:
        raise AssertionError("draw must not compute")

    seen: list[FigureData] = []

    def watched(data: FigureData) -> matplotlib.figure.Figure:
        seen.append(data)
        return plot(data)

    draw(replace(FIGURE, compute=never, plot=watched), tmp_path)
    assert seen == [FigureData.load(tmp_path / "data" / "weights.json")]


def test_a_failed_expectation_keeps_the_data_but_draws_nothing(tmp_path: Path) -> None:
    strict = replace(FIGURE, expect=lambda d: require(d.column("weight").max() < 1, "w stays low"))
    with pytest.raises(ExpectationFailed, match="figure weights: w stays low"):
        recompute(strict, tmp_path)
    assert (tmp_path / "data" / "weights.json").exists()
    with pytest.raises(ExpectationFailed):
        draw(strict, tmp_path)
    assert not (tmp_path / "out").exists()


def test_missing_data_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FigureError, match=r"figures weights --recompute` \(seconds\)"):
        draw(FIGURE, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: replace(FIGURE, name="Not a name"), "lower-case words"),
        (lambda: replace(FIGURE, name="../x"), "lower-case words"),
        (lambda: replace(FIGURE, cost="days"), "cost 'days'"),
        (lambda: replace(FIGURE, claims="one"), "not one string"),
    ],
)
def test_figures_are_checked_when_made(change: Callable[[], Figure], words: str) -> None:
    with pytest.raises(FigureError, match=words):
        change()


FILE = """
from dft_theory.figures import Figure, FigureData
from paper_figures._shared import NAME
FIGURE = Figure(
    NAME + "-{0}", title="", paper_ref="", claims=(), cost="seconds", caption="",
    compute=lambda: FigureData(("x",), ((1,),)), plot=None, expect=lambda d: None,
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "paper_figures"
    made.mkdir()
    (made / "_shared.py").write_text('NAME = "figure"\n')
    (made / "b_second.py").write_text(FILE.format("two"))
    (made / "a_first.py").write_text(FILE.format("one"))
    return made


def test_discover_imports_every_figure_in_order_of_files(folder: Path) -> None:
    assert [figure.name for figure in discover(folder)] == ["figure-one", "figure-two"]
    assert discover(folder)[0] is discover(folder)[0]


def test_discover_of_another_folder_is_not_the_first_again(folder: Path, tmp_path: Path) -> None:
    discover(folder)
    other = tmp_path / "elsewhere" / "paper_figures"
    other.mkdir(parents=True)
    (other / "_shared.py").write_text('NAME = "other"\n')
    (other / "a_first.py").write_text(FILE.format("one"))
    assert [figure.name for figure in discover(other)] == ["other-one"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", r"c\.py has no FIGURE"),
        ("import nothing_of_that_name\n", r"c\.py cannot be imported.*nothing_of_that_name"),
        (FILE.format("one"), r"a_first\.py and c\.py both name a figure 'figure-one'"),
    ],
)
def test_discover_names_the_file_at_fault(folder: Path, text: str, words: str) -> None:
    (folder / "c.py").write_text(text)
    with pytest.raises(FigureError, match=words):
        discover(folder)


def test_the_folder_is_found_here_or_beside_the_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert find_folder() == folder
    monkeypatch.setattr(base, "_FOLDER", "no_such_folder")
    with pytest.raises(FigureError, match="run this from a checkout"):
        find_folder()
