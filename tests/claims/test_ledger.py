"""Every claim of the ledger holds on the standard policies, with every mutant dealt with."""

import pytest

from dft_theory import ledger
from dft_theory.claims import CLAIMS, Claim, Scope, claims
from dft_theory.mathml import mathml


@pytest.fixture(scope="module")
def scope() -> Scope:
    return ledger.scope()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_claim_holds_and_rejects_its_mutants(claim: Claim, scope: Scope) -> None:
    verdict = claim.check(scope)
    assert verdict.holds, verdict.reason
    assert verdict.rejected + len(verdict.equivalent) == len(claim.mutants)
    assert verdict.rejected >= 1
    if claim.kind == "refutation":
        assert verdict.counterexample


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_statements_can_be_rendered(claim: Claim) -> None:
    assert mathml(claim.statement).startswith("<math")
    if claim.published is not None:
        assert mathml(claim.published.statement).startswith("<math")


def test_the_ledger_has_thirty_claims_and_all_kinds() -> None:
    assert len(claims) >= 30
    assert {c.kind for c in CLAIMS} == {"identity", "inequality", "limit", "refutation"}


def test_the_same_claim_runs_on_all_four_families(scope: Scope) -> None:
    labels = {case.label.split()[0] for case in scope.policy_cases}
    assert labels == {"table", "autoregressive", "transformer", "llama"}


def test_enumerated_cases_are_shared_between_claims(scope: Scope) -> None:
    assert scope.policy_cases is scope.policy_cases
    first = scope.policy_cases[0]
    assert first.probs is first.probs
