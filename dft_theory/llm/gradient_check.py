r"""Before the first step: whether the loss that will train moves the model as its objective says.

Loss functions, fused heads and trainers can all agree on a loss's value and differ in its gradient.
So the loss is called as the trainer calls it, on two sequences, and its gradient in the last hidden
states h, where every path through a head begins, is compared with the closed form

    dL/dh = -J(h)^T (c field),   field = w (e_y - pi) + A - (sum_v A_v) pi,

J the model's own head (whatever cap, scale or adapter it has), c what the reduction multiplies
each token by. Hidden states are made leaves: the model's body is not differentiated.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dft_theory.llm.loss_adapter import OWN
from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.objectives import Objective, Reduction, TokenMean
from dft_theory.testing import forms
from dft_theory.testing.probe import with_count

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (inputs, N) to a scalar: the trainer's own call. Of a Hugging Face Trainer it is `compute_loss`
# with its model, the inputs, and N as num_items_in_batch.
Loss = Callable[[dict[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class GradientVerdict:
    """What the check found, ready for a manifest.

    `deviation` is |found - expected| / |expected| of the two gradients, `tolerance` what rounding
    may cost, `targets` the target tokens of both sequences and `count` the N that was given.
    """

    objective: str
    reduction: str
    targets: int
    count: int
    deviation: float
    tolerance: float
    diagnosis: str = ""

    @property
    def holds(self) -> bool:
        """Whether the loss has the objective's gradient."""
        return self.deviation <= self.tolerance

    def __str__(self) -> str:
        size = f"deviation {self.deviation:.2g}, tolerance {self.tolerance:.2g}"
        if self.holds:
            return f"the loss has the gradient of {self.objective}, {self.reduction} ({size})"
        return (
            f"the loss does not have the gradient of {self.objective}, {self.reduction}: "
            f"{self.diagnosis} ({size}). Training was not begun"
        )


