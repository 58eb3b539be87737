"""What the pull on one token depends on, and whether it is the slope of anything."""

import math

import torch
from torch import Tensor

from dft_theory.logprobs import token_stats
from dft_theory.objectives import Level
from dft_theory.seeding import generator
from dft_theory.xrays.seen import TARGET, VOCAB, Seen, batches, logits_at, spoken


def depends_on(seen: Seen) -> tuple[str, ...]:
    """What moves the pull at one position besides p, position by position."""
    found = []
    if bool(((seen.weights - seen.weights[0]).abs() > 2 * seen.rounding).any()):
        found.append("how the rest is spread over the rivals")
    if seen.beyond_softmax:
        found.append("the logits beyond their softmax")
    middle = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=torch.float64)
    evenly = torch.zeros(VOCAB, dtype=torch.float64)
    here = torch.stack([seen.pull(z)[TARGET] for z in logits_at(middle, evenly)])
    other = TARGET + 3
    there = [seen.pull(z, other)[other] for z in logits_at(middle, evenly, other)]
    later = [seen.pull(z, place=2)[TARGET] for z in logits_at(middle, evenly)]
    for name, pulls in (("which token the target is", there), ("its position", later)):
        gap = (torch.stack(pulls) - here).abs().max()
        if float(gap) > seen.noise * float(here.abs().max()):
            found.append(name)
    return tuple(found)


def level(seen: Seen) -> Level:
    """Whose logits the pull on one token depends on, on a batch of three responses."""
    logits, labels = batches()
    places = spoken(labels)[0]
    watched, beside = int(places.nonzero()[0]), int(places.nonzero()[-1])
    slopes = []
    for draw, (here, there) in enumerate(zip(logits, logits.roll(1, 0), strict=True)):
        before = seen.batch[draw, 0]
        allowed = seen.noise * float(before.norm())
        elsewhere = torch.cat([here[:1], there[1:]])
        if float((seen.field(elsewhere, labels, here)[0] - before)[places].norm()) > allowed:
            return "batch"
        changed = here.clone()
        changed[0, beside] = there[0, beside]
        before, after = before[watched], seen.field(changed, labels, here)[0, watched]
        if float((after - before).norm()) > allowed:
            ratio = float(after @ before) / float(before @ before)
            gain = float((_logp(changed, labels) - _logp(here, labels)).sum())
            slopes.append(math.log(ratio) / gain if ratio > 0 else math.nan)
    if not slopes:
        return "token"
    # A geometric mean of n probabilities moves by 1/n of the change in one log-probability.
    n = int(places.sum())
    return "geometric-mean" if all(abs(s * n - 1) < 0.01 for s in slopes) else "sequence"


def _logp(logits: Tensor, labels: Tensor) -> Tensor:
    return token_stats(logits, labels).logp


def potential(seen: Seen) -> tuple[bool, float, float]:
    """Whether the Jacobian is symmetric at a few states, its relative asymmetry, and error bar.

    On random directions in the logits of all targets of a batch, so that a dependence between
    positions or responses counts.
    """
    logits, labels = batches()
    places = spoken(labels)
    found, worst = True, (0.0, 0.0)
    for near in logits[:4] / 1.5:
        g = generator(0, "directions")
        units = torch.randn(4, *near.shape, dtype=torch.float64, generator=g)
        units = units * places.unsqueeze(-1)
        columns, error = zip(*(_slope(seen, near, labels, unit) for unit in units), strict=True)
        products = torch.einsum("abtv,cbtv->ac", units, torch.stack(columns))
        size = float(products.abs().max())
        if size == 0:
            continue
        gap = float((products - products.T).abs().max()) / size
        bar = max(error) * float(units.flatten(1).abs().sum(-1).max()) / size
        found = found and gap <= bar
        worst = max(worst, (gap, bar))
    return found, *worst


def _slope(seen: Seen, near: Tensor, labels: Tensor, unit: Tensor) -> tuple[Tensor, float]:
    """The derivative of the field along `unit`, by central differences, and its error bar."""
    h = seen.eps**0.2 / 2

    def difference(step: float) -> Tensor:
        ahead, behind = near + step * unit, near - step * unit
        return seen.field(ahead, labels, near) - seen.field(behind, labels, near)

    a, b, c = difference(h), difference(2 * h), difference(4 * h)
    # Of order 4 with steps h and 2 h: their distance bounds the error of the finer.
    fine, coarse = (8 * a - b) / (12 * h), (8 * b - c) / (24 * h)
    size = float(seen.field(near, labels, near).abs().max())
    return fine, float((fine - coarse).abs().max()) + 8 * seen.eps * size / h


def remarks(seen: Seen) -> tuple[str, ...]:
    """Faults that are no matter of the weight."""
    found = []
    if bool(seen.batch[:, ~spoken(batches()[1])].any()):
        found.append("positions without a target (-100) receive a gradient")
    return tuple(found)
