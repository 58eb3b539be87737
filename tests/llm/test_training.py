"""A whole run on a tiny model: its record, its death and resurrection, and what stops it."""

import json
import runpy
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from dft_theory import cli
from dft_theory.llm import trainer as trainer_
from dft_theory.llm import training
from dft_theory.llm.gradient_check import WrongGradientError
from dft_theory.llm.pretrained import load_pretrained
from dft_theory.llm.recipe import Corpus, Recipe
from dft_theory.llm.trainer import NotFiniteError
from dft_theory.llm.training import train
from dft_theory.objectives import objectives
from dft_theory.results import RecordError, Run, read_json

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def recipe(tiny_folder, sums):
    """32 steps of 4 of the 130 sums, two held out."""
    return Recipe(
        name="sums",
        title="sums",
        model=str(tiny_folder),
        corpus=Corpus(source=str(sums), rows=130),
        objective="dft",
        rate=1e-2,
        batch=4,
        micro_batch=2,
        gpus=1,
        compute="float32",
        checkpointing=False,
    )


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The run that is never interrupted."""
    return train(recipe, tmp_path_factory.mktemp("whole"))


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_run_records_what_it_was_and_what_it_found(recipe, tmp_path):
    run = train(recipe, tmp_path / "run", command=["dft-theory", "train", str(tmp_path)])
    made = run.manifest()
    assert made["recipe"]["rate"] == 1e-2
    assert made["objective"]["name"] == "dft"
    assert made["data"]["trained"] == 128
    assert made["data"]["held_out"] == 2
    assert made["steps"] == 32
    assert made["warmup_steps"] == 3
    assert made["gradient_check"]["holds"] is True
    assert made["gradient_check"]["deviation"] < made["gradient_check"]["tolerance"]
    assert made["seeds"] == [0]
    assert str(tmp_path) not in json.dumps(made)
    lines = run.metrics()
    assert [m["step"] for m in lines if "nll" in m] == list(range(1, 33))
    assert [m["step"] for m in lines if "eval_loss" in m] == [20, 32]
    rates = [m["learning_rate"] for m in lines if "nll" in m]
    assert max(rates) == 1e-2
    assert rates[-1] < 1e-4
    found = run.summary()
    assert found["steps"] == 32
    assert found["last"]["mean_p"] > 2 * found["first"]["mean_p"]
    assert found["eval_loss"] == [m["eval_loss"] for m in lines if "eval_loss" in m][-1]
    assert found["eval_kl_to_base"] > 0.01
    moved = load_pretrained(str(tmp_path / "run" / "model")).model.state_dict()
    base = load_pretrained(recipe.model).model.state_dict()
    assert moved.keys() == base.keys()
    assert not torch.equal(moved["model.norm.weight"], base["model.norm.weight"])
    assert not [f for f in files(tmp_path / "run") if f.endswith("optimizer.pt")]
    with pytest.raises(RecordError, match="already holds a run"):
        train(recipe, tmp_path / "run")
    with pytest.raises(RecordError, match="finished run"):
        train(recipe, tmp_path / "run", resume=True)


def test_another_objective_takes_the_recipe_s_place(recipe, tmp_path):
    run = train(recipe, tmp_path, objective=objectives["sft"], max_steps=2, gradient_check=False)
    assert run.manifest()["objective"]["name"] == "sft"
    assert run.manifest()["gradient_check"] == "switched off"
    assert run.manifest()["steps"] == 2
    assert run.metrics()[0]["surrogate"] == pytest.approx(run.metrics()[0]["nll"])
    assert run.metrics()[0]["mean_weight"] == 1


CHILD = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
from dft_theory.llm import checkpoints, training
from dft_theory.llm.recipe import Corpus, Recipe
from dft_theory.results import Run

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

given, out, when = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
if when == "in a step":
    log = Run.log
    Run.log = lambda self, m: die() if m["step"] == 27 else log(self, m)
else:
    seal = checkpoints.seal
    checkpoints.seal = lambda folder, run: (
        die() if folder.name == "checkpoint-32" else seal(folder, run)
    )
given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
given["corpus"] = Corpus(**given["corpus"])
training.train(Recipe(**given), out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["in a step", "while a checkpoint is written"])
def test_killed_and_resumed_it_ends_with_the_same_bits(recipe, whole, tmp_path, when):
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asdict(recipe)), str(out), when],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Run(out).finished
    left = {p.name for p in (out / "checkpoints").glob("checkpoint-*")}
    assert left == {"checkpoint-20"} | ({"checkpoint-32"} if when != "in a step" else set())
    with pytest.raises(RecordError, match="holds another run"):
        train(replace(recipe, rate=2e-2), out, resume=True)
    resumed = train(recipe, out, resume=True)
    assert resumed.summary()["resumed_at"] == 20
    assert resumed.summary()["weights_sha256"] == whole.summary()["weights_sha256"]
    clocks = {
        "tokens_per_second",
        "eval_runtime",
        "eval_samples_per_second",
        "eval_steps_per_second",
    }
    first, second = (
        [{k: v for k, v in m.items() if k not in clocks} for m in run.metrics()]
        for run in (whole, resumed)
    )
    assert first == second


def test_a_truncated_checkpoint_is_not_resumed_from(recipe, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_saved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, max_steps=2)
    monkeypatch.undo()
    weights = tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RecordError, match=r"checkpoint-2 is damaged: model\.safetensors"):
        train(recipe, tmp_path, max_steps=2, resume=True)


def test_nothing_to_resume_is_said(recipe, tmp_path):
    with pytest.raises(RecordError, match="holds no run to resume"):
        train(recipe, tmp_path, resume=True)


def test_a_nan_stops_the_run_and_leaves_the_last_good_checkpoint(recipe, tmp_path, monkeypatch):
    chunked = trainer_.chunked

    def poisoned(objective, hidden, *args, **given):
        if objective.name == "dft" and len(run.metrics()) > 22:
            hidden = hidden * float("nan")
        return chunked(objective, hidden, *args, **given)

    run = Run(tmp_path)
    monkeypatch.setattr(trainer_, "chunked", poisoned)
    with pytest.raises(NotFiniteError, match=r"step 23, demonstrations \d+, \d+ \(.*\): .*NaN"):
        train(recipe, tmp_path)
    assert not run.finished
    assert run.metrics()[-1]["step"] == 22
    assert "step 23, demonstrations" in run.metrics()[-1]["stopped"]
    assert {p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")} == {"checkpoint-20"}
    monkeypatch.undo()
    assert train(recipe, tmp_path, resume=True).summary()["resumed_at"] == 20
    assert not [m for m in run.metrics() if "stopped" in m]


@pytest.mark.parametrize("accumulation", ["token", "micro-batch-sum"])
@pytest.mark.parametrize("name", ["dft", "asft-0.05", "gem-0.7", "dft-geometric"])
def test_every_kind_of_loss_passes_its_check(recipe, tmp_path, name, accumulation):
    chosen = replace(recipe, objective=name, accumulation=accumulation)
    verdict = train(chosen, tmp_path, max_steps=1).manifest()["gradient_check"]
    assert verdict["deviation"] < 1e-4


@pytest.mark.parametrize("factor", [0.5, -1.0])
def test_a_wrong_gradient_stops_the_run_before_it_begins(recipe, tmp_path, monkeypatch, factor):
    chunked = trainer_.chunked

    def wrong(*args, **given):
        found = chunked(*args, **given)
        return replace(found, loss=factor * found.loss)

    monkeypatch.setattr(trainer_, "chunked", wrong)
    with pytest.raises(WrongGradientError, match="Training was not begun"):
        train(recipe, tmp_path)
    assert Run(tmp_path).manifest()["gradient_check"]["holds"] is False
    assert files(tmp_path) == {"manifest.json"}


def test_named_steps_are_kept_without_the_optimizer(recipe, tmp_path):
    train(replace(recipe, checkpoints=(3, 25)), tmp_path)
    kept = {p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-3", "checkpoint-25"}
    load_pretrained(str(tmp_path / "checkpoints" / "checkpoint-3"))


def test_an_adapter_is_merged_into_the_model_that_is_kept(recipe, tmp_path):
    run = train(replace(recipe, lora_rank=2), tmp_path, max_steps=3)
    assert run.manifest()["gradient_check"]["holds"]
    moved = load_pretrained(str(tmp_path / "model")).model.state_dict()
    base = load_pretrained(recipe.model).model.state_dict()
    assert moved.keys() == base.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(moved[name], base[name])
    assert torch.equal(moved["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_adapters_are_not_sharded(recipe, tmp_path, monkeypatch):
    with monkeypatch.context() as several:
        several.setenv("WORLD_SIZE", "8")
        several.setattr(torch.cuda, "is_available", lambda: True)
        assert training._sharding(adapted=False)["fsdp"] is True
        assert "fsdp" not in training._sharding(adapted=True)
    made = training.ObjectiveTrainer

    def by_launcher(*args, **given):
        trainer = made(*args, **given)
        trainer.is_fsdp_enabled = True
        return trainer

    monkeypatch.setattr(training, "ObjectiveTrainer", by_launcher)
    with pytest.raises(ValueError, match="merged by one process"):
        train(replace(recipe, lora_rank=2), tmp_path)


def test_half_precision_products_train(recipe, tmp_path):
    run = train(replace(recipe, compute="bfloat16"), tmp_path, max_steps=2)
    assert run.manifest()["gradient_check"]["holds"]
    weights = load_pretrained(str(tmp_path / "model"), dtype="auto").model
    assert weights.dtype == torch.float32


def test_half_precision_parameters_train(recipe, tmp_path):
    chosen = replace(recipe, parameters="bfloat16", compute="bfloat16")
    run = train(chosen, tmp_path, max_steps=2)
    weights = load_pretrained(str(tmp_path / "model"), dtype="auto").model
    assert weights.dtype == torch.bfloat16
    assert run.manifest()["gradient_check"]["tolerance"] > 0.05


def test_too_few_rows_for_a_batch_are_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="3 demonstrations make no batch of 4"):
        train(replace(recipe, corpus=replace(recipe.corpus, rows=3)), tmp_path)


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.real_model
def test_the_smoke_recipe_trains_and_its_model_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.delenv("DFT_THEORY_DATA", raising=False)
    monkeypatch.chdir(ROOT)
    made = runpy.run_path(str(ROOT / "experiments" / "recipes.py"))["RECIPES"]
    smoke = next(recipe for recipe in made if recipe.name == "smoke")
    small = replace(smoke, corpus=replace(smoke.corpus, rows=2), batch=2, micro_batch=1)
    run = train(replace(small, max_length=96), tmp_path / "run")
    assert run.manifest()["gradient_check"]["holds"]
    assert 0.1 < run.summary()["first"]["mean_p"] < 0.9
    drawing = ["--problems", "sample", "--limit", "2", "--samples", "1", "--max-new-tokens", "4"]
    model, out = str(tmp_path / "run" / "model"), str(tmp_path / "out")
    assert cli.main(["evaluate", "--model", model, *drawing, "--out", out]) == 0
    assert read_json(tmp_path / "out" / "evaluation.json")["problems"] == 2
