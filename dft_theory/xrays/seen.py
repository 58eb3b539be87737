"""The states at which a loss is looked at, and what is read off its field directly."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.seeding import generator
from dft_theory.xrays.loss_fields import LossField

VOCAB, TARGET, POINTS = 8, 2, 60
SHOWN = (1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999)  # probabilities on every grid that reaches them
# Log-odds of the smallest and largest p. Near p = 1 a float32 softmax has lost 1 - p.
RANGE = {"float64": (-13.8155, 13.8155), "float32": (-13.8155, 6.9068), "half": (-4.6, 2.2)}
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "half": 2.0**-7}
ROUNDING = 300  # units of eps / (p (1 - p)), relative to the weight at p and beside it


@lru_cache(maxsize=1)
def rivals() -> Tensor:
    """Logits of the rivals `[3, V]`: all alike, one that takes nearly all, uneven."""
    one = torch.full((VOCAB,), -9.0, dtype=torch.float64)
    one[TARGET + 1] = 0.0
    uneven = 1.5 * torch.randn(VOCAB, dtype=torch.float64, generator=generator(0, "rivals"))
    return torch.stack([torch.zeros_like(one), one, uneven])


def logits_at(log_odds: Tensor, others: Tensor, target: int = TARGET) -> Tensor:
    """Logits `[..., V]` where the target has these log-odds `[...]` against the rivals `[V]`."""
    rest = torch.cat([others[:target], others[target + 1 :]]).logsumexp(-1)
    logits = others.expand(*log_odds.shape, -1).clone()
    logits[..., target] = log_odds + rest
    return logits + 0.7  # logits, not log-probabilities


def alone(logits: Tensor, target: int = TARGET, *, place: int = 0) -> tuple[Tensor, Tensor]:
    """Logits `[1, 4, V]` and labels `[1, 4]` with one target, predicted at `place`."""
    padded = torch.zeros(1, 4, VOCAB, dtype=logits.dtype)
    padded[0, place] = logits
    labels = torch.full((1, 4), IGNORE_INDEX)
    labels[0, place + 1] = target
    return padded, labels


@lru_cache(maxsize=1)
def batches() -> tuple[Tensor, Tensor]:
    """Six draws of the logits `[6, 3, 6, V]` of one batch, and its labels `[3, 6]`."""
    g = generator(0, "batches")
    logits = 1.5 * torch.randn(6, 3, 6, VOCAB, dtype=torch.float64, generator=g)
    labels = torch.randint(VOCAB, (3, 6), generator=g)
    labels[:, 0] = labels[0, 1] = labels[1, 4] = IGNORE_INDEX
    labels[2, 3:] = IGNORE_INDEX  # responses of 4, 4 and 2 targets
    return logits, labels


@dataclass(frozen=True)
class Seen:
    """The loss's field at all states, and what is read off it directly."""

    field: LossField
    precision: str

    @property
    def eps(self) -> float:
        """The rounding unit of the loss."""
        return EPS[self.precision]

    @cached_property
    def log_odds(self) -> Tensor:
        """The grid: even in the log-odds of p, with the probabilities that are printed."""
        low, high = RANGE[self.precision]
        even = torch.linspace(low, high, POINTS, dtype=torch.float64)
        shown = torch.logit(torch.tensor(SHOWN, dtype=torch.float64))
        return torch.cat([even, shown[(shown > low + 0.1) & (shown < high - 0.1)]]).sort().values

    @property
    def p(self) -> Tensor:
        """The probabilities of the target, `[N]`."""
        return torch.sigmoid(self.log_odds)

    @property
    def q(self) -> Tensor:
        """1 - p, without cancellation."""
        return torch.sigmoid(-self.log_odds)

    @cached_property
    def states(self) -> Tensor:
        """Logits `[3, N, V]`: the grid of p for each way to spread the rest."""
        return torch.stack([logits_at(self.log_odds, others) for others in rivals()])

    @cached_property
    def sft(self) -> Tensor:
        """e_y - pi, the field of SFT, `[3, N, V]`; the target's component does not cancel."""
        rest = torch.softmax(self.states, -1)
        rest[..., TARGET] = 0.0
        onehot = torch.eye(VOCAB, dtype=torch.float64)[TARGET]
        return rest.sum(-1, keepdim=True) * onehot - rest

    @cached_property
    def length(self) -> Tensor:
        """|e_y - pi|, `[3, N, 1]`."""
        return self.sft.square().sum(-1, keepdim=True).sqrt()

    def pull(self, logits: Tensor, target: int = TARGET, *, place: int = 0) -> Tensor:
        """The field `[V]` at one position, alone in its batch."""
        return self.field(*alone(logits, target, place=place))[0, place]

    @cached_property
    def raw(self) -> Tensor:
        """The field on the grid, `[3, N, V]`."""
        rows = [self.pull(z) for z in self.states.flatten(0, 1)]
        return torch.stack(rows).reshape(self.states.shape)

    @cached_property
    def scaled(self) -> Tensor:
        """The field in units of |e_y - pi|, so that its length is the weight, `[3, N, V]`."""
        return self.raw / self.length

    @cached_property
    def weights(self) -> Tensor:
        """The pull on the target's logit over 1 - p, `[3, N]`."""
        # Without the target's own component, which cancels near p = 1, where the sum is 0.
        rivals = -(self.raw.sum(-1) - self.raw[..., TARGET])
        return (self.raw[..., TARGET] if self.beyond_softmax else rivals) / self.q + 0.0

    @cached_property
    def beyond_softmax(self) -> bool:
        """Whether adding a constant to all logits changes the loss: the field has a sum."""
        return bool((self.scaled.sum(-1).abs() > self.rounding).any())

    @cached_property
    def adds_target(self) -> bool:
        """Whether the pull is anywhere not along e_y - pi."""
        along = self.sft / self.length
        across = self.scaled - (self.scaled * along).sum(-1, keepdim=True) * along
        return bool((across.norm(dim=-1) > self.rounding).any())

    @property
    def noise(self) -> float:
        """What rounding may do where p is neither small nor near 1, as a fraction."""
        return min(0.1, 10 * ROUNDING * self.eps)

    @cached_property
    def batch(self) -> Tensor:
        """The field at each draw of the batch, `[draws, rows, T, V]`."""
        logits, labels = batches()
        return torch.stack([self.field(z, labels) for z in logits])

    @cached_property
    def rounding(self) -> Tensor:
        """What rounding may do to the scaled field at each p, `[N]`."""
        size = self.scaled.norm(dim=-1).amax(0)
        # Where a weight passes through 0 the neighbours say how large its terms are.
        near = F.max_pool1d(size.reshape(1, 1, -1), 7, 1, 3).flatten()
        return (ROUNDING * self.eps / (self.p * self.q)).clamp_max(0.5) * near


