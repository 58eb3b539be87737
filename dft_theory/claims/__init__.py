"""Every claim of the ledger. A new one is an entry in a theme's file here."""

from dft_theory.claims import (
    gradient_flow,
    logit_gradient,
    optimizers,
    policy_gradient,
    population_optima,
    rectification,
    relatives,
    sequences,
    variance,
)
from dft_theory.claims.base import Assumption, Claim, Kind, Mutant, Published, Verdict
from dft_theory.claims.scope import Scope
from dft_theory.claims.tolerance import Estimate, Exact, FiniteDifference, MonteCarlo, Numerical
from dft_theory.registry import Registry

CLAIMS: tuple[Claim, ...] = (
    *policy_gradient.CLAIMS,
    *rectification.CLAIMS,
    *logit_gradient.CLAIMS,
    *variance.CLAIMS,
    *sequences.CLAIMS,
    *optimizers.CLAIMS,
    *relatives.CLAIMS,
    *gradient_flow.CLAIMS,
    *population_optima.CLAIMS,
)

claims: Registry[Claim] = Registry("claim", CLAIMS)

__all__ = [
    "CLAIMS",
    "Assumption",
    "Claim",
    "Estimate",
    "Exact",
    "FiniteDifference",
    "Kind",
    "MonteCarlo",
    "Mutant",
    "Numerical",
    "Published",
    "Scope",
    "Verdict",
    "claims",
]
