"""The machinery of claims, on claims about single numbers: it can say no, and it says why."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from dft_theory.claims import CLAIMS
from dft_theory.claims.base import Assumption, Attempt, Claim, Mutant, Published, Verdict
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.claims.tolerance import Estimate
from dft_theory.policies import TabularPolicy


@dataclass(frozen=True)
class Number:
    """A case that is a number."""

    x: float
    terms: int = 1

    def __str__(self) -> str:
        return f"x = {self.x:g}"


NUMBERS = tuple(map(Number, (0.0, 1.0, 2.0, 3.0, 5.0)))
NOWHERE = Scope(policies={})


def side(f: Callable[[float], float]) -> Callable[[Number], torch.Tensor]:
    return lambda case: torch.tensor([f(case.x)], dtype=torch.float64)


def numbers(scope: Scope) -> Sequence[Number]:
    return NUMBERS


DOUBLED = Mutant("doubled", side(lambda x: 2 * x**2))

SQUARE = Claim(
    name="square",
    title="x x is x squared",
    kind="identity",
    statement="x x = x^2",
    note="",
    cites=(),
    cases=numbers,
    lhs=side(lambda x: x * x),
    rhs=side(lambda x: x**2),
    mutants=(DOUBLED,),
)


def check(claim: Claim) -> Verdict:
    return claim.check(NOWHERE)


def fresh(**changes: object) -> Claim:
    return replace(SQUARE, **changes)


# --- holding and not holding --------------------------------------------------------------------


def test_a_true_claim_holds_on_every_case_and_rejects_its_mutant():
    verdict = check(SQUARE)
    assert verdict.holds
    assert verdict.cases == len(NUMBERS)
    assert verdict.rejected == 1
    assert verdict.worst <= 1
    assert verdict.reason == verdict.failing == ""


def test_a_wrong_claim_does_not_hold_and_names_its_smallest_failing_case():
    # True at 0, 1 and 2; false at 3 and, by more, at 5.
    verdict = check(fresh(rhs=side(lambda x: x**2 if x < 3 else x**3)))
    assert not verdict.holds
    assert verdict.failing.startswith("x = 3: ")
    assert "times the tolerance" in verdict.reason
    assert verdict.reason == verdict.failing
    assert verdict.cases == len(NUMBERS)


def test_the_worst_case_is_reported_even_where_it_is_not_the_first():
    bar = torch.tensor([0.5], dtype=torch.float64)
    verdict = check(
        fresh(
            lhs=lambda case: Estimate(torch.tensor([case.x], dtype=torch.float64), bar),
            rhs=side(lambda x: x + x / 20),
        )
    )
    assert verdict.holds
    assert verdict.worst == pytest.approx(5 / 20 / 0.5, rel=1e-6)


def test_an_infinitesimal_untruth_is_still_an_untruth():
    verdict = check(fresh(rhs=side(lambda x: x**2 * (1 + 1e-12))))
    assert not verdict.holds
    assert verdict.worst > 1


def test_an_inequality_may_be_strict_on_one_side_and_not_violated_on_the_other():
    below = fresh(
        kind="inequality",
        relation="<=",
        rhs=side(lambda x: x**2 + 1),
        mutants=(Mutant("one less", side(lambda x: x**2 - 1)),),
    )
    assert check(below).holds
    assert not check(replace(below, rhs=side(lambda x: x**2 - 1e-9))).holds


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["lhs", "rhs"])
def test_a_side_that_is_not_finite_never_holds(which, bad):
    verdict = check(fresh(**{which: side(lambda x: bad if x == 2 else x**2)}))
    assert not verdict.holds
    assert verdict.failing.startswith("x = 2")


def test_an_estimate_whose_error_bar_is_nan_never_holds():
    def unsure(case: Number) -> Estimate:
        return Estimate(side(lambda x: x + 7)(case), side(lambda x: math.nan)(case))

    assert check(fresh(rhs=unsure)).failing.startswith("x = 0")


def test_a_scale_that_is_nan_never_holds():
    verdict = check(fresh(rhs=side(lambda x: x + 7), scale=lambda case: math.nan))
    assert verdict.failing.startswith("x = 0")


def test_sides_of_different_shapes_are_an_error_and_no_verdict():
    with pytest.raises(ValueError, match=r"shapes \[1\] and \[2\]"):
        check(fresh(rhs=lambda case: torch.zeros(2, dtype=torch.float64)))


def test_scale_excuses_what_cancels_and_nothing_else():
    cancelled = fresh(lhs=side(lambda x: (x**2 + 1e8) - 1e8 if x else 1e-9))
    assert not check(cancelled).holds
    assert check(replace(cancelled, scale=lambda case: 1e8)).holds
    assert not check(replace(cancelled, rhs=side(lambda x: x), scale=lambda case: 1e8)).holds


# --- cases and assumptions ----------------------------------------------------------------------


def test_a_claim_without_cases_does_not_hold():
    verdict = check(fresh(cases=lambda scope: ()))
    assert not verdict.holds
    assert verdict.cases == 0
    assert verdict.reason == "no case satisfies its assumptions"


def test_assumptions_select_the_cases():
    # |x| = x needs x >= 0.
    signed = fresh(
        cases=lambda scope: (Number(-2.0), Number(0.0), Number(2.0)),
        lhs=side(abs),
        rhs=side(lambda x: x),
        mutants=(Mutant("negated", side(lambda x: -x)),),
    )
    assert not check(signed).holds
    positive = Assumption("x >= 0", "the sign is lost", lambda case: case.x >= 0)
    verdict = check(replace(signed, assumptions=(positive,)))
    assert verdict.holds
    assert verdict.cases == 2
    impossible = Assumption("x > 9", "", lambda case: case.x > 9)
    assert not check(replace(signed, assumptions=(positive, impossible))).holds


# --- mutants ------------------------------------------------------------------------------------


def test_a_claim_without_mutants_is_refused():
    with pytest.raises(ValueError, match="claim square has no mutant: nothing shows"):
        fresh(mutants=())


def test_a_surviving_mutant_is_detected_and_named():
    survivor = Mutant("x times x again", side(lambda x: x * x))
    verdict = check(fresh(mutants=(DOUBLED, survivor)))
    assert not verdict.holds
    assert verdict.surviving == ("x times x again",)
    assert verdict.rejected == 1
    assert verdict.reason == "mutants not rejected: x times x again"


def test_a_mutant_need_be_rejected_by_one_case_only():
    verdict = check(fresh(mutants=(Mutant("2x", side(lambda x: 2 * x)),)))  # equal at 0 and 2
    assert verdict.holds
    assert verdict.rejected == 1


def test_an_equivalent_mutant_is_counted_and_neither_rejected_nor_surviving():
    twin = Mutant("twin", side(lambda x: x * x), equivalent_when=lambda case: True, why="the same")
    verdict = check(fresh(mutants=(DOUBLED, twin)))
    assert verdict.holds
    assert verdict.equivalent == ("twin",)
    assert verdict.surviving == ()
    assert verdict.rejected == 1
    assert "1/2 rejected (1 equivalent here)" in str(verdict)


def test_a_mutant_equivalent_on_some_cases_must_be_rejected_on_the_others():
    def only_small(f: Callable[[float], float]) -> Verdict:
        mutant = Mutant("cube", side(f), equivalent_when=lambda case: case.x <= 1)
        return check(fresh(mutants=(mutant,)))

    assert only_small(lambda x: x**3).rejected == 1
    assert only_small(lambda x: x**2 if x > 1 else 99.0).surviving == ("cube",)


def test_a_mutant_that_changes_nothing_does_not_hide_the_next():
    same = Mutant("same", SQUARE.rhs, equivalent_when=lambda case: True, why="no change")
    verdict = check(fresh(mutants=(same, DOUBLED)))
    assert verdict.equivalent == ("same",)
    assert verdict.rejected == 1
    assert verdict.holds


def test_an_equivalent_case_does_not_count_as_a_rejection():
    excused = Mutant("wrong", side(lambda x: -1.0), equivalent_when=lambda case: True)
    assert check(fresh(mutants=(DOUBLED, excused))).equivalent == ("wrong",)


def test_a_mutant_of_the_left_side_is_compared_with_the_right():
    left = Mutant("left tripled", side(lambda x: 3 * x * x), of="lhs")
    assert check(fresh(mutants=(left,))).rejected == 1
    # For an inequality the side matters: 0 <= x^2 + 1 holds, x^2 <= 0 does not.
    below = fresh(kind="inequality", relation="<=", rhs=side(lambda x: x**2 + 1))
    zero = side(lambda x: 0.0)
    assert check(replace(below, mutants=(Mutant("0", zero, of="lhs"),))).surviving == ("0",)
    assert check(replace(below, mutants=(Mutant("0", zero, of="rhs"),))).rejected == 1


def test_a_mutant_that_is_not_a_number_is_rejected():
    assert check(fresh(mutants=(Mutant("nan", side(lambda x: math.nan)),))).rejected == 1


# --- refutations --------------------------------------------------------------------------------

PRINTED = Published("x x = 2 x", side(lambda x: 2 * x), cite="someone", why="someone printed it")
REFUTATION = replace(SQUARE, kind="refutation", published=PRINTED)


def test_a_refutation_holds_with_its_smallest_counterexample():
    verdict = check(REFUTATION)
    assert verdict.holds
    assert verdict.counterexample.startswith("x = 1: off by ")  # 0 = 2 * 0 is no counterexample


def test_the_standing_says_what_a_reader_may_conclude():
    given = Assumption("x above 1", "", holds=lambda case: case.x > 1)
    heard = replace(REFUTATION, published=replace(PRINTED, second_hand=True))
    claims = (SQUARE, fresh(assumptions=(given,)), REFUTATION, heard)
    assert [check(claim).words for claim in claims] == [
        "holds exactly",
        "holds under the stated assumptions",
        "false as published",
        "known only second-hand",
    ]
    assert check(fresh(rhs=side(lambda x: x**3))).words == "does not hold"


def test_a_refutation_of_what_no_case_violates_does_not_hold():
    true = replace(PRINTED, side=side(lambda x: x * x))
    verdict = check(replace(REFUTATION, published=true))
    assert not verdict.holds
    assert verdict.counterexample == ""
    assert verdict.reason == "the published statement was not violated by any case"


def test_a_refutation_must_hold_in_its_corrected_form():
    verdict = check(replace(REFUTATION, rhs=side(lambda x: x**2 + 1)))
    assert not verdict.holds
    assert verdict.counterexample
    assert verdict.failing.startswith("x = 0")


def test_the_published_relation_is_the_one_refuted():
    loose = replace(PRINTED, side=side(lambda x: x**2 + 1))
    assert check(replace(REFUTATION, published=loose)).holds  # "=" is violated
    assert not check(replace(REFUTATION, published=replace(loose, relation="<="))).holds


def test_a_published_left_side_replaces_the_claims_own():
    other = replace(PRINTED, lhs=side(lambda x: 2 * x))
    assert not check(replace(REFUTATION, published=other)).holds


def test_a_counterexample_may_be_without_bound():
    infinite = replace(PRINTED, side=side(lambda x: math.nan))
    found = check(replace(REFUTATION, published=infinite)).counterexample
    assert found.startswith("x = 0: ")
    assert found.endswith("without bound")


@pytest.mark.parametrize(
    "changes", [{"kind": "refutation"}, {"published": PRINTED}], ids=["nothing", "no refutation"]
)
def test_a_refutation_and_only_it_names_what_it_refutes(changes):
    with pytest.raises(ValueError, match="claim square: a refutation, and only it, names what"):
        fresh(**changes)


# --- verdicts and scopes ------------------------------------------------------------------------


def test_a_verdict_prints_as_one_line_where_it_holds():
    line = str(check(SQUARE))
    assert line.startswith("ok     5 cases  worst ")
    assert "of tolerance  mutants 1/1 rejected  " in line
    assert "\n" not in line


def test_a_verdict_prints_the_reason_below_where_it_does_not_hold():
    first, second = str(check(fresh(rhs=side(lambda x: x)))).splitlines()
    assert first.startswith("NO     5 cases")
    assert second.strip().startswith("x = 2: ")


def test_verify_checks_the_given_policy_or_the_standard_scope():
    seen = []

    def watch(scope: Scope) -> Sequence[Number]:
        seen.append(scope)
        return NUMBERS

    policy = TabularPolicy.random(vocab=2, length=2, seed=0)
    claim = fresh(cases=watch)
    assert claim.verify(policy).holds
    assert claim.verify().holds
    assert list(seen[0].policies.values()) == [(policy,)]
    assert seen[1] is Scope.standard()


def test_terms_of_the_case_widen_the_tolerance():
    rough = fresh(rhs=side(lambda x: x**2 * (1 + 1e-13)))
    many = replace(rough, cases=lambda scope: [replace(n, terms=10_000) for n in NUMBERS])
    assert not check(rough).holds
    assert check(many).holds


# --- a reader's own right-hand side -------------------------------------------------------------


def attempt(f: Callable[[Number], object], **changes: object) -> Attempt:
    return fresh(**changes).check_attempt(f)


def test_a_right_attempt_is_told_so_with_the_claims_note():
    found = attempt(side(lambda x: x * x), note="Because.")
    assert found.right
    assert str(found) == "right, on 5 cases. Because."


@pytest.mark.parametrize("number", [float, int], ids=["float", "int"])
def test_a_number_will_do_for_a_scalar(number):
    scalar = {"rhs": lambda case: torch.tensor(case.x**2, dtype=torch.float64)}
    assert attempt(lambda case: number(case.x**2), **scalar).right
    assert attempt(lambda case: torch.tensor(number(case.x**2)), **scalar).right
    assert not attempt(lambda case: number(case.x**2 + 1), **scalar).right


def test_single_precision_will_do_and_half_precision_excuses_nothing():
    def third(dtype: torch.dtype) -> Attempt:
        wanted = {"rhs": side(lambda x: (x + 1) / 3)}
        return attempt(lambda case: torch.tensor([(case.x + 1) / 3], dtype=dtype), **wanted)

    assert third(torch.float64).right
    assert third(torch.float32).right
    assert not third(torch.bfloat16).right


def test_a_wrong_attempt_is_told_where_and_by_how_much():
    found = attempt(side(lambda x: x**3 + (x > 0)))  # right at 0 only
    assert not found.right
    assert found.says == (
        "not yet: wrong on 4 of 5 cases, first on x = 1, by 1, where the right side has size 1"
    )


def test_a_known_error_is_told_by_name_and_only_where_it_is_that_error():
    assert attempt(side(lambda x: x**2 + x**2)).says == "not yet: this is the known error 'doubled'"
    assert "known error" not in attempt(side(lambda x: 2 * x)).says  # as doubled at 0 and 1 only


def test_cases_in_which_a_mutation_changes_nothing_do_not_name_it():
    rare = Mutant("x + 9", side(lambda x: x + 9), equivalent_when=lambda case: case.x < 5)
    assert "'x + 9'" in attempt(side(lambda x: x**2 if x < 5 else x + 9), mutants=(rare,)).says
    never = replace(rare, equivalent_when=lambda case: True)
    assert "known error" not in attempt(side(lambda x: 7.0), mutants=(never,)).says


def test_a_mutant_of_the_left_side_is_not_what_the_reader_wrote():
    left = Mutant("tripled", side(lambda x: 3 * x * x), of="lhs")
    assert "tripled" not in attempt(side(lambda x: 3 * x * x), mutants=(left,)).says


def test_the_published_error_and_the_opposite_sign_are_told():
    found = REFUTATION.check_attempt(side(lambda x: 2 * x))
    assert found.says == "not yet: this is what was published (someone printed it)"
    assert "opposite sign" in attempt(side(lambda x: -x * x)).says
    other = replace(PRINTED, lhs=side(lambda x: x))
    found = replace(REFUTATION, published=other).check_attempt(side(lambda x: 2 * x))
    assert "published" not in found.says  # it is not a right-hand side of this left-hand side


def test_a_known_error_of_another_shape_is_passed_over():
    wide = Mutant("wide", lambda case: torch.zeros(3, dtype=torch.float64))
    assert "wrong on" in attempt(side(lambda x: 7.0), mutants=(wide,)).says


def test_of_an_inequality_the_bound_itself_is_asked_for():
    below = {"kind": "inequality", "relation": "<=", "rhs": side(lambda x: x**2 + 1)}
    assert attempt(side(lambda x: x**2 + 1), **below).right
    assert not attempt(side(lambda x: x**2 + 2), **below).right


def test_an_error_bar_of_the_right_side_is_granted_to_the_reader():
    bar = torch.tensor([0.5], dtype=torch.float64)
    rough = {"rhs": lambda case: Estimate(side(lambda x: x**2)(case), bar)}
    assert attempt(side(lambda x: x**2 + 0.4), **rough).right
    assert attempt(rough["rhs"], **rough).right
    assert "by 0.6, where" in attempt(side(lambda x: x**2 + 0.6), **rough).says
    assert "opposite sign" in attempt(side(lambda x: -(x**2)), **rough).says


def test_what_is_no_answer_is_explained():
    def returns(answer: object) -> str:
        return attempt(lambda case: answer).says

    assert returns(...).startswith("not answered yet")
    assert "returned None: is a `return` missing?" in returns(None)
    assert "returned list: a real tensor of shape [1] is wanted" in returns([1.0])
    assert "returned str" in returns("x^2")
    assert "returned torch.complex64" in returns(torch.tensor([1j]))
    assert "returned shape [2]: [1] is wanted [x = 0]" in returns(torch.zeros(2))
    assert "returned shape []: [1] is wanted" in returns(1.0)
    assert "by nan" in returns(torch.tensor([math.nan]))


def test_an_exception_is_explained_with_the_line_that_raised_it():
    found = attempt(lambda case: case.y**2)
    assert not found.right
    assert "AttributeError at `found = attempt(lambda case: case.y**2)`" in found.says
    assert "'Number' object has no attribute 'y'" in found.says
    assert found.says.endswith("[x = 0]")
    assert "TypeError: " in attempt(lambda: 1.0).says  # called with one case
    assert "not callable" in attempt(1.0).says
    with pytest.raises(KeyboardInterrupt):
        attempt(lambda case: (_ for _ in ()).throw(KeyboardInterrupt))


def test_nothing_to_check_is_not_right():
    assert attempt(SQUARE.rhs, cases=lambda scope: ()).says == "no case here"
    assert not attempt(SQUARE.rhs, cases=lambda scope: ()).right


def test_an_attempt_that_writes_into_its_case_spoils_nothing():
    case = TokenCase(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 1, "three tokens")
    kept = case.logits.clone()

    def in_place(case: TokenCase) -> torch.Tensor:
        p = case.probs
        p[case.target] -= 1
        case.logits.zero_()
        return p

    changes = {
        "cases": lambda scope: (case,),
        "rhs": lambda case: case.probs - case.onehot,
        "mutants": (Mutant("p", lambda case: case.probs),),
    }
    assert attempt(in_place, **changes).right
    assert torch.equal(case.logits, kept)
    assert float(case.probs.sum()) == pytest.approx(1)


def test_attempts_are_checked_on_a_given_policy():
    policy = TabularPolicy.random(vocab=2, length=2, seed=0)
    claim = next(c for c in CLAIMS if c.name == "sft-is-policy-gradient")
    assert claim.check_attempt(claim.rhs, policy).says.startswith("right, on 8 cases. ")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_of_every_claim_its_right_side_is_a_right_attempt(claim):
    first = [c for c in claim.cases(Scope.standard()) if all(a.holds(c) for a in claim.assumptions)]
    few = replace(claim, cases=lambda scope: first[:2])
    assert few.check_attempt(claim.rhs).right
    assert not few.check_attempt(lambda case: None).right
