"""Logits and labels to target log-probabilities: the one label shift, the one mask, the one upcast.

Everything that trains, proves, checks or plots an objective in this package reads its
log-probabilities from here, so an error in the shift or in the mask cannot hide in a second path.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100


@dataclass(frozen=True, kw_only=True)
class TokenStats:
    """What an objective may know of each target token.

    Shapes: `logp` and every optional per-token statistic `[B, T]`; `log_probs`, `ref_log_probs`
    `[B, T, V]`; `sampled` `[B, T, K]` token ids; `mask` `[B, T]` bool. `logp` is in nats, float32
    or wider, exactly 0 where `mask` is False, and carries the gradient.

    `targets` are the target token ids (0 where masked), `entropy` that of pi(.|s_t) in nats,
    `log_probs` the whole of log pi(.|s_t). `ref_*` belong to a frozen reference, usually the model
    before training; `old_logp` to the policy of an earlier moment: the last outer step, a moving
    average, or the end of SFT. `advantage` is a coefficient of each target token given from
    outside: a reward, a group-normalised advantage, a mask of critical tokens. `sampled` are
    next tokens drawn from pi(.|s_t).
    """

    logp: Tensor
    mask: Tensor
    targets: Tensor | None = None
    entropy: Tensor | None = None
    log_probs: Tensor | None = None
    ref_logp: Tensor | None = None
    ref_log_probs: Tensor | None = None
    old_logp: Tensor | None = None
    advantage: Tensor | None = None
    sampled: Tensor | None = None

    def detach(self) -> Self:
        """The stop-gradient sg(.): the same numbers, constant for the optimiser."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.detach() for k, v in held.items() if v is not None})

    def sequence_logp(self) -> Tensor:
        """Log pi(y|x) of each response in nats, `[B, 1]`: the sum over its target tokens."""
        return self.logp.sum(-1, keepdim=True)

    def lengths(self) -> Tensor:
        """Number of target tokens of each response, `[B, 1]`, in the dtype of `logp`."""
        return self.mask.sum(-1, keepdim=True).to(self.logp.dtype)


