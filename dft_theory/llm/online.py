r"""GRPO on one's own answers: TRL's trainer, math-verify's grades as rewards, and the same proof.

TRL draws, compares and steps. Ours are the problems, the reward and the check before the first
step: that the gradient of TRL's loss is that of `dft_theory.objectives.grpo` on the same answers
and advantages, the clip acting on some tokens. Its loss types "dapo" (here), "bnpo", "grpo",
"dr_grpo" and "luspo" are one objective under five reductions.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from dft_theory.llm.corpus import Row, conversations
from dft_theory.llm.data import prompt_ids
from dft_theory.llm.grade import grade
from dft_theory.llm.gradient_check import GradientVerdict, check_first_step
from dft_theory.llm.pretrained import Pretrained
from dft_theory.llm.recipe import Recipe
from dft_theory.llm.trainer import Guarded, StoppedError
from dft_theory.llm.training import arguments
from dft_theory.logprobs import IGNORE_INDEX, TokenStats, align, token_stats
from dft_theory.objectives import Objective, TokenMean, grpo
from dft_theory.results import Run
from dft_theory.seeding import numpy_generator

CLIP = 0.2
IDLE = 20  # logs in a row without a single group whose answers differ in reward
LENGTHS = (7, 4)  # target tokens of the two answers of the check, and
ADVANTAGES = (1.0, -0.5)  # what they are worth;
MOVED = (0.5, 0.1, -0.1, -0.5)  # log pi / pi_old of their tokens in turn: the outer two are clipped


class NothingToLearnError(StoppedError):
    """All answers to a problem are worth the same, for every problem: the advantage is 0."""


def reward(
    completions: Sequence[Sequence[dict[str, str]]], answer: Sequence[str], **_: Any
) -> list[float | None]:
    """1 where math-verify finds the answer, else 0; None where it cannot read the answer key.

    As TRL calls it. Grading is in processes of its own, with a time limit.
    """
    said = [turns[-1]["content"] for turns in completions]
    grades = grade(list(zip(answer, said, strict=True)), ("math-verify",))
    first = (each["math-verify"] for each in grades)
    return [None if g.verdict == "answer key unreadable" else float(g.right) for g in first]


class RolloutTrainer(Guarded, GRPOTrainer):  # type: ignore[misc]
    """`GRPOTrainer` with the guards of all trainers here."""

    _tag_names = ("trl", "grpo", "dft-theory")


def trainer(
    recipe: Recipe,
    objective: Objective,
    source: Pretrained,
    trained: Sequence[Row],
    held: Sequence[Row],  # noqa: ARG001 (as for the other kinds of rows)
    run: Run,
    steps: int,
) -> RolloutTrainer:
    """One step a generation, so that the samples are the policy's own; no distance to a reference.

    Raises: ValueError for an objective that TRL's loss is not, or a recipe without rollouts.
    """
    if objective.name != grpo(CLIP, CLIP).name or recipe.rollouts is None:
        raise ValueError(f"{recipe.name}: problems are trained on by {grpo(CLIP, CLIP).name} alone")
    config = arguments(
        GRPOConfig,
        recipe,
        run,
        steps,
        num_generations=recipe.rollouts.group,
        max_completion_length=recipe.rollouts.tokens,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        epsilon=CLIP,
        epsilon_high=CLIP,
        num_iterations=1,
        loss_type="dapo",
        scale_rewards="group",
        use_vllm=False,
        shuffle_dataset=False,
    )
    # All epochs in one, shuffled here: TRL's own order would begin anew where a run is resumed.
    epochs = range(recipe.epochs)
    dice = [numpy_generator(recipe.seeds[0], "rollouts", str(epoch)) for epoch in epochs]
    order = [trained[i] for d in dice for i in d.permutation(len(trained))]
    return RolloutTrainer(
        model=source.model,
        reward_funcs=reward,
        args=config,
        train_dataset=conversations(order),
        processing_class=source.tokenizer,
        callbacks=[_Idle()],
    )


def first_step(made: RolloutTrainer) -> GradientVerdict:
    """TRL's loss on two answers, whatever they say, against the closed form of `grpo`.

    Raises: WrongGradientError.
    """
    made.current_gradient_accumulation_steps = made.args.gradient_accumulation_steps
    tokenizer, data = made.processing_class, made.train_dataset
    asked = [data[i]["prompt"][0]["content"] for i in range(2)]
    prompts = [prompt_ids(question, tokenizer) for question in asked]
    texts = [tokenizer(question, add_special_tokens=False).input_ids for question in asked]
    width, device = max(map(len, prompts)), made.args.device
    ids = torch.full((2, width + LENGTHS[0]), tokenizer.pad_token_id)
    kept = torch.zeros_like(ids)
    for row, (prompt, text, length) in enumerate(zip(prompts, texts, LENGTHS, strict=True)):
        whole = torch.tensor([*prompt, *(text * LENGTHS[0])[:length]])
        ids[row, width - len(prompt) : width + length] = whole
        kept[row, width - len(prompt) : width + length] = 1
    labels = ids.masked_fill(kept == 0, IGNORE_INDEX)
    labels[:, :width] = IGNORE_INDEX
    batch = {"input_ids": ids, "attention_mask": kept, "labels": labels}
    batch = {name: x.to(device) for name, x in batch.items()}
    advantage = torch.tensor(ADVANTAGES, device=device)
    with torch.no_grad():
        logits = made.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        stats = token_stats(logits.logits, batch["labels"])
    turns = torch.tensor(MOVED, device=device)
    old = stats.logp - turns[torch.arange(stats.logp.shape[1], device=device) % len(MOVED)]

    def complete(t: TokenStats) -> TokenStats:
        return replace(t, old_logp=old, advantage=advantage[:, None])

    def loss(inputs: dict[str, Tensor], count: Tensor) -> Tensor:
        return grpo_loss(made, inputs, advantage, old, count)

    return check_first_step(
        made.model,
        loss,
        batch,
        grpo(CLIP, CLIP),
        TokenMean(),
        complete=complete,
        precision=torch.bfloat16 if made.args.bf16 else None,
    )


def grpo_loss(
    made: GRPOTrainer,
    inputs: dict[str, Tensor],
    advantage: Tensor,
    old: Tensor,
    count: Tensor,
) -> Tensor:
    """TRL's loss of given answers, as a training step takes it.

    Shapes: `input_ids`, `attention_mask`, `labels` `[B, T]`, prompts padded on the left and answers
    on the right, labels on the answers; `advantage` `[B]`; `old` `[B, T-1]`, log-probabilities of
    the policy that drew them; `count` the target tokens of the whole step.
    """
    _, targets = align(inputs["input_ids"][..., None], inputs["labels"])
    first = int((targets != IGNORE_INDEX).any(0).nonzero()[0])  # of the answers, in `old`
    ids, kept = inputs["input_ids"], inputs["attention_mask"]
    given = {
        "prompt_ids": ids[:, : first + 1],
        "prompt_mask": kept[:, : first + 1],
        "completion_ids": ids[:, first + 1 :],
        "completion_mask": kept[:, first + 1 :],
        "advantages": advantage,
        "old_per_token_logps": old[:, first:],
        "num_items_in_batch": count * made.accelerator.num_processes,
    }
    value: Tensor = made.compute_loss(made.model, given)
    made._metrics["train"].clear()  # no numbers of training
    return value


class _Idle(TrainerCallback):  # type: ignore[misc]
    """Stops a run that moves nothing."""

    def __init__(self) -> None:
        self.logs = 0

    def on_log(self, _args: Any, state: Any, _control: Any, **given: Any) -> None:
        equal = given["logs"].get("frac_reward_zero_std")
        if equal is None:
            return
        self.logs = self.logs + 1 if equal >= 1 else 0
        if self.logs == IDLE:
            raise NothingToLearnError(
                f"up to step {state.global_step}, in {IDLE} logs in a row, all answers to each "
                f"problem had the same reward ({given['logs'].get('reward', 0):.2g}): every "
                "advantage is 0 and no weight moves. Take problems that the model solves sometimes"
            )
