"""What each judge accepts, where they disagree, and that a hung comparison ends."""

import pytest

from dft_theory.llm.grade import (
    Grade,
    by_harness_rules,
    by_math_verify,
    disagreement,
    grade,
    harness_answer,
)

AGREED = [
    ("4", "2 + 2 = 4, so the answer is \\boxed{4}.", True),
    ("4", "so there are 4 apples", True),
    ("4", "\\boxed{5}, although 4 came first", False),
    ("\\frac{1}{2}", "The answer is 0.5.", True),
    ("\\text{Evelyn}", "\\boxed{Evelyn}", True),
    ("2n-2", "\\boxed{2(n-1)}", True),
    ("(3, \\frac{\\pi}{2})", "\\boxed{\\left( 3, \\dfrac{\\pi}{2} \\right)}", True),
    ("1,000", "\\boxed{1000}", True),
    ("x+1", "\\boxed{x-1}", False),
]
# key, completion, math-verify, the harness's rules: what its documentation makes it accept.
DISPUTED = [
    ("0.5", "\\boxed{50}", False, True),
    ("50", "\\boxed{0.5}", False, True),
    ("10000", "\\boxed{10001}", False, True),
    ("\\pi", "\\boxed{3.1416}", False, True),
    ("[1,2)", "\\boxed{(1,2)}", False, True),
    ("5", "\\boxed{5 \\text{ cm}}", True, False),
    ("2,1", "\\boxed{1,2}", True, False),
]


@pytest.mark.parametrize(("key", "text", "right"), AGREED)
def test_judges_agree_on_plain_cases(key, text, right):
    assert by_math_verify(key, text).right is right
    assert by_harness_rules(key, text).right is right


@pytest.mark.parametrize(("key", "text", "first", "second"), DISPUTED)
def test_and_differ_where_their_rules_do(key, text, first, second):
    assert by_math_verify(key, text).right is first
    assert by_harness_rules(key, text).right is second


@pytest.mark.parametrize("judge", [by_math_verify, by_harness_rules])
def test_no_answer_is_not_a_wrong_one(judge):
    assert judge("4", "I do not know").verdict == "no answer"
    assert judge("", "\\boxed{4}").verdict == "answer key unreadable"


def test_the_harness_reads_the_box_then_the_phrase_then_the_last_number():
    assert harness_answer("5 \\boxed{3} the answer is 4") == "3"
    assert harness_answer("5. The answer is 4.\nOr 6") == "4"
    assert harness_answer("5 or 1,006") == "1006"
    assert harness_answer("none") == ""


def test_a_tower_of_powers_costs_its_seconds_and_no_more():
    pairs = [("4", "\\boxed{4}"), ("1", "\\boxed{9^{9^{9^{9}}}}"), ("7", "\\boxed{8}")]
    found = list(grade(pairs, ("math-verify",), seconds=8.0, workers=1))
    assert [g["math-verify"].verdict for g in found] == ["right", "out of time", "wrong"]
    assert not found[1]["math-verify"].right


def test_an_unknown_judge_is_refused():
    with pytest.raises(ValueError, match="choose math-verify or harness-rules"):
        next(grade([("1", "1")], ("me",)))


def test_disagreement_is_a_share_of_completions():
    yes, no, late = Grade("right"), Grade("wrong"), Grade("out of time")
    assert disagreement([yes, no, late, yes], [yes, yes, no, no]) == 0.5
    with pytest.raises(ValueError, match="no completion"):
        disagreement([], [])
