"""The suite has teeth: each classic mistake, made in the package, turns claims red."""

from collections.abc import Callable

import pytest
import torch

from dft_theory import logprobs
from dft_theory.claims import CLAIMS, Scope
from dft_theory.claims import policy_gradient as pg
from dft_theory.claims import scope as scope_module
from dft_theory.logprobs import TokenStats
from dft_theory.policies import AutoregressivePolicy

Break = Callable[[pytest.MonkeyPatch], None]


def forget_detach(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TokenStats, "detach", lambda self: self)


def drop_importance_weight(patch: pytest.MonkeyPatch) -> None:
    for module in (scope_module, pg):
        patch.setattr(module, "importance_weight", lambda logp: torch.ones_like(logp))


def forget_shift(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logprobs, "align", lambda z, y: (z[..., 1:, :], y[..., 1:]))


def red(scope: Scope) -> list[str]:
    return [claim.name for claim in CLAIMS if not claim.check(scope).holds]


def fresh() -> Scope:
    return Scope.of(AutoregressivePolicy.random(vocab=3, length=2, seed=5))


def test_without_a_mistake_the_only_red_claims_are_about_other_policies() -> None:
    scope = fresh()
    assert not [v.reason for v in (c.check(scope) for c in CLAIMS) if not v.holds and v.cases]


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (
            forget_detach,
            {
                "sequence-dft-ascends-probability",
                "token-dft-ascends-expected-hits",
                "weighted-logit-gradient",
            },
        ),
        (
            drop_importance_weight,
            {
                "sft-is-policy-gradient",
                "importance-weights-average-to-one",
                "stochastic-expert-needs-a-ratio",
            },
        ),
        (
            forget_shift,
            {"sft-loss-is-negative-log-likelihood", "sft-is-policy-gradient", "sft-logit-gradient"},
        ),
    ],
    ids=["no stop-gradient", "no 1/pi", "labels not shifted"],
)
def test_mistake_turns_at_least_three_claims_red(
    mistake: Break, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(red(fresh()))
    mistake(monkeypatch)
    turned = set(red(fresh())) - before
    assert expected <= turned, f"still green: {expected - turned}"
    assert len(turned) >= 3