def spoken(labels: Tensor) -> Tensor:
    """Where a position of the logits predicts a target, `[B, T]`."""
    return labels.roll(-1, -1) != IGNORE_INDEX


def precision(field: LossField) -> str:
    """The precision in which the loss computes: the smallest step of the logits that it notices.

    Raises: ValueError for a loss that is not a function of its arguments, or stands at another
    position than the targets'.
    """
    logits, labels = batches()
    first, again = field(logits[0], labels), field(logits[0], labels)
    size = first.abs().max()
    if not bool(torch.allclose(first, again, rtol=0, atol=float(1e-4 * size))):
        raise ValueError(
            f"{field.name} is not deterministic: two calls with the same arguments differ by "
            f"{float((first - again).abs().max() / size):.1g} of the gradient"
        )
    _refuse_shift(field)
    held = (32 * logits[0]).round() / 32  # numbers that every format holds exactly
    first = field(held, labels)
    constant = bool((field(1.1 * held, labels) == first).all())
    for name, step in (("half", 1e-5), ("float32", 1e-10)):
        if not constant and bool((field((1 + step) * held, labels) == first).all()):
            return name
    return "float64"


def _refuse_shift(field: LossField) -> None:
    """Raise where the gradient of one target does not stand one position before its label."""
    found = torch.zeros(4, dtype=torch.float64)
    middle = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    for others in rivals():
        for z in logits_at(middle, others):
            found += field(*alone(z, place=1))[0].abs().sum(-1)
    if not bool(found.any()):
        raise ValueError(
            f"the gradient of {field.name} is 0 at every state: is everything detached?"
        )
    if not bool(found[1]):
        raise ValueError(
            f"the gradient of {field.name} for a label at position 2 stands at position "
            f"{int(found.argmax())} of the logits, not at 1: labels come unshifted, so shift them "
            "inside (logits[:, :-1], labels[:, 1:])"
        )
