"""An objective as the loss of a `transformers.Trainer`: `Trainer(compute_loss_func=...)`.

Trainer counts the targets of all micro-batches and devices of a step, N, and adds up what the loss
returns for each of them; so the loss is the sum over its own targets divided by N, and nothing
else. What would break that silently is refused in a sentence: where the arguments tell, before
training, and otherwise at the first batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dft_theory.logprobs import token_stats
from dft_theory.objectives import (
    MicrobatchTokenMean,
    Objective,
    Reduction,
    SumOver,
    TokenMean,
)
from dft_theory.testing.probe import with_count

if TYPE_CHECKING:
    from transformers import TrainingArguments

OWN = ("targets", "entropy", "log_probs")  # statistics that logits and labels contain


@dataclass(frozen=True)
class TrainerLoss:
    """The surrogate of an objective under a reduction, called as Trainer calls a loss."""

    objective: Objective
    reduction: Reduction

    def __call__(
        self,
        outputs: Mapping[str, Any],
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Scalar loss, float32 or wider, with a graph also where every label is masked.

        Shapes: `outputs["logits"]` `[B, T, V]`, labels `[B, T]` unshifted, -100 where there is no
        target. Without N the batch's own count takes its place.

        Raises: TypeError for outputs that are no mapping; ValueError for outputs without logits, a
        batch without labels, and the counts and losses of several devices at once.
        """
        if not isinstance(outputs, Mapping):
            raise TypeError(
                f"the model returned {type(outputs).__name__}, not a mapping with logits: load it "
                "with return_dict=True"
            )
        logits, loss = outputs.get("logits"), outputs.get("loss")
        if logits is None:
            raise ValueError(
                "the model returned no logits: a fused head (Liger, TRL, cut cross-entropy) took "
                "them. Switch it off (use_liger_kernel=False), or train with "
                "dft_theory.llm.trainer, whose head needs no logits either"
            )
        if labels is None:
            raise ValueError('the batch has no labels: the collator must return "labels"')
        for name, value in (("num_items_in_batch", num_items_in_batch), ("loss", loss)):
            if isinstance(value, Tensor) and value.numel() > 1:
                raise ValueError(
                    f"{name} holds {value.numel()} numbers, one a device, gathered by "
                    f"nn.DataParallel: {_LAUNCH}"
                )
        stats = token_stats(logits, labels, needs=self.objective.needs)
        count = None if num_items_in_batch is None else int(num_items_in_batch)
        return self.objective.surrogate(stats, reduction=with_count(self.reduction, count))


_LAUNCH = "launch one process a device (torchrun), or show one device (CUDA_VISIBLE_DEVICES=0)"


def loss_function(
    objective: Objective,
    reduction: Reduction | None = None,
    *,
    args: "TrainingArguments | None" = None,
) -> TrainerLoss:
    """The loss of `Trainer(compute_loss_func=...)`; give it the Trainer's `args` to be checked too.

    The default reduction is `TokenMean()`, over all targets of a step. A total of its own, as in
    `TokenMean(1000)`, replaces N.

    Raises: ValueError for objectives that need what a Trainer does not provide, and with `args` for
    settings under which the step would not be the objective's.
    """
    chosen = TokenMean() if reduction is None else reduction
    outside = sorted(set(objective.needs) - set(OWN))
    if outside or objective.level == "group":
        needed = ", ".join(outside) or "responses that are compared in groups"
        raise ValueError(
            f"{objective.name} needs {needed}, and a Trainer gives its loss logits and labels only"
        )
    if args is not None:
        _check(args, objective, chosen)
    return TrainerLoss(objective, chosen)


def _check(args: "TrainingArguments", objective: Objective, reduction: Reduction) -> None:
    """Raises: ValueError for the first setting that changes the step behind the loss's back."""
    several = args.gradient_accumulation_steps > 1 or args.world_size > 1
    split = args.parallelism_config
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor:g} would be ignored: Trainer "
            "smooths no labels where it is given a loss. Set it to 0; smoothed labels are an "
            "objective of their own, dft_theory.objectives.label_smoothing"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"Trainer would wrap the model in nn.DataParallel over {args.n_gpu} devices, where a "
            f"step has no one count of its targets: {_LAUNCH}"
        )
    if split is not None and max(split.cp_size, split.sp_size) > 1:
        raise ValueError(
            "sequences are split over devices, and with them unshifted labels: the targets at the "
            "borders would be lost. Set cp_size and sp_size to 1"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            "each of the processes would divide by its own number of targets: set "
            "average_tokens_across_devices=True"
        )
    if several and objective.level == "batch":
        raise ValueError(
            f"{objective.name} reads the statistics of a whole batch, and Trainer shows it one "
            "micro-batch: set gradient_accumulation_steps=1, on one device"
        )
    if several and not _adds_up(reduction):
        raise ValueError(
            f"Trainer adds up what the loss returns for each micro-batch, and means do not add "
            f"up: {reduction} would be multiplied by their number. Take TokenMean(), or one "
            "micro-batch a step on one device"
        )


def _adds_up(reduction: Reduction) -> bool:
    """Whether micro-batches add up to what the reduction means: a sum over a common constant."""
    if isinstance(reduction, MicrobatchTokenMean):
        return reduction.accumulate == "sum"
    return isinstance(reduction, TokenMean | SumOver)
