"""The diagnosis of a toy scenario reads what its own case measures."""

import pytest

from dft_theory.diagnostics import DEFAULT
from dft_theory.toys import diagnose as module
from dft_theory.toys.bases import Pretraining
from dft_theory.toys.diagnose import diagnose
from dft_theory.toys.scenarios import SCENARIOS, Case, setting

SMALL = Pretraining(trunk=2, branch=2, batch=8)


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """A scenario on a base that has hardly been trained."""
    made = setting(SCENARIOS["noisy-half"], [0], how=SMALL).case(0)
    monkeypatch.setattr(module.scenarios, "named", lambda *_args, **_more: made)
    return made


def test_the_evidence_is_the_case_s(case):
    found = diagnose("noisy-half", DEFAULT)
    mine, theirs = found.evidence(), case.evidence()
    assert mine.shared == pytest.approx(theirs.shared, rel=1e-6)
    assert mine.mean_p == pytest.approx(theirs.mean_p, rel=1e-6)
    assert mine.least_p == pytest.approx(theirs.least_p, rel=1e-6)
    assert (mine.demonstrations, mine.calibrated, mine.escape) == (48, True, None)
    assert (found.model, len(found.tokens)) == ("toy:noisy-half", 48 * 6)
