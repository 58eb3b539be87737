"""TRL's GRPO against the catalogue's, gradient by gradient, and a run of it from end to end."""

import json
from dataclasses import replace

import pytest
import torch

from dft_theory import cli
from dft_theory.llm import online, training
from dft_theory.llm.corpus import fit, rows
from dft_theory.llm.generate import BOXED
from dft_theory.llm.gradient_check import WrongGradientError
from dft_theory.llm.online import NothingToLearnError, grpo_loss, reward
from dft_theory.llm.pretrained import load_pretrained
from dft_theory.llm.recipe import Corpus, Recipe, Rollouts
from dft_theory.llm.training import train
from dft_theory.logprobs import token_stats
from dft_theory.objectives import SequenceMean, SumOver, TokenMean, group_advantages, grpo
from dft_theory.results import Run, read_json
from dft_theory.seeding import generator

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Eight problems, all with the answer 1."""
    file = tmp_path_factory.mktemp("asked") / "asked.jsonl"
    lines = [json.dumps({"question": f"{n} over {n}?", "answer": "1"}) + "\n" for n in range(2, 10)]
    file.write_text("".join(lines))
    return file


@pytest.fixture(scope="module")
def guesser(tiny_folder, tmp_path_factory):
    """A model that has learned to answer 1 or 2, one about as often as the other."""
    folder = tmp_path_factory.mktemp("guesser")
    file = folder / "guesses.jsonl"
    told = [
        {"question": f"{n} over {n}?{BOXED}", "answer": answer}
        for n in range(2, 10)
        for answer in "12"
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in 4 * told))
    taught = Recipe(
        name="guesser",
        title="guesser",
        model=str(tiny_folder),
        corpus=Corpus(source=str(file)),
        objective="sft",
        rate=3e-2,
        batch=8,
        micro_batch=8,
        epochs=6,
        gpus=1,
        compute="float32",
        checkpointing=False,
    )
    train(taught, folder / "run", gradient_check=False)
    return folder / "run" / "model"


@pytest.fixture(scope="module")
def recipe(guesser, asked):
    return Recipe(
        name="asked",
        title="asked",
        model=str(guesser),
        corpus=Corpus(source=str(asked), holds="problems"),
        objective="grpo-0.2-0.2",
        rate=1e-2,
        batch=4,
        micro_batch=8,
        gpus=1,
        compute="float32",
        checkpointing=False,
        evaluation=None,
        rollouts=Rollouts(group=4, tokens=4),
    )


@pytest.fixture
def made(recipe, tmp_path):
    """The trainer, before its first step."""
    source = load_pretrained(recipe.model)
    problems, _ = fit(rows(recipe.corpus), source.tokenizer, recipe.max_length)
    run = Run(tmp_path / "run")
    return online.trainer(recipe, recipe.loss, source, problems, [], run, steps=2)


@pytest.fixture
def batch(made):
    """Three answers of 2, 5 and 4 tokens behind prompts of 5, 3 and 4, padded on both sides."""
    dice = generator(0, "test", "online")
    ids = torch.randint(256, (3, 10), generator=dice)
    labels = torch.full_like(ids, -100)
    kept = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(((5, 2), (3, 5), (4, 4))):
        labels[row, 5 : 5 + answer] = ids[row, 5 : 5 + answer]
        kept[row, 5 - prompt : 5 + answer] = 1
    return {"input_ids": ids, "attention_mask": kept, "labels": labels}


# What TRL divides a sum over tokens by; the other two of its types that GRPO's gradient has are
# means over sequences.
REDUCTIONS = {
    "dapo": TokenMean(40.0),
    "bnpo": TokenMean(),
    "grpo": SequenceMean(),
    "dr_grpo": SumOver(3 * 4.0),
    "luspo": SumOver(3.0),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_trl_s_loss_types_are_one_objective_under_five_reductions(made, batch, kind):
    made.loss_type, made.current_gradient_accumulation_steps = kind, 1
    made.args.steps_per_generation = 1
    dice = generator(1, "test", "online")
    logits = made.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits
    stats = token_stats(logits, batch["labels"])
    old = (stats.logp + 0.4 * torch.randn(stats.logp.shape, generator=dice)).detach()
    advantage = torch.tensor([1.2, -0.7, 0.4])
    stats = replace(stats, old_logp=old, advantage=advantage[:, None])
    objective = grpo(0.2, 0.2)
    weights = objective.weight(stats.detach())[stats.mask]
    assert 0 < (weights == 0).sum() < len(weights)  # some tokens are clipped, not all
    head = made.model.get_output_embeddings().weight
    ours = objective.surrogate(stats, reduction=REDUCTIONS[kind])
    (expected,) = torch.autograd.grad(ours, head)
    theirs = grpo_loss(made, batch, advantage, old, torch.tensor(40))
    (found,) = torch.autograd.grad(theirs, head)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    off = [r for r in REDUCTIONS.values() if r != REDUCTIONS[kind]]
    for other in off:  # the answers have different lengths, so a wrong reduction shows
        stats = replace(stats, logp=token_stats(fresh(made, batch), batch["labels"]).logp)
        (wrong,) = torch.autograd.grad(objective.surrogate(stats, reduction=other), head)
        assert (found - wrong).norm() > 0.05 * found.norm()


def fresh(made, batch):
    return made.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits


def test_the_check_sees_another_clip_sign_and_divisor(made):
    verdict = online.first_step(made)
    assert verdict.holds
    assert verdict.deviation < 1e-4
    assert verdict.targets == 11
    made.epsilon_low = made.epsilon_high = 0.6
    with pytest.raises(WrongGradientError, match="Training was not begun"):
        online.first_step(made)
    made.epsilon_low = made.epsilon_high = 0.2
    made.loss_type = "grpo"
    with pytest.raises(WrongGradientError):
        online.first_step(made)
    made.loss_type = "cispo"
    with pytest.raises(WrongGradientError):
        online.first_step(made)


def test_advantages_are_ours_but_for_what_the_deviation_is_lifted_by(made):
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    made._calculate_rewards = lambda *_: rewards[:, None]
    inputs = [dict(made.train_dataset[0]) for _ in rewards]
    found = made._generate_and_score_completions(inputs)["advantages"]
    ours = group_advantages(rewards, 4)[:, 0]
    deviation = rewards.unflatten(0, (2, 4)).std(-1).repeat_interleave(4)
    assert torch.allclose(found, ours * (deviation + 1e-6) / (deviation + 1e-4))


def test_the_reward_is_math_verify_s_grade():
    said = ["so it is \\boxed{\\frac{1}{2}}", "\\boxed{0.5}", "I do not know", "\\boxed{2}"]
    completions = [[{"role": "assistant", "content": text}] for text in said]
    found = reward(completions, ["1/2"] * 4, prompts=None, trainer_state=None)
    assert found == [1.0, 1.0, 0.0, 0.0]


def test_a_run_draws_grades_learns_and_is_recorded(recipe, tmp_path, monkeypatch):
    worth = {"1": 1.0, "2": 0.0}  # the reward itself is tested above, and costs seconds a step
    monkeypatch.setattr(
        online,
        "reward",
        lambda completions, answer, **_: [worth.get(c[-1]["content"], 0.0) for c in completions],
    )
    run = train(replace(recipe, epochs=5), tmp_path / "run", command=["train"])
    made = run.manifest()
    assert made["gradient_check"]["holds"] is True
    assert made["gradient_check"]["objective"] == "grpo-0.2-0.2"
    assert made["recipe"]["rollouts"] == {"group": 4, "tokens": 4}
    assert made["accumulation_here"] == 2
    steps = [m for m in run.metrics() if "reward" in m]
    assert [m["step"] for m in steps] == list(range(1, 11))
    assert 0.2 < steps[0]["reward"] < 0.8
    assert sum(m["reward"] for m in steps[-2:]) / 2 > 0.9
    assert run.summary()["steps"] == 10
    moved = load_pretrained(str(tmp_path / "run" / "model")).model.state_dict()
    base = load_pretrained(recipe.model).model.state_dict()
    assert not torch.equal(moved["model.norm.weight"], base["model.norm.weight"])


def test_a_step_graded_by_math_verify_through_the_command_line(recipe, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(f"from dft_theory.llm.recipe import *\nRECIPES = ({recipe!r},)\n")
    out = tmp_path / "run"
    given = ["train", f"{file}:asked", "--out", str(out), "--max-steps", "1"]
    assert cli.main([*given[:2], "--objective", "dft", *given[2:]]) == 2
    assert "trained on by grpo-0.2-0.2, not by dft" in capsys.readouterr().err
    assert cli.main(given) == 0
    rewards = [m["reward"] for m in Run(out).metrics() if "reward" in m]
    assert len(rewards) == 1
    assert 0 < rewards[0] < 1


def test_interrupted_and_resumed_it_ends_with_the_same_bits(recipe, tmp_path, monkeypatch):
    def graded(completions, answer, **_):
        return [float(c[-1]["content"] == "1") for c in completions]

    monkeypatch.setattr(online, "reward", graded)
    monkeypatch.setattr(training, "APART", 2)
    shorter = replace(recipe, epochs=2)
    whole = train(shorter, tmp_path / "whole")
    log = Run.log

    def interrupted(self, record):
        if record["step"] == 4:
            raise KeyboardInterrupt
        log(self, record)

    with monkeypatch.context() as killed:
        killed.setattr(Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(shorter, tmp_path / "cut")
    resumed = train(shorter, tmp_path / "cut", resume=True)
    assert resumed.summary()["resumed_at"] == 2
    assert whole.summary()["weights_sha256"] == resumed.summary()["weights_sha256"]


def test_a_run_that_learns_nothing_is_stopped(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "reward", lambda completions, answer, **_: [0.0] * len(answer))
    monkeypatch.setattr(online, "IDLE", 2)
    with pytest.raises(NothingToLearnError, match="up to step 2, .* every advantage is 0"):
        train(replace(recipe, epochs=2), tmp_path)
    assert "every advantage is 0" in read_json(tmp_path / "stopped-0.json")["stopped"]


def test_no_answer_to_compare_and_no_room_are_refused(recipe, tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"question": 600 * "x", "answer": "1"}) + "\n")
    long = replace(recipe, corpus=replace(recipe.corpus, source=str(file)), max_length=512)
    with pytest.raises(ValueError, match="no prompt leaves 4 of max_length = 512"):
        train(long, tmp_path / "run")
