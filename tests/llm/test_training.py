"""A whole run on a tiny model: its record, its death and resurrection, and what stops it."""

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from dft_theory import cli
from dft_theory.llm import pretrained, training
from dft_theory.llm import trainer as trainer_
from dft_theory.llm.data import prompt_ids
from dft_theory.llm.generate import Sampling, read
from dft_theory.llm.gradient_check import WrongGradientError
from dft_theory.llm.pretrained import _sha256, load_pretrained
from dft_theory.llm.recipe import Corpus, Exam, Recipe
from dft_theory.llm.trainer import NotFiniteError, StoppedError
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
        evaluation=None,
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
    assert train(recipe, tmp_path / "run", resume=True).summary() == found
    with pytest.raises(RecordError, match="holds another run"):
        train(replace(recipe, rate=2e-2), tmp_path / "run", resume=True)


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
    stopped = read_json(tmp_path / "stopped-0.json")
    assert (stopped["step"], stopped["process"]) == (22, 0)
    assert stopped["stopped"].startswith("step 23, demonstrations")
    assert {p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")} == {"checkpoint-20"}
    monkeypatch.undo()
    assert train(recipe, tmp_path, resume=True).summary()["resumed_at"] == 20
    assert not list(tmp_path.glob("stopped-*"))


@pytest.mark.parametrize(
    ("fault", "raised", "text"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
            StoppedError,
            r"step 1, demonstrations \d+, \d+ \(.*\): out of memory \(Default.*Lower micro_batch",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), StoppedError, "Lower micro_batch or max_"),
        (RuntimeError("lost"), RuntimeError, r"step 1, demonstrations .*: RuntimeError\('lost'\)"),
    ],
)
def test_a_fault_is_recorded_with_its_batch(recipe, tmp_path, monkeypatch, fault, raised, text):
    def broken(*_, **__):
        raise fault

    monkeypatch.setattr(trainer_, "chunked", broken)
    with pytest.raises(raised):
        train(recipe, tmp_path, gradient_check=False)
    assert re.search(text, read_json(tmp_path / "stopped-0.json")["stopped"])


ONE_FAILS = """
import json, sys, torch
torch.set_num_threads(1)
from dft_theory.llm import trainer, training
from dft_theory.llm.recipe import Corpus, Recipe

given, out = json.loads(sys.argv[1]), sys.argv[2]
given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
given["corpus"] = Corpus(**given["corpus"])
chunked, steps = trainer.chunked, []

def poisoned(objective, hidden, *args, **more):
    steps.append(hidden)
    if torch.distributed.get_rank() == 1 and len(steps) == 3:
        hidden = hidden * float("nan")
    return chunked(objective, hidden, *args, **more)

trainer.chunked = poisoned
training.train(Recipe(**given), out, gradient_check=False)
"""


