"""Objectives that break one promise about their gradient, and the check that sees it."""

from dataclasses import dataclass, replace

import pytest
import torch

import dft_theory as dt
from dft_theory.testing import check_objective


def objective(weight, **declared):
    return dt.Objective(name="broken", title="broken", weight=weight, **declared)


SCALE = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
CALLS = []


def remembers(t):
    CALLS.append(1)
    return t.logp.exp() * (1 + 1e-9 * len(CALLS))


def draws(t):
    return t.logp.exp() + 0 * torch.rand(())


def overwrites(t):
    p = t.logp.exp()
    t.logp.mul_(0.5)
    return p


def coarse(t):
    return t.logp.exp() if t.logp.dtype == torch.float64 else t.logp.half().exp().float()


def infinite_at_zero(t):
    return 1 / t.logp.exp().clamp_min(0).mul(1e-300)


BROKEN = {
    "weight-shape": objective(lambda t: t.logp.exp().sum(-1), level="sequence"),
    "weight-is-constant": objective(lambda t: SCALE * t.logp.exp()),
    "finite-weight": objective(infinite_at_zero),
    "masked-tokens": objective(lambda t: t.logp.mean(-1, keepdim=True).exp(), level="sequence"),
    "zero-weight-tokens": objective(
        lambda t: t.logp.exp() * t.entropy / t.entropy * (t.logp / t.logp), needs=("entropy",)
    ),
    "float32": objective(coarse),
    "determinism": objective(draws),
}


@pytest.mark.parametrize("check", BROKEN)
def test_each_check_has_teeth(check):
    report = check_objective(BROKEN[check])
    assert report.finding(check).status == "NO", str(report)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(draws, "global random state"), (remembers, "differ"), (overwrites, "alters")],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_an_objective_is_a_function(weight, message):
    found = check_objective(objective(weight)).finding("determinism")
    assert found.status == "NO"
    assert message in found.message


@dataclass(frozen=True, kw_only=True)
class Overridden(dt.Objective):
    """An objective that was subclassed instead of wrapped."""

    def surrogate(self, t, *, reduction):
        return reduction((t.log_probs.logsumexp(-1) - t.logp.exp() * t.logp) * t.mask, t.mask)


def test_an_overridden_surrogate_is_caught():
    broken = Overridden(name="sub", title="sub", weight=lambda t: t.logp.exp())
    found = check_objective(broken)
    assert found.finding("surrogate-is-field").status == "NO"


def test_weights_of_a_target_of_probability_zero_may_be_anything_but_then_do_not_apply():
    found = check_objective(dt.sft).finding("zero-weight-tokens")
    assert found.status == "n.a."
    assert "weight 1" in found.message


def test_a_target_over_the_vocabulary_must_have_its_shape():
    broken = objective(
        lambda t: t.logp.exp(), target=lambda t: t.log_probs.exp().sum(-1), needs=("log_probs",)
    )
    found = check_objective(broken).finding("weight-shape")
    assert "target returns" in found.message
    assert replace(broken, target=None).target is None
