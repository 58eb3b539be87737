"""Checks of an objective on the gradient that it applies."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.objectives import Objective, SumOver
from dft_theory.testing import forms
from dft_theory.testing.calls import identical
from dft_theory.testing.report import Finding, no, not_applicable, ok
from dft_theory.testing.states import State, state, states

UNITS = 256.0  # of rounding, per unit of the largest weight


def surrogate_gradient(o: Objective, s: State, logits: Tensor | None = None) -> Tensor:
    """Gradient of the surrogate, summed over tokens, in the logits `[B, T, V]`."""
    z = (s.logits if logits is None else logits).clone().requires_grad_(True)
    return torch.autograd.grad(o.surrogate(s.stats(z), reduction=SumOver()), z)[0]


def field(o: Objective, s: State) -> Tensor:
    """The closed-form ascent direction in the logits `[B, T, V]`; 0 at the end."""
    with torch.no_grad():
        moved = o.field(s.stats())
    return torch.cat([moved, torch.zeros_like(moved[:, :1])], 1)


def far(o: Objective, s: State, found: Tensor, expected: Tensor, units: float = UNITS) -> float:
    """Distance as a fraction of what rounding explains; NaN is infinitely far."""
    eps = max(torch.finfo(found.dtype).eps, torch.finfo(expected.dtype).eps)
    scale = max(float(forms.size(o, s.stats()).max()), float(expected.abs().max()))
    reach = max(1.0, float(s.logits.abs().max()))
    gap = (found.double() - expected.double()).abs().nan_to_num(nan=torch.inf).max()
    return float(gap) / (units * eps * reach * scale + torch.finfo(torch.float64).tiny)


def weight_shape(o: Objective) -> Finding:
    """Weights broadcast to `[B, T]`, and a target is `[B, T, V]`."""
    t = states()[0].stats()
    shape = o.weight(t).shape
    try:
        fits = torch.broadcast_shapes(shape, t.logp.shape) == t.logp.shape
    except RuntimeError:
        fits = False
    if not fits:
        return no(f"weight returns {list(shape)}, which does not broadcast to {list(t.logp.shape)}")
    assert t.log_probs is not None
    if o.target is not None and o.target(t).shape != t.log_probs.shape:
        return no(f"target returns {list(o.target(t).shape)}, expected {list(t.log_probs.shape)}")
    return ok("one weight a token")


def surrogate_is_field(o: Objective) -> Finding:
    """The surrogate's gradient is minus the field: autograd against the closed form."""
    for s in states():
        off = far(o, s, surrogate_gradient(o, s), -field(o, s))
        if off > 1:
            return no(
                f"the surrogate's gradient is {off:.3g} times further from -field than rounding "
                "explains: do not override either",
                case=s,
            )
    return ok("the surrogate's gradient is w (e_y - pi) + A - (sum A) pi, up to its sign")


def weight_is_constant(o: Objective) -> Finding:
    """Weights of detached statistics are constants: no graph enters by another way."""
    t = states()[0].stats().detach()
    parts = [o.weight(t)] + ([] if o.target is None else [o.target(t)])
    if any(part.requires_grad for part in parts):
        return no("the weight of detached statistics has a graph: it closes over a parameter")
    return ok("nothing but the statistics given is differentiated, and those are detached")


def finite_weight(o: Objective) -> Finding:
    """The weight is finite wherever the target has a probability above 0."""
    base = state(0)
    b, t = (base.labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
    for log_odds in (20.0, 2.0, 0.0, -7.0, -28.0, -70.0):
        logits = base.logits.clone()
        target = base.labels[b, t + 1]
        rivals = logits[b, t].scatter(-1, target.unsqueeze(-1), -torch.inf).logsumexp(-1)
        logits[b, t, target] = rivals + log_odds
        s = replace(base, name=f"log-odds {log_odds:g}", logits=logits)
        if not bool(forms.size(o, s.stats()).isfinite().all()):
            return no("the weight is not finite although p > 0: clamp it, or work in logs", case=s)
    return ok("finite weights for log-odds from -70 to 20")


def masked_tokens(o: Objective) -> Finding:
    """Masked positions get no gradient, and how many there are changes nothing."""
    for s in states():
        g = surrogate_gradient(o, s)
        idle = torch.ones_like(s.labels, dtype=torch.bool)
        idle[:, :-1] = s.labels[:, 1:] == IGNORE_INDEX
        if bool((g[idle] != 0).any()):
            return no("a masked position gets a gradient: mask the weight", case=s)
        wider = surrogate_gradient(o, s.padded(3))[:, : g.shape[1]]
        if far(o, s, wider, g) > 1:
            return no(
                "3 masked columns more change the gradient: count t.lengths() or t.mask, not "
                "positions, and mind that masked tokens hold logp = 0",
                case=s,
            )
    return ok("masked tokens neither move nor are counted")


def zero_weight_tokens(o: Objective) -> Finding:
    """A target of probability 0 and weight 0 contributes exactly 0: 0 log 0 = 0."""
    s = states()[0]
    logits = s.logits.clone()
    logits[0, 0, s.labels[0, 1]] = -torch.inf
    blocked = replace(s, name="a target at -inf", logits=logits)
    t = blocked.stats()
    weight = float(forms.at_targets(o, t)[0, 0])
    if math.isnan(weight):
        return no("the weight of a target of probability 0 is NaN", case=blocked)
    if weight != 0:
        return not_applicable(f"such a target has weight {weight:g}")
    value = o.surrogate(t, reduction=SumOver())
    g = surrogate_gradient(o, blocked)
    if not bool(value.isfinite() & g.isfinite().all()):
        return no("a target of probability 0 and weight 0 makes the loss NaN", case=blocked)
    if o.target is None and bool((g[0, 0] != 0).any()):
        return no("a token of weight 0 gets a gradient", case=blocked)
    return ok("a target of probability 0 contributes 0")


def float32(o: Objective) -> Finding:
    """In float32 it loses no more than float32 must."""
    for s in states():
        rounded = replace(s, logits=s.logits.float().double())
        found = surrogate_gradient(o, rounded, rounded.logits.float())
        off = far(o, rounded, found, surrogate_gradient(o, rounded))
        if off > 1:
            return no(
                f"in float32 the gradient is {off:.3g} times further off than rounding explains: "
                "use expm1, log1p, logsumexp where numbers cancel",
                case=s,
            )
    return ok("float32 costs no more than its rounding")


def determinism(o: Objective) -> Finding:
    """Two evaluations agree in every bit, whatever the global seed, and alter nothing."""
    s = states()[0]
    answers = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            before = torch.get_rng_state()
            answers.append(surrogate_gradient(o, s))
            moved = not torch.equal(before, torch.get_rng_state())
        if moved:
            return no("it draws from the global random state: samples come with the statistics")
    if not identical(*answers):
        return no("two evaluations of one batch differ")
    t, kept = s.stats(), s.stats()
    o.surrogate(t, reduction=SumOver())
    if not (identical(t.logp, kept.logp) and identical(t.mask, kept.mask)):
        return no("it alters the statistics it is given: work on a copy")
    return ok("same statistics, same bits")
