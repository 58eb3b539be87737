"""The acceptance test of the design: one file, one name and one bib entry make a new objective.

Everything else follows in a copy of the repository: checks and claims run on it, the figures gain
a line, `check`, `xray` and the catalogue know it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SOURCE = '''"""Weight p^2 (3 - 2p): slow for rare tokens, like SFT for likely ones."""

from dft_theory.objectives.base import Objective, Style

newcomer = Objective(
    name="newcomer",
    title="smooth step",
    cite="nobody2027step",
    equation="w = p^2 (3 - 2p)",
    weight=lambda t: t.logp.exp() ** 2 * (3 - 2 * t.logp.exp()),
    potential=lambda t: t.logp.exp() ** 3 * 2 / 3 - t.logp.exp() ** 2 * 3 / 2,
    style=Style(color="#123456", marker="1", linestyle=":"),
)
'''

ENTRY = """
@misc{nobody2027step,
  title = {Steps},
  author = {Nobody, N.},
  year = {2027},
}
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the newcomer's three additions and no other edit."""
    folder = tmp_path_factory.mktemp("newcomer")
    for part in ("dft_theory", "tests", "paper_figures"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    package = folder / "dft_theory"
    (package / "objectives" / "newcomer.py").write_text(SOURCE)
    registry = package / "objectives" / "__init__.py"
    text = registry.read_text().replace(
        "OBJECTIVES: tuple[Objective, ...] = (\n",
        "from dft_theory.objectives.newcomer import newcomer  # noqa: E402\n\n"
        "OBJECTIVES: tuple[Objective, ...] = (\n    newcomer,\n",
    )
    registry.write_text(text)
    with (package / "references.bib").open("a") as file:
        file.write(ENTRY)
    return folder


def run(folder: Path, *words: str) -> str:
    """Standard output of this Python in the copy, whose package comes first."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_catalogue_and_the_list_know_it(copy: Path) -> None:
    assert "newcomer" in run(copy, "-m", "dft_theory.cli", "list")
    table = run(copy, "-c", "from dft_theory import catalog; print(catalog.objectives_table())")
    assert "| `newcomer` | smooth step | w = p^2 (3 - 2p) |" in table


def test_the_claims_about_every_objective_run_on_it(copy: Path) -> None:
    program = (
        "from dft_theory.claims import CLAIMS, Scope; s = Scope.standard();"
        "named = [c for c in CLAIMS if any(str(x).startswith('newcomer') for x in c.cases(s))];"
        "print([(c.name, c.check(s).holds) for c in named])"
    )
    found = dict(eval(run(copy, "-c", program)))
    assert {
        "surrogate-gradient-is-the-declared-field",
        "field-reaches-the-parameters",
        "every-field-is-a-policy-gradient",
        "weighted-logit-gradient",
        "weight-is-reward-times-probability",
        "escape-time-of-any-weight",
        "surrogate-descends-its-potential",
    } <= set(found)
    assert all(found.values()), found


def test_the_tests_run_on_it_under_readable_ids(copy: Path) -> None:
    collected = run(copy, "-m", "pytest", "--collect-only", "-q", "tests/objectives/test_base.py")
    assert "[newcomer]" in collected


def test_check_finds_it_as_declared(copy: Path) -> None:
    program = (
        "from dft_theory.objectives import objectives; from dft_theory.testing import "
        "check_objective; print(check_objective(objectives['newcomer']))"
    )
    report = run(copy, "-c", program)
    assert "ok     potential" in report
    assert report.splitlines()[-1].startswith("conforms")


def test_xray_knows_it(copy: Path) -> None:
    assert "newcomer is smooth step" in run(copy, "-m", "dft_theory.cli", "xray", "newcomer")


def test_the_figure_of_weights_gains_a_line(copy: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'paper_figures');"
        "import implied_reward as f; data = f.compute(); f.expect(data);"
        "print(len(data.where(objective='newcomer').rows))"
    )
    assert int(run(copy, "-c", program)) == 81
