"""Checks of a loss on the shape of a batch: which tokens count, where, and among how many."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.testing import cases
from dft_theory.testing.calls import Answer, CallError, LossFunction
from dft_theory.testing.cases import Case
from dft_theory.testing.probe import Probe, unequal
from dft_theory.testing.report import Finding, no, not_applicable, ok


def label_shift(p: Probe) -> Finding:
    """Position t of the logits is trained on label t + 1."""
    case = cases.single_targets()
    found, want = (_rows(a.gradient) for a in (p.loss(case), p.expected(case)))
    if not want:
        return not_applicable("the objective gives these targets no weight")
    if found == want:
        return ok("logits at t are trained on the label at t + 1")
    offsets = {
        1: ("labels not shifted", "it reads logits[t] at labels[t]: the caller must shift"),
        -1: ("labels shifted twice", "it reads logits[t] at labels[t + 2]: shift once"),
    }
    for step, (name, message) in offsets.items():
        if found <= {(b, t + step) for b, t in want} and found:
            return no(message, case=case, diagnosis=name)
    return no(
        f"gradient reaches rows {sorted(found)} of the logits, expected {sorted(want)}", case=case
    )


def wrap_around(p: Probe) -> Finding:
    """The first label of a row is nobody's target, even where it is valid, as in pretraining."""
    for base in (cases.one_token(), cases.ragged()):
        labels = base.labels.clone()
        labels[:, 0] = 1
        for count in (None, 40):
            plain = base.with_count(count)
            case = replace(plain, name=f"{base.name}, first labels valid", labels=labels)
            found, want = p.loss(case), p.loss(plain)
            if max(p.gap(found, want, plain)) <= 1:
                continue
            if bool((found.gradient[:, -1] != 0).any()):
                return no(
                    "the first label of a row becomes the target of its last position: "
                    "torch.roll wraps around; set the last label to -100 after rolling, or slice",
                    case=case,
                    diagnosis="label roll wraps",
                )
            return no(
                "a valid first label changes the result, although nothing predicts it: "
                "count labels[:, 1:], not labels",
                case=case,
                diagnosis="counts the first label",
            )
    return ok("a valid first label changes nothing")


def ignore_index(p: Probe) -> Finding:
    """Tokens labelled -100 are no targets, whatever the model says of them."""
    case = cases.ragged()
    masked = case.labels[:, 1:] == IGNORE_INDEX
    moved = case.logits.clone()
    moved[:, :-1][masked] = moved[:, :-1][masked].flip(-1) * 3
    other = replace(case, logits=moved)
    bad = unequal(p, case, other, lambda g: g)
    if bad == "claim":
        return not_applicable("the claim itself reads masked positions")
    if bad:
        return no(
            "the logits of masked positions change the result: a label of -100 must be dropped, "
            "not clamped to a token",
            case=case,
            diagnosis="trains on masked tokens",
        )
    return ok("what stands at a label of -100 changes nothing")


def other_ignore_index(p: Probe) -> Finding:
    """Where the loss takes an ignore_index, another value of it works as well as -100."""
    try:
        takes = "ignore_index" in inspect.signature(p.loss.fn).parameters
    except ValueError:
        takes = False
    if not takes:
        return not_applicable("it has no parameter ignore_index: -100 is fixed")
    case = cases.ragged()
    labels = case.labels.masked_fill(case.labels == IGNORE_INDEX, -1)
    found = p.loss(replace(case, labels=labels), ignore_index=-1)
    if max(p.gap(found, p.loss(case), case)) > 1:
        return no("ignore_index=-1 is accepted and not obeyed: -100 is fixed inside", case=case)
    return ok("ignore_index=-1 does what -100 does")


def masked_rows(p: Probe) -> Finding:
    """No gradient reaches the logits of positions that predict nothing."""
    case = cases.ragged()
    keep = torch.zeros(case.labels.shape, dtype=torch.bool)
    keep[:, :-1] = case.labels[:, 1:] != IGNORE_INDEX
    found = _rows(p.loss(case).gradient)
    extra = sorted(found - {(b, t) for b, t in keep.nonzero().tolist()})
    if extra:
        return no(
            f"logits rows {extra} get a gradient although their next label is -100 or does not "
            "exist: mask before the sum",
            case=case,
        )
    return ok("positions without a target get exactly no gradient")


def padding(p: Probe) -> Finding:
    """Padded columns, left or right, change nothing."""
    case = cases.ragged()
    width = 3
    pad = torch.full((case.labels.shape[0], width), IGNORE_INDEX)
    noise = case.logits[:, :width] * 2 + 1
    right = replace(
        case,
        logits=torch.cat([case.logits, noise], 1),
        labels=torch.cat([case.labels, pad], 1),
    )
    left = replace(
        case, logits=torch.cat([noise, case.logits], 1), labels=torch.cat([pad, case.labels], 1)
    )
    sides: tuple[tuple[str, Case, Callable[[Tensor], Tensor]], ...] = (
        ("right", right, lambda g: g[:, :-width]),
        ("left", left, lambda g: g[:, width:]),
    )
    for side, padded, back in sides:
        bad = unequal(p, case, padded, back)
        if bad == "claim":
            return not_applicable("the declared reduction depends on the padded length")
        if bad:
            return no(
                f"{width} masked columns on the {side} change the {bad}: divide by the number of "
                "targets, not of positions",
                case=padded,
                diagnosis="counts masked tokens",
            )
    return ok("masked columns on either side change nothing")


