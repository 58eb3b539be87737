"""TRL's DPO against the catalogue's, gradient by gradient, and a run of it from end to end."""

import json

import pytest
import torch

from dft_theory.llm import preferences
from dft_theory.llm.corpus import rows
from dft_theory.llm.gradient_check import WrongGradientError
from dft_theory.llm.pretrained import load_pretrained
from dft_theory.llm.recipe import Corpus, Recipe
from dft_theory.llm.training import train
from dft_theory.results import Run

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    """Sixteen pairs: the right sum against a longer wrong one."""
    file = tmp_path / "pairs.jsonl"
    told = [
        {"question": f"{a}+{a}", "chosen": f"{2 * a}", "rejected": f"well, {2 * a + 1}"}
        for a in range(16)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in told))
    return Recipe(
        name="pairs",
        title="pairs",
        model=str(tiny_folder),
        corpus=Corpus(source=str(file), holds="pairs"),
        objective="dpo-0.1",
        rate=1e-2,
        batch=4,
        micro_batch=2,
        gpus=1,
        compute="float32",
        checkpointing=False,
    )


@pytest.fixture
def made(recipe, tmp_path):
    """The trainer, before its first step."""
    source = load_pretrained(recipe.model)
    run = Run(tmp_path / "run")
    return preferences.trainer(recipe, recipe.loss, source, rows(recipe.corpus), [], run, steps=2)


def test_trl_s_loss_has_the_catalogue_s_gradient(made):
    verdict = preferences.first_step(made)
    assert verdict.holds
    assert verdict.deviation < 1e-4
    assert verdict.objective == "dpo-0.1"


@pytest.mark.parametrize(
    "change",
    [
        lambda made: setattr(made, "beta", 0.2),
        lambda made: setattr(made, "loss_types", ["hinge"]),
        lambda made: setattr(made, "loss_types", ["ipo"]),
        lambda made: setattr(made, "f_divergence_type", "forward_kl"),
    ],
    ids=["beta", "hinge", "ipo", "forward KL"],
)
def test_the_check_sees_another_loss(made, change):
    change(made)
    with pytest.raises(WrongGradientError, match="Training was not begun"):
        preferences.first_step(made)


def test_the_check_asks_the_reference_that_will_be_trained_against(made):
    asked = made.compute_ref_log_probs

    def other(model, inputs):
        chosen, rejected = asked(model, inputs)
        return chosen + 5, rejected

    made.compute_ref_log_probs = other
    with pytest.raises(WrongGradientError):
        preferences.first_step(made)


def test_a_run_tells_the_two_sides_apart_and_is_recorded(recipe, tmp_path):
    run = train(recipe, tmp_path / "run")
    assert run.manifest()["gradient_check"]["holds"] is True
    assert run.manifest()["accumulation_here"] == 2
    steps = [m for m in run.metrics() if "rewards/margins" in m]
    assert [m["step"] for m in steps] == [1, 2, 3, 4]
    assert steps[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["rewards/margins"] > 0.5
    moved = load_pretrained(str(tmp_path / "run" / "model")).model.state_dict()
    base = load_pretrained(recipe.model).model.state_dict()
    assert not torch.equal(moved["model.norm.weight"], base["model.norm.weight"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1+1", "chosen": "2"}, "line 2: expected texts"),
        ({"question": "1+1", "chosen": "2", "rejected": "2"}, "line 2: chosen and rejected are"),
        ({"question": "1+1", "chosen": "2", "rejected": " "}, "line 2: expected texts"),
    ],
)
def test_pairs_that_are_none_are_refused(tmp_path, row, message):
    file = tmp_path / "pairs.jsonl"
    turns = {"chosen": [{"role": "assistant", "content": "2"}], "rejected": "3"}
    first = {"prompt": [{"role": "user", "content": "1+1"}], **turns}
    file.write_text(f"{json.dumps(first)}\n")
    (found,) = rows(Corpus(source=str(file), holds="pairs"))
    assert (found.question, found.chosen, found.rejected) == ("1+1", "2", "3")
    file.write_text(f"{json.dumps(first)}\n{json.dumps(row)}\n")
    with pytest.raises(ValueError, match=message):
        rows(Corpus(source=str(file), holds="pairs"))
    with pytest.raises(ValueError, match="read from a .jsonl file, not from gsm8k"):
        rows(Corpus(source="gsm8k", holds="pairs"))
