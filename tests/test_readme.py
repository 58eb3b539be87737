"""README is true: its commands run, its code runs, its numbers come from the records."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dft_theory import catalog

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for kind, body in BLOCKS
    if kind == "sh"
    for line in body.replace("\\\n", "").splitlines()
    if line.split("#")[0].strip()
]
MAKE = [c for c in COMMANDS if c.startswith("make ")]
# Too long for the fast suite: the same command, filtered or smaller, with the reason.
SMALLER = {
    ".venv/bin/dft-theory verify --thorough": "verify 'sft-logit-*' --thorough",  # a minute
    ".venv/bin/python benchmarks/enumeration.py": "benchmarks/enumeration.py --help",  # minutes
    ".venv/bin/python experiments/real_model_tokens.py --limit 4": (
        "experiments/real_model_tokens.py --limit 1 --data sample"
    ),
    ".venv/bin/dft-theory experiments --quick": "experiments bandit-orbits --quick",  # minutes
    ".venv/bin/dft-theory diagnose --data gsm8k --steps 100 --html diagnosis.html": (
        "diagnose --data sample --limit 2 --steps 100 --html diagnosis.html"  # minutes
    ),
    # A model and a file of the reader's own.
    ".venv/bin/dft-theory diagnose --model path/to/model --data mine.jsonl   "
    "--objective dft --objective asft-0.05 --reference self": (
        "diagnose --data sample --limit 2 --objective dft --objective asft-0.05 --reference self"
    ),
    ".venv/bin/dft-theory train smoke --out runs/smoke": "train smoke --dry-run",  # minutes:
    # tests/llm/test_training.py runs it to its end, on a tiny model, and `make slow` on the real
    ".venv/bin/dft-theory evaluate --problems sample --samples 1 --temperature 0   "
    "--max-new-tokens 192 --out runs/base": "evaluate --help",  # a minute
    ".venv/bin/dft-theory grade runs/smoke/evaluation/sample --against runs/base": "grade --help",
    ".venv/bin/dft-theory diagnose --model toy:noisy-half": "diagnose --help",  # half a minute
}


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command with this interpreter, in a copy of what it may write to."""
    for part in ("paper_figures", "experiments", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part)
    words = shlex.split(command)
    program = Path(words[0]).name
    head = [sys.executable, "-m", "dft_theory.cli"] if program == "dft-theory" else [sys.executable]
    return subprocess.run(
        [*head, *words[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def without_rounding(text: str) -> str:
    """README with the numbers of the example masked: the last digits differ between machines."""
    head, mark, rest = text.partition("<!-- generated: example -->")
    example, end, tail = rest.partition("<!-- end -->")
    return head + mark + re.sub(r"\d[\d.]*(e[+-]\d+)?", "#", example) + end + tail


def test_generated_parts_are_up_to_date() -> None:
    fresh = catalog.refreshed(TEXT, catalog.blocks(ROOT))
    assert without_rounding(fresh) == without_rounding(TEXT), (
        "run `python -m dft_theory.catalog` and commit README.md"
    )


def test_cells_of_machines_that_nobody_had_are_empty_and_say_why() -> None:
    one = {"seconds": 2.0, "weights": 1e6, "tokens_per_second": 100.0, "of_ceiling": 0.5}
    cpu = {"found": {"sft": one, "dft": one, "trl-dft": one | {"tokens_per_second": 50.0}}}
    lines = catalog.end_to_end(cpu, None).splitlines()
    assert lines[2] == "| SFT | 100 | 2.00 | 0.50 |  |  |  |"
    assert lines[5] == "| DFT, Liger's layers |  |  |  |  |  |  |"
    assert "no GPU was at hand" in lines[-1]
    gpu = {"found": {n: f | {"mfu": 0.25} for n, f in cpu["found"].items()}}
    text = catalog.end_to_end(cpu, gpu)
    assert "| DFT | 100 | 2.00 | 0.50 | 100 | 2.00 | 0.25 |" in text
    assert "no GPU" not in text


def test_first_sentence_says_what_it_is() -> None:
    first = TEXT.split("\n\n")[1]
    assert "Dynamic Fine-Tuning" in first
    assert "2508.05629" in first


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in MAKE])
def test_command_runs(command: str, tmp_path: Path) -> None:
    if command in SMALLER:
        program = command.split()[0]
        command = f"{program} {SMALLER[command]}"
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("command", MAKE)
def test_make_target_exists(command: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *command.split()[1:]], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [body for kind, body in BLOCKS if kind == "python"])
def test_python_block_runs(code: str, tmp_path: Path) -> None:
    file = tmp_path / "test_block.py"
    file.write_text(code)
    head = ["-m", "pytest", "-v"] if "def test_" in code else []
    done = subprocess.run(
        [sys.executable, *head, file], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok " in done.stdout or " passed" in done.stdout


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("http"):
            assert (ROOT / target).is_file(), target


def test_every_claim_named_in_prose_exists() -> None:
    from dft_theory.claims import claims
    from dft_theory.objectives import objectives

    for name in re.findall(r"`([a-z]+(?:-[a-z]+){2,})`", TEXT):
        assert name in claims or name in objectives, name
