"""Do the demonstrations ask for the same change? Agreement of their gradients, before training.

Everything is read from the Gram matrix: the inner products of the gradients of N demonstrations.
The cosine between two halves of the data grows with N; the shared part of a pair does not.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Coherence:
    """How far the gradients of demonstrations agree, on the tokens named by `of`.

    `shared`: mean inner product of two demonstrations over the mean square of one, with its
    jackknife standard error `error`; 1 where all are equal, 0 where they are unrelated. `cosine`:
    mean cosine between the summed gradients of random halves, with the 5th and 95th percentile over
    the splits, which are of the same data: no error bar. `demonstrations` are those that have such
    tokens. None where there are too few of them.
    """

    of: str
    tokens: int
    demonstrations: int
    shared: float | None = None
    error: float | None = None
    cosine: float | None = None
    span: tuple[float, float] | None = None

    def cosine_at(self, demonstrations: int) -> float | None:
        """The cosine between halves to expect of a set of another size, from `shared`."""
        return None if self.shared is None else expected_cosine(self.shared, demonstrations)


def coherence(gram: Tensor, *, of: str, tokens: int, generator: torch.Generator) -> Coherence:
    """Both statistics of a Gram matrix `[N, N]`; demonstrations without a gradient are left out.

    Raises: ValueError for a matrix that is not square, or not finite.
    """
    if gram.dim() != 2 or len(gram) != gram.shape[1] or not bool(gram.isfinite().all()):
        raise ValueError(f"expected finite inner products [N, N], got {list(gram.shape)}")
    gram = gram.double()
    kept = gram.diagonal() > 0
    gram = gram[kept][:, kept]
    found = Coherence(of=of, tokens=tokens, demonstrations=len(gram))
    if len(gram) < 3:
        return found
    cosines = split_half(gram, generator)
    low, high = cosines.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return Coherence(
        of=of,
        tokens=tokens,
        demonstrations=len(gram),
        shared=shared_part(gram),
        error=jackknife_error(gram),
        cosine=float(cosines.mean()),
        span=(low, high),
    )


def shared_part(gram: Tensor) -> float:
    r"""Mean inner product of two demonstrations over the mean square of one, from `[N, N]`.

    (|\sum g|^2 - \sum |g|^2) / ((N - 1) \sum |g|^2): unlike the cosine between halves it has the
    same expectation for any N, up to the ratio of the two means. Between -1/(N - 1) and 1.
    """
    own = gram.diagonal().sum()
    return float((gram.sum() - own) / ((len(gram) - 1) * own))


def jackknife_error(gram: Tensor) -> float:
    """Standard error of `shared_part` over demonstrations, each left out once; needs N >= 3."""
    n, own = len(gram), gram.diagonal()
    rest = own.sum() - own
    pairs = gram.sum() - 2 * gram.sum(-1) + own - rest
    left = pairs / ((n - 2) * rest)
    return math.sqrt((n - 1) / n * float((left - left.mean()).square().sum()))


def expected_cosine(shared: float, demonstrations: float) -> float:
    """Cosine between halves of N demonstrations whose pairs share that part: h c / (1 + (h - 1) c).

    With h = N/2; for gradients of equal length. 0 where nothing is shared, or less.
    """
    half = demonstrations / 2
    return max(0.0, half * shared / (1 + (half - 1) * shared)) if shared > 0 else 0.0


def split_half(gram: Tensor, generator: torch.Generator, splits: int = 200) -> Tensor:
    """Cosines between the gradient sums of random halves, at most `splits` of them, float64.

    Halves whose gradient is 0 have none. Raises: ValueError for fewer than two demonstrations.
    """
    if len(gram) < 2:
        raise ValueError("two halves need at least two demonstrations: give more data")
    gram = gram.double()
    order = torch.stack([torch.randperm(len(gram), generator=generator) for _ in range(splits)])
    half = torch.zeros(splits, len(gram), dtype=torch.float64)
    half.scatter_(1, order[:, : len(gram) // 2], 1.0)
    other = 1 - half
    inner = (half @ gram * other).sum(-1)
    # Rounding may leave a tiny negative square where the gradient of a half is 0.
    squares = [(h @ gram * h).sum(-1).clamp_min(0) for h in (half, other)]
    kept = squares[0] * squares[1] > 0
    return (inner[kept] / (squares[0] * squares[1])[kept].sqrt()).clamp(-1, 1)
