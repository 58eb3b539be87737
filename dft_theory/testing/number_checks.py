"""Checks of a loss on its numbers: value, gradient, precision, and the edges of the logits."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX, token_stats
from dft_theory.testing import cases, forms
from dft_theory.testing.calls import Answer
from dft_theory.testing.probe import Probe, unequal, with_count
from dft_theory.testing.report import Finding, no, not_applicable, ok, remark

IMPOSSIBLE = "NaN at an impossible target"


def value(p: Probe) -> Finding:
    """The loss's value is the surrogate's, or the potential's."""
    for case in cases.ordinary():
        found = p.loss(case)
        surrogate, _ = p.gap(found, p.expected(case), case)
        if surrogate > 1:
            break
    else:
        return ok("the value is the surrogate's: -w log pi, reduced")
    if p.objective.potential is not None and _is_potential(p):
        return ok("the value is the potential's, up to a constant: a loss that may be read")
    want = float(p.expected(case).value)
    return no(
        f"the value is {float(found.value):.6g}, expected {want:.6g}: it would be logged and "
        "compared as something it is not",
        case=case,
    )


def gradient(p: Probe) -> Finding:
    """The gradient in the logits is the objective's closed form."""
    worst = 0.0
    for case in cases.ordinary():
        found, want = p.loss(case), p.expected(case)
        _, off = p.gap(found, want, case)
        worst = max(worst, off)
        if off > 1:
            b, t, v = _where(found.gradient, want.gradient)
            return no(
                f"dL/dlogits[{b},{t},{v}] is {float(found.gradient[b, t, v]):.6g}, expected "
                f"{float(want.gradient[b, t, v]):.6g}: the update is not the objective's",
                case=case,
            )
    return ok(f"the gradient is the objective's field (worst {worst:.2g} of tolerance)")


def stop_gradient(p: Probe) -> Finding:
    """The weight is detached: the gradient is not that of -w log pi differentiated whole."""
    without = forms.attached(p.objective)
    told, right = False, True
    for case in cases.ordinary():
        z = case.logits.clone().requires_grad_(True)
        t = token_stats(z, case.labels, needs=("entropy", "log_probs"))
        loss = without.potential_value(t, reduction=with_count(p.reduction, case.count))
        differentiated = Answer(loss.detach(), torch.autograd.grad(loss, z)[0])
        found, want = p.loss(case), p.expected(case)
        if p.gap(differentiated, want, case)[1] <= 100:
            continue  # a constant weight: nothing to detach
        told, same = True, p.gap(found, want, case)[1] <= 1
        right = right and same
        if not same and p.gap(found, differentiated, case)[1] <= 1:
            return no(
                "the weight is differentiated too: multiply by weight.detach(). The value is the "
                "same and the gradient is not, down to its sign on unlikely tokens",
                case=case,
                diagnosis="missing detach",
            )
    if not told:
        return not_applicable("the weight is locally constant: detached or not, nothing changes")
    if not right:
        return not_applicable("the gradient is neither of the two forms: see `gradient`")
    return ok("the weight is a constant to the optimiser")


def shift_invariance(p: Probe) -> Finding:
    """A constant added to the logits of a position changes nothing."""
    case = cases.ragged()
    constant = torch.linspace(-7, 9, case.labels.numel(), dtype=torch.float64)
    moved = replace(case, logits=case.logits + constant.reshape(*case.labels.shape, 1))
    bad = unequal(p, case, moved, lambda g: g)
    if bad == "claim":
        return not_applicable("the claim itself reads unnormalised logits")
    if bad:
        return no(
            f"a constant added to each row of logits changes the {bad}: weight from "
            "log-probabilities, not from logits",
            case=case,
        )
    return ok("only differences of logits matter")


def float64(p: Probe) -> Finding:
    """Float64 in, float64 out; computing in float32 is allowed, and worth knowing."""
    if p.loss.dtype != torch.float64:
        return remark("it does not accept float64: gradcheck is impossible against it")
    answer = p.loss(cases.ragged())
    # A float64 gradient whose every digit fits into float32 was computed there.
    narrow = torch.equal(answer.gradient.float().double(), answer.gradient)
    if narrow and bool((answer.gradient != 0).any()):
        return remark("it computes in float32 whatever it is given: gradcheck is impossible")
    return ok("float64 is kept")


def float32(p: Probe) -> Finding:
    """In float32 it loses no more than float32 must."""
    return _narrow(p, torch.float32, "computes below float32", "keep softmax and sum in float32")


def bfloat16(p: Probe) -> Finding:
    """Bfloat16 logits are widened before the softmax."""
    return _narrow(p, torch.bfloat16, "no upcast", "take logits.float() before the softmax")