def align(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The one label shift: position t of the logits predicts token t + 1 of the labels.

    Shapes: logits `[B, T, V]`, labels `[B, T]` unshifted (as Hugging Face models take them);
    returns `[B, T-1, V]` and `[B, T-1]`.
    """
    return logits[..., :-1, :], labels[..., 1:]


def upcast(logits: Tensor) -> Tensor:
    """The one upcast: float16 and bfloat16 logits become float32; wider ones stay as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def finite(logp: Tensor) -> Tensor:
    """Log p with -1e30 in place of -inf: p is still 0, and 0 log 0 is 0 instead of NaN."""
    return logp.clamp_min(-1e30)


def token_stats(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    needs: Collection[str] = (),
    ref_logits: Tensor | None = None,
    old_logits: Tensor | None = None,
) -> TokenStats:
    """Statistics of the target tokens of a causal language model's output.

    Shapes: logits `[B, T, V]`, labels `[B, T]` unshifted, `ignore_index` where there is no
    target; the returned statistics are `[B, T-1]`. `needs` may name `entropy` and `log_probs`,
    with `ref_logits` `[B, T, V]` also `ref_logp` and `ref_log_probs`, with `old_logits` also
    `old_logp`; `targets` are always there. What only the caller can know (`advantage`,
    `sampled`) is added with `dataclasses.replace`.

    A target whose logit is -inf has logp = -inf and probability 0. Masked rows are replaced
    before the softmax, so whatever stands there (NaN, inf) reaches neither value nor gradient.

    Raises: ValueError for shapes that do not fit, labels outside [0, V), logits at a target that
    hold NaN or +inf or are all -inf, or a need that cannot be computed; TypeError for logits that
    are not floating point.
    """
    aligned = {}
    given = (("logits", logits), ("ref_logits", ref_logits), ("old_logits", old_logits))
    for name, each in given:
        if each is not None:
            _check(each, labels, ignore_index, name)
            aligned[name], targets = align(each, labels)
    return target_stats(**aligned, targets=targets, ignore_index=ignore_index, needs=needs)


def target_stats(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    needs: Collection[str] = (),
    ref_logits: Tensor | None = None,
    old_logits: Tensor | None = None,
) -> TokenStats:
    """As `token_stats`, for logits `[B, T, V]` that already stand at their targets `[B, T]`."""
    _check(logits, targets, ignore_index)
    stats = _stats(logits, targets, ignore_index, needs)
    return _with_references(stats, needs, ref_logits, old_logits, targets, ignore_index)


_COMPUTED = {"targets", "entropy", "log_probs"}
_UNDEFINED = (
    "hold NaN or +inf: the log-probability is not defined. Look at the forward pass (overflow in "
    "half precision is the usual cause); -inf is allowed and means probability 0."
)
_EMPTY = (
    "are all -inf: no token is possible, so there is no distribution. Look at what masks the "
    "vocabulary: it must leave at least one token."
)


def _stats(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int,
    needs: Collection[str],
    name: str = "logits",
) -> TokenStats:
    mask = targets != ignore_index
    rows = upcast(logits).masked_fill(~mask.unsqueeze(-1), 0.0)
    log_probs = F.log_softmax(rows, dim=-1)
    held = targets.masked_fill(~mask, 0).long()
    logp = log_probs.gather(-1, held.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, 0.0)
    if bool(torch.isnan(logp.detach()).any()):
        b, t = torch.isnan(logp.detach()).nonzero()[0].tolist()
        empty = bool(rows[b, t].isneginf().all())
        raise ValueError(
            f"the {name} of target token {t} of sequence {b} {_EMPTY if empty else _UNDEFINED}"
        )
    entropy = None
    if "entropy" in needs:
        entropy = -(log_probs.exp() * finite(log_probs)).sum(-1)
    return TokenStats(
        logp=logp,
        mask=mask,
        targets=held,
        entropy=entropy,
        log_probs=log_probs if "log_probs" in needs else None,
    )


def _with_references(
    stats: TokenStats,
    needs: Collection[str],
    ref_logits: Tensor | None,
    old_logits: Tensor | None,
    targets: Tensor,
    ignore_index: int,
) -> TokenStats:
    """`stats` with what frozen models say of the same targets."""
    missing = set(needs) - _COMPUTED
    for name, logits, names in (
        ("ref_logits", ref_logits, ("ref_logp", "ref_log_probs")),
        ("old_logits", old_logits, ("old_logp",)),
    ):
        if logits is not None and missing & set(names):
            _check(logits, targets, ignore_index, name)
            with torch.no_grad():
                frozen = _stats(logits, targets, ignore_index, ("log_probs",), name)
            values = (frozen.logp, frozen.log_probs)
            found: dict[str, Any] = dict(zip(names, values, strict=False))
            stats = replace(stats, **{n: found[n] for n in missing & set(names)})
            missing -= set(names)
    _refuse(missing)
    return stats


def _refuse(missing: Collection[str]) -> None:
    """Say how to provide statistics that logits and labels do not contain."""
    ways = {
        "ref_logp": "pass ref_logits=",
        "ref_log_probs": "pass ref_logits=",
        "old_logp": "pass old_logits=",
        "advantage": "add it with dataclasses.replace(stats, advantage=...)",
        "sampled": "add it with dataclasses.replace(stats, sampled=...)",
    }
    for name in sorted(missing):
        known = ", ".join(sorted(_COMPUTED | set(ways)))
        raise ValueError(
            f"logits and labels do not contain {name}: {ways.get(name, f'known are {known}')}"
        )


def _check(logits: Tensor, labels: Tensor, ignore_index: int, name: str = "logits") -> None:
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {logits.dtype}")
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"expected {name} [B, T, V] and labels [B, T], got "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )
    if labels.is_floating_point():
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    vocab = logits.shape[-1]
    bad = (labels != ignore_index) & ((labels < 0) | (labels >= vocab))
    if bool(bad.any()):
        b, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"label {int(labels[b, t])} at sequence {b}, position {t} is outside [0, {vocab}): "
            f"the vocabulary has {vocab} entries and ignore_index is {ignore_index}. "
            "A tokenizer that does not belong to the model is the usual cause."
        )
