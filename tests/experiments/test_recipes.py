"""The recipes against the paper's numbers and protocol, and printing one costs nothing."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dft_theory import cli, paper
from dft_theory.llm.recipe import describe
from dft_theory.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
MADE = runpy.run_path(str(ROOT / "experiments" / "recipes.py"))
RECIPES = Registry("recipe", MADE["RECIPES"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned_and_says_how_it_deviates(name):
    recipe = RECIPES[name]
    lines = describe(recipe)
    assert any(line.startswith("  steps") for line in lines)
    assert sum(line.startswith("  deviation") for line in lines) == len(recipe.deviations) > 0
    assert sum(line.startswith("  paper") for line in lines) == len(recipe.expected)
    assert bool(recipe.paper) == (name != "smoke")


def test_the_main_table_has_its_cells_and_protocol():
    table = paper.table("1")
    for model in dict.fromkeys(row.model for row in table.rows):
        for objective in ("sft", "dft"):
            recipe = RECIPES[f"table-1-{model.lower()}-{objective}"]
            row = table.row(model, objective)
            assert {c.benchmark: c.value for c in recipe.expected} == {
                **row.cells,
                "average": row.average,
            }
            assert recipe.rate == (2e-5 if model == "LLaMA-3.1-8B" else 5e-5)
            assert (recipe.batch, recipe.steps(100_000)) == (256, 390)


def test_the_official_switch_changes_what_the_code_does_otherwise():
    for recipe in MADE["MAIN"]:
        official = RECIPES[f"{recipe.name}-official"]
        assert (recipe.accumulation, recipe.parameters, recipe.corpus.choice) == (
            "token",
            "float32",
            "random",
        )
        assert (official.accumulation, official.parameters, official.corpus.choice) == (
            "micro-batch-sum",
            "bfloat16",
            "first",
        )
        assert official.micro_batches == 8
        assert official.expected == recipe.expected
        assert not any("at random" in text for text in official.deviations)


def test_the_sweep_covers_the_figure_and_goes_below_it():
    rates = {r.rate for r in RECIPES.values() if r.name.startswith("figure-3-rate")}
    batches = {r.batch for r in RECIPES.values() if r.name.startswith("figure-3")}
    assert rates == {*paper.figure("3")["rates"], 5e-6, 2e-6, 1e-6}
    assert batches == set(paper.figure("3")["batches"])
    assert RECIPES["figure-1-dft"].checkpoints == tuple(paper.figure("1")["checkpoints"])


def test_a_dry_run_loads_no_model_library():
    program = (
        "import sys; from dft_theory.cli import main; status = main(sys.argv[1:]); "
        "assert 'transformers' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "train", "table-1-qwen2.5-math-1.5b-dft", "--dry-run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "390, warm-up 39" in done.stdout
    assert "31.58 %" in done.stdout


def test_another_objective_keeps_the_plan_and_drops_the_paper_s_numbers(capsys):
    name = "table-1-qwen2.5-math-1.5b-dft"
    assert cli.main(["train", name, "--objective", "eaft", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "objective      eaft" in said
    assert "  paper  " not in said


def test_unknown_names_are_refused_with_the_nearest(capsys):
    assert cli.main(["train", "smokee", "--dry-run"]) == 2
    assert "smoke" in capsys.readouterr().err
    assert cli.main(["train", "smoke", "--objective", "dftt", "--dry-run"]) == 2


def test_a_recipe_may_come_from_a_file_of_one_s_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (
        "from dataclasses import replace\nimport runpy\n"
        f"smoke = runpy.run_path({str(ROOT / 'experiments' / 'recipes.py')!r})['smoke']()\n"
        "RECIPES = (replace(smoke, name='mine', rate=1e-4),)\n"
    )
    Path("mine.py").write_text(text)
    assert cli.main(["train", "mine.py:mine", "--dry-run"]) == 0
    assert "0.0001" in capsys.readouterr().out
    assert cli.main(["train", "none.py:mine", "--dry-run"]) == 2
    assert "there is no file none.py" in capsys.readouterr().err
