"""The paper's tables, for figures that put its cells beside ours: see `dft_theory.paper`."""

from dft_theory.paper import figure, table

__all__ = ["figure", "table"]
