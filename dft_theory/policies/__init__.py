"""Policies: tables, autoregressive tables and a toy transformer, behind one interface."""

from dft_theory.policies.base import NotEnumerableError, Policy
from dft_theory.policies.tabular import AutoregressivePolicy, TablePolicy, TabularPolicy
from dft_theory.policies.transformer import ToyTransformer

__all__ = [
    "AutoregressivePolicy",
    "NotEnumerableError",
    "Policy",
    "TablePolicy",
    "TabularPolicy",
    "ToyTransformer",
]
