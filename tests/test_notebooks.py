"""Notebooks are their sources, executed; the index is theirs; and the command that does both."""

import base64
import builtins
import io
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from PIL import Image

from dft_theory import catalog, cli, dynamics, notebooks
from dft_theory.figures import style
from dft_theory.figures.interactive import Sliders
from dft_theory.objectives import power

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
PAGES = tuple(notebooks.find(FOLDER).values())
SOURCES = [page.source for page in PAGES]
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
# Pages that run a real language model for minutes are run again by `make slow` alone.
SLOW = ("08_a_real_model_under_the_microscope", "09_should_i_use_dft")
slow = (pytest.mark.slow, pytest.mark.real_model, pytest.mark.timeout(1500))
each_to_run = pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=slow if p.name in SLOW else (), id=p.name) for p in PAGES],
)


# --- the notebooks that are there ---------------------------------------------------------------


@each
def test_committed_notebook_is_the_source_executed(page: notebooks.Notebook) -> None:
    committed = nbformat.read(page.executed, as_version=4)
    assert notebooks.cells(committed) == notebooks.cells(jupytext.read(page.source))
    text = page.executed.read_text(encoding="utf-8")
    assert len(text) <= 300_000
    outputs = [o for c in committed.cells for o in c.get("outputs", [])]
    assert outputs
    assert not any(o.output_type == "error" for o in outputs)
    assert not re.search(r"(^|[\"' ])/(home|root|work|tmp|Users)/", text)
    assert "vnd.jupyter.widget" not in text


@each
def test_no_text_stands_on_the_line_of_a_cell_marker(page: notebooks.Notebook) -> None:
    """There it is the cell's title, which nobody sees."""
    titled = [
        c.metadata["title"] for c in jupytext.read(page.source).cells if "title" in c.metadata
    ]
    assert not titled


@each_to_run
def test_running_it_again_prints_the_same(page: notebooks.Notebook) -> None:
    seconds = 1200 if page.name in SLOW else 250
    fresh = notebooks.run(jupytext.read(page.source), FOLDER, seconds=seconds)
    committed = nbformat.read(page.executed, as_version=4)
    assert notebooks.printed(fresh) == notebooks.printed(committed)


