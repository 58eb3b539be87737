"""The chunked head against the plain path in float64, for every objective of the catalogue."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from dft_theory.llm.chunked import chunked
from dft_theory.llm.head import Head, Reference
from dft_theory.logprobs import TokenStats, target_stats
from dft_theory.objectives import OBJECTIVES, SumOver, dft, objectives, sft
from dft_theory.seeding import generator

B, T, H, V = 4, 5, 6, 17
OUTSIDE = ("advantage", "old_logp", "sampled")


def made(dtype=torch.float64, *, scale=1.0, cap=None, bias=True, seed=0):
    """Hidden states, targets with masked ones, a head, its reference and outside statistics."""
    g = generator(seed, "test", "chunked")

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    hidden, weight = normal(B, T, H).requires_grad_(), (2 * normal(V, H)).requires_grad_()
    offset = normal(V).requires_grad_() if bias else None
    targets = torch.randint(V, (B, T), generator=g)
    targets[0, 3:] = targets[2, :2] = -100
    head = Head(weight=weight, bias=offset, scale=scale, cap=cap)
    frozen = Reference(hidden=normal(B, T, H + 1), head=Head(weight=normal(V, H + 1)))
    extra = {
        "advantage": normal(B, T),
        "old_logp": -normal(B, T).abs().masked_fill(targets < 0, 0.0),
        "sampled": torch.randint(V, (B, T, 2), generator=g),
    }
    return hidden, targets, head, frozen, extra


def plain_logits(hidden, head):
    z = hidden @ head.weight.T * head.scale
    if head.bias is not None:
        z = (hidden @ head.weight.T + head.bias) * head.scale
    return z if head.cap is None else head.cap * torch.tanh(z / head.cap)


def plain(objective, hidden, targets, head, frozen, extra, denominator):
    """Whole logits, the surrogate, and autograd."""
    stats: TokenStats = target_stats(
        plain_logits(hidden, head),
        targets,
        needs=[n for n in objective.needs if n not in OUTSIDE],
        ref_logits=plain_logits(frozen.hidden, frozen.head),
    )
    stats = replace(stats, **{n: extra[n] for n in OUTSIDE if n in objective.needs})
    return objective.surrogate(stats, reduction=SumOver(denominator)), stats


def gradients(loss, hidden, head):
    wanted = [hidden, head.weight] + ([head.bias] if head.bias is not None else [])
    return torch.autograd.grad(loss, wanted)


def needed(objective, extra):
    return {n: v for n, v in extra.items() if n in objective.needs}


@pytest.mark.parametrize("entries", [1, 3 * V, 1000 * V], ids=["rows", "chunks", "whole"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_loss_gradients_and_statistics_are_those_of_whole_logits(objective, entries):
    hidden, targets, head, frozen, extra = made()
    loss, stats = plain(objective, hidden, targets, head, frozen, extra, 7.0)
    found = chunked(
        objective,
        hidden,
        targets,
        head,
        denominator=7.0,
        extra=needed(objective, extra),
        reference=frozen,
        entries=entries,
    )
    assert_close(found.loss, loss.detach())
    assert_close(gradients(found.loss, hidden, head), gradients(loss, hidden, head))
    assert_close(found.stats.logp, stats.logp.detach())
    assert_close(found.weight, objective.weight(stats.detach()).expand(B, T) * stats.mask)


@pytest.mark.parametrize("name", ["dft", "gem-0.7", "dft-sequence", "eaft"])
@pytest.mark.parametrize(("scale", "cap"), [(0.5, None), (1.0, 3.0), (0.7, 2.0)])
def test_scale_and_cap_follow_the_chain_rule(name, scale, cap):
    hidden, targets, head, frozen, extra = made(scale=scale, cap=cap, bias=cap is None)
    loss, _ = plain(objectives[name], hidden, targets, head, frozen, extra, 3.0)
    found = chunked(objectives[name], hidden, targets, head, denominator=3.0, entries=2 * V)
    assert_close(gradients(found.loss, hidden, head), gradients(loss, hidden, head))


def test_a_tied_head_gets_both_gradients():
    _, targets, head, frozen, extra = made(bias=False)
    ids = targets.clamp_min(0)

    def of(loss_of):
        return torch.autograd.grad(loss_of(head.weight[ids]), head.weight)[0]

    ours = of(lambda h: chunked(dft, h, targets, head, denominator=2.0).loss)
    theirs = of(lambda h: plain(dft, h, targets, head, frozen, extra, 2.0)[0])
    assert_close(ours, theirs)


def test_upstream_gradients_scale_and_a_frozen_head_gets_none():
    hidden, targets, head, *_ = made()
    once, thrice = (
        gradients(c * chunked(dft, hidden, targets, head, denominator=1.0).loss, hidden, head)
        for c in (1.0, 3.0)
    )
    assert_close(thrice, tuple(3 * g for g in once))
    frozen = replace(head, weight=head.weight.detach(), bias=None)
    loss = chunked(dft, hidden, targets, frozen, denominator=1.0).loss
    assert torch.autograd.grad(loss, hidden)[0].abs().sum() > 0
    with torch.no_grad():
        assert not chunked(dft, hidden, targets, head, denominator=1.0).loss.requires_grad


def test_a_second_backward_pass_is_refused():
    hidden, targets, head, *_ = made()
    loss = chunked(dft, hidden, targets, head, denominator=1.0).loss
    torch.autograd.grad(loss, hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(loss, hidden)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_without_a_target_the_loss_is_0_and_has_a_gradient(objective):
    hidden, targets, head, frozen, extra = made()
    nothing = torch.full_like(targets, -100)
    found = chunked(
        objective,
        hidden,
        nothing,
        head,
        denominator=1.0,
        extra=needed(objective, extra),
        reference=frozen,
    )
    assert found.loss == 0
    assert not found.stats.mask.any()
    assert found.weight.shape == targets.shape
    assert all((g == 0).all() for g in gradients(found.loss, hidden, head))


def test_half_precision_states_have_statistics_in_float32():
    hidden, targets, head, frozen, extra = made(torch.bfloat16)
    found = chunked(dft, hidden, targets, head, denominator=4.0, entries=V)
    assert found.stats.logp.dtype == torch.float32
    ours = gradients(found.loss, hidden, head)
    assert {g.dtype for g in ours} == {torch.bfloat16}
    exact = [x.detach().double().requires_grad_() for x in (hidden, head.weight, head.bias)]
    wide = Head(weight=exact[1], bias=exact[2])
    loss, _ = plain(dft, exact[0], targets, wide, frozen, extra, 4.0)
    for mine, true in zip(ours, gradients(loss, exact[0], wide), strict=True):
        assert (mine.double() - true).norm() < 0.04 * true.norm()


@pytest.mark.parametrize("surrounding", [False, True], ids=["plain", "autocast"])
def test_states_narrower_than_the_head_leave_it_a_wide_gradient(surrounding):
    """Products in bfloat16 and a float32 master copy, also where autocast is left switched on."""
    hidden, targets, head, *_ = made(torch.float32)
    narrow = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", enabled=surrounding):
        found = chunked(dft, narrow, targets, head, denominator=4.0, entries=3 * V)
    ours = gradients(found.loss, narrow, head)
    assert [g.dtype for g in ours] == [torch.bfloat16, torch.float32, torch.float32]
    exact = chunked(dft, hidden, targets, head, denominator=4.0)
    for mine, true in zip(ours, gradients(exact.loss, hidden, head), strict=True):
        assert (mine - true).norm() < 0.04 * true.norm()


def test_float16_holds_gradients_of_a_step_of_a_million_tokens():
    """The least number of float16 is 6e-8: a gradient divided by 1e6 must be scaled up first."""
    hidden, targets, head, *_ = made(torch.float16)
    loss = chunked(dft, hidden, targets, head, denominator=1e6).loss
    ours = gradients(2.0**20 * loss, hidden, head)
    wide = [x.detach().double().requires_grad_() for x in (hidden, head.weight, head.bias)]
    exact = chunked(dft, wide[0], targets, Head(weight=wide[1], bias=wide[2]), denominator=1e6)
    for mine, true in zip(ours, torch.autograd.grad(2.0**20 * exact.loss, wide), strict=True):
        assert mine.dtype == torch.float16
        assert (mine.double() - true).norm() < 0.005 * true.norm()


def test_near_certainty_log_p_is_the_best_that_float32_holds():
    """log p = -3.3e-4 next to logits of size 60: the rounding of log p itself, not of a logit."""
    weight = torch.full((2, 1), 1.0)
    bias = torch.tensor([60.0, 52.0])
    hidden, targets = torch.zeros(1, 1, 1), torch.tensor([[0]])
    logp = chunked(sft, hidden, targets, Head(weight=weight, bias=bias), denominator=1.0).stats.logp
    exact = -torch.log1p(torch.tensor(-8.0, dtype=torch.float64).exp())
    assert abs(float(logp) - float(exact)) < 1e-7


def test_a_target_of_probability_0_and_weight_0_contributes_nothing():
    hidden, targets, head, frozen, extra = made()
    bias = head.bias.detach().clone()
    bias[targets[0, 0]] = -torch.inf
    head = replace(head, bias=bias)
    wanted = (hidden, head.weight)
    loss, _ = plain(dft, hidden, targets, head, frozen, extra, 4.0)
    found = chunked(dft, hidden, targets, head, denominator=4.0).loss
    assert found.isfinite()
    assert_close(found, loss)
    assert_close(torch.autograd.grad(found, wanted), torch.autograd.grad(loss, wanted))


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.entries = max(self.entries, x.numel())
        return out


@pytest.mark.parametrize("name", ["sft", "dft", "dft-sequence", "asft-0.05", "eaft"])
def test_the_logits_never_stand_there_whole(name):
    rows, vocab, width = 64, 500, 4
    g = generator(0, "test", "large")
    hidden = torch.randn(2, rows // 2, width, generator=g, requires_grad=True)
    head = Head(weight=torch.randn(vocab, width, generator=g, requires_grad=True))
    targets = torch.randint(vocab, (2, rows // 2), generator=g)
    frozen = Reference(hidden=hidden.detach(), head=replace(head, weight=head.weight.detach()))
    with Largest() as seen:
        found = chunked(
            objectives[name],
            hidden,
            targets,
            head,
            denominator=1.0,
            reference=frozen,
            entries=8 * vocab,
        )
        found.loss.backward()
    assert seen.entries == 8 * vocab


def test_what_nobody_provides_is_named():
    hidden, targets, head, *_ = made()
    with pytest.raises(ValueError, match="needs ref_log_probs: pass it in reference="):
        chunked(objectives["asft-0.05"], hidden, targets, head, denominator=1.0)
    with pytest.raises(ValueError, match="needs advantage: pass it in extra="):
        chunked(objectives["reinforce"], hidden, targets, head, denominator=1.0)


def test_nan_is_refused_with_its_target():
    hidden, targets, head, *_ = made()
    broken = hidden.detach().clone()
    broken[1, 0] = torch.nan  # the fourth target
    with pytest.raises(ValueError, match="logits of target 3 hold NaN"):
        chunked(dft, broken, targets, head, denominator=1.0)


def test_a_target_outside_the_vocabulary_is_refused():
    hidden, targets, head, *_ = made()
    targets[1, 1] = V
    with pytest.raises(ValueError, match=f"target {V} is outside the head's vocabulary of {V}"):
        chunked(dft, hidden, targets, head, denominator=1.0)


def test_gradients_are_handed_out_once_and_have_none_of_their_own():
    hidden, targets, head, *_ = made()
    loss = chunked(dft, hidden, targets, head, denominator=1.0).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once: compute it again"):
        loss.backward()
    loss = chunked(dft, hidden, targets, head, denominator=1.0).loss
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_without_gradients_no_product_but_the_logits_is_taken():
    hidden, targets, head, *_ = made()
    with torch.no_grad(), Counted() as seen:
        chunked(objectives["dft-sequence"], hidden, targets, head, denominator=1.0, entries=4 * V)
    assert seen.products == -(-int((targets >= 0).sum()) // 4)


class Counted(TorchDispatchMode):
    """The number of matrix products."""

    products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_")
        return func(*args, **(kwargs or {}))
