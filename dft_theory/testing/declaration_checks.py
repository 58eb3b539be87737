"""Checks of an objective on what it declares: potential, limits, optimum, needs, level, source."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from dft_theory.citations import bibliography
from dft_theory.objectives import Objective, SumOver, objectives
from dft_theory.registry import UnknownNameError
from dft_theory.testing import forms
from dft_theory.testing.gradient_checks import far, field, surrogate_gradient
from dft_theory.testing.report import Finding, no, not_applicable, ok, remark
from dft_theory.testing.states import State, states, token

DATA = torch.tensor([0.45, 0.3, 0.15, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.15, 0.2, 0.4, 0.25], dtype=torch.float64)
SYMMETRIC = 1e-6  # relative asymmetry of a Jacobian by finite differences


def source(o: Objective) -> Finding:
    """The citation names an entry of the bibliography."""
    if not o.cite:
        return not_applicable("it cites nothing")
    try:
        _ = bibliography()[o.cite]
    except UnknownNameError as error:
        return no(f"{error} Add the work to references.bib")
    return ok(f"cites {o.cite}")


def potential(o: Objective) -> Finding:
    """The true gradient of the declared potential is the surrogate's."""
    for s in states():
        z = s.logits.clone().requires_grad_(True)
        value = o.potential_value(s.stats(z), reduction=SumOver())
        true = torch.autograd.grad(value, z)[0]
        off = far(o, s, true, surrogate_gradient(o, s), units=4096)
        if off > 1:
            return no(
                f"the potential's gradient is {off:.3g} times further from the surrogate's than "
                "rounding explains: its slope in log p must be -w",
                case=s,
            )
    return ok("the potential's gradient is the surrogate's")


def symmetric_jacobian(o: Objective) -> Finding:
    """The field of one token is a gradient (its Jacobian is symmetric) iff a potential is declared.

    Over several states, for a piecewise field may be symmetric on some of its pieces.
    """
    skewed = []
    for seed, scale in ((0, 1.0), (1, 0.3), (2, 2.0), (3, 1.0), (4, 3.0), (5, 1.5)):
        s = token(seed, scale=scale)
        jacobian = _jacobian(o, s)
        size = max(float(jacobian.abs().max()), 1e-12)
        if float((jacobian - jacobian.T).abs().max()) > SYMMETRIC * size:
            skewed.append(s)
    if o.potential is not None and skewed:
        return no("a potential is declared, and no function has this gradient", case=skewed[0])
    if o.potential is None and not skewed:
        return remark("its Jacobian is symmetric everywhere: it has a potential, to be declared")
    what = "is a gradient" if o.potential else f"is no gradient ({len(skewed)} of 6 states)"
    return ok(f"the field {what}, as declared")


def limits(o: Objective) -> Finding:
    """Each declared limit is reached at the declared rate, at single tokens."""
    tokens = [token(seed, scale=scale) for seed in range(3) for scale in (0.3, 1.5, 4.0)]
    for limit in o.limits:
        try:
            end = objectives[limit.objective]
        except UnknownNameError as error:
            return no(f"the limit {limit.parameter} -> {limit.at:g}: {error}")
        for h in (0.1, 1e-2, 1e-4):
            # A limit at 1 is approached from the inside of [0, 1], any other from above.
            at = 1 / h if math.isinf(limit.at) else limit.at + (-h if limit.at == 1 else h)
            near = limit.family(at)
            for s in tokens:
                depth = max(1.0, -float(s.stats().logp[0, 0]))
                gap = float((field(near, s) - field(end, s)).abs().max())
                allowed = limit.rate * h * depth + 1e-12 * float(forms.size(near, s.stats()).max())
                if not gap <= allowed:
                    return no(
                        f"at {limit.parameter} = {at:g} the field is {gap:.3g} from that of "
                        f"{limit.objective}, more than rate * h * max(1, |log p|) = {allowed:.3g}",
                        case=s,
                    )
    reached = ", ".join(f"{x.parameter} -> {x.at:g} is {x.objective}" for x in o.limits)
    return ok(reached)


def optimum(o: Objective) -> Finding:
    """The declared optimum is where gradient flow on the population ends, and rests."""
    assert o.optimum is not None
    anchored = any(need.startswith("ref_") for need in o.needs)
    best = o.optimum(DATA, REFERENCE) if anchored else o.optimum(DATA)
    if not bool((best >= 0).all()) or abs(float(best.sum()) - 1) > 1e-9:
        return no(f"the optimum {_digits(best)} is not a distribution")
    case = f"r = {_digits(DATA)}"
    if bool((best > 0).all()):
        moving = float(_velocity(o, best.log()).abs().max())
        if moving > 1e-9:
            return no(f"the population field does not vanish there: {moving:.3g}", case=case)
    end = _flow(o, torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64))
    off = float((end - best).abs().max())
    if off > 2e-3:
        return no(f"the flow ends at {_digits(end)}, declared is {_digits(best)}", case=case)
    return ok(f"the population flow ends at {_digits(best)}")


def needs_suffice(o: Objective) -> Finding:
    """With only the declared statistics the gradient is the same: no other one is read."""
    for s in states():
        z = s.logits.clone().requires_grad_(True)
        t = s.stats(z, only=o.needs)
        try:
            loss = o.surrogate(t, reduction=SumOver())
            if o.potential is not None:
                o.potential_value(t, reduction=SumOver())
        except Exception as error:
            return no(
                f"with only {', '.join(o.needs) or 'logp and mask'} it raises "
                f"{type(error).__name__}: declare in `needs` every statistic that is read"
            )
        if far(o, s, torch.autograd.grad(loss, z)[0], surrogate_gradient(o, s)) > 1:
            return no("statistics that are not declared change the gradient", case=s)
    return ok(f"reads {', '.join(o.needs) or 'nothing but logp and mask'}")


