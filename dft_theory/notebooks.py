"""The notebooks: scripts in the percent format, the same cells executed, and an index of both.

A source `NN_title.py` begins with its title and one paragraph of the form

    *Promise.* 20 minutes. Needs [01 Score functions](01_score_functions.ipynb).

of which the index is made. Its executed form `NN_title.ipynb` is written where something in it has
changed, so that version control sees no noise.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dft_theory.registry import Registry
from dft_theory.results import write_bytes, write_text

INSTALL = "pip install -e '.[notebooks]' in a checkout"
WIDGET = "application/vnd.jupyter.widget-view+json"
THUMBNAIL = 15_000  # bytes
# What two runs print differently: timings, the last digits of rounding, addresses.
VARIES = re.compile(r"\d+\.\d+ s\b|worst [\d.e-]+ of tolerance|deviation [\d.e-]+|\b0x[0-9a-f]+\b")
_HEADER = re.compile(r"\*(.+)\* (\d+) minutes\. Needs (.+?)\.?")
_LINKED = re.compile(r"\]\((\S+\.png)\)|src=\"(\S+\.png)\"")


class NotebookError(RuntimeError):
    """A notebook that does not run to its end; the message names the cell."""


@dataclass(frozen=True)
class Header:
    """What a notebook says of itself; `minutes` of reading, `needs` in Markdown."""

    title: str
    promise: str
    minutes: int
    needs: str


@dataclass(frozen=True)
class Notebook:
    """A source file, and what is made of it."""

    source: Path

    @property
    def name(self) -> str:
        """`NN_title`."""
        return self.source.stem

    @property
    def executed(self) -> Path:
        """The `.ipynb` beside the source."""
        return self.source.with_suffix(".ipynb")

    @property
    def thumbnail(self) -> Path:
        """A small picture for the index."""
        return self.source.parent / "thumbnails" / f"{self.name}.png"

    @property
    def header(self) -> Header:
        """How the source begins. Raises: ValueError where it does not begin so."""
        text = self.source.read_text(encoding="utf-8").partition("# %% [markdown]\n# # ")[2]
        title, header, *_ = [*text.split("\n#\n"), "", ""]
        found = _HEADER.fullmatch(header.removeprefix("# ").replace("\n# ", " "))
        if found is None:
            raise ValueError(
                f"{self.source.name}: the first cell has to begin with a title and the paragraph "
                "'*Promise.* 20 minutes. Needs ...'"
            )
        return Header(title, found[1], int(found[2]), found[3])


def find(folder: Path | None = None) -> Registry[Notebook]:
    """The notebooks of a folder, by default of the checkout around us.

    Raises: FileNotFoundError outside of a checkout.
    """
    roots = (Path.cwd(), Path(__file__).resolve().parents[1])
    folders = [folder] if folder else [root / "notebooks" for root in roots]
    for each in folders:
        if sources := sorted(each.glob("[0-9]*.py")):
            return Registry("notebook", map(Notebook, sources))
    raise FileNotFoundError(
        "notebooks come with the repository, not with the installed package: run this in a checkout"
    )


def select(known: Registry[Notebook], names: Sequence[str]) -> list[Notebook]:
    """Notebooks by name or number, all of them without a name. Raises: UnknownNameError."""
    by_number = {name[:2]: name for name in known}
    return [known[by_number.get(name, name)] for name in names] or list(known.values())


def index(folder: Path) -> str:
    """A table of the notebooks of a folder in Markdown, with their thumbnails."""
    lines = ["| | notebook | minutes | needs |", "|---|---|---|---|"]
    for page in find(folder).values():
        about, link = page.header, page.executed.name
        image = f'<img src="thumbnails/{page.thumbnail.name}" width="200" alt="{about.title}">'
        text = f"**[{page.name[:2]} {about.title}]({link})**<br>{about.promise}"
        lines.append(f"| [{image}]({link}) | {text} | {about.minutes} | {about.needs} |")
    return "\n".join(lines)


# --- execution ----------------------------------------------------------------------------------


def execute(page: Notebook, *, seconds: int = 600) -> bool:
    """Run a source from its first cell to its last and keep what came out; whether it was news.

    `seconds` is the limit of one cell. The `.ipynb` is left alone where nothing in it has changed.
    Raises: NotebookError for a cell that fails, takes too long or takes its kernel down;
    ImportError where the means are not installed.
    """
    try:
        import jupytext
    except ModuleNotFoundError as error:
        raise ImportError(f"to execute notebooks needs {error.name}: {INSTALL}") from None
    fresh = run(jupytext.read(page.source), page.source.parent, seconds=seconds)
    earlier = jupytext.read(page.executed) if page.executed.exists() else None
    changed = earlier is None or not same(fresh, earlier)
    if changed:
        write_text(page.executed, jupytext.writes(fresh, fmt="ipynb"))
    if changed or not page.thumbnail.exists():
        write_bytes(page.thumbnail, thumbnail(fresh, page.source.parent))
    return changed


def run(notebook: Any, folder: Path, *, seconds: int = 600) -> Any:
    """The notebook with its outputs, ready to be kept: small pictures, no traces of this run.

    Raises: NotebookError, ImportError; see `execute`.
    """
    try:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ModuleNotFoundError as error:
        raise ImportError(f"to execute notebooks needs {error.name}: {INSTALL}") from None
    at = 0

    def started(cell: Any, cell_index: int) -> None:  # noqa: ARG001 (called by keyword)
        nonlocal at
        at = cell_index

    client = NotebookClient(
        notebook,
        timeout=seconds,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        on_cell_start=started,
        resources={"metadata": {"path": folder}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        problem = f"{error.ename}: {error.evalue}"
    except CellTimeoutError:
        problem = f"not done after {seconds} s"
    except DeadKernelError:
        problem = "its process has died (out of memory?)"
    else:
        problem = ""
    if problem:
        begins = notebook.cells[at].source.strip().partition("\n")[0]
        raise NotebookError(f"cell {at + 1} of {len(notebook.cells)} ({begins}): {problem}")
    # Ids are random in every run; the position serves as well and keeps the history quiet.
    for k, cell in enumerate(notebook.cells):
        cell.id = f"cell-{k}"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)  # it lives in a kernel; the still picture beside it stays
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
    return notebook


def smaller(png: str) -> str:
    """A drawing in 64 colours, base64 like the original: a quarter of the bytes, the same look."""
    return base64.b64encode(_written(_opened(png).quantize(64))).decode()


def _opened(png: str | bytes) -> Any:
    from PIL import Image

    content = base64.b64decode(png) if isinstance(png, str) else png
    with Image.open(io.BytesIO(content)) as drawing:
        clear = drawing.convert("RGBA")
    white = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(white, clear).convert("RGB")


def _written(drawing: Any) -> bytes:
    content = io.BytesIO()
    drawing.save(content, "PNG", optimize=True)
    return content.getvalue()


# --- what changed -------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Whether two notebooks show the same: cells, text up to timings, pictures up to specks."""
    if cells(a) != cells(b) or printed(a) != printed(b):
        return False
    pictures = [[png for cell in each.cells for png in _drawn(cell)] for each in (a, b)]
    return len(pictures[0]) == len(pictures[1]) and all(map(_alike, *pictures))


