"""Somebody else's loss against an Objective: whether it computes what it claims to.

Most checks compare the loss with itself on two batches that must be treated alike, so one fault
does not fail them all. A relation that the claim itself does not have (a mean of micro-batch means
is not invariant to accumulation) is not applicable.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dft_theory.objectives import (
    MicrobatchTokenMean,
    Objective,
    Reduction,
    SequenceMean,
    SumOver,
    TokenMean,
)
from dft_theory.testing import batch_checks, call_checks, cases, forms, number_checks
from dft_theory.testing.calls import CallError, recognised
from dft_theory.testing.probe import Probe
from dft_theory.testing.report import Finding, Report, name_of, no, unique

CHECKS = (*number_checks.CHECKS, *batch_checks.CHECKS, *call_checks.CHECKS)

# Where the gradient is wrong and no known form has it.
ANOTHER = "a different objective: x-ray it"

# Faults that may come with any form of the gradient.
SEPARATE = {
    "extreme-logits",
    "float32",
    "bfloat16",
    "all-masked",
    "impossible-target",
    "determinism",
    "mutation",
    "random-state",
}

# Reductions by name. A function sees one micro-batch at a time, so the mean of each micro-batch
# is, to it, the mean of everything it is given.
REDUCTIONS: dict[str, Reduction] = {
    "token-mean": TokenMean(),
    "sequence-mean": SequenceMean(),
    "microbatch-token-mean": MicrobatchTokenMean(size=2**31),
    "sum": SumOver(),
}


def check_loss_function(
    fn: Callable[..., Any], *, claims_to_be: Objective, reduction: Reduction | None = None
) -> Report:
    """Whether `fn(logits, labels, num_items_in_batch)` is the objective under the reduction.

    Called positionally: logits `[B, T, V]` or an object that has them as `.logits`; labels
    `[B, T]` unshifted with -100; the global token count or None. A loss that wants labels shifted
    by the caller is adapted by `caller_shifts`. The default reduction is `TokenMean()`.

    Raises: ValueError where the claim needs statistics that such a function is not given.
    """
    outside = sorted(set(claims_to_be.needs) - {"targets", "entropy", "log_probs"})
    if outside or claims_to_be.level == "group":
        needed = ", ".join(outside) or "a group of responses"
        raise ValueError(
            f"{claims_to_be.name} needs {needed}, which f(logits, labels, N) is not given: "
            "check the objective itself with check_objective"
        )
    start, chosen = time.perf_counter(), TokenMean() if reduction is None else reduction
    subject, claim = _subject(fn), f"{claims_to_be.name}, {_name(chosen)}"
    with torch.random.fork_rng(devices=[]):  # whatever the loss draws, its caller keeps the state
        try:
            loss = recognised(fn)
        except CallError as error:
            return Report(subject=subject, claim=claim, findings=(), failure=str(error))
        probe = Probe(loss, claims_to_be, chosen)
        findings = tuple(_run(check, probe) for check in CHECKS)
        diagnosis = _diagnosed(probe, findings)
    return Report(
        subject=subject,
        claim=claim,
        called=f"{loss.form.text}, {str(loss.dtype).removeprefix('torch.')}",
        findings=findings,
        diagnosis=diagnosis,
        seconds=time.perf_counter() - start,
    )


def _run(check: Callable[[Probe], Finding], probe: Probe) -> Finding:
    try:
        found = check(probe)
    except CallError as error:
        found = no(str(error))
    return replace(found, check=name_of(check))


def _diagnosed(probe: Probe, findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """What is wrong, by name.

    First the known form whose gradient this loss has. It explains the checks of its gradient;
    where there is none, it is another objective, and their own names follow. Where two calls
    differ, so do both sides of every other check, and their names mean nothing.
    """
    if all(f.status != "NO" for f in findings):
        return ()
    if any(f.check == "determinism" and f.diagnosis for f in findings):
        own = [name_of(check) for check in call_checks.CHECKS]
        return unique(f.diagnosis for f in findings if f.check in own)
    try:
        faults = _recognised_form(probe)
    except CallError:
        faults = None
    named = unique(f.diagnosis for f in findings if not faults or f.check in SEPARATE)
    if faults is not None:
        if "missing detach" in faults:  # of which NaN at an impossible target is a consequence
            named = unique(n for n in named if n != number_checks.IMPOSSIBLE)
        return unique((*faults, *named))
    if any(f.check == "gradient" and f.status == "NO" for f in findings):
        return unique((ANOTHER, *named))
    return named or ("its gradient is none of the known forms",)


def _recognised_form(probe: Probe) -> tuple[str, ...] | None:
    ragged = cases.ragged()
    labels = ragged.labels.clone()
    labels[:, 0] = torch.tensor([1, 2, 3, 4])
    whole = replace(ragged, name="first labels valid", labels=labels)
    chosen = (cases.one_token(), ragged, ragged.with_count(40), whole, whole.with_count(40))
    return forms.diagnose(
        lambda c: probe.loss(c).gradient, probe.objective, probe.reduction, chosen, _alike
    )


def _alike(found: Tensor, expected: Tensor) -> bool:
    scale = max(float(expected.abs().max()), 1e-30)
    return float((found.double() - expected).abs().max()) <= 2e-4 * scale


def _name(reduction: Reduction) -> str:
    """The reduction's name where it has one."""
    return next((name for name, known in REDUCTIONS.items() if known == reduction), str(reduction))


def _subject(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__qualname__", type(fn).__name__)
    return f"{getattr(fn, '__module__', '?')}:{name}"
