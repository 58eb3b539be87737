"""DFT losses written by hand, right and wrong, without a line of the package."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]


def build(
    *,
    weight=lambda lp: lp.exp().detach(),
    shift: str = "slice",
    divide: str = "count",
    mask: bool = True,
    upcast: bool = True,
    before=lambda z: z,
) -> Loss:
    """sum of w * nll over targets / N; each argument is one way of going wrong."""

    def loss(logits, labels, num_items_in_batch=None):
        z = before(logits)
        if upcast and z.dtype == torch.bfloat16:
            z = z.float()
        if shift == "slice":
            z, y = z[:, :-1], labels[:, 1:]
        elif shift == "twice":
            z, y = z[:, :-2], labels[:, 2:]
        else:
            y = torch.roll(labels, -1, -1) if shift == "roll" else labels
        keep = (y != -100) if mask else torch.ones_like(y, dtype=torch.bool)
        lp = F.log_softmax(z, -1).gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        terms = torch.where(keep, -weight(lp) * lp, torch.zeros_like(lp))
        n = num_items_in_batch
        by = {
            "count": keep.sum().clamp_min(1) if n is None else n,
            "own": keep.sum().clamp_min(1),
            "unclamped": keep.sum() if n is None else n,
            "kept": (weight(lp.detach()) * keep != 0).sum().clamp_min(1) if n is None else n,
            "positions": terms.numel(),
            "labels": (labels != -100).sum().clamp_min(1) if n is None else n,
            "nothing": 1,
            "twice": 2 * (keep.sum().clamp_min(1) if n is None else n),
            "rows": labels.shape[0],
        }
        return terms.sum() / by[divide]

    return loss


def cross_entropy_style(outputs, labels, num_items_in_batch=None):
    """On the outputs of a model, by cross entropy without reduction, always in float32."""
    z = outputs["logits"].float()
    y = F.pad(labels, (0, 1), value=-100)[:, 1:]
    nll = F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="none", ignore_index=-100)
    total = ((-nll.detach()).exp() * nll).sum()
    n = num_items_in_batch
    return total / ((y != -100).sum().clamp(min=1) if n is None else n)


def selected_rows_style(outputs, labels, num_items_in_batch=None, ignore_index=-100):
    """Only the valid rows, by gather minus logsumexp."""
    keep = labels[:, 1:] != ignore_index
    z, y = outputs.logits[:, :-1][keep], labels[:, 1:][keep]
    z = z if z.dtype == torch.float64 else z.float()
    lp = z.gather(-1, y.unsqueeze(-1)).squeeze(-1) - z.logsumexp(-1)
    n = keep.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return -(lp.detach().exp() * lp).sum() / n.clamp(min=1)


def probability_style(logits, labels, num_items_in_batch=None):
    """The potential: minus the mean probability, with no stop-gradient at all."""
    z = logits.float() if logits.dtype == torch.bfloat16 else logits
    keep = labels[:, 1:] != -100
    p = z[:, :-1].softmax(-1).gather(-1, labels[:, 1:].clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return -(p * keep).sum() / max(int(num_items_in_batch or keep.sum()), 1)


class WrittenGradient(torch.autograd.Function):
    """The gradient written down once, in forward."""

    @staticmethod
    def forward(ctx, logits, labels, n):
        z = logits.double()
        y = F.pad(labels, (0, 1), value=-100)[:, 1:]
        keep = y != -100
        lp = z.log_softmax(-1)
        at = y.clamp_min(0).unsqueeze(-1)
        p = lp.gather(-1, at).exp() * keep.unsqueeze(-1) / n
        ctx.save_for_backward(p * lp.exp() - torch.zeros_like(z).scatter(-1, at, p))
        ctx.dtype = logits.dtype
        return -(p * lp.gather(-1, at).clamp_min(-1e30)).sum()

    @staticmethod
    def backward(ctx, g):
        return (ctx.saved_tensors[0] * g).to(ctx.dtype), None, None


def written_gradient_style(logits, labels, num_items_in_batch=None):
    """A fused kernel, in spirit."""
    n = (labels[:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
    return WrittenGradient.apply(logits, labels, max(int(n), 1))


RIGHT = {
    "log-softmax": build(),
    "cross-entropy": cross_entropy_style,
    "selected-rows": selected_rows_style,
    "probability": probability_style,
    "written-gradient": written_gradient_style,
}


@pytest.fixture
def losses() -> SimpleNamespace:
    """`build(**fault)` makes a loss; `right` holds five correct ones by name."""
    return SimpleNamespace(build=build, right=RIGHT)