class WrongGradientError(RuntimeError):
    """The loss is not the objective's; the message says what it is, `verdict` by how much."""

    def __init__(self, verdict: GradientVerdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def check_first_step(
    model: "PreTrainedModel",
    loss: Loss,
    batch: Mapping[str, Tensor],
    objective: Objective,
    reduction: Reduction | None = None,
    *,
    complete: Callable[[TokenStats], TokenStats] = lambda stats: stats,
    precision: torch.dtype | None = None,
) -> GradientVerdict:
    """The verdict on a loss that has the objective's gradient, before anything is trained on it.

    `batch`: `input_ids`, `labels` (unshifted) and what else the model takes, `[B, T]`, with at
    least two sequences of different numbers of targets, short ones: a few tensors `[B, T, V]` are
    held. `loss` is told an N of three times the batch's targets, as in accumulation. `complete`
    adds what `objective` needs from elsewhere (`ref_logp`, `advantage`) to `[B, T-1]` statistics.
    The model, not wrapped, is in training mode, with dropout off, and gets no gradient.

    Half of the digits have to agree, of the coarsest dtype among states, logits and `precision`,
    which names the dtype of products under autocast: in bfloat16 the check sees errors above 9 %.

    Raises: WrongGradientError where they do not; ValueError for a batch on which wrong
    normalisers could hide.
    """
    chosen = TokenMean() if reduction is None else reduction
    labels = batch["labels"]
    kept = (labels[:, 1:] != IGNORE_INDEX).sum(-1)
    if len(kept.unique()) < 2 or not bool(kept.all()):
        raise ValueError(
            f"the sequences have {kept.tolist()} targets: take at least two that differ in their "
            "number, or a mean over sequences looks like one over tokens"
        )
    targets = int(kept.sum())
    count = 3 * targets
    with _without_dropout(model):
        with _leaves(model) as states:
            value = loss(dict(batch), torch.tensor(count, device=labels.device))
        found = _gradient(value, states)
        with _leaves(model) as states:
            outputs = model(**{name: x for name, x in batch.items() if name != "labels"})
    logits: Tensor = outputs.logits
    (hidden,) = states
    told = with_count(chosen, count)
    pull = _of_logits(objective, told, logits, labels, complete)
    (expected,) = torch.autograd.grad(logits, hidden, pull, retain_graph=True)
    coarsest = (hidden.dtype, logits.dtype, *([precision] if precision is not None else []))
    tolerance = max(torch.finfo(dtype).eps for dtype in coarsest) ** 0.5
    deviation = _distance(found, expected)
    diagnosis = ""
    if not deviation <= tolerance:

        def of(form: forms.Form) -> Tensor:
            known = form.loss(logits, labels, count)
            return torch.autograd.grad(known, hidden, retain_graph=True)[0]

        diagnosis = _named(found, expected, objective, chosen, of, tolerance)
    verdict = GradientVerdict(
        objective=objective.name,
        reduction=str(chosen),
        targets=targets,
        count=count,
        deviation=deviation,
        tolerance=tolerance,
        diagnosis=diagnosis,
    )
    if not verdict.holds:
        raise WrongGradientError(verdict)
    return verdict


@contextmanager
def _without_dropout(model: "PreTrainedModel") -> Iterator[None]:
    """The model as a trainer sees it in training, its parts as in evaluation."""
    before = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model.training = True
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def _leaves(model: "PreTrainedModel") -> Iterator[list[Tensor]]:
    """The last hidden states of every pass through the model's body, made leaves of the graph."""
    found: list[Tensor] = []

    def cut(_module: Any, _args: Any, output: Any) -> Any:
        leaf = output[0].detach().requires_grad_()
        found.append(leaf)
        if isinstance(output, tuple):
            return (leaf, *output[1:])
        output["last_hidden_state"] = leaf
        return output

    handle = model.get_decoder().register_forward_hook(cut)
    try:
        yield found
    finally:
        handle.remove()


def _gradient(value: Tensor, states: list[Tensor]) -> Tensor | None:
    """What reaches the hidden states, of all passes that the loss made; None for nothing."""
    if not value.requires_grad or not states:
        return None
    parts = torch.autograd.grad(value, states, allow_unused=True)
    reached = [part for part in parts if part is not None]
    return sum(reached[1:], start=reached[0]) if reached else None


def _of_logits(
    objective: Objective,
    reduction: Reduction,
    logits: Tensor,
    labels: Tensor,
    complete: Callable[[TokenStats], TokenStats],
) -> Tensor:
    """The objective's gradient in the logits `[B, T, V]` in closed form."""
    stats = complete(token_stats(logits.detach(), labels, needs=("entropy", "log_probs")))
    terms = torch.zeros_like(stats.logp, requires_grad=True)
    (share,) = torch.autograd.grad(reduction(terms, stats.mask), terms)
    moved = -objective.field(stats) * share.unsqueeze(-1)
    return torch.cat([moved, torch.zeros_like(moved[:, :1])], 1).to(logits.dtype)


def _distance(found: Tensor | None, expected: Tensor) -> float:
    """|found - expected| / |expected|; infinite where there is nothing to compare.

    Gradients that underflow (a product of a hundred probabilities) have no digits to agree in.
    """
    if found is None or found.shape != expected.shape:
        return float("inf")
    kind = torch.finfo(expected.dtype)
    least = 8 * kind.tiny * (kind.eps * expected.numel()) ** 0.5
    gap = (found.double() - expected.double()).norm()
    return float((gap / expected.double().norm().clamp_min(least)).nan_to_num(nan=torch.inf))


def _named(
    found: Tensor | None,
    expected: Tensor,
    objective: Objective,
    reduction: Reduction,
    of: Callable[[forms.Form], Tensor],
    tolerance: float,
) -> str:
    """What the loss is instead: a known wrong form, a multiple, or none of them."""
    if found is None:
        return "no gradient reaches the hidden states"
    if found.shape != expected.shape:
        return f"its states are {list(found.shape)} and those of the batch {list(expected.shape)}"
    if not bool(found.isfinite().all()):
        return "its gradient is not finite"
    times = float(found.double().norm() / expected.double().norm().clamp_min(1e-300))
    if set(objective.needs) <= set(OWN):
        for form in forms.forms(objective, reduction):
            if len(form.faults) == 1 and _distance(found, of(form)) <= tolerance:
                return form.faults[0]
            if len(form.faults) > 1:
                break
    if _distance(found, times * expected) <= tolerance:
        return f"scaled by {times:.4g}"
    return "its gradient is none of the known forms"
