"""Any loss on logits and labels as a vector field: the direction in which it moves the logits."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.objectives import Objective, SumOver, objectives
from dft_theory.seeding import generator
from dft_theory.specs import load

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
    """The field -d loss / d logits of a loss called `loss(logits, labels, near)`.

    References of an objective are frozen near the logits `near`, so that they stay where they are
    when the logits move.
    """

    name: str
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    dtype: torch.dtype = torch.float64
    given: str = ""
    is_objective: bool = False

    def __call__(self, logits: Tensor, labels: Tensor, near: Tensor | None = None) -> Tensor:
        """The field `[B, T, V]` in float64 at logits `[B, T, V]` and unshifted labels `[B, T]`.

        Raises: ValueError where the loss fails, is no finite scalar, or has no gradient.
        """
        leaf = logits.detach().to(self.dtype, copy=True).requires_grad_(True)
        try:
            # A clone, because some losses write into the logits they are given.
            loss = self.loss(leaf.clone(), labels.clone(), logits if near is None else near)
            slope = _slope(loss, leaf)
        except Exception as error:
            if isinstance(error, _NoSlopeError):
                raise ValueError(f"{self.name} {error}") from None
            kind = type(error).__name__
            shapes = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
            raise ValueError(f"{self.name} raised {kind} on {shapes}: {error}") from error
        if not bool(slope.isfinite().all()):
            raise ValueError(f"the gradient of {self.name} is not finite, at moderate logits")
        return -slope.double()


class _NoSlopeError(ValueError):
    """A value that cannot be differentiated in the logits, and why."""


def _slope(loss: object, leaf: Tensor) -> Tensor:
    """The gradient of a scalar loss in the leaf. Raises: _NoSlopeError."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise _NoSlopeError(f"returns {found}, not a scalar tensor: reduce over the tokens")
    if not loss.requires_grad:
        raise _NoSlopeError("has no gradient in the logits: everything is detached")
    (slope,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    if slope is None:
        raise _NoSlopeError("has no gradient in the logits: it does not read them")
    found_slope: Tensor = slope
    return found_slope


def loss_field(f: Objective | str | Callable[..., object]) -> LossField:
    """The field of an objective, by itself or by name, or of a loss, by itself or `module:name`.

    A loss is called with logits and labels by position, and with the number of targets where it
    has a third parameter that is required or named num_items_in_batch. It is called in float64,
    or in float32 where it refuses that.

    Raises: ValueError for what cannot be called so, UnknownNameError, SpecError.
    """
    name = f if isinstance(f, str) else getattr(f, "__qualname__", type(f).__name__)
    found = f if not isinstance(f, str) else load(f) if ":" in f else objectives[f]
    if isinstance(found, Objective):
        given = dict.fromkeys(GIVEN[need] for need in found.needs if need in GIVEN)
        if found.level == "group":
            raise ValueError(
                f"{found.name} compares responses that stand together: no token has a weight alone"
            )
        return LossField(found.name, _surrogate(found), given=", ".join(given), is_objective=True)
    if not callable(found):
        raise ValueError(f"{name} is a {type(found).__name__}, not an objective or a function")
    field = LossField(name, _counted(name, found))
    try:
        field(*_trial())
    except ValueError as error:
        if not isinstance(error.__cause__, Exception):
            raise
        narrow = replace(field, dtype=torch.float32)
        try:
            narrow(*_trial())
        except ValueError:
            raise error from error.__cause__
        return narrow
    return field


def _trial() -> tuple[Tensor, Tensor]:
    logits = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(1, 3, 8)
    return logits, torch.tensor([[IGNORE_INDEX, 2, IGNORE_INDEX]])


def _counted(name: str, loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss with the number of targets as a third argument, if it takes one."""
    inner = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        found = list(inspect.signature(inner).parameters.values())
    except (TypeError, ValueError):  # a builtin that hides its signature
        found = []
    named = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    missing = [p.name for p in named[3:] if p.default is p.empty]
    missing += [p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if missing:
        raise ValueError(
            f"{name} needs {', '.join(missing)} besides logits, labels and the number of targets: "
            "wrap it in a function that supplies them"
        )
    third = named[2] if len(named) > 2 else None
    counted = third and (third.default is third.empty or third.name == "num_items_in_batch")

    def called(logits: Tensor, labels: Tensor, _near: Tensor) -> Tensor:
        targets = int((labels[:, 1:] != IGNORE_INDEX).sum())
        return loss(logits, labels, targets) if counted else loss(logits, labels)

    return called


def _surrogate(objective: Objective) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda logits, labels, near: objective.surrogate(
        given_stats(logits, labels, near), reduction=SumOver()
    )


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
