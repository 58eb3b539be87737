"""The best distribution under an entropic cost: hinted decoding and TALR."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.entropy import divergence
from dft_theory.claims.scope import Scope
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import power, talr, talr_normalised
from dft_theory.objectives.talr import FLOOR, temperature
from dft_theory.seeding import generator


def minimiser(f: Callable[[Tensor], Tensor], size: int) -> Estimate:
    """Where a convex f of a distribution `[size]` is least: BFGS over free logits, three starts.

    The bar is ten times the distance between the ends of the three searches.
    """
    g = generator(0, "minimiser", size)

    def value(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = torch.from_numpy(theta).requires_grad_(True)
        found = f(torch.softmax(z, -1))
        return float(found.detach()), torch.autograd.grad(found, z)[0].numpy()

    starts = torch.randn(3, size, dtype=torch.float64, generator=g)
    options = {"gtol": 1e-8}
    ends = [minimize(value, s.numpy(), jac=True, method="BFGS", options=options) for s in starts]
    first, *others = (torch.softmax(torch.from_numpy(end.x), -1) for end in ends)
    apart = torch.stack([(other - first).abs().max() for other in others]).max()
    return Estimate(first, 10 * apart + 1e-9)


@dataclass(frozen=True)
class Mixture:
    """A teacher p that saw a hint and a student q, mixed with the share lam of the student."""

    vocab: int
    seed: int
    lam: float

    def __str__(self) -> str:
        return f"V = {self.vocab}, lam = {self.lam:g}, seed {self.seed}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    @cached_property
    def laws(self) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher, student, and any third distribution, each `[V]`."""
        g = generator(self.seed, "mixture", self.vocab)
        p, q, m = torch.softmax(
            1.5 * torch.randn(3, self.vocab, dtype=torch.float64, generator=g), -1
        )
        return p, q, m

    def cost(self, m: Tensor) -> Tensor:
        """(1 - lam) KL(m || p) + lam KL(m || q)."""
        p, q, _ = self.laws
        return (1 - self.lam) * divergence(m, p) + self.lam * divergence(m, q)

    @cached_property
    def best(self) -> Estimate:
        """The cheapest distribution that a search finds, `[V]`."""
        return minimiser(self.cost, self.vocab)

    def geometric(self, lam: float) -> Tensor:
        """p^(1-lam) q^lam, not normalised, `[V]`."""
        p, q, _ = self.laws
        return p ** (1 - lam) * q**lam

    def excess(self, lam: float) -> Tensor:
        """KL(m || m*) - log Z with the mix of share `lam`."""
        mass = self.geometric(lam)
        return divergence(self.laws[2], mass / mass.sum()) - mass.sum().log()


@lru_cache(maxsize=2)
def _mixtures(thorough: bool) -> tuple[Mixture, ...]:
    seeds = range(6 if thorough else 2)
    return tuple(Mixture(v, s, lam) for v in (3, 5) for s in seeds for lam in (0.2, 0.5))


def mixtures(scope: Scope) -> Sequence[Mixture]:
    """Small vocabularies, three shares."""
    return _mixtures(scope.thorough)


@dataclass(frozen=True)
class Batch:
    """Token log-probabilities of four responses of up to six tokens."""

    seed: int

    def __str__(self) -> str:
        return f"batch {self.seed}"

    @property
    def terms(self) -> int:
        """Number of tokens, with padding."""
        return 24

    @cached_property
    def stats(self) -> TokenStats:
        """`[4, 6]`, padded."""
        g = generator(self.seed, "batch")
        logp = -3 * torch.rand(4, 6, dtype=torch.float64, generator=g).square()
        mask = torch.arange(6) < torch.tensor([[6], [4], [3], [5]])
        return TokenStats(logp=logp.masked_fill(~mask, 0.0), mask=mask)

    @cached_property
    def loss(self) -> Tensor:
        """-log p of the target tokens in nats, `[N]`."""
        return -self.stats.logp[self.stats.mask]

    @cached_property
    def tau(self) -> Tensor:
        """Median of the responses' mean loss, in nats."""
        return temperature(self.stats)

    def objective(self, w: Tensor) -> Tensor:
        """Sum_t w_t loss_t + tau sum_t w_t log w_t."""
        return w @ self.loss + self.tau * torch.xlogy(w, w).sum()

    @cached_property
    def best(self) -> Estimate:
        """The weights that a search finds, `[N]`."""
        return minimiser(self.objective, self.loss.shape[0])

    def closed(self, exponent: Tensor | float) -> Tensor:
        """p^exponent, normalised over the batch, `[N]`."""
        return torch.softmax(-exponent * self.loss, 0)


@lru_cache(maxsize=2)
def _batches(thorough: bool) -> tuple[Batch, ...]:
    return tuple(Batch(s) for s in range(12 if thorough else 4))