def packing(p: Probe) -> Finding:
    """Two documents packed into one row, the second's first label masked, are two rows."""
    case = cases.documents()
    b, t, v = case.logits.shape
    packed = replace(
        case,
        name="two documents in one row",
        logits=case.logits.reshape(1, b * t, v),
        labels=case.labels.reshape(1, b * t),
    )
    bad = unequal(p, case, packed, lambda g: g.reshape(b, t, v))
    if bad == "claim":
        return not_applicable("the claim itself tells rows from documents")
    if bad:
        return no(
            f"packing changes the {bad}: a label of -100 inside a row ends a document, and "
            "nothing may reach across it",
            case=packed,
        )
    return ok("packed documents count as documents of their own")


def all_masked(p: Probe) -> Finding:
    """A batch without targets has value 0, gradient 0, and a graph that backward can walk."""
    with_count, without = (_trouble(p, n) for n in (40, None))
    if not with_count and not without:
        return ok("a batch without targets gives 0, and backward works")
    given = 40 if with_count else None
    where = "" if with_count else " where no N is given"
    return no(
        f"{with_count or without}{where}: a truncated batch would end or poison the run. Divide "
        "by max(count, 1) and sum over masked terms instead of selecting them",
        case=cases.nothing_to_learn().with_count(given),
        diagnosis=f"all-masked batch fails{where}",
    )


def _trouble(p: Probe, count: int | None) -> str:
    """What happens on a batch without targets, or nothing."""
    try:
        found = p.loss(cases.nothing_to_learn().with_count(count))
    except CallError as error:
        return str(error)
    if float(found.value) == 0 and not bool((found.gradient != 0).any()):
        return ""
    poisoned = " and the gradient NaN" if bool(found.gradient.isnan().any()) else ""
    return f"the value is {float(found.value):g}{poisoned}"


def permutation(p: Probe) -> Finding:
    """The order of the rows does not matter."""
    case = cases.ragged()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = replace(case, logits=case.logits[order], labels=case.labels[order])
    bad = unequal(p, case, shuffled, lambda g: g[order.argsort()])
    if bad == "claim":
        return not_applicable("the claim itself depends on the order of the rows")
    if bad:
        return no(f"the order of the rows changes the {bad}", case=case)
    return ok("rows in any order")


def accumulation(p: Probe) -> Finding:
    """Micro-batches, each told the global count, add up to the whole batch."""
    case = cases.ragged()
    whole = case.with_count(case.targets)

    def summed(loss: LossFunction) -> Answer:
        answers = [
            loss(replace(whole, logits=z, labels=y))
            for z, y in zip(whole.logits.split(1), whole.labels.split(1), strict=True)
        ]
        gradients = torch.cat([a.gradient for a in answers])
        return Answer(torch.stack([a.value for a in answers]).sum(), gradients)

    if max(p.gap(summed(p.claim), p.claim(whole), whole)) > 1:
        return not_applicable("under the declared reduction micro-batches do not add up")
    found, want = summed(p.loss), p.loss(whole)
    if max(p.gap(found, want, whole)) > 1:
        times = float(found.gradient.norm() / want.gradient.norm().clamp_min(1e-300))
        return no(
            f"4 micro-batches add up to {times:.3g} times the gradient of the whole batch: "
            "divide the sum over tokens by num_items_in_batch",
            case=whole,
            diagnosis="micro-batch mean",
        )
    return ok("micro-batches with the global count add up to the whole batch")


def global_count(p: Probe) -> Finding:
    """N, where given, is what the sum is divided by; None means the batch's own count."""
    case = cases.ragged()
    told = case.with_count(40)
    ratio = p.claim(told).gradient.norm() / p.claim(case).gradient.norm()
    own, given = p.loss(case), p.loss(told)
    scaled = Answer(own.value * ratio.to(own.value), own.gradient * ratio.to(own.gradient))
    if max(p.gap(given, scaled, told)) <= 1:
        return ok(f"N=40 multiplies the loss of {case.targets} targets by {float(ratio):.4g}")
    if max(p.gap(given, own, case)) <= 1:
        return no(
            "num_items_in_batch is ignored: with gradient accumulation every micro-batch weighs "
            "the same, whatever its length. Divide the sum by N where it is given",
            case=told,
            diagnosis="micro-batch mean",
        )
    return no(
        f"N=40 changes the gradient {float(given.gradient.norm() / own.gradient.norm()):.4g} "
        f"times, expected {float(ratio):.4g}",
        case=told,
    )


def _rows(g: Tensor) -> set[tuple[int, int]]:
    return {(b, t) for b, t in (g != 0).any(-1).nonzero().tolist()}


CHECKS: tuple[Callable[[Probe], Finding], ...] = (
    label_shift,
    wrap_around,
    ignore_index,
    other_ignore_index,
    masked_rows,
    padding,
    packing,
    all_masked,
    permutation,
    accumulation,
    global_count,
)