def test_a_fault_of_another_process_is_recorded_and_ends_all(recipe, tmp_path):
    code, out = tmp_path / "code.py", tmp_path / "run"
    code.write_text(ONE_FAILS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    small = replace(recipe, corpus=replace(recipe.corpus, rows=16))  # 4 of them a step, no probe
    done = subprocess.run(
        [sys.executable, *launch, str(code), json.dumps(asdict(small)), str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    stopped = read_json(out / "stopped-1.json")
    assert stopped["process"] == 1
    assert re.match(r"step \d, demonstrations \d+, \d+ \(.*: .*NaN", stopped["stopped"])
    assert not Run(out).finished


def test_seeds_are_runs_of_their_own_and_go_on_together(recipe, tmp_path, monkeypatch, capsys):
    several = replace(recipe, seeds=(0, 3), evaluation=None)
    with pytest.raises(ValueError, match="has seeds 0, 3, and a run has one"):
        train(several, tmp_path)
    monkeypatch.setattr(cli, "_recipes", lambda file=None: {"sums": several})
    how = ["train", "sums", "--max-steps", "2", "--out", str(tmp_path), "--no-gradient-check"]
    first = train(replace(recipe, seeds=(0,)), tmp_path / "alone", max_steps=2).summary()
    assert cli.main([*how, "--seed", "0"]) == 0
    assert cli.main([*how, "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"seed 3, 2 of 2: {tmp_path / 'seed-3'}" in said
    zero, three = (Run(tmp_path / f"seed-{n}") for n in (0, 3))
    assert (zero.manifest()["seeds"], three.manifest()["seeds"]) == ([0], [3])
    assert zero.summary()["weights_sha256"] == first["weights_sha256"]
    assert zero.summary()["weights_sha256"] != three.summary()["weights_sha256"]


def test_numbers_are_passed_on(recipe, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nowhere is not supported"):
        train(recipe, tmp_path, report_to=["nowhere"])
    seen = set()

    class Board(TrainerCallback):
        def on_log(self, *_, logs, **__):
            seen.update(logs)

    class Absent(TrainerCallback):
        def __init__(self):
            raise RuntimeError("Absent requires absent: pip install absent")

    known = {"board": Board, "absent": Absent}
    monkeypatch.setattr(integration_utils, "INTEGRATION_TO_CALLBACK", known)
    with pytest.raises(ImportError, match="reporting to absent: .*pip install absent"):
        train(recipe, tmp_path, report_to=["absent"])
    train(recipe, tmp_path, report_to=["board"], max_steps=1)
    assert {"nll", "surrogate", "grad_norm_clipped", "eval_loss", "eval_kl_to_base"} <= seen


@pytest.mark.parametrize("accumulation", ["token", "micro-batch-sum"])
@pytest.mark.parametrize("name", ["dft", "asft-0.05", "gem-0.7", "dft-geometric"])
def test_every_kind_of_loss_passes_its_check(recipe, tmp_path, name, accumulation):
    chosen = replace(recipe, objective=name, accumulation=accumulation)
    verdict = train(chosen, tmp_path, max_steps=1).manifest()["gradient_check"]
    assert verdict["deviation"] < 1e-4


@pytest.mark.parametrize("held", [2, 0])
def test_reference_and_distance_to_the_base_are_asked_for_once(recipe, tmp_path, monkeypatch, held):
    counts = dict.fromkeys(("frozen", "kl_to_base"), 0)
    for name in counts:
        plain = getattr(training.ObjectiveTrainer, name)

        def counted(self, *given, name=name, plain=plain):
            counts[name] += 1
            return plain(self, *given)

        monkeypatch.setattr(training.ObjectiveTrainer, name, counted)
    corpus = replace(recipe.corpus, rows=8 + held)
    anchored = replace(recipe, objective="asft-0.05", corpus=corpus)
    run = train(anchored, tmp_path, gradient_check=False)
    assert run.summary()["eval_kl_to_base"] > 0
    assert counts == {"frozen": 4, "kl_to_base": 1}  # two steps of two micro-batches; at the end


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


def test_prompts_that_fill_the_limit_are_counted_and_left_out(recipe, tmp_path):
    file = tmp_path / "mixed.jsonl"
    rows = [{"question": "1+1" * (40 if n < 3 else 1), "answer": f"{n}"} for n in range(9)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = replace(recipe, corpus=Corpus(source=str(file)), max_length=40)
    run = train(mixed, tmp_path / "run", gradient_check=False)
    data = run.manifest()["data"]
    assert data["fit"] == run.summary()["data"]
    assert data["fit"].startswith("9 demonstrations, 3 longer than the limit, 3 of them without")
    assert (data["trained"], data["held_out"], data["left_out"]) == (4, 2, 3)
    with pytest.raises(ValueError, match="no prompt leaves 1 of max_length = 10 tokens: raise"):
        train(replace(mixed, max_length=10), tmp_path / "other")


def test_a_tokenizer_without_a_template_gets_a_plain_one(recipe, tiny_folder, tmp_path):
    source = load_pretrained(str(tiny_folder))
    source.tokenizer.chat_template = source.tokenizer.pad_token = None
    source.tokenizer.bos_token = source.tokenizer.eos_token
    for part in (source.model, source.tokenizer):
        part.save_pretrained(tmp_path / "bare")
    assert load_pretrained(str(tmp_path / "bare")).tokenizer.chat_template is None
    run = train(replace(recipe, model=str(tmp_path / "bare")), tmp_path / "run", max_steps=1)
    assert run.manifest()["gradient_check"]["holds"]
    assert "User: " in run.manifest()["template"]
    kept = load_pretrained(str(tmp_path / "run" / "model")).tokenizer
    assert kept.decode(prompt_ids("2+2", kept)) == "<|im_end|>User: 2+2\n\nAssistant:"


def test_too_few_rows_for_a_batch_are_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="3 demonstrations make no batch of 4"):
        train(replace(recipe, corpus=replace(recipe.corpus, rows=3)), tmp_path)


ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text().replace("\\\n", "")
README = re.search(r"\.venv/bin/(dft-theory train smoke --out \S+)", TEXT)
COMPARED = re.findall(r"\.venv/bin/dft-theory (.* runs/base)\b", TEXT)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A stranger's folder, without GSM8K."""
    monkeypatch.delenv("DFT_THEORY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_smoke(folder, problems=16):
    """What README says of the command's folder."""
    run = Run(folder)
    assert run.manifest()["gradient_check"]["holds"]
    assert not list(folder.glob("checkpoints/checkpoint-*"))
    asked = folder / "evaluation" / "sample"
    drawn = list(read(asked))
    assert len(drawn) == problems
    assert len((asked / "grades.jsonl").read_text().splitlines()) == problems
    found = read_json(asked / "evaluation.json")
    assert (found["problems"], found["samples"]) == (problems, 1)
    weights = folder / "model" / "model.safetensors"
    assert read_json(asked / "manifest.json")["revision"] == f"sha256:{_sha256(weights)}"
    return run, found


def test_readme_s_command_trains_evaluates_and_goes_on(tiny_folder, elsewhere, monkeypatch, capsys):
    """The whole way, on the tiny model in the real one's place."""
    monkeypatch.setattr(pretrained, "_plain_copy", lambda known: tiny_folder)
    command = shlex.split(README[1])[1:]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    run, _ = assert_smoke(Path("runs/smoke"))
    assert run.summary()["steps"] == run.manifest()["data"]["trained"] / 8 >= 6
    assert run.summary()["data"] in said  # what did not fit the limit is reported
    assert "sample: 16 problems x 1: average" in said
    assert "judges differ: on so many samples" in said
    part = Path("runs/smoke/evaluation/sample/part-00000.jsonl")
    before, written = part.read_text(), run.manifest()
    part.unlink()
    assert cli.main([*command, "--resume"]) == 0
    assert part.read_text() == before
    assert run.manifest() == written
    assert [line.split()[0] for line in COMPARED] == ["evaluate", "grade"]
    assert [cli.main(shlex.split(line)) for line in COMPARED] == [0, 0]
    assert "minus runs/base: " in capsys.readouterr().out


def test_evaluation_is_left_out_or_refused_before_training(recipe, elsewhere, monkeypatch, capsys):
    asked = replace(recipe, evaluation=Exam(problems=("math500",)))
    monkeypatch.setattr(cli, "_recipes", lambda file=None: {"sums": asked})
    assert cli.main(["train", "sums", "--max-steps", "1"]) == 2
    assert "or train alone: --no-evaluate" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert cli.main(["train", "sums", "--max-steps", "1", "--no-evaluate"]) == 0
    assert not Path("runs/sums/evaluation").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(training, "train", lambda *_, **__: Run(Path("runs/sums")))
    assert cli.main(["train", "sums"]) == 0
    assert "to evaluate it, in one process: dft-theory" in capsys.readouterr().out


@pytest.mark.real_model
def test_a_small_smoke_run_on_the_real_model(elsewhere, monkeypatch):
    made = runpy.run_path(str(ROOT / "experiments" / "recipes.py"))["RECIPES"]
    smoke = next(recipe for recipe in made if recipe.name == "smoke")
    few = Exam(problems=("sample",), limit=2, sampling=Sampling(samples=1, max_new_tokens=4))
    corpus = replace(smoke.corpus, rows=2)
    small = replace(smoke, corpus=corpus, batch=2, micro_batch=1, max_length=96, evaluation=few)
    monkeypatch.setattr(cli, "_recipes", lambda file=None: {"smoke": small})
    assert cli.main(["train", "smoke"]) == 0
    run, _ = assert_smoke(Path("runs/smoke"), problems=2)
    assert 0.1 < run.summary()["first"]["mean_p"] < 0.9


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.timeout(900)
def test_readme_s_command_on_the_real_model(elsewhere):
    started = os.times()
    done = subprocess.run([sys.executable, "-m", "dft_theory.cli", *shlex.split(README[1])[1:]])
    assert done.returncode == 0
    run, _ = assert_smoke(Path("runs/smoke"))
    assert run.summary()["steps"] == 8
    ended = os.times()
    spent = sum(ended[2:4]) - sum(started[2:4])
    assert spent / 2 < 180  # two cores that do nothing else
