"""Tests that import other figure folders give the project's own back afterwards."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_figures() -> Iterator[None]:
    def ours() -> dict[str, object]:
        return {n: m for n, m in sys.modules.items() if n.split(".")[0] == "paper_figures"}

    before = ours()
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)  # type: ignore[arg-type]
