"""A figure: what is computed, what must be true of it, and how it is drawn, in that order.

`recompute` writes `data/<name>.json`; `draw` reads that file and nothing else and writes
`out/<name>.pdf` and `out/<name>.png`. Both check the figure's scientific expectation.
"""

import importlib
import io
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self, get_args

import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from dft_theory import provenance, results
from dft_theory.figures import style

Cell = float | int | str | bool | None
Cost = Literal["seconds", "minutes", "gpu-hours"]
_FOLDER = "paper_figures"
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


class FigureError(ValueError):
    """A figure, or its data, that cannot be used; the message says what to do."""


class ExpectationFailed(AssertionError):
    """The data do not show what the figure is there to show."""


def require(condition: object, sentence: str) -> None:
    """Raise ExpectationFailed with `sentence` unless `condition` holds."""
    if not bool(condition):
        raise ExpectationFailed(sentence)


@dataclass(frozen=True)
class FigureData:
    """A table: one row a point, and the manifest of the run that made it.

    Cells are finite numbers, text, booleans, or None for "not measured" (`null` in the file, NaN
    from `column`). NaN and infinities are refused: a failed computation is not drawn as a gap.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if len(set(self.columns)) < len(self.columns) or not self.columns:
            raise FigureError(f"columns need distinct names, got {self.columns}")
        rows = tuple(tuple(_cell(cell) for cell in row) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        if not rows:
            raise FigureError("the table has no rows: nothing was computed")
        for i, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise FigureError(
                    f"row {i} has {len(row)} cells for {len(self.columns)} columns {self.columns}"
                )
            for name, cell in zip(self.columns, row, strict=True):
                if isinstance(cell, float) and not math.isfinite(cell):
                    raise FigureError(
                        f"row {i}, column {name!r} is {cell}: find out why, "
                        "or write None for what was not measured"
                    )

    @classmethod
    def from_columns(
        cls,
        table: Mapping[str, Sequence[Cell] | NDArray[Any]],
        *,
        manifest: dict[str, Any] | None = None,
    ) -> Self:
        """The table with these columns, all of one length."""
        lengths = {name: len(values) for name, values in table.items()}
        if len(set(lengths.values())) > 1:
            raise FigureError(f"columns have different lengths: {lengths}")
        rows = tuple(zip(*table.values(), strict=True))
        return cls(tuple(table), rows, {} if manifest is None else manifest)

    def column(self, name: str) -> NDArray[Any]:
        """One column as an array: float64 with NaN for None, or int64, bool, text as they are."""
        index = self._index(name)
        cells = [row[index] for row in self.rows]
        kinds = {type(cell) for cell in cells if cell is not None}
        if kinds <= {int, float} and (float in kinds or None in cells):
            return np.array([math.nan if cell is None else cell for cell in cells], np.float64)
        return np.array(cells) if len(kinds) == 1 and None not in cells else np.array(cells, object)

    def unique(self, name: str) -> tuple[Cell, ...]:
        """The different values of a column, in the order in which they first appear."""
        index = self._index(name)
        return tuple(dict.fromkeys(row[index] for row in self.rows))

    def where(self, **equals: Cell) -> Self:
        """The rows whose columns equal these values. Raises: FigureError if there are none."""
        wanted = {self._index(name): value for name, value in equals.items()}
        rows = tuple(r for r in self.rows if all(r[i] == value for i, value in wanted.items()))
        if not rows:
            known = "; ".join(f"{n} has {', '.join(map(repr, self.unique(n)))}" for n in equals)
            raise FigureError(f"no row with {equals}: {known}")
        return type(self)(self.columns, rows, self.manifest)

    def save(self, path: Path) -> Path:
        """Write {manifest, columns, rows} as JSON, one row a line, whole or not at all."""
        parts = [
            f'"manifest": {results.encode(self.manifest, where=f"manifest of {path}", indent=1)}',
            f'"columns": {results.encode(self.columns, where=str(path))}',
            '"rows": [\n'
            + ",\n".join(results.encode(row, where=str(path)) for row in self.rows)
            + "\n]",
        ]
        return results.write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises: RecordError or FigureError for anything else."""
        value = results.read_json(path)
        keys = {"manifest", "columns", "rows"}
        if not isinstance(value, dict) or set(value) != keys:
            raise FigureError(f"{path} must hold exactly manifest, columns and rows")
        return cls(value["columns"], value["rows"], value["manifest"])

    def _index(self, name: str) -> int:
        if name not in self.columns:
            raise FigureError(f"no column {name!r}; there are {', '.join(self.columns)}")
        return self.columns.index(name)


def _cell(value: object) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, float | int | str | bool):
        return value
    raise FigureError(
        f"a cell is a {type(value).__name__}; use numbers, text, booleans or None (tensor.item())"
    )