@each
def test_without_a_package_the_first_cell_says_which_and_stops(page, monkeypatch) -> None:
    cells = [c.source for c in jupytext.read(page.source).cells if c.cell_type == "code"]
    there = builtins.__import__

    def missing(name, *args, **given):
        if name.partition(".")[0] not in ("os", "sys", "builtins"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return there(name, *args, **given)

    first = re.sub(r"(?m)^%.*", "", cells[0])
    code = compile(first, page.source.name, "exec")
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", missing)
        with pytest.raises(ModuleNotFoundError) as raised:
            exec(code, {})
    line = re.search(r"pip install -e '\.\[([a-z,]+)\]'", str(raised.value))
    assert line, raised.value
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = set(line[1].split(","))
    assert "notebooks" in asked <= set(project["optional-dependencies"])
    imports = re.findall(r"(?m)^ *(?:import|from) ([\w.]+)", first)
    assert re.search(rf"\b({'|'.join(map(re.escape, imports))})\b", str(raised.value))


@each
def test_every_page_has_a_small_picture_for_the_index(page: notebooks.Notebook) -> None:
    assert page.thumbnail.stat().st_size <= notebooks.THUMBNAIL
    with Image.open(page.thumbnail) as picture:
        assert picture.width >= 150


def test_the_index_is_made_of_the_sources() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert catalog.refreshed(text, catalog.blocks(ROOT)) == text, (
        "run `python -m dft_theory.catalog` and commit notebooks/README.md"
    )
    for page in PAGES:
        assert f"]({page.executed.name})" in text
        assert page.header.promise in text
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
        assert (FOLDER / "".join(target)).is_file(), target


# --- executing ----------------------------------------------------------------------------------

SMALL = """\
# %% [markdown]
# # Small
#
# *A picture.* 1 minutes. Needs nothing.

# %%
# %matplotlib inline
import time
import matplotlib.pyplot as plt
from dft_theory.figures.interactive import Sliders
print(f"took {time.perf_counter() % 7:.3f} s")
figure, axis = plt.subplots(figsize=(3, 2))
axis.plot([0, 1], [0, 1])
plt.show()

# %%
Sliders(lambda a: figure, figure, {"a": (0, 1, 0.5)})
"""


def page_of(folder: Path, text: str) -> notebooks.Notebook:
    (folder / "00_small.py").write_text(text)
    return notebooks.find(folder)["00_small"]


def test_executed_it_is_kept_with_still_pictures_and_a_thumbnail(tmp_path: Path) -> None:
    page = page_of(tmp_path, SMALL)
    assert notebooks.execute(page)
    made = nbformat.read(page.executed, as_version=4)
    kinds = [sorted(o.get("data", {})) for c in made.cells for o in c.get("outputs", [])]
    assert kinds.count(["image/png", "text/plain"]) == 2  # the sliders left their picture
    assert "widgets" not in made.metadata
    assert page.thumbnail.stat().st_size <= notebooks.THUMBNAIL
    before = page.executed.stat().st_mtime_ns
    assert not notebooks.execute(page)  # the time that it printed is another one
    assert page.executed.stat().st_mtime_ns == before


def test_a_failing_cell_is_named_and_nothing_written(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "notebooks").mkdir()
    page = page_of(tmp_path / "notebooks", SMALL.replace("figure,", "1 / 0  #"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["notebooks", "--execute", "00"]) == 1
    told = capsys.readouterr().err
    assert "FAILED 00_small" in told
    assert "cell 2 of 3 (%matplotlib inline): ZeroDivisionError: division by zero" in told
    assert not page.executed.exists()
    assert [f.name for f in page.source.parent.iterdir()] == ["00_small.py"]


def drawing(slope: float) -> str:
    with style.use():
        figure, axes = style.panels()
        axes[0, 0].plot([0, 1], [0, slope])
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return notebooks.smaller(base64.b64encode(content.getvalue()).decode())


def shown(text: str = "0.5 s, 3 found", slope: float = 1.0, tags: tuple[str, ...] = ()) -> Any:
    cell = nbformat.v4.new_code_cell("draw()")
    cell.metadata["tags"] = list(tags)
    data = {"image/png": drawing(slope), "text/plain": "<Figure at 0x7f01>"}
    cell.outputs = [
        nbformat.v4.new_output("stream", text=text),
        nbformat.v4.new_output("display_data", data),
    ]
    return nbformat.v4.new_notebook(cells=[cell])


def test_timings_and_specks_are_no_news() -> None:
    other = shown("7.25 s, 3 found")
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(drawing(1.0)))).convert("RGB"))
    picture[5:9, 5:9] = 0
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    data = other.cells[0].outputs[1].data
    data["image/png"] = base64.b64encode(content.getvalue()).decode()
    data["text/plain"] = "<Figure at 0x8f02>"
    assert notebooks.same(shown(), other)


@pytest.mark.parametrize(
    "other",
    [{"text": "0.5 s, 4 found"}, {"slope": 0.9}, {"tags": ("thumbnail",)}],
    ids=["text", "picture", "tags"],
)
def test_what_a_reader_sees_is_news(other) -> None:
    assert not notebooks.same(shown(), shown(**other))


def test_the_tagged_picture_becomes_the_thumbnail() -> None:
    pages = [shown(slope=0.1), shown(slope=1.0, tags=("thumbnail",))]
    both = nbformat.v4.new_notebook(cells=[page.cells[0] for page in pages])
    first, tagged, chosen = (
        notebooks.thumbnail(page, FOLDER) for page in (pages[0], pages[1], both)
    )
    assert chosen == tagged != first


