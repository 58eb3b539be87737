"""SFT and DFT with a forward KL: gradients, and where the flow comes to rest."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import asft, asft_fixed_point, sft_kl


def doubles(*x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def forward_kl(pi: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.kl_div(pi.log(), b, reduction="none").sum(-1)


def test_the_gradient_of_sft_with_an_anchor(small):
    def loss(pi, y, b):
        return -pi.gather(1, y[:, None])[:, 0].log() + 0.3 * forward_kl(pi, b)

    assert_close(small.surrogate(sft_kl(0.3)), small.published(loss), rtol=1e-12, atol=1e-13)


def test_the_gradient_of_asft_is_that_of_the_released_loss(small):
    def loss(pi, y, b):
        p = pi.gather(1, y[:, None])[:, 0]
        return -p.detach() * p.log() + 0.05 * forward_kl(pi, b)

    assert_close(small.surrogate(asft(0.05)), small.published(loss), rtol=1e-12, atol=1e-13)


def rest(objective, r: torch.Tensor, b: torch.Tensor, steps: int = 20_000) -> torch.Tensor:
    """Where steps along the population field end, from an even start, `[V]`."""
    vocab = len(r)
    z = torch.zeros(vocab, dtype=torch.float64)
    for _ in range(steps):
        logp = z.log_softmax(0).expand(vocab, 1, vocab)
        targets = torch.arange(vocab).unsqueeze(-1)
        t = TokenStats(
            logp=logp[0, 0].unsqueeze(-1),
            mask=torch.ones(vocab, 1, dtype=torch.bool),
            targets=targets,
            log_probs=logp,
            ref_log_probs=b.log().expand(vocab, 1, vocab),
            ref_logp=b.log().unsqueeze(-1),
        )
        move = r @ objective.field(t)[:, 0]
        z = z + 2 * move
        if float(move.abs().max()) < 1e-13:
            break
    return z.softmax(0)


@pytest.mark.parametrize("objective", [sft_kl(0.5), asft(0.5)], ids=lambda o: o.name)
def test_the_declared_optimum_is_where_the_flow_rests(objective):
    r, b = doubles(0.6, 0.3, 0.1), doubles(0.2, 0.2, 0.6)
    assert_close(rest(objective, r, b), objective.optimum(r, b), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("lam", [0.05, 0.5])
def test_one_demonstration_rests_at_the_closed_form(lam):
    r, b = doubles(1.0, 0.0, 0.0), doubles(0.05, 0.35, 0.6)
    p = asft_fixed_point(lam, 0.05)
    assert_close(rest(asft(lam), r, b)[0].item(), p, rtol=0.0, atol=1e-9)
    assert_close(asft(lam).optimum(r, b)[0].item(), p, rtol=0.0, atol=1e-12)
    assert_close(rest(sft_kl(lam), r, b)[0].item(), (1 + 0.05 * lam) / (1 + lam))


def test_a_mode_that_the_reference_excludes_keeps_what_the_anchor_leaves():
    r, b = doubles(0.7, 0.3), doubles(0.0, 1.0)
    assert_close(asft(0.05).optimum(r, b), doubles(0.875, 0.125))
    alone = asft(0.05).optimum(doubles(1.0, 0.0, 0.0), doubles(0.0, 0.5, 0.5))
    assert_close(alone, doubles(asft_fixed_point(0.05, 0.0), 0.025, 0.025))


def test_the_closed_form_by_hand_and_at_its_ends():
    assert round(asft_fixed_point(0.05, 0.05), 4) == 0.9526
    assert round(asft_fixed_point(0.5, 0.05), 4) == 0.5458
    assert asft_fixed_point(0.0, 0.3) == 1
    assert asft_fixed_point(0.7, 1.0) == 1
    assert asft_fixed_point(2.0, 0.0) == 0


def test_a_token_that_the_reference_excludes_costs_nothing():
    t = TokenStats(
        logp=doubles(-math.log(2)).unsqueeze(0),
        mask=torch.ones(1, 1, dtype=torch.bool),
        targets=torch.zeros(1, 1, dtype=torch.long),
        log_probs=doubles(0.5, 0.5, 0.0).log().reshape(1, 1, 3),
        ref_log_probs=doubles(1.0, 0.0, 0.0).log().reshape(1, 1, 3),
    )
    assert_close(sft_kl(1.0).potential(t).item(), 2 * math.log(2))


def test_bad_parameters_are_refused():
    for bad in (-0.1, math.inf, math.nan):
        for family in (sft_kl, asft):
            with pytest.raises(ValueError, match="strength lam of an anchor is at least 0"):
                family(bad)
    with pytest.raises(ValueError, match="lam = 0, this is `dft`"):
        asft(0.0)
    with pytest.raises(ValueError, match="b is a probability, got 1.5"):
        asft_fixed_point(0.1, 1.5)
