"""The suite has teeth: each classic mistake, made in the package, turns claims red."""

from collections.abc import Callable

import pytest
import torch

from dft_theory import ledger, logprobs
from dft_theory.claims import CLAIMS, Scope, claims
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


def red(names: set[str], scope: Scope) -> set[str]:
    return {name for name in names if not claims[name].check(scope).holds}


def fresh() -> Scope:
    return Scope.of(AutoregressivePolicy.random(vocab=3, length=2, seed=5))


def test_without_a_mistake_no_claim_about_policies_is_red_on_this_one() -> None:
    scope = fresh()
    verdicts = [c.check(scope) for c in CLAIMS if ledger.sharing([c], scope)[0]]
    assert len(verdicts) > 40
    # A claim may have nothing to say of this policy; that is no case, and no mistake.
    assert not {v.claim.name: v.reason for v in verdicts if not v.holds and v.cases}


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
    assert not red(expected, fresh())
    mistake(monkeypatch)
    turned = red(expected, fresh())
    assert turned == expected, f"still green: {expected - turned}"
    assert len(turned) >= 3
