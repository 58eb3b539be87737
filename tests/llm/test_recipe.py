"""Plans against the models they are for, and recipes that cannot be."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from dft_theory.llm.recipe import SHAPES, Corpus, Recipe, Rollouts, Shape, describe, plan

# What the count of weights needs besides, from the models' published settings: family, inner width,
# heads, heads of keys, one matrix for both ends.
INSIDE = {
    "smollm2-135m-instruct": (LlamaConfig, 1536, 9, 3, True),
    "Qwen/Qwen2.5-Math-1.5B": (Qwen2Config, 8960, 12, 2, True),
    "Qwen/Qwen2.5-Math-7B": (Qwen2Config, 18944, 28, 4, False),
    "Qwen/Qwen2.5-3B": (Qwen2Config, 11008, 16, 2, True),
    "meta-llama/Llama-3.2-3B": (LlamaConfig, 8192, 24, 8, True),
    "meta-llama/Llama-3.1-8B": (LlamaConfig, 14336, 32, 8, False),
    "deepseek-ai/deepseek-math-7b-base": (LlamaConfig, 11008, 32, 32, False),
}
SAME = {"Qwen/Qwen2.5-Coder-3B": "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-Coder-7B": "Qwen/Qwen2.5-Math-7B"}


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_counted_as_the_model_has_them(name):
    shape = SHAPES[name]
    family, inner, heads, keys, tied = INSIDE[SAME.get(name, name)]
    config = family(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=shape.hidden // heads,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == shape.parameters


PAPER = Recipe(
    name="test",
    title="one cell",
    model="Qwen/Qwen2.5-Math-1.5B",
    corpus=Corpus(source="hub:AI-MO/NuminaMath-CoT", rows=100_000),
    objective="dft",
)


PROBLEMS = replace(PAPER.corpus, holds="problems")
GRPO = {"objective": "grpo-0.2-0.2", "rollouts": Rollouts(), "max_length": 4096}


def test_the_paper_s_run_has_390_steps_of_eight_micro_batches():
    found = plan(PAPER)
    assert (found.steps, found.warmup_steps) == (390, 39)
    assert PAPER.micro_batches == 8
    assert found.tokens == 390 * 256 * 500


def test_memory_is_what_its_parts_are():
    found = plan(replace(PAPER, gpus=1, micro_batch=1, batch=1))
    gib = SHAPES[PAPER.model].parameters * 4 / 2**30
    assert found.weights == pytest.approx(gib)
    assert found.optimizer == pytest.approx(2 * gib)
    assert found.memory > 4 * gib
    low = plan(replace(PAPER, parameters="bfloat16"))
    assert low.weights == pytest.approx(plan(PAPER).weights / 2)
    thin = plan(replace(PAPER, lora_rank=8))
    assert thin.optimizer < plan(PAPER).optimizer / 20
    assert thin.weights == pytest.approx(gib)  # whole on each of the eight
    assert plan(replace(PAPER, checkpointing=False)).activations > 10 * plan(PAPER).activations


@pytest.mark.parametrize("objective", ["asft-0.05", "asft-k3-0.05", "iw-sft-sequence"])
def test_a_reference_is_a_copy_more_and_a_pass_more(objective):
    plain, anchored = plan(PAPER), plan(replace(PAPER, objective=objective))
    gib = SHAPES[PAPER.model].parameters * 4 / 2**30
    assert plain.reference == 0
    assert anchored.reference == pytest.approx(gib)  # whole on each of the eight
    assert anchored.memory - plain.memory == pytest.approx(gib)
    assert anchored.gpu_hours / plain.gpu_hours == pytest.approx(10 / 8)
    assert any("reference 5.8" in x for x in describe(replace(PAPER, objective=objective)))
    adapted = plan(replace(PAPER, objective=objective, lora_rank=8))
    assert adapted.reference == 0  # the base under the adapter is the reference
    assert adapted.gpu_hours == anchored.gpu_hours


def test_groups_and_pairs_are_counted_as_what_is_trained_on():
    asked = replace(
        PAPER,
        corpus=replace(PAPER.corpus, holds="problems"),
        objective="grpo-0.2-0.2",
        max_length=4096,
        rollouts=Rollouts(group=4),
    )
    assert (plan(asked).steps, asked.micro_batches) == (390, 32)
    assert plan(asked).tokens == 4 * plan(PAPER).tokens
    assert any("drawing the answers comes on top" in line for line in describe(asked))
    pairs = replace(
        PAPER, corpus=replace(PAPER.corpus, holds="pairs"), objective="dpo-0.1", micro_batch=2
    )
    assert pairs.micro_batches == 16
    assert plan(pairs).tokens == 2 * plan(PAPER).tokens
    assert plan(pairs).activations == plan(PAPER).activations  # two pairs are four responses
    assert plan(pairs).reference == plan(pairs).weights  # sharded, both


def test_time_is_operations_over_the_rate_that_is_printed():
    tiny = Shape(parameters=10**9, layers=1, hidden=8, vocab=8)
    hours = plan(PAPER, tiny).gpu_hours
    assert hours == pytest.approx(8 * 1e9 * 390 * 256 * 500 / (0.4 * 989e12) / 3600)
    [line] = [line for line in describe(PAPER, tiny) if line.startswith("  time")]
    assert f"{hours:.1f} GPU-hours" in line
    assert "40% of 989 TFLOP/s" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "dtf"}, "Did you mean dft"),
        ({"batch": 100}, "no multiple of 4 demonstrations on each of 8 GPUs"),
        ({"rate": 0.0}, "rate > 0"),
        ({"warmup": 1.0}, "warmup in"),
        ({"objective": "reinforce"}, "reinforce needs advantage, and demonstrations alone"),
        ({"objective": "dpo-0.1"}, "responses that are compared in groups"),
        ({"rollouts": Rollouts()}, "problems need rollouts, .* demonstrations have answers"),
        ({"corpus": PROBLEMS}, "trained on by grpo-0.2-0.2, not by dft"),
        ({"corpus": PROBLEMS, **GRPO, "rollouts": None}, "give rollouts"),
        ({"corpus": PROBLEMS, **GRPO, "lora_rank": 8}, "trained in full"),
        ({"corpus": PROBLEMS, **GRPO, "accumulation": "micro-batch-sum"}, "over whole steps"),
        ({"corpus": PROBLEMS, **GRPO, "max_length": 2048}, "leave no room for a prompt"),
        ({"corpus": PROBLEMS, **GRPO, "batch": 4}, "batch of 16 is no multiple of 4"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change, message):
    with pytest.raises((ValueError, KeyError), match=message):
        replace(PAPER, **change)


@pytest.mark.parametrize("given", [{"group": 1}, {"tokens": 0}])
def test_rollouts_that_teach_nothing_are_refused(given):
    with pytest.raises(ValueError, match="advantage is 0|no token"):
        Rollouts(**given)


def test_a_plan_needs_a_shape_and_rows():
    with pytest.raises(ValueError, match="shape of me/mine is not known"):
        plan(replace(PAPER, model="me/mine"))
    with pytest.raises(ValueError, match="how many rows"):
        plan(replace(PAPER, corpus=Corpus(source="gsm8k")))
