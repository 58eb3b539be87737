"""Mixtures of imitation and reinforcement: the published sums, term by term."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dft_theory.citations import bibliography
from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import (
    MIXTURES,
    SumOver,
    TokenMean,
    amft,
    cgl,
    chord_mu,
    hpt,
    mixtures,
    reinforce,
    sft,
    srft,
    uft,
)

SUM = SumOver()


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tokens(seed: int, logits: torch.Tensor) -> TokenStats:
    """Two responses of three tokens under `logits` [2, 4, 5], with advantages 1 and -0.5."""
    labels = torch.randint(5, (2, 4), generator=torch.Generator().manual_seed(seed))
    stats = token_stats(logits, labels, needs=("entropy",))
    return replace(stats, advantage=numbers(1.0, -0.5).unsqueeze(-1).expand_as(stats.logp))


@pytest.fixture
def logits() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 5, dtype=torch.float64, generator=g, requires_grad=True)


SOURCES = ("demonstrations", "rollouts", "hints", "continuations", "prefixes")


def sources(logits: torch.Tensor) -> dict[str, TokenStats]:
    return {name: tokens(seed, logits) for seed, name in enumerate(SOURCES)}


def gradient(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


# --- mixtures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", [SUM, TokenMean()], ids=["sum", "mean"])
@pytest.mark.parametrize(
    ("mixture", "parts"),
    [
        (chord_mu(0.3), {("demonstrations", sft): 0.3, ("rollouts", reinforce): 0.7}),
        (amft(0.6), {("demonstrations", sft): 0.6, ("rollouts", reinforce): 0.4}),
        (cgl(0.2), {("demonstrations", sft): 0.2, ("rollouts", reinforce): 1.0}),
        (uft(0.2), {("hints", sft): 0.2, ("continuations", reinforce): 1.0}),
        (hpt(0.25, gate=0.25), {("demonstrations", sft): 1.0}),
        (hpt(0.5, gate=0.25), {("rollouts", reinforce): 1.0}),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_the_gradient_is_the_published_sum(mixture, parts, reduction, logits):
    given_tokens = sources(logits)
    expected = sum(
        share * gradient(objective.surrogate(given_tokens[source], reduction=reduction), logits)
        for (source, objective), share in parts.items()
    )
    assert_close(gradient(mixture.surrogate(given_tokens, reduction=reduction), logits), expected)


def test_srft_weighs_demonstrations_by_certainty_and_successes_by_uncertainty(logits):
    demonstrated, drawn = tokens(0, logits), tokens(1, logits)
    h = demonstrated.entropy.detach()
    imitated = (0.5 * torch.exp(-h) + demonstrated.advantage) * demonstrated.logp
    success = torch.where(drawn.advantage > 0, 0.1 * drawn.entropy.detach().exp(), 1.0)
    loss = -(imitated + success * drawn.advantage * drawn.logp).sum()
    found = srft().surrogate({"demonstrations": demonstrated, "rollouts": drawn}, reduction=SUM)
    assert_close(gradient(found, logits), gradient(loss, logits))


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda m: m.name)
def test_every_registered_mixture_has_a_gradient_and_a_source(mixture, logits):
    found = gradient(mixture.surrogate(sources(logits), reduction=SUM), logits)
    assert float(found.abs().max()) > 0
    assert bool(found.isfinite().all())
    assert mixture.cite in bibliography()
    assert mixtures[mixture.name] is mixture


def test_the_registered_mixtures_have_the_published_coefficients():
    assert [m.name for m in MIXTURES] == [
        "uft-0.001",
        "prefix-rft",
        "chord-mu-0.9",
        "srft",
        "amft-0.5",
        "hpt-imitating",
        "hpt-exploring",
        "cgl-0.1",
    ]


def test_the_withdrawn_paper_is_marked():
    assert "withdrawal" in amft(0.5).note


def test_missing_tokens_are_asked_for_unless_their_share_is_zero(logits):
    rollouts = {"rollouts": tokens(0, logits)}
    with pytest.raises(ValueError, match=r"chord-mu-0.5 needs tokens of demonstrations"):
        chord_mu(0.5).surrogate(rollouts, reduction=SUM)
    bare = {"rollouts": replace(rollouts["rollouts"], advantage=None)}
    with pytest.raises(ValueError, match="reinforce needs advantage"):
        chord_mu(0.0).surrogate(bare, reduction=SUM)
    alone = reinforce.surrogate(rollouts["rollouts"], reduction=SUM)
    assert_close(chord_mu(0.0).surrogate(rollouts, reduction=SUM), alone)


@pytest.mark.parametrize("mu", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("make", [chord_mu, amft])
def test_a_share_outside_the_unit_interval_is_refused(make, mu):
    with pytest.raises(ValueError, match=r"mu is the share of SFT, in \[0, 1\]"):
        make(mu)


@pytest.mark.parametrize(("accuracy", "imitates"), [(0.0, True), (0.25, True), (0.251, False)])
def test_hpt_imitates_up_to_its_gate(accuracy, imitates):
    assert hpt(accuracy, gate=0.25).name == ("hpt-imitating" if imitates else "hpt-exploring")
