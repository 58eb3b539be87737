"""The diagnosis of a scenario of the chain task, where what happens after training is known."""

from collections.abc import Sequence
from pathlib import Path

from dft_theory.diagnostics.escape import PAPER, Plan
from dft_theory.diagnostics.measures import (
    CONTENT_TOKENS,
    RARE,
    RARE_TOKENS,
    Diagnosis,
    measure,
    with_baseline,
    with_reference,
)
from dft_theory.objectives import Objective
from dft_theory.toys import chain, scenarios


def diagnose(
    name: str,
    chosen: Sequence[Objective],
    *,
    plan: Plan = PAPER,
    seed: int = 0,
    cache: Path | None = None,
) -> Diagnosis:
    """What objectives would do to a base in a scenario of that name, in the world of a seed.

    Agreement is that of gradients in all parameters; the base is its own reference.
    Raises: UnknownNameError; ValueError for objectives that cannot be measured.
    """
    wanted = with_baseline(chosen, reference=True)
    case = scenarios.named(name, seed=seed, cache=cache)
    stats = case.stats()
    rare = stats.mask & (stats.logp.exp() < RARE)
    return Diagnosis(
        model=f"toy:{name}",
        data=f"the chain task: {case.scenario.about}",
        tokens=measure(with_reference(stats, stats), wanted, case.kind()),
        vocab=chain.VOCAB,
        plan=plan,
        coherence=(
            case.agreement(rare, RARE_TOKENS),
            case.agreement(case.content(), CONTENT_TOKENS),
        ),
        calibrated=True,
    )