def needs_are_asked_for(o: Objective) -> Finding:
    """A missing statistic is refused by name, not met with a TypeError somewhere inside."""
    s = states()[0]
    for need in o.needs:
        others = [n for n in o.needs if n != need]
        try:
            o.surrogate(s.stats(only=others), reduction=SumOver())
        except ValueError as error:
            if need in str(error):
                continue
            return no(f"without {need} it raises a ValueError that does not name it: {error}")
        except Exception as error:
            return no(f"without {need} it raises {type(error).__name__} instead of a ValueError")
        return no(f"without {need} it does not complain")
    return ok(f"asks for {', '.join(o.needs)}")


def needs_are_used(o: Objective) -> Finding:
    """Every declared statistic changes the gradient on some batch."""
    for need in o.needs:
        if need == "log_probs" and o.target is not None:
            continue  # the surrogate itself multiplies the target with it
        if not any(_depends(o, s, need) for s in states()):
            return no(f"{need} is declared and changes nothing: a trainer would compute it in vain")
    return ok(f"every one of {', '.join(o.needs)} matters")


def row_order(o: Objective) -> Finding:
    """The order of the responses does not matter."""
    for s in states():
        order = torch.tensor([1, 2, 0, 3])
        if far(o, s, field(o, s.rows(order)), field(o, s)[order]) > 1:
            return no(
                f"the order of the rows matters, and the level is {o.level}: only the level "
                '"group" compares rows by their place',
                case=s,
            )
    return ok("responses in any order")


def level(o: Objective) -> Finding:
    """A token moves the weights of what its level says, and of nothing further away."""
    in_row, beyond = _influence(o)
    if o.level == "token" and (in_row or beyond):
        where = "another response" if beyond else "its own response"
        return no(f"the level is token, and a token changes the weight of another in {where}")
    if o.level in ("sequence", "geometric-mean") and beyond:
        return no(f"the level is {o.level}, and a token changes weights in another response")
    if o.level in ("sequence", "geometric-mean") and not in_row:
        return no(f"the level is {o.level}, and no token changes the weight of another: token")
    if o.level in ("batch", "group") and not beyond:
        return no(f"the level is {o.level}, and no response changes the weights of another")
    return ok(f"its weights depend on others as the level {o.level} says")


# --- what the checks share ------------------------------------------------------------------------


def _jacobian(o: Objective, s: State) -> Tensor:
    """Jacobian of the field of a single token in its logits `[V, V]`, by central differences."""
    h = 1e-4
    columns = []
    for v in range(s.logits.shape[-1]):

        def at(step: float, v: int = v) -> Tensor:
            moved = s.logits.clone()
            moved[0, 0, v] += step
            return field(o, replace(s, logits=moved))[0, 0]

        columns.append((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
    return torch.stack(columns, -1)


def _velocity(o: Objective, theta: Tensor) -> Tensor:
    """Population field of a softmax table on data `DATA`, `[V]`: one row for each target."""
    vocab = theta.shape[0]
    base = token(0, vocab=vocab)
    rows = base.rows(torch.zeros(vocab, dtype=torch.long))
    everywhere = torch.ones(vocab, 2, 1, dtype=torch.float64)
    labels = rows.labels.clone()
    labels[:, 1] = torch.arange(vocab)
    population = replace(
        rows, logits=everywhere * theta, ref_logits=everywhere * REFERENCE.log(), labels=labels
    )
    return DATA @ field(o, population)[:, 0]


def _flow(o: Objective, start: Tensor) -> Tensor:
    """The distribution at which gradient flow on the population is after a very long time."""

    def moved(_: float, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = _velocity(o, torch.from_numpy(theta)).numpy()
        return found

    run = solve_ivp(moved, (0.0, 1e6), start.numpy(), method="LSODA", rtol=1e-8, atol=1e-8)
    return torch.softmax(torch.from_numpy(run.y[:, -1].copy()), -1)


def _depends(o: Objective, s: State, need: str) -> bool:
    """Whether another value of that statistic changes the weight or the target."""
    t = s.stats().detach()
    other = getattr(states()[1].stats().detach(), need).clone()
    if not other.is_floating_point():
        other = (getattr(t, need) + 1) % s.logits.shape[-1]
    changed = replace(t, **{need: other})
    before, after = (torch.as_tensor(o.weight(x).expand_as(x.logp)) for x in (t, changed))
    same = bool(((before == after) | ~t.mask).all())
    if o.target is not None:
        same = same and torch.equal(o.target(t), o.target(changed))
    return not same


def _influence(o: Objective) -> tuple[bool, bool]:
    """Whether changing what is known of one token moves others of its row, and of other rows."""
    in_row = beyond = False
    for s in states():
        before = field(o, s)
        for b, t in ((0, 0), (1, 1), (2, 0), (3, 2)):
            moved = (field(o, s.elsewhere(b, t)) - before).abs().amax(-1)
            moved = moved > 1e-9 * float(before.abs().max())
            moved[b, t] = False
            in_row |= bool(moved[b].any())
            moved[b] = False
            beyond |= bool(moved.any())
    return in_row, beyond


def _digits(x: Tensor) -> str:
    return "(" + ", ".join(f"{v:.3g}" for v in x.tolist()) + ")"
