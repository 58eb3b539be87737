"""The Claim: a named executable statement with two independent sides and mutants it must reject."""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dft_theory.claims.scope import Scope
from dft_theory.claims.tolerance import Estimate, Exact, Side, Tolerance, excess
from dft_theory.policies import Policy

Kind = Literal["identity", "inequality", "limit", "refutation"]
Standing = Literal[
    "holds exactly",
    "holds under the stated assumptions",
    "false as published",
    "known only second-hand",
]
# Cases are plain frozen dataclasses of different kinds; a claim names the kind that it reads.
Case = Any


@dataclass(frozen=True)
class Assumption:
    """What must hold, and what breaks without it. `holds(case)` selects the cases."""

    text: str
    without: str
    holds: Callable[[Case], bool] = lambda _: True


@dataclass(frozen=True)
class Mutant:
    """A wrong right-hand side (or left, with `of="lhs"`) that the claim must reject.

    `equivalent_when(case)` marks the cases in which the mutation changes nothing, and `why`.
    """

    name: str
    side: Callable[[Case], Side]
    of: Literal["rhs", "lhs"] = "rhs"
    equivalent_when: Callable[[Case], bool] = lambda _: False
    why: str = ""


@dataclass(frozen=True)
class Published:
    """The statement as published, false or loose: a mutant that somebody printed.

    `relation` is the published one; `side` is its right-hand side.
    """

    statement: str
    side: Callable[[Case], Side]
    cite: str
    lhs: Callable[[Case], Side] | None = None
    relation: Literal["=", "<="] = "="
    why: str = ""
    second_hand: bool = False  # known from reviews or notes only: check the source before citing