@dataclass(frozen=True)
class Figure:
    """One figure of the paper or the report.

    `compute` makes the table, `expect` raises ExpectationFailed (see `require`) unless the table
    shows what the caption says, `plot` draws the table. `claims` are the claims it illustrates,
    `paper_ref` says what it reproduces, `cost` what `compute` takes.
    """

    name: str
    title: str = field(kw_only=True)
    paper_ref: str = field(kw_only=True)
    claims: tuple[str, ...] = field(kw_only=True)
    cost: Cost = field(kw_only=True)
    compute: Callable[[], FigureData] = field(kw_only=True)
    plot: Callable[[FigureData], matplotlib.figure.Figure] = field(kw_only=True)
    expect: Callable[[FigureData], None] = field(kw_only=True)
    caption: str = field(kw_only=True)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FigureError(f"figure name {self.name!r}: lower-case words joined by - or _")
        if self.cost not in get_args(Cost):
            raise FigureError(f"figure {self.name}: cost {self.cost!r} is not of {get_args(Cost)}")
        if isinstance(self.claims, str):
            raise FigureError(f"figure {self.name}: claims is a tuple of names, not one string")

    def check(self, data: FigureData) -> None:
        """Raise ExpectationFailed, naming the figure, unless the data show what they should."""
        try:
            self.expect(data)
        except ExpectationFailed as error:
            raise ExpectationFailed(f"figure {self.name}: {error}") from error


def recompute(figure: Figure, folder: Path) -> FigureData:
    """Compute a figure's table into `folder/data/<name>.json`, then check it.

    The table is kept even when the expectation fails: a long computation that disappoints is a
    result. Raises: ExpectationFailed, FigureError, OSError.
    """
    started = time.perf_counter()
    data = figure.compute()
    own = data.manifest
    record = provenance.manifest(
        f"dft-theory figures {figure.name} --recompute", seeds=own.get("seeds", ()), started=started
    )
    source = {"figure": figure.name, "source": provenance.source_hash(figure.compute)}
    data = FigureData(data.columns, data.rows, record | source | own)
    data.save(_data_path(figure, folder))
    figure.check(data)
    return data


def draw(figure: Figure, folder: Path) -> list[Path]:
    """Draw `folder/data/<name>.json` as `folder/out/<name>.pdf` and `.png`: [pdf, png].

    The same data give the same bytes on one machine. Raises: RecordError where the data are
    missing, ExpectationFailed where they do not show what the caption says.
    """
    path = _data_path(figure, folder)
    if not path.exists():
        raise FigureError(
            f"figure {figure.name} has no data at {path}: "
            f"run `dft-theory figures {figure.name} --recompute` ({figure.cost})"
        )
    data = FigureData.load(path)
    figure.check(data)
    return [
        results.write_bytes(folder / "out" / f"{figure.name}.{kind}", content)
        for kind, content in render(figure, data).items()
    ]


def render(figure: Figure, data: FigureData) -> dict[str, bytes]:
    """The drawing as {"pdf": bytes, "png": bytes}, without time stamps or versions inside."""
    with style.use():
        drawing = figure.plot(data)
        try:
            pdf, png = io.BytesIO(), io.BytesIO()
            nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
            drawing.savefig(pdf, format="pdf", metadata=nothing | {"Title": figure.title})
            drawing.savefig(png, format="png", metadata={"Software": None, "Title": figure.title})
        finally:
            plt.close(drawing)
    return {"pdf": pdf.getvalue(), "png": png.getvalue()}


def find_folder(start: Path | None = None) -> Path:
    """The `paper_figures` folder in `start` (the current directory), or beside the package.

    Raises: FigureError where there is none: figures are part of the repository, not of the wheel.
    """
    places = (Path.cwd() if start is None else start, Path(__file__).resolve().parents[2])
    for place in places:
        if (place / _FOLDER).is_dir():
            return place / _FOLDER
    raise FigureError(
        f"there is no folder {_FOLDER} here: figures come with the repository, not with the "
        "installed package; run this from a checkout"
    )


def discover(folder: Path | None = None) -> tuple[Figure, ...]:
    """The `FIGURE` of every file of the figures' folder, in the order of the files' names.

    Files that start with an underscore are shared code. Raises: FigureError.
    """
    folder = (find_folder() if folder is None else Path(folder)).resolve()
    if not folder.is_dir():
        raise FigureError(f"there is no folder {folder}")
    _as_package(folder)
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))
    figures = tuple(_import(file) for file in files)
    _distinct(zip((figure.name for figure in figures), files, strict=True))
    return figures


def _as_package(folder: Path) -> None:
    """Make `paper_figures` importable from `folder`, wherever the program was started."""
    known = sys.modules.get(_FOLDER)
    if known is None or list(getattr(known, "__path__", [])) != [str(folder)]:
        for name in [n for n in sys.modules if n == _FOLDER or n.startswith(f"{_FOLDER}.")]:
            del sys.modules[name]
        package = ModuleType(_FOLDER)
        package.__path__ = [str(folder)]
        sys.modules[_FOLDER] = package
    importlib.invalidate_caches()


def _import(file: Path) -> Figure:
    try:
        module = importlib.import_module(f"{_FOLDER}.{file.stem}")
    except Exception as error:
        raise FigureError(f"{_FOLDER}/{file.name} cannot be imported: {error!r}") from error
    figure = vars(module).get("FIGURE")
    if not isinstance(figure, Figure):
        raise FigureError(
            f"{_FOLDER}/{file.name} has no FIGURE = Figure(...); start the file's name with an "
            "underscore if it is not a figure"
        )
    return figure


def _distinct(named: Iterable[tuple[str, Path]]) -> None:
    seen: dict[str, Path] = {}
    for name, file in named:
        if name in seen:
            raise FigureError(f"{seen[name].name} and {file.name} both name a figure {name!r}")
        seen[name] = file


def _data_path(figure: Figure, folder: Path) -> Path:
    return Path(folder) / "data" / f"{figure.name}.json"