def extreme_logits(p: Probe) -> Finding:
    """Logits of +-1e4 give finite numbers, and right ones if ordinary ones do."""
    case = cases.ragged()
    ordinary = p.gap(p.loss(case), p.claim(case), case)[1] <= 1
    for size in (300.0, 1e4):
        wide = replace(case, name=f"logits of +-{size:g}", logits=case.logits.sign() * size)
        found, want = p.loss(wide), p.claim(wide)
        if not bool(want.value.isfinite()):
            continue
        if not bool(found.value.isfinite() & found.gradient.isfinite().all()):
            return no("the result is not finite: use log_softmax or logsumexp", case=wide)
        if ordinary and p.gap(found, want, wide)[1] > 1:
            return no(
                "the gradient is right on ordinary logits and wrong on these: clamp no "
                "probability, use log_softmax",
                case=wide,
                diagnosis="wrong on extreme logits",
            )
    return ok("logits of +-1e4 stay finite")


def masked_vocabulary(p: Probe) -> Finding:
    """A logit of -inf off the target is a token of probability 0."""
    case = cases.ragged()
    blocked = case.logits.clone()
    blocked[..., -1] = -torch.inf
    labels = case.labels.masked_fill(case.labels == case.logits.shape[-1] - 1, 0)
    inside = replace(case, name="-inf off the target", logits=blocked, labels=labels)
    found, want = p.loss(inside), p.claim(inside)
    if not bool(want.value.isfinite() & want.gradient.isfinite().all()):
        return not_applicable("the claim itself is not finite there")
    if not bool(found.gradient.isfinite().all()) or not bool(found.value.isfinite()):
        return no("-inf for a token that is not the target gives NaN: 0 * log 0 is 0", case=inside)
    without = replace(inside, logits=blocked[..., :-1])
    bad = unequal(p, without, inside, lambda g: g[..., :-1])
    if bad and bad != "claim":
        return no(f"a token at -inf changes the {bad} of all others", case=inside)
    return ok("-inf off the target is a token that cannot occur")


def impossible_target(p: Probe) -> Finding:
    """A target of probability 0: the package defines 0 log 0 = 0; elsewhere its value is NaN."""
    case = cases.ragged()
    b, t = (case.labels[:, 1:] != IGNORE_INDEX).nonzero()[0].tolist()
    blocked = case.logits.clone()
    blocked[b, t, case.labels[b, t + 1]] = -torch.inf
    inside = replace(case, name="-inf at a target", logits=blocked)
    found, want = p.loss(inside), p.claim(inside)
    if not bool(want.gradient.isfinite().all()):
        return not_applicable("the claim itself is not finite there")
    if not bool(found.gradient.isfinite().all()):
        return no(
            "one impossible target makes the whole gradient NaN",
            case=inside,
            diagnosis=IMPOSSIBLE,
        )
    if bool(found.value.isnan()) and not bool(want.value.isnan()):
        return remark(
            "one impossible target makes the value NaN (0 * inf), the gradient stays finite: "
            "define 0 log 0 = 0 with torch.where",
            case=inside,
        )
    return ok("an impossible target leaves value and gradient as claimed")


def _narrow(p: Probe, dtype: torch.dtype, diagnosis: str, fix: str) -> Finding:
    """The loss in a narrow dtype against itself in its widest, on the same rounded logits."""
    exact = cases.confident()
    case = replace(exact, logits=exact.logits.to(dtype).double())
    found = replace(p.loss, dtype=dtype)(case)
    in_value, in_gradient = p.gap(found, p.loss(case), case)
    name = str(dtype).removeprefix("torch.")
    if max(in_value, in_gradient) > 1:
        what = "gradient" if in_gradient > 1 else "value"
        times = max(in_value, in_gradient)
        return no(
            f"in {name} the {what} is {times:.3g} times further off than rounding explains, on "
            f"confident tokens: {fix}",
            case=case,
            diagnosis=diagnosis,
        )
    return ok(f"{name} costs no more than its rounding ({max(in_value, in_gradient):.2g} of it)")


def _is_potential(p: Probe) -> bool:
    """Whether the value is the declared potential's plus one constant for every target token."""
    offsets = []
    for case in cases.ordinary():
        t = token_stats(case.logits, case.labels, needs=("entropy", "log_probs"))
        assert p.objective.potential is not None
        reduction = with_count(p.reduction, case.count)
        weight = reduction(t.mask.to(t.logp), t.mask)
        rest = p.loss(case).value.double() - p.objective.potential_value(t, reduction=reduction)
        offsets.append(float(rest / weight))
    return max(offsets) - min(offsets) <= 1e-5


def _where(found: Tensor, expected: Tensor) -> tuple[int, int, int]:
    worst = int((found.double() - expected).abs().nan_to_num(nan=torch.inf).argmax())
    b, t, v = (int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape))
    return b, t, v


CHECKS: tuple[Callable[[Probe], Finding], ...] = (
    value,
    gradient,
    stop_gradient,
    shift_invariance,
    float64,
    float32,
    bfloat16,
    extreme_logits,
    masked_vocabulary,
    impossible_target,
)
