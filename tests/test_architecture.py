"""The shape of the code: who imports whom, how heavy an import is, where randomness comes from."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dft_theory

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dft_theory"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Everything that produces a number.
SOURCES = sorted(
    file
    for folder in ("dft_theory", "experiments", "paper_figures", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
)


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


# --- imports ------------------------------------------------------------------------------------


def contracts(folder: Path) -> tuple[int, str]:
    """Exit status and report of import-linter on the package in `folder`."""
    program = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_import_contracts_hold():
    status, report = contracts(ROOT)
    assert status == 0, report
    assert " 0 broken" in report


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("logprobs.py", "import dft_theory.claims", "the arrows of the architecture"),
        ("claims/base.py", "import transformers", "only llm imports the Hugging Face stack"),
        ("objectives/sft.py", "import dft_theory.policies", "objectives see log-probabilities"),
        ("policies/base.py", "import matplotlib", "only figures draws"),
        ("claims/base.py", "import hypothesis", "only testing imports hypothesis and pytest"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(tmp_path, module, line, contract):
    shutil.copytree(PACKAGE, tmp_path / "dft_theory", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "dft_theory" / module
    target.write_text(target.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    status, report = contracts(tmp_path)
    assert status == 1, report
    assert any(contract in text and "BROKEN" in text for text in report.splitlines()), report


def test_importing_the_package_is_light():
    program = "import json, sys, dft_theory; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert "dft_theory.objectives" in loaded
    assert not loaded & {"transformers", "matplotlib", "hypothesis", "accelerate", "datasets"}


def relative_imports(tree: ast.Module) -> list[int]:
    """Lines of the imports that begin with a dot."""
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_imports_are_absolute(file):
    assert not relative_imports(ast.parse(file.read_text(encoding="utf-8")))


def test_a_relative_import_is_seen():
    assert relative_imports(ast.parse("import a\nfrom . import b\nfrom .c import d")) == [2, 3]


# --- sizes and names ----------------------------------------------------------------------------


def test_the_toy_transformer_fits_on_three_screens():
    lines = (PACKAGE / "policies" / "transformer.py").read_text(encoding="utf-8").splitlines()
    assert 0 < len(lines) <= 150


def test_the_public_names_are_few_and_exist():
    names = dft_theory.__all__
    assert 0 < len(names) <= 25
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(dft_theory, name) is not None


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_files_are_named_after_what_they_hold(file):
    words = {"util", "utils", "helper", "helpers", "misc", "common", "core"}
    assert not words & set(file.relative_to(ROOT).with_suffix("").as_posix().split("/"))
    assert not words & set(file.stem.strip("_").split("_"))


# --- randomness ---------------------------------------------------------------------------------

# Of torch: these draw from the global generator unless they are given one ...
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
METHODS = {"bernoulli", "normal_", "uniform_", "bernoulli_", "exponential_", "random_"}
METHODS |= {"log_normal_", "geometric_", "cauchy_"}
# ... and these cannot be given one, or set it.
NEVER = {f"torch.{n}" for n in ("manual_seed", "seed", "rand_like", "randn_like", "randint_like")}
NEVER |= {"torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.set_rng_state"}
NEVER |= {"torch.nn.functional.dropout", "torch.nn.functional.gumbel_softmax"}
# Of scipy: these need rng= or random_state=.
RESAMPLES = {"rvs", "bootstrap", "permutation_test", "monte_carlo_test"}
NUMPY = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox"}


def global_draws(tree: ast.Module) -> list[str]:
    """Calls that read or change a global random state, as `line: name`."""
    meaning = imported_names(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [dotted(call.func, meaning) for call in calls]
    pairs = zip(calls, names, strict=True)
    return [f"{call.lineno}: {name}" for call, name in pairs if draws_globally(call, name)]


def draws_globally(call: ast.Call, name: str) -> bool:
    """Whether a call of the function with that full name uses a global random state."""
    module, _, function = name.rpartition(".")
    given = {keyword.arg for keyword in call.keywords}
    if name in NEVER:
        return True
    if module == "torch":
        return function in DRAWS and "generator" not in given
    if module == "numpy.random":
        unseeded = function == "default_rng" and not (call.args or given)
        return function not in NUMPY or unseeded
    if module == "random":
        return not (function == "Random" and call.args)
    if function == "rvs" or module.startswith("scipy"):
        return function in RESAMPLES and not given & {"rng", "random_state"}
    return function in METHODS and "generator" not in given


def imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, in full."""
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                meaning[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return meaning


def dotted(node: ast.expr, meaning: dict[str, str]) -> str:
    """The full name of what is called; ?.name for a method of an expression."""
    if isinstance(node, ast.Name):
        return meaning.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, meaning)}.{node.attr}"
    return "?"


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_randomness_comes_from_a_generator_passed_in(file):
    assert not global_draws(ast.parse(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.manual_seed(0)",
        "import torch\ntorch.rand(3)",
        "import torch as t\nt.randn(3, dtype=t.float64)",
        "from torch import randint\nrandint(0, 3, (2,))",
        "import torch\nx = torch.zeros(3)\nx.normal_()",
        "import torch\ntorch.zeros(3).exp().bernoulli()",
        "import torch.nn.functional as F\nF.dropout(x)",
        "import numpy as np\nnp.random.seed(0)",
        "import numpy as np\nnp.random.rand(3)",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy.random import normal\nnormal(0, 1)",
        "from scipy.stats import norm\nnorm.rvs(size=3)",
        "from scipy import stats\nstats.bootstrap((x,), statistic)",
        "import random\nrandom.shuffle(x)",
        "from random import choice\nchoice(x)",
        "import random\nrandom.Random()",
    ],
)
def test_a_global_draw_is_seen(code):
    assert global_draws(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.Generator().manual_seed(0)",
        "import torch\ntorch.rand(3, generator=g)",
        "import torch\ntorch.multinomial(p, 3, generator=g)",
        "import torch\nx = torch.zeros(3)\nx.normal_(0, 1, generator=g)",
        "import numpy as np\nrng = np.random.default_rng(3)\nrng.multinomial(3, p)",
        "from scipy import stats\nstats.norm.rvs(size=3, random_state=rng)\nstats.bernoulli(0.3)",
        "import random\nrandom.Random(7)",
    ],
)
def test_a_draw_from_a_generator_is_not(code):
    assert not global_draws(ast.parse(code))
