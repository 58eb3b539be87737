"""Objectives that declare something false, and the check that finds it out."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import dft_theory as dt
from dft_theory.objectives import Limit, power
from dft_theory.testing import check_objective
from dft_theory.testing import declaration_checks as declared


def objective(weight=lambda t: t.logp.exp(), **more):
    return dt.Objective(name="liar", title="liar", weight=weight, **more)


def entropy_weight(t):
    return t.entropy


def row_mean(t):
    return (t.sequence_logp() / t.lengths().clamp_min(1)).exp()


def batch_mean(t):
    return t.logp.exp() * (t.logp.exp() * t.mask).sum() / t.mask.sum()


def group_mean(t):
    return t.logp.exp() * t.sequence_logp().exp().flip(0)


def limit(at, end, rate=1.0, family=power):
    return (Limit(parameter="alpha", at=at, family=family, objective=end, rate=rate),)


def inverse(scale):
    return power(1 / scale)


LIES = [
    ("source", objective(cite="nobody2099"), "nobody2099"),
    ("potential", objective(potential=lambda t: t.logp.exp()), "slope"),
    ("potential", objective(potential=lambda t: -0.5 * t.logp.exp()), "slope"),
    (
        "symmetric-jacobian",
        objective(entropy_weight, needs=("entropy",), potential=lambda t: -t.entropy * t.logp),
        "no function",
    ),
    ("limits", objective(limits=limit(0.0, "dft")), "more than rate"),
    ("limits", objective(limits=limit(0.0, "sft", rate=0.01)), "more than rate"),
    ("limits", objective(limits=limit(0.0, "stf")), "stf"),
    ("limits", objective(limits=limit(math.inf, "dft", family=inverse)), "more than rate"),
    ("optimum", objective(optimum=lambda r: r), "does not vanish"),
    ("optimum", objective(optimum=lambda r: F.one_hot(r.argmin(), 4).to(r)), "the flow ends"),
    ("optimum", objective(optimum=lambda r: 2 * r), "not a distribution"),
    ("needs-suffice", objective(entropy_weight), "declare in `needs`"),
    (
        "needs-suffice",
        objective(lambda t: t.logp.exp() if t.entropy is None else t.entropy),
        "not declared",
    ),
    ("needs-are-used", objective(needs=("ref_logp",)), "in vain"),
    ("row-order", objective(group_mean, level="sequence"), "group"),
    ("level", objective(row_mean), "its own response"),
    ("level", objective(batch_mean), "another response"),
    ("level", objective(batch_mean, level="sequence"), "another response"),
    ("level", objective(level="sequence"), "no token changes"),
    ("level", objective(level="batch"), "no response changes"),
    ("level", objective(row_mean, level="group"), "no response changes"),
]


@pytest.mark.parametrize(("check", "liar", "message"), LIES)
def test_a_false_declaration_is_found_out(check, liar, message):
    found = check_objective(liar).finding(check)
    assert found.status == "NO", str(found)
    assert message in found.message


@pytest.mark.parametrize(
    ("weight", "level"),
    [(row_mean, "sequence"), (batch_mean, "batch"), (group_mean, "group")],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_true_level_is_accepted(weight, level):
    report = check_objective(objective(weight, level=level))
    assert report.conforms, str(report)


def test_statistics_given_from_outside_are_provided():
    given = objective(
        lambda t: t.advantage * (t.old_logp - t.ref_logp).exp(),
        needs=("advantage", "old_logp", "ref_logp"),
    )
    report = check_objective(given)
    assert report.conforms, str(report)
    assert report.finding("needs-are-used").status == "ok"


def test_an_anchored_optimum_is_asked_with_the_reference():
    def pulled(t):
        return t.ref_log_probs.exp()

    honest = objective(
        lambda t: torch.ones_like(t.logp),
        target=pulled,
        needs=("log_probs", "ref_log_probs"),
        optimum=lambda r, b: (r + b) / 2,
    )
    assert check_objective(honest).finding("optimum").status == "ok"
    liar = objective(
        lambda t: torch.ones_like(t.logp),
        target=pulled,
        needs=("log_probs", "ref_log_probs"),
        optimum=lambda r, b: (r + 2 * b) / 3,
    )
    assert "does not vanish" in check_objective(liar).finding("optimum").message


def test_one_symmetric_state_does_not_decide():
    # Symmetric where the target is the likeliest token, and nowhere else.
    def piecewise(t):
        assert t.log_probs is not None
        top = t.log_probs.max(-1).values
        return torch.where(t.logp >= top, t.logp.exp(), top.exp() * t.logp.exp())

    found = check_objective(objective(piecewise, needs=("log_probs",)))
    assert found.finding("symmetric-jacobian").status == "ok"
    assert "no gradient" in found.finding("symmetric-jacobian").message


@dataclass(frozen=True, kw_only=True)
class Trusting(dt.Objective):
    """An objective that does not ask whether it was given what it needs."""

    def _require(self, t, *more):
        return None


def test_a_missing_statistic_must_be_asked_for_by_name():
    careless = Trusting(name="x", title="x", weight=entropy_weight, needs=("entropy",))
    found = declared.needs_are_asked_for(careless)
    assert found.status == "NO"
    assert "instead of a ValueError" in found.message
