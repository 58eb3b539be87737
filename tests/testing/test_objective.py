"""Every registered objective keeps its promises, one test for each promise."""

import time

import pytest
import torch

import dft_theory as dt
from dft_theory.testing import check_objective, parametrize_with_checks
from dft_theory.testing.objective import CHECKS, Check
from dft_theory.testing.report import no, ok


@parametrize_with_checks([dt.sft, dt.dft, dt.dft_sequence])
def test_promises(objective, check):
    check(objective)


@pytest.mark.parametrize("objective", dt.OBJECTIVES, ids=lambda o: o.name)
def test_every_objective_conforms(objective):
    report = check_objective(objective)
    assert report.conforms, str(report)
    assert not [f for f in report.findings if f.status == "remark"], str(report)


def test_a_strangers_objective_conforms_without_declaring_much():
    floor = dt.Objective(name="mine", title="mine", weight=lambda t: t.logp.exp().clamp_min(0.1))
    report = check_objective(floor)
    assert report.conforms, str(report)
    assert report.finding("symmetric-jacobian").status == "remark"
    assert "to be declared" in report.finding("symmetric-jacobian").message


def test_ids_are_readable_and_only_for_promises_made():
    mark = parametrize_with_checks([dt.dft, dt.dft_sequence]).mark
    ids = mark.kwargs["ids"]
    assert "dft-potential" in ids
    assert "dft-symmetric-jacobian" in ids
    assert "dft-sequence-symmetric-jacobian" not in ids
    assert len(ids) == len(set(ids)) == len(mark.args[1])


def test_a_broken_promise_is_an_assertion_with_the_fix():
    lie = dt.Objective(
        name="lie", title="lie", weight=lambda t: t.logp.exp(), potential=lambda t: -t.logp
    )
    check = next(c for c in CHECKS if c.name == "potential")
    with pytest.raises(AssertionError, match=r"lie: NO +potential .*slope"):
        check(lie)
    report = check_objective(lie)
    assert report.verdict == "deviates"
    assert [f.check for f in report.deviations] == ["potential"]


def test_an_exception_inside_an_objective_is_a_finding():
    broken = dt.Objective(name="broken", title="broken", weight=lambda t: t.logp @ t.logp)
    report = check_objective(broken)
    assert report.verdict == "deviates"
    assert "RuntimeError" in report.finding("surrogate-is-field").message


def test_a_check_that_does_not_apply_is_not_run():
    def never(_):
        return no("ran")

    check = Check(never, lambda o: "no reason" if o is dt.sft else "")
    assert check.find(dt.sft).status == "n.a."
    assert check.find(dt.dft).status == "NO"
    assert Check(lambda _: ok("fine")).find(dt.sft).status == "ok"


def test_an_objective_is_checked_in_less_than_ten_seconds():
    start = time.process_time()
    check_objective(dt.dft)
    assert time.process_time() - start < 10


def test_the_global_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    check_objective(dt.dft)
    assert torch.equal(before, torch.get_rng_state())
