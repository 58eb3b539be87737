"""DPO on pairs of responses: TRL's trainer, and the proof that its gradient is the catalogue's."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from dft_theory.llm.corpus import Row, conversations
from dft_theory.llm.gradient_check import GradientVerdict, check_first_step
from dft_theory.llm.pretrained import Pretrained
from dft_theory.llm.recipe import Recipe
from dft_theory.llm.trainer import Guarded
from dft_theory.llm.training import arguments
from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.objectives import Objective, SumOver, dpo
from dft_theory.results import Run

BETA = 0.1
SHIFT = 10.0  # nats by which the check tells the two sides apart: at 0 any sigmoid is 1/2


class PreferenceTrainer(Guarded, DPOTrainer):  # type: ignore[misc]
    """`DPOTrainer` with the guards of all trainers here."""

    _tag_names = ("trl", "dpo", "dft-theory")


def trainer(
    recipe: Recipe,
    objective: Objective,
    source: Pretrained,
    trained: Sequence[Row],
    held: Sequence[Row],  # noqa: ARG001 (as for the other kinds of rows)
    run: Run,
    steps: int,
) -> PreferenceTrainer:
    """The mean over pairs; the reference is a frozen copy of the model as it is given.

    Raises: ValueError for an objective that TRL's loss is not.
    """
    if objective.name != dpo(BETA).name:
        raise ValueError(f"{recipe.name}: pairs are trained on by {dpo(BETA).name} alone")
    return PreferenceTrainer(
        model=source.model,
        ref_model=copy.deepcopy(source.model).eval().requires_grad_(False),
        args=arguments(
            DPOConfig,
            recipe,
            run,
            steps,
            max_length=recipe.max_length,
            beta=BETA,
            loss_type=["sigmoid"],
        ),
        train_dataset=conversations(trained),
        processing_class=source.tokenizer,
    )


def first_step(made: PreferenceTrainer) -> GradientVerdict:
    """TRL's loss on one pair against the closed form of `dpo`, the reference as it is and shifted.

    Raises: WrongGradientError; ValueError where all pairs have responses of one length.
    """
    data: Any = made.train_dataset
    rows = [data[i] for i in range(min(256, len(data)))]
    unequal = [r for r in rows if len(r["chosen_ids"]) != len(r["rejected_ids"])]
    if not unequal:
        raise ValueError(
            f"the gradient check needs a pair of two lengths, and none of the first {len(rows)} "
            "is one: mend the data, or switch it off (gradient_check=False)"
        )
    shortest = min(unequal, key=lambda r: len(r["chosen_ids"]) + len(r["rejected_ids"]))
    made_of: dict[str, Tensor] = made._prepare_inputs(made.data_collator([shortest]))
    labels = made_of["input_ids"].masked_fill(made_of["completion_mask"] == 0, IGNORE_INDEX)
    batch = {k: made_of[k] for k in ("input_ids", "attention_mask")} | {"labels": labels}
    _checked(made, batch, 0.0)
    return _checked(made, batch, SHIFT)


def _checked(made: DPOTrainer, batch: dict[str, Tensor], shift: float) -> GradientVerdict:
    def complete(stats: TokenStats) -> TokenStats:
        """With the reference's log-probabilities, the chosen's `shift` nats larger in all."""
        with torch.no_grad():
            asked = {name: x for name, x in batch.items() if name != "labels"}
            logits = made.ref_model(**asked).logits
        reference = token_stats(logits, batch["labels"]).logp.clone()
        reference[::2].scatter_add_(
            1, stats.mask[::2].long().argmax(-1, keepdim=True), reference.new_full((1, 1), shift)
        )
        return replace(stats, ref_logp=reference)

    def loss(inputs: dict[str, Tensor], _count: Tensor) -> Tensor:
        return dpo_loss(made, inputs, shift)

    pairs = len(batch["labels"]) / 2
    return check_first_step(made.model, loss, batch, dpo(BETA), SumOver(pairs), complete=complete)


def dpo_loss(made: DPOTrainer, inputs: dict[str, Tensor], shift: float) -> Tensor:
    """TRL's loss of pairs, chosen and rejected in turn `[2 n, T]`.

    The chosen's log-probability under the reference is `shift` nats larger than it is; with 0 the
    trainer asks the reference itself.
    """
    sides = torch.arange(len(inputs["labels"])).unflatten(0, (-1, 2))
    order = sides.T.flatten()
    given = {name: inputs[name][order] for name in ("input_ids", "attention_mask")}
    given["completion_mask"] = (inputs["labels"][order] != IGNORE_INDEX).long()
    before = made.precompute_ref_logps
    try:
        if shift:
            chosen, rejected = made.compute_ref_log_probs(made.ref_model, given)
            given |= {"ref_chosen_logps": chosen + shift, "ref_rejected_logps": rejected}
            made.precompute_ref_logps = True
        value: Tensor = made.compute_loss(made.model, given)
    finally:
        made.precompute_ref_logps = before
        made._metrics["train"].clear()  # no numbers of training
    return value