@dataclass(frozen=True, kw_only=True)
class Claim:
    r"""A statement lhs = rhs (or lhs <= rhs), checked on every case of its kind.

    `statement` is LaTeX. For a refutation it is the *corrected* statement, checked like any
    other, and `published` must be violated by at least one case, the counterexample.
    `lhs` and `rhs` must take independent routes to their values. `scale(case)` gives the size of
    what cancels where both sides are near 0.
    """

    name: str
    title: str
    kind: Kind
    statement: str
    note: str
    cites: tuple[str, ...]
    cases: Callable[[Scope], Sequence[Case]]
    lhs: Callable[[Case], Side]
    rhs: Callable[[Case], Side]
    mutants: tuple[Mutant, ...]
    relation: Literal["=", "<="] = "="
    assumptions: tuple[Assumption, ...] = ()
    tolerance: Tolerance = field(default_factory=Exact)
    scale: Callable[[Case], float] | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        if not self.mutants:
            raise ValueError(f"claim {self.name} has no mutant: nothing shows that it can fail")
        if (self.kind == "refutation") != (self.published is not None):
            raise ValueError(f"claim {self.name}: a refutation, and only it, names what it refutes")

    @property
    def standing(self) -> Standing:
        """The verdict that a reader is given where the check succeeds."""
        if self.published is not None:
            return "known only second-hand" if self.published.second_hand else "false as published"
        return "holds under the stated assumptions" if self.assumptions else "holds exactly"

    def verify(self, policy: Policy | None = None, *, thorough: bool = False) -> "Verdict":
        """Check the claim on `policy`, or on the standard cases.

        Claims about single tokens or scalars have cases of their own, whatever the policy.
        """
        scope = Scope.standard(thorough=thorough) if policy is None else Scope.of(policy)
        return self.check(scope)

    def check_attempt(
        self, attempt: Callable[[Case], object], policy: Policy | None = None
    ) -> "Attempt":
        """Compare a reader's own right-hand side with the claim's, on the cases of `verify`.

        `attempt` is called with a copy of each case and returns a tensor or a number. Also of an
        inequality it is the right-hand side that is asked for, not just any bound. What goes wrong
        inside `attempt` is explained and not raised.
        """
        answers = []
        for case in self._cases(Scope.standard() if policy is None else Scope.of(policy)):
            try:
                answer = attempt(_copy(case))
            except Exception as error:
                return Attempt(False, f"your function raised {_explained(error)} [{case}]")
            value = _as_side(answer, self.rhs(case))
            if isinstance(value, str):
                return Attempt(False, f"{value} [{case}]")
            answers.append((case, value))
        wrong = [(c, v) for c, v in answers if not self._agree(c, v, self.rhs(c))]
        if not wrong:
            count = f"right, on {len(answers)} cases. {self.note}" if answers else "no case here"
            return Attempt(bool(answers), count)
        for known in self._known_errors():
            told = [(c, v) for c, v in answers if not known.equivalent_when(c)]
            if told and all(self._agree(c, v, known.side(c)) for c, v in told):
                return Attempt(False, f"not yet: this is {known.name}")
        case, value = wrong[0]
        return Attempt(
            False,
            f"not yet: wrong on {len(wrong)} of {len(answers)} cases, first on {case}, by "
            f"{_distance(value, self.rhs(case))}",
        )

    def _known_errors(self) -> Iterator[Mutant]:
        """Wrong right-hand sides that can be told by name."""
        for mutant in self.mutants:
            if mutant.of == "rhs":
                yield replace(mutant, name=f"the known error '{mutant.name}'")
        if self.published is not None and self.published.lhs is None:
            yield Mutant(f"what was published ({self.published.why})", self.published.side)
        yield Mutant("the right answer with the opposite sign", lambda c: _negated(self.rhs(c)))

    def _agree(self, case: Case, left: Side, right: Side) -> bool:
        shapes = [(s.value if isinstance(s, Estimate) else s).shape for s in (left, right)]
        return shapes[0] == shapes[1] and self._excess(case, left, right, "=") <= 1

    def check(self, scope: Scope) -> "Verdict":
        """Check the claim on the cases of `scope`."""
        started = time.perf_counter()
        worst, failing, count, counterexample = 0.0, "", 0, ""
        waiting = {m.name: m for m in self.mutants}
        relevant: set[str] = set()
        for case in self._cases(scope):
            left, right = self.lhs(case), self.rhs(case)
            fraction = self._excess(case, left, right)
            count += 1
            if fraction > worst or (fraction > 1 and not failing):
                worst = max(worst, fraction)
            if fraction > 1 and not failing:
                failing = f"{case}: {fraction:.3g} times the tolerance"
            for mutant in list(waiting.values()):
                if mutant.equivalent_when(case):
                    continue
                relevant.add(mutant.name)
                wrong = mutant.side(case)
                pair = (left, wrong) if mutant.of == "rhs" else (wrong, right)
                if self._excess(case, *pair) > 1:
                    del waiting[mutant.name]
            if self.published and not counterexample:
                counterexample = self._refute(case, left)
        return Verdict(
            claim=self,
            cases=count,
            worst=worst,
            failing=failing,
            counterexample=counterexample,
            surviving=tuple(name for name in waiting if name in relevant),
            equivalent=tuple(name for name in waiting if name not in relevant),
            seconds=time.perf_counter() - started,
        )

    def _cases(self, scope: Scope) -> Iterator[Case]:
        for case in self.cases(scope):
            if all(assumption.holds(case) for assumption in self.assumptions):
                yield case

    def _excess(self, case: Case, left: Side, right: Side, relation: str | None = None) -> float:
        return excess(
            left,
            right,
            relation=relation or self.relation,
            tolerance=self.tolerance,
            terms=case.terms,
            scale=None if self.scale is None else self.scale(case),
        )

    def _refute(self, case: Case, left: Side) -> str:
        assert self.published is not None
        published = self.published
        left = left if published.lhs is None else published.lhs(case)
        fraction = self._excess(case, left, published.side(case), published.relation)
        if fraction <= 1:
            return ""
        size = "without bound" if math.isinf(fraction) else f"{fraction:.2g} times the tolerance"
        return f"{case}: off by {size}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What checking a claim found. Prints as one line."""

    claim: Claim
    cases: int
    worst: float
    failing: str
    counterexample: str
    surviving: tuple[str, ...]
    equivalent: tuple[str, ...]
    seconds: float

    @property
    def rejected(self) -> int:
        """Number of mutants rejected on at least one case."""
        return len(self.claim.mutants) - len(self.surviving) - len(self.equivalent)

    @property
    def holds(self) -> bool:
        """Every case within tolerance, every mutant dealt with, the published error refuted."""
        refuted = self.claim.published is None or bool(self.counterexample)
        return self.cases > 0 and not self.failing and not self.surviving and refuted

    @property
    def words(self) -> str:
        """The verdict in words: the claim's standing, or that the check failed."""
        return self.claim.standing if self.holds else "does not hold"

    @property
    def reason(self) -> str:
        """Why it does not hold, with the smallest failing case; empty where it does."""
        if not self.cases:
            return "no case satisfies its assumptions"
        if self.failing:
            return self.failing
        if self.surviving:
            return f"mutants not rejected: {', '.join(self.surviving)}"
        if not self.holds:
            return "the published statement was not violated by any case"
        return ""

    def __str__(self) -> str:
        total = len(self.claim.mutants)
        mutants = f"mutants {self.rejected}/{total} rejected"
        if self.equivalent:
            mutants += f" ({len(self.equivalent)} equivalent here)"
        line = (
            f"{'ok ' if self.holds else 'NO '} {self.cases:4d} cases  worst {self.worst:.2g} of "
            f"tolerance  {mutants}  {self.seconds:.2f} s"
        )
        return line if self.holds else f"{line}\n    {self.reason}"


