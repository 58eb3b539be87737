"""Placeholder until the gradient-flow claims arrive."""

CLAIMS = ()