def cells(notebook: Any) -> list[tuple[str, str, list[str]]]:
    """Kind, source and tags of each cell."""
    return [(c.cell_type, c.source.strip(), c.metadata.get("tags", [])) for c in notebook.cells]


def printed(notebook: Any) -> list[str]:
    """All text output of each cell, without what varies from run to run."""
    return [VARIES.sub("", "".join(_texts(cell))) for cell in notebook.cells]


def _texts(cell: Any) -> Iterator[str]:
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        yield output.get("text", "")
        yield from (data[kind] for kind in sorted(data) if kind.startswith("text/"))


def _drawn(cell: Any) -> list[str]:
    found = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
    return [png for png in found if png]


def _alike(a: str, b: str) -> bool:
    """Whether at most one pixel in a thousand differs visibly."""
    from PIL import ImageChops

    first, second = _opened(a), _opened(b)
    if first.size != second.size:
        return False
    levels = ImageChops.difference(first, second).convert("L").histogram()
    return bool(sum(levels[32:]) <= 0.001 * sum(levels))


# --- thumbnails ---------------------------------------------------------------------------------


def thumbnail(notebook: Any, folder: Path) -> bytes:
    """The picture of the cell tagged `thumbnail`, or else the first one, as a PNG of <= 15 kB.

    Pictures are outputs, or files in Markdown, relative to `folder`. Raises: ValueError for none.
    """
    tagged = sorted(notebook.cells, key=lambda c: "thumbnail" not in c.metadata.get("tags", []))
    picture = next((p for cell in tagged for p in _pictures(cell, folder)), None)
    if picture is None:
        raise ValueError("the notebook shows no picture, and the index needs one")
    small = _opened(picture)
    small.thumbnail((400, 260))
    sizes = (_written(small.quantize(colours)) for colours in (64, 32, 16, 8, 4))
    return next(png for png in sizes if len(png) <= THUMBNAIL)


def _pictures(cell: Any, folder: Path) -> Iterator[str | bytes]:
    yield from _drawn(cell)
    if cell.cell_type == "markdown":
        for found in _LINKED.findall(cell.source):
            yield (folder / (found[0] or found[1])).read_bytes()
