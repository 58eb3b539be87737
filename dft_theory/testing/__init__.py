"""Conformance: whether a loss, or an objective, does what it says.

`check_loss_function` judges anybody's code against an objective and names what it computes
instead; `check_objective` judges an objective against its own declarations, and
`parametrize_with_checks` makes tests of it. `dft_theory.testing.strategies` (needs Hypothesis)
draws batches.
"""

from dft_theory.testing.calls import caller_shifts
from dft_theory.testing.loss_function import REDUCTIONS, check_loss_function
from dft_theory.testing.objective import check_objective, parametrize_with_checks
from dft_theory.testing.report import Finding, Report

__all__ = [
    "REDUCTIONS",
    "Finding",
    "Report",
    "caller_shifts",
    "check_loss_function",
    "check_objective",
    "parametrize_with_checks",
]