def test_a_page_without_a_header_or_a_picture_says_what_it_lacks(tmp_path: Path) -> None:
    page = page_of(tmp_path, "# %% [markdown]\n# # Small\n#\n# No promise.\n")
    with pytest.raises(ValueError, match=r"00_small\.py: the first cell has to begin"):
        notebooks.index(tmp_path)
    with pytest.raises(ValueError, match="shows no picture"):
        notebooks.thumbnail(jupytext.read(page.source), tmp_path)


def test_the_command_lists_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["notebooks"]) == 0
    out = capsys.readouterr().out
    assert all(page.name in out and page.header.promise in out for page in PAGES)
    assert "make notebooks" in out
    assert cli.main(["notebooks", "04"]) == 0
    assert "05_a_zoo" not in capsys.readouterr().out
    assert cli.main(["notebooks", "--execute", "04_dynamic"]) == 2
    assert "Did you mean 04_dynamics" in capsys.readouterr().err


def test_without_nbclient_the_command_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nbclient", None)
    assert cli.main(["notebooks", "--execute", "00"]) == 2
    told = capsys.readouterr().err
    assert "nbclient" in told
    assert "pip install -e '.[notebooks]'" in told


# --- sliders ------------------------------------------------------------------------------------


def names_of(name: str, *marks: str) -> dict[str, Any]:
    """What the imports of a notebook and its cells with these marks define."""
    held = jupytext.read(FOLDER / f"{name}.py").cells
    code = [c.source for c in held if c.cell_type == "code"]
    found: dict[str, Any] = {}
    for source in (code[0], *(c for c in code[1:] if any(mark in c for mark in marks))):
        exec(re.sub(r"(?m)^%.*", "", source), found)
    return found


def test_the_slider_of_trajectories_shows_the_integrated_flow() -> None:
    draw = names_of("04_dynamics", "def trajectory(")["trajectory"]
    line = draw(alpha=1.3, log10_p0=-1.5).axes[0].lines[2]  # SFT's line and dot come first
    time, p = (np.asarray(x) for x in line.get_data())
    start = dynamics.symmetric_start(10**-1.5, vocab=2)
    chosen = slice(20, 110, 15)
    at = dynamics.flow(
        power(1.3),
        start=start,
        demos=start.new_tensor([1.0, 0.0]),
        times=start.new_tensor(time[chosen]),
    )
    assert p[chosen] == pytest.approx(at.softmax(-1)[:, 0].numpy(), rel=1e-5)
    assert "× SFT" in draw(alpha=1.0, log10_p0=-2).axes[0].get_title(loc="left")


def test_the_slider_of_weights_shows_weight_reward_and_pull() -> None:
    draw = names_of("05_a_zoo_in_one_frame", "def weight_and_reward(")["weight_and_reward"]
    weight, reward = draw(alpha=0.5, floor=0.0, log10_p=-2).axes
    assert weight.lines[1].get_ydata() == pytest.approx([0.1], rel=0.03)  # the grid is that fine
    assert reward.lines[1].get_ydata() == pytest.approx([10], rel=0.03)
    assert "pull on the logit 0.098" in reward.get_title(loc="left")
    assert draw(alpha=2, floor=0.3, log10_p=-2).axes[0].lines[1].get_ydata() == [0.3]


def test_sliders_redraw_and_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def draw(a):
        calls.append(a)
        figure, axis = plt.subplots(figsize=(1, 1))
        axis.plot([0, a])
        plt.close(figure)
        return figure

    sliders = Sliders(draw, draw(0.0), {"a": (0, 2, 1)})
    panel = sliders.panel()
    slider, image = panel.children
    before = image.value
    slider.value = 1.5
    assert calls == [0.0, 1, 1.5]
    assert image.value != before
    assert {notebooks.WIDGET, "image/png"} <= set(sliders._repr_mimebundle_())
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    assert set(sliders._repr_mimebundle_()) == {"image/png", "text/plain"}


# --- exercises ----------------------------------------------------------------------------------


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
