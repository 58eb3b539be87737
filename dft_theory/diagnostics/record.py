"""A diagnosis as plain data, for a file."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

import torch
from torch import Tensor

from dft_theory.diagnostics.advice import LIMITS, advise
from dft_theory.diagnostics.bins import bin_index, bin_labels, distance, share_by_bin
from dft_theory.diagnostics.measures import CERTAIN, KINDS, RARE, Diagnosis
from dft_theory.diagnostics.regime import Scoring, predict
from dft_theory.diagnostics.text import common, lines, sizes


def as_json(d: Diagnosis) -> dict[str, Any]:
    """Every number of the diagnosis as plain JSON values; `"never"` for an infinite time."""
    t, evidence = d.tokens, d.evidence()
    return {
        "model": d.model,
        "data": d.data,
        "demonstrations": t.demonstrations,
        "tokens": len(t),
        "vocabulary": d.vocab,
        "plan": asdict(d.plan),
        "pace": d.pace,
        "nll": t.nll,
        "entropy": float(t.entropy.mean()),
        "bins": bin_labels(),
        "tokens_by_bin": torch.bincount(bin_index(t.p), minlength=len(bin_labels())).tolist(),
        "objectives": {o.name: _effect(d, i) for i, o in enumerate(t.objectives)},
        "kinds": dict(_kinds(d)),
        "conflicts": {
            "p_below": RARE,
            "entropy_below": CERTAIN,
            "rare": int(t.rare.sum()),
            "count": int(t.conflicts.sum()),
            "tokens": _listed(d, t.conflicts),
            "worst": [asdict(c) for c in d.worst],
        },
        "coherence": [asdict(c) for c in d.coherence],
        "identical_responses": d.copies,
        "coherence_missing": None if d.coherence else d.incoherent,
        "evidence": asdict(d.evidence())
        | {"escape": [_finite(x) for x in d.evidence().escape or ()]},
        "regime": {scoring: asdict(predict(evidence, scoring)) for scoring in get_args(Scoring)},
        "advice": [asdict(a) for a in advise(d)],
        "limits": list(LIMITS),
        "text": lines(d),
    }


def _effect(d: Diagnosis, i: int) -> dict[str, Any]:
    t = d.tokens
    hungry = t.starved(i)
    times = {name: d.steps(t.objectives[i], p) for name, p in d.starts().items()}
    return {
        "title": t.objectives[i].title,
        "loss": t.losses[i],
        "gradient_mass": float(t.pull[i].sum() / t.pull[0].sum()),
        "gradient_by_bin": share_by_bin(t.pull[i], t.p).tolist(),
        "weight_by_bin": share_by_bin(t.weight[i].abs(), t.p).tolist(),
        "effective_tokens": sizes(d)[i],
        "elsewhere_than_sft": distance(t.pull[0], t.pull[i]),
        "without_gradient": {"count": int(hungry.sum()), "tokens": _listed(d, hungry)},
        "steps_to_one_half": {
            name: {"p": d.starts()[name], "steps": _finite(x)} for name, x in times.items()
        },
    }


def _kinds(d: Diagnosis) -> Iterator[tuple[str, dict[str, Any]]]:
    t = d.tokens
    for k, kind in enumerate(KINDS):
        of = t.kind == k
        if bool(of.any()):
            yield (
                kind,
                {
                    "tokens": int(of.sum()),
                    "median_p": float(t.p[of].median()),
                    "without_gradient": {
                        o.name: int((t.starved(i) & of).sum()) for i, o in enumerate(t.objectives)
                    },
                },
            )


def _listed(d: Diagnosis, chosen: Tensor) -> list[dict[str, Any]]:
    return [
        {"token": text, "kind": kind, "count": count, "median_p": p}
        for text, kind, count, p in common(d, chosen)
    ]


def _finite(x: float | None) -> float | str | None:
    return "never" if x == math.inf else x