@dataclass(frozen=True)
class Attempt:
    """What a reader's own right-hand side is worth. Prints as what to do about it."""

    right: bool
    says: str

    def __str__(self) -> str:
        return self.says


def _copy(case: Case) -> Case:
    """The case anew, nothing cached: a function that writes into its tensors spoils only these."""
    held = {f.name: getattr(case, f.name) for f in fields(case) if f.init}
    return replace(case, **{k: v.clone() for k, v in held.items() if isinstance(v, Tensor)})


def _explained(error: Exception) -> str:
    """The exception in one line, with the line of the reader's function that raised it."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call itself
    at = f" at `{frames[0].line}`" if frames and frames[0].line else ""
    return f"{type(error).__name__}{at}: {error}"


def _as_side(answer: object, wanted: Side) -> Side | str:
    """The answer as a side of the shape of `wanted`, or what is wrong with its type or shape."""
    value = wanted.value if isinstance(wanted, Estimate) else wanted
    shape = list(value.shape)
    if answer is ...:
        return "not answered yet: replace the `...`"
    if answer is None:
        return "your function returned None: is a `return` missing?"
    if isinstance(answer, Estimate):
        return answer
    if isinstance(answer, int | float):
        answer = torch.tensor(answer, dtype=torch.float64)
    if not isinstance(answer, Tensor) or answer.is_complex():
        kind = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        return f"your function returned {kind}: a real tensor of shape {shape} is wanted"
    if list(answer.shape) != shape:
        return f"your function returned shape {list(answer.shape)}: {shape} is wanted"
    # Integers have no rounding unit, and that of half precision would excuse anything.
    return answer if answer.dtype in (torch.float32, torch.float64) else answer.double()


def _negated(side: Side) -> Side:
    return Estimate(-side.value, side.error) if isinstance(side, Estimate) else -side


def _distance(left: Side, right: Side) -> str:
    """Largest difference of two sides of one shape, and the size of the right one, in words."""
    a, b = ((s.value if isinstance(s, Estimate) else s).detach().double() for s in (left, right))
    gap, size = float((a - b).abs().max()), float(b.abs().max())
    return f"{gap:.3g}, where the right side has size {size:.3g}"
