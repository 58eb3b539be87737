"""An Objective against its own declarations, and the same as parametrised tests."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dft_theory.objectives import Objective
from dft_theory.testing import declaration_checks as declared
from dft_theory.testing import gradient_checks as gradient
from dft_theory.testing.report import Finding, Report, name_of, no, not_applicable

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Check:
    """One promise of an objective. `unless(objective)` says why it was not made, if it was not."""

    run: Callable[[Objective], Finding]
    unless: Callable[[Objective], str] = lambda _: ""

    @property
    def name(self) -> str:
        """As in reports and test ids."""
        return name_of(self.run)

    def find(self, objective: Objective) -> Finding:
        """The finding; an exception inside the objective is a deviation."""
        reason = self.unless(objective)
        try:
            found = not_applicable(reason) if reason else self.run(objective)
        except Exception as error:
            found = no(f"it raises {type(error).__name__}: {error}")
        return replace(found, check=self.name)

    def __call__(self, objective: Objective) -> None:
        """Raises: AssertionError with the sentence and its fix where the promise is broken."""
        found = self.find(objective)
        if found.status == "NO":
            raise AssertionError(f"{objective.name}: {found}")


def _group(o: Objective) -> str:
    return "a group is compared in the order given" if o.level == "group" else ""


def _without(attribute: str, sentence: str) -> Callable[[Objective], str]:
    return lambda o: "" if getattr(o, attribute) else sentence


def _not_a_token(o: Objective) -> str:
    return "" if o.level == "token" else f"at the level {o.level} no single token has a field"


def _no_optimum(o: Objective) -> str:
    if o.optimum is None:
        return "no optimum is declared"
    return f"the level {o.level} has no single prompt" if o.level in ("batch", "group") else ""


CHECKS: tuple[Check, ...] = (
    Check(gradient.weight_shape),
    Check(gradient.surrogate_is_field),
    Check(gradient.weight_is_constant),
    Check(gradient.finite_weight),
    Check(gradient.masked_tokens),
    Check(gradient.zero_weight_tokens),
    Check(gradient.float32),
    Check(gradient.determinism),
    Check(declared.source, _without("cite", "it cites nothing")),
    Check(declared.potential, _without("potential", "no potential is declared")),
    Check(declared.symmetric_jacobian, _not_a_token),
    Check(declared.limits, _without("limits", "no limit is declared")),
    Check(declared.optimum, _no_optimum),
    Check(declared.needs_suffice),
    Check(declared.needs_are_asked_for, _without("needs", "it needs nothing")),
    Check(declared.needs_are_used, _without("needs", "it needs nothing")),
    Check(declared.row_order, _group),
    Check(declared.level),
)


def check_objective(objective: Objective) -> Report:
    """Everything that an Objective promises, on random states of a model and its reference."""
    start = time.perf_counter()
    findings = tuple(check.find(objective) for check in CHECKS)
    return Report(
        subject=objective.name,
        claim="declared",
        findings=findings,
        seconds=time.perf_counter() - start,
    )


def parametrize_with_checks(chosen: Sequence[Objective]) -> "pytest.MarkDecorator":
    """Decorator for a test of `(objective, check)` that calls `check(objective)`.

    One test for every objective and every promise it makes, with ids like `dft-potential`.
    Needs the extra `testing` (pytest).
    """
    import pytest

    pairs = [(o, check) for o in chosen for check in CHECKS if not check.unless(o)]
    ids = [f"{o.name}-{check.name}" for o, check in pairs]
    return pytest.mark.parametrize(("objective", "check"), pairs, ids=ids)
