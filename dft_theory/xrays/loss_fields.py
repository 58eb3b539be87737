"""Any loss on logits and labels as a vector field: the direction in which it moves the logits."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.objectives import Objective, SumOver
from dft_theory.seeding import generator
from dft_theory.specs import named
from dft_theory.testing.calls import CallError, recognised, trouble
from dft_theory.testing.cases import Case

# What an objective may ask for, and what stands in for it.
NEEDS = ("entropy", "log_probs", "ref_logp", "ref_log_probs", "old_logp")
GIVEN = {
    "ref_logp": "a reference near the policy",
    "ref_log_probs": "a reference near the policy",
    "old_logp": "an earlier policy, nearer",
    "advantage": "advantages 1 and -0.5 by turns",
    "sampled": "two samples, the target and another token",
}


@dataclass(frozen=True)
class LossField:
    """The field -d loss / d logits, for a loss whose slope is `slope(logits, labels, near)`.

    References of an objective are frozen near the logits `near`, so that they stay where they are
    when the logits move.
    """

    name: str
    slope: Callable[[Tensor, Tensor, Tensor], Tensor]
    given: str = ""
    is_objective: bool = False

    def __call__(self, logits: Tensor, labels: Tensor, near: Tensor | None = None) -> Tensor:
        """The field `[B, T, V]` in float64 at logits `[B, T, V]` and unshifted labels `[B, T]`.

        Raises: ValueError where the loss fails, is no finite scalar, or has no gradient.
        """
        try:
            slope = self.slope(logits, labels, logits if near is None else near)
        except CallError as error:
            shapes = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
            raise ValueError(f"{self.name} fails on {shapes}: {error}") from error
        if not bool(slope.isfinite().all()):
            raise ValueError(f"the gradient of {self.name} is not finite, at moderate logits")
        return -slope.double()


def loss_field(f: Objective | str | Callable[..., object]) -> LossField:
    """The field of an objective, by itself or by name, or of a loss, by itself or `module:name`.

    A loss takes its arguments as in `check_loss_function`; where it fails without the number of
    targets it is given that.

    Raises: ValueError for what cannot be called so, SpecError.
    """
    name = f if isinstance(f, str) else getattr(f, "__qualname__", type(f).__name__)
    found = named(f) if isinstance(f, str) else f
    if isinstance(found, Objective):
        given = dict.fromkeys(GIVEN[need] for need in found.needs if need in GIVEN)
        if found.level == "group":
            raise ValueError(
                f"{found.name} compares responses that stand together: no token has a weight alone"
            )
        return LossField(found.name, _of_objective(found), ", ".join(given), is_objective=True)
    if not callable(found):
        raise ValueError(f"{name} is of type {type(found).__name__}, no objective and no loss")
    try:
        return LossField(name, _of_loss(found))
    except CallError as error:
        raise ValueError(f"{name} cannot be X-rayed: {error}") from error


def _of_loss(found: Callable[..., object]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    logits = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(1, 3, 8)
    one = Case(name="one", logits=logits, labels=torch.tensor([[IGNORE_INDEX, 2, IGNORE_INDEX]]))
    loss = recognised(found, one)
    needs_count = bool(trouble(loss, None, one))

    def slope(logits: Tensor, labels: Tensor, _near: Tensor) -> Tensor:
        case = Case(name="", logits=logits, labels=labels)
        return loss(case.with_count(case.targets if needs_count else None)).gradient

    return slope


def _of_objective(objective: Objective) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def slope(logits: Tensor, labels: Tensor, near: Tensor) -> Tensor:
        z = logits.clone().requires_grad_(True)
        loss = objective.surrogate(given_stats(z, labels, near), reduction=SumOver())
        return torch.autograd.grad(loss, z)[0]

    return slope


def given_stats(logits: Tensor, labels: Tensor, near: Tensor) -> TokenStats:
    """Everything an objective may need, with references frozen near the logits `near`."""
    stats = token_stats(
        logits,
        labels,
        needs=NEEDS,
        ref_logits=_reference(near, labels, 0.5),
        old_logits=_reference(near, labels, 0.2),
    )
    assert stats.targets is not None
    rows = torch.arange(labels.shape[0]).unsqueeze(-1)
    advantage = torch.where(rows % 2 == 0, 1.0, -0.5).expand_as(stats.logp).to(stats.logp)
    other = (stats.targets + 1) % logits.shape[-1]
    sampled = torch.stack([stats.targets, other], -1)
    return replace(stats, advantage=advantage, sampled=sampled)


def _reference(near: Tensor, labels: Tensor, size: float) -> Tensor:
    """Logits whose target is less likely by a factor that p alone decides, with other rivals.

    So what depends on p and on the reference's probability of the target is still seen as a
    function of p, and what depends on the reference's other probabilities is not.
    """
    ids = labels.roll(-1, -1).clamp_min(0).unsqueeze(-1)
    target = torch.zeros_like(near, dtype=torch.bool).scatter(-1, ids, value=True)
    vocab = near.shape[-1]
    draw = torch.randn(vocab, dtype=near.dtype, generator=generator(0, "reference", vocab))
    noise = draw[(torch.arange(vocab) - ids) % vocab]  # the same whichever token the target is
    rivals = near.masked_fill(target, -torch.inf)
    moved = rivals + size * noise
    moved = moved - moved.logsumexp(-1, keepdim=True) + rivals.logsumexp(-1, keepdim=True)
    return torch.where(target, near - size, moved)
