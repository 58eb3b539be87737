"""Checks of a loss as a function: same answer twice, inputs and random state left alone."""

from collections.abc import Callable

import torch

from dft_theory.testing import cases
from dft_theory.testing.calls import Answer, identical
from dft_theory.testing.probe import Probe
from dft_theory.testing.report import Finding, no, not_applicable, ok


def determinism(p: Probe) -> Finding:
    """Two calls agree in every bit."""
    case = cases.ragged()
    first, second = p.loss(case), p.loss(case)
    if not _same_bits(first, second):
        return no("two calls on one batch differ", case=case, diagnosis="not deterministic")
    return ok("two calls agree in every bit")


def mutation(p: Probe) -> Finding:
    """Neither logits nor labels are altered, by the call or by backward."""
    for case in (cases.one_token(), cases.ragged()):
        changed = p.loss(case).changed
        if changed:
            return no(
                f"it alters its {' and '.join(changed)} in place: work on a copy",
                case=case,
                diagnosis="mutates its inputs",
            )
    return ok("logits and labels are left as they were")


def random_state(p: Probe) -> Finding:
    """The global random state is neither read nor advanced."""
    case = cases.ragged()
    answers = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            before = torch.get_rng_state()
            answers.append(p.loss(case))
            moved = not torch.equal(before, torch.get_rng_state())
        if moved:
            return no(
                "it draws from the global random state: pass a generator",
                case=case,
                diagnosis="uses the global random state",
            )
    first, again, other = answers
    if not _same_bits(first, again):
        return not_applicable("two calls under one seed differ: see `determinism`")
    if not _same_bits(first, other):
        return no(
            "its result depends on the global seed", case=case, diagnosis="depends on the seed"
        )
    return ok("no draw from the global random state")


def _same_bits(a: Answer, b: Answer) -> bool:
    return identical(a.value, b.value) and identical(a.gradient, b.gradient)


CHECKS: tuple[Callable[[Probe], Finding], ...] = (
    determinism,
    mutation,
    random_state,
)
