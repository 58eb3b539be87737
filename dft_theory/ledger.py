"""Running the ledger: which claims, on which policies, and the verdicts as lines and as JSON."""

import fnmatch
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dft_theory.claims import CLAIMS, Claim, Scope, Verdict, claims
from dft_theory.claims.base import Case
from dft_theory.claims.scope import PolicyCase
from dft_theory.provenance import manifest


def select(patterns: Sequence[str] = (), kinds: Sequence[str] = ()) -> tuple[Claim, ...]:
    """Claims whose name matches any pattern (shell wildcards) and whose kind is among `kinds`.

    Raises: UnknownNameError for a pattern that matches nothing, with the nearest names.
    """
    for pattern in patterns:
        if not fnmatch.filter(claims, pattern):
            _ = claims[pattern]
    return tuple(
        claim
        for claim in CLAIMS
        if (not patterns or any(fnmatch.fnmatch(claim.name, p) for p in patterns))
        and (not kinds or claim.kind in kinds)
    )


def scope(*, thorough: bool = False) -> Scope:
    """The standard policies, and a tiny random Llama where transformers is installed."""
    standard = Scope.standard(thorough=thorough)
    if importlib.util.find_spec("transformers") is None:
        return standard
    from dft_theory.llm.hf_policy import HFPolicy

    sizes = ((3, 2), (4, 3)) if thorough else ((3, 2),)
    llamas = [HFPolicy.tiny_llama(vocab=v, length=t, seed=s) for v, t in sizes for s in range(2)]
    return standard.extended("llama", *llamas)


def verify(chosen: Iterable[Claim], where: Scope) -> Iterator[Verdict]:
    """Verdicts one by one, as they are reached."""
    for claim in chosen:
        yield claim.check(where)


def line(verdict: Verdict) -> str:
    """One line of the ledger for a terminal."""
    first, *more = str(verdict).split("\n")
    return "\n".join([f"{verdict.claim.name:46s} {first}  {verdict.words}", *more])


def sharing(chosen: Iterable[Claim], where: Scope) -> tuple[int, int]:
    """Enumerated policy cases, and how often the claims read one: each is enumerated once."""
    read = [_innermost(case) for claim in chosen for case in claim.cases(where)]
    enumerated = [id(case) for case in read if isinstance(case, PolicyCase)]
    return len(set(enumerated)), len(enumerated)


def _innermost(case: Case) -> Case:
    """The case that a case of a theme is built on, by its field `at`."""
    inner = getattr(case, "at", None)
    return case if inner is None else _innermost(inner)


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts and the environment they were reached in."""
    return {
        "claims": [
            {
                "name": v.claim.name,
                "kind": v.claim.kind,
                "verdict": v.words,
                "holds": v.holds,
                "cases": v.cases,
                "worst": v.worst,
                "mutants": {
                    "declared": len(v.claim.mutants),
                    "rejected": v.rejected,
                    "equivalent": len(v.equivalent),
                },
                "counterexample": v.counterexample or None,
                "reason": v.reason or None,
                "seconds": round(v.seconds, 4),
            }
            for v in verdicts
        ],
        "environment": manifest("dft-theory verify"),
    }