def batches(scope: Scope) -> Sequence[Batch]:
    """Random batches."""
    return _batches(scope.thorough)


CLAIMS = (
    Claim(
        name="geometric-mix-excess-is-a-divergence",
        title="Every other decoder pays its divergence from the geometric mix",
        kind="identity",
        statement=r"(1 - \lambda)\, \mathrm{KL}(m \Vert p) + \lambda\, \mathrm{KL}(m \Vert q) = "
        r"\mathrm{KL}(m \Vert m^\star) - \log Z, \qquad m^\star = \frac{1}{Z}\, "
        r"p^{1-\lambda} q^{\lambda}",
        note="Hinted decoding: so m* is the best compromise between the hinted teacher and the "
        "student, for every m at once.",
        cites=("zhang2026idft",),
        cases=mixtures,
        lhs=lambda c: c.cost(c.laws[2]),
        rhs=lambda c: c.excess(c.lam),
        scale=lambda _: 1.0,
        mutants=(
            Mutant(
                "p and q swapped",
                lambda c: c.excess(1 - c.lam),
                equivalent_when=lambda c: c.lam == 0.5,
                why="equal shares",
            ),
            Mutant(
                "normaliser forgotten",
                lambda c: c.excess(c.lam) + c.geometric(c.lam).sum().log(),
            ),
        ),
    ),
    Claim(
        name="geometric-mix-is-the-best-compromise",
        title="A search finds the geometric mix",
        kind="identity",
        statement=r"\mathrm{argmin}_m\; (1 - \lambda)\, \mathrm{KL}(m \Vert p) + \lambda\, "
        r"\mathrm{KL}(m \Vert q) = \frac{1}{Z}\, p^{1-\lambda} q^{\lambda}",
        note="BFGS over free logits, which knows nothing of the closed form.",
        cites=("zhang2026idft",),
        cases=mixtures,
        tolerance=Numerical(),
        lhs=lambda c: c.best,
        rhs=lambda c: c.geometric(c.lam) / c.geometric(c.lam).sum(),
        mutants=(
            Mutant(
                "p and q swapped",
                lambda c: c.geometric(1 - c.lam) / c.geometric(1 - c.lam).sum(),
                equivalent_when=lambda c: c.lam == 0.5,
                why="equal shares",
            ),
            Mutant("arithmetic mixture", lambda c: (1 - c.lam) * c.laws[0] + c.lam * c.laws[1]),
        ),
    ),
    Claim(
        name="talr-weights-minimise-on-the-simplex",
        title="TALR's weights minimise the weighted loss with an entropy bonus",
        kind="identity",
        statement=r"\mathrm{argmin}_{w \in \Delta} \sum_t w_t \ell_t + \tau \sum_t w_t \log w_t = "
        r"\frac{p_t^{1/\tau}}{\sum_s p_s^{1/\tau}}, \qquad \ell_t = -\log p_t",
        note="Weights that sum to one over the batch.",
        cites=("lin2025talr",),
        cases=batches,
        tolerance=Numerical(),
        lhs=lambda c: c.best,
        rhs=lambda c: talr_normalised.weight(c.stats)[c.stats.mask],
        assumptions=(
            Assumption("weights on the simplex", "without the sum there is no normaliser"),
        ),
        mutants=(
            Mutant("exponent tau", lambda c: c.closed(c.tau)),
            Mutant("not normalised", lambda c: torch.exp(-c.loss / c.tau)),
            Mutant("towards hard tokens", lambda c: c.closed(-1 / c.tau)),
        ),
    ),
    Claim(
        name="talr-in-use-is-a-power",
        title="TALR in use is the power family with a floor",
        kind="refutation",
        statement=r"w_t = \max\left(p_t^{1/\tau}, \frac{1}{100}\right)",
        note="Without the normaliser the weights no longer solve the problem they are derived "
        "from: they are p^alpha, generalised cross-entropy, with alpha = 1/tau that the batch "
        "chooses, and a floor.",
        cites=("lin2025talr", "zhang2018gce"),
        cases=batches,
        lhs=lambda c: talr.weight(c.stats)[c.stats.mask],
        rhs=lambda c: power(1 / float(c.tau)).weight(c.stats)[c.stats.mask].clamp_min(FLOOR),
        published=Published(
            statement=r"w = \mathrm{argmin}_{w \in \Delta} \sum_t w_t \ell_t + \tau \sum_t "
            r"w_t \log w_t",
            side=lambda c: c.closed(1 / c.tau),
            cite="lin2025talr",
            why="the derivation of the weights",
            second_hand=True,
        ),
        mutants=(
            Mutant("exponent tau", lambda c: torch.exp(-c.tau * c.loss).clamp_min(FLOOR)),
            Mutant("floor of one tenth", lambda c: torch.exp(-c.loss / c.tau).clamp_min(0.1)),
        ),
    ),
)
