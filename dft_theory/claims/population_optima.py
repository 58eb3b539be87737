"""What a policy learns from many demonstrations that disagree: the data, or their mode.

One prompt and a response of one token: a softmax bandit. The closed forms are in `dynamics` and in
the objectives' own `optimum`; the other side integrates the update of the Objective that trains.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.gradient_flow import integrated, scalars, weighted_by
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, Numerical
from dft_theory.dynamics import (
    RTOL,
    fixed_point,
    flow,
    separatrix,
)
from dft_theory.objectives import Objective, dft, power, sft
from dft_theory.seeding import generator


@dataclass(frozen=True)
class Data:
    """Demonstrations of frequencies r for one prompt, learned under the weight p^alpha."""

    alpha: float
    r: tuple[float, ...]
    start: tuple[float, ...]

    def __str__(self) -> str:
        return f"alpha = {self.alpha:g}, r = {self.r}, start {self.start}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return len(self.r)

    @property
    def objective(self) -> Objective:
        """The objective of weight p^alpha."""
        return weighted_by(self.alpha)

    @cached_property
    def demos(self) -> Tensor:
        """r, `[V]`."""
        return scalars(*self.r)

    @property
    def mode(self) -> Tensor:
        """One-hot at the most frequent response, `[V]`."""
        return torch.where(self.demos == self.demos.max(), 1.0, 0.0).double()

    def sharpened(self, beta: float) -> Tensor:
        """r^beta, normalised, `[V]`."""
        return self.demos**beta / (self.demos**beta).sum()

    def path(self, times: Tensor, rtol: float = RTOL) -> Tensor:
        """Policies at `times`, `[N, V]`, from the start's probabilities."""
        start = scalars(*self.start).log()
        theta = flow(self.objective, start=start, demos=self.demos, times=times, rtol=rtol)
        return torch.softmax(theta, -1)

    @cached_property
    def end(self) -> Estimate:
        """Where the flow comes to rest, `[V]`, with a bound on what is still to go."""
        return self._vertex() if self.alpha == 1 else self._inside()

    def _inside(self) -> Estimate:
        # Near an inner end point the distance decays exponentially: once it halves between T and
        # 2T, the last half moved at least as far as what is left.
        times = scalars(1.0, 2.0) * 250 * 4 ** (self.alpha / (1 - self.alpha))
        halves = integrated(lambda r: self.path(times, r))
        half, end = halves.value
        return Estimate(end, (end - half).abs().max() + halves.error)

    def _vertex(self) -> Estimate:
        # The regret d = max r - E_pi[r] falls at the rate ||grad||^2 >= (p_m d)^2, its entry at the
        # mode m, and p_m only grows once m leads: d(t) <= 1 / (1/d(t1) + p_m(t1)^2 (t - t1)).
        times = torch.logspace(0, 7, 50, dtype=torch.float64)
        path = self.path(times)
        m = int(self.demos.argmax())
        leads = (path.argmax(-1) == m).nonzero()
        if not len(leads):
            return Estimate(path[-1], scalars(1.0))
        i = int(leads[0])
        regret = self.demos[m] - path[i] @ self.demos
        final = 1 / (1 / regret + path[i, m] ** 2 * (times[-1] - times[i]))
        gap = self.demos[m] - self.demos[self.demos < self.demos[m]].max()
        return Estimate(path[-1], final / gap)

    def gradient_at_data(self) -> Tensor:
        """Minus the population gradient in the logits at pi = r, token by token, `[V]`."""
        z = self.demos.log()
        cases = [TokenCase(z, v, "") for v in range(self.terms)]
        each = torch.stack([c.logit_gradient(self.objective) for c in cases])
        return -self.demos @ each


@dataclass(frozen=True)
class Locked:
    """Two demonstrated tokens, alpha > 1, and a start at `factor` times the separatrix."""

    alpha: float
    r: tuple[float, float]
    factor: float

    def __str__(self) -> str:
        return f"alpha = {self.alpha:g}, r = {self.r}, odds {self.odds:.4g}"

    @property
    def terms(self) -> int:
        """Two."""
        return 2

    @property
    def odds(self) -> float:
        """p_1 / p_2 at the start."""
        return self.factor * separatrix(scalars(*self.r), alpha=self.alpha)

    @cached_property
    def end(self) -> Estimate:
        """p_1 after a long time, with a bound on what is still to go."""
        # From p_1' = 2 p_1^2 p_2^2 g, g = r_1 p_1^(a-1) - r_2 p_2^(a-1): |g| and the winner's p
        # only grow, so the loser's is at most 1 / (1/p_l(0) + 2 p_w(0)^2 |g(0)| t).
        theta, demos, t = scalars(math.log(self.odds), 0.0), scalars(*self.r), 1e8
        final = flow(power(self.alpha), start=theta, demos=demos, times=scalars(t))[0]
        p, last = torch.softmax(theta, -1), torch.softmax(final, -1)
        winner = int(last.argmax())
        force = (demos * p ** (self.alpha - 1)).diff().abs()
        left = 1 / (1 / p[1 - winner] + 2 * p[winner] ** 2 * force * t)
        return Estimate(last[:1], left)


@lru_cache(maxsize=2)
def _data(thorough: bool) -> tuple[Data, ...]:
    settings: list[tuple[tuple[float, ...], tuple[float, ...]]] = [
        ((0.6, 0.4), (0.2, 0.8)),
        ((0.2, 0.5, 0.3), (0.6, 0.1, 0.3)),
        ((0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)),
    ]
    if thorough:
        settings += [((0.35, 0.25, 0.15, 0.15, 0.1), s) for s in _simplex_points(5, 4)]
    alphas = (0.0, 0.25, 0.5, 1.0) if thorough else (0.0, 0.5, 1.0)
    return tuple(Data(a, r, s) for r, s in settings for a in alphas)


def _simplex_points(vocab: int, count: int) -> list[tuple[float, ...]]:
    z = torch.randn(count, vocab, dtype=torch.float64, generator=generator(0, "simplex", vocab))
    return [tuple(row.tolist()) for row in torch.softmax(z, -1)]


def data(keep: Callable[[float], bool]) -> Callable[[Scope], Sequence[Data]]:
    """Conflicting demonstrations and starts for the alphas to keep."""
    return lambda scope: [c for c in _data(scope.thorough) if keep(c.alpha)]


def spectra(scope: Scope) -> Sequence[Data]:
    """Random data distributions; nothing is integrated, so there can be many."""
    count = 40 if scope.thorough else 6
    return [
        Data(a, r, r)
        for vocab in (2, 3, 8)
        for r in _simplex_points(vocab, count)
        for a in (0.0, 0.25, 0.5, 0.75)
    ]


@lru_cache(maxsize=2)
def _locked(thorough: bool) -> tuple[Locked, ...]:
    alphas = (1.5, 2.0, 3.0, 4.0) if thorough else (2.0, 4.0)
    frequencies = [(0.7, 0.3)] + ([(0.45, 0.55)] if thorough else [])
    factors = (0.3, 0.98, 1.02, 3.0) if thorough else (0.98, 1.02)
    return tuple(Locked(a, r, f) for a in alphas for r in frequencies for f in factors)


def locked(scope: Scope) -> Sequence[Locked]:
    """Starts on both sides of the separatrix, down to 2 per cent from it."""
    return _locked(scope.thorough)


def expected_p(case: Data) -> Estimate:
    """E_{y~r}[p(y)] where the flow comes to rest."""
    return Estimate((case.demos @ case.end.value).reshape(1), case.end.error)


def gold(r: Tensor, p: Tensor) -> Tensor:
    """[E_r p, E_r(-log p)]: mean probability of the data, and mean loss in nats."""
    return torch.stack([r @ p, -(r @ p.log())])


def one(beta: float, case: Data) -> Tensor:
    """E_r of r sharpened: sum r^(1+beta) / sum r^beta."""
    return (case.demos @ case.sharpened(beta)).reshape(1)


INNER = Assumption(
    "a start inside the simplex", "a logit of -inf never moves: what has no prior is not learned"
)
ONE_MODE = Assumption(
    "one most frequent response",
    "on a tie DFT rests at a mixture that depends on the start",
    holds=lambda c: sorted(c.r)[-1] > sorted(c.r)[-2],
)

CLAIMS = (
    Claim(
        name="sft-fits-the-data",
        title="SFT learns the distribution of the demonstrations",
        kind="limit",
        statement=r"\lim_{t\to\infty} \pi_t = r \qquad (\alpha = 0)",
        note="With demonstrations that disagree, cross-entropy ends at their frequencies: a "
        "proper scoring rule. The flow is integrated; the bar is how far its last half moved.",
        cites=("wu2025dft",),
        cases=data(lambda a: a == 0),
        assumptions=(INNER,),
        tolerance=Numerical(),
        lhs=lambda c: c.end,
        rhs=lambda c: sft.optimum(c.demos),  # type: ignore[misc]
        mutants=(
            Mutant("the mode", lambda c: c.mode),
            Mutant("r^2", lambda c: c.sharpened(2.0)),
            Mutant("the start", lambda c: scalars(*c.start)),
        ),
    ),
    Claim(
        name="power-sharpens-the-data",
        title="p^alpha learns the demonstrations at a lower temperature",
        kind="limit",
        statement=r"\lim_{t\to\infty} \pi_t(y) = "
        r"\frac{r(y)^{1/(1-\alpha)}}{\sum_v r(v)^{1/(1-\alpha)}} \qquad (0 < \alpha < 1)",
        note="alpha = 1/2 squares the frequencies. The exponent grows without bound as alpha "
        "tends to 1, where DFT stands.",
        cites=("zhang2018gce", "li2025beyond"),
        cases=data(lambda a: 0 < a < 1),
        assumptions=(INNER,),
        tolerance=Numerical(),
        lhs=lambda c: c.end,
        rhs=lambda c: fixed_point(c.demos, alpha=c.alpha),
        mutants=(
            Mutant("r itself: a rescaled SFT", lambda c: c.demos),
            Mutant("exponent 1 - alpha", lambda c: c.sharpened(1 - c.alpha)),
            Mutant("exponent 1 + alpha", lambda c: c.sharpened(1 + c.alpha)),
            Mutant("the mode", lambda c: c.mode),
        ),
    ),
    Claim(
        name="dft-learns-the-mode",
        title="DFT does not learn the distribution of the demonstrations but its mode",
        kind="refutation",
        statement=r"\lim_{t\to\infty} \pi_t = e_{m}, \qquad m = \argmax_v r(v) "
        r"\qquad (\alpha = 1)",
        note="sg(p) grad log p is grad p, so the population gradient is that of E_r[p], linear in "
        "p: exact policy gradient with reward r. It ends on the most frequent response from any "
        "inner start, at a distance that shrinks like 1/t. Sharpening alone raises accuracy at "
        "sampling temperature 1.",
        cites=("wu2025dft", "mei2020softmax"),
        cases=data(lambda a: a == 1),
        assumptions=(INNER, ONE_MODE),
        tolerance=Numerical(),
        lhs=lambda c: c.end,
        rhs=lambda c: dft.optimum(c.demos),  # type: ignore[misc]
        published=Published(
            statement=r"\nabla \mathcal{L}_{\mathrm{DFT}} \parallel "
            r"\nabla \mathcal{L}_{\mathrm{SFT}} \;\Longrightarrow\; \lim_{t\to\infty} \pi_t = r",
            side=lambda c: c.demos,
            cite="wu2025dft",
            why="appendix A.3: the same direction with another scale. True of one demonstration, "
            "and read as if both had the same target",
        ),
        mutants=(
            Mutant("r^2, as for alpha = 1/2", lambda c: c.sharpened(2.0)),
            Mutant("uniform", lambda c: torch.full_like(c.demos, 1 / c.terms)),
            Mutant(
                "the start's favourite",
                lambda c: torch.eye(c.terms, dtype=torch.float64)[int(scalars(*c.start).argmax())],
                equivalent_when=lambda c: c.start[c.r.index(max(c.r))] == max(c.start),
                why="the start favours the mode, or nothing",
            ),
        ),
    ),
    Claim(
        name="update-at-the-data",
        title="A model that fits the data: SFT rests, DFT moves on",
        kind="identity",
        statement=r"\pi = r \;\Longrightarrow\; \mathbb{E}_{y\sim r}\left[\pi(y)^{\alpha}\, "
        r"\nabla_\theta \log \pi(y)\right] = r^{1+\alpha} - r \sum_v r_v^{1+\alpha}",
        note="Zero for SFT. For DFT it is r (r - E_r[r]): what is more frequent than average grows "
        "and the rest shrinks, although the model is already calibrated.",
        cites=("wu2025dft", "li2025beyond"),
        cases=spectra,
        lhs=lambda c: c.gradient_at_data(),
        rhs=lambda c: c.demos ** (1 + c.alpha) - c.demos * (c.demos ** (1 + c.alpha)).sum(),
        scale=lambda _: 1.0,
        mutants=(
            Mutant(
                "zero, as for SFT",
                lambda c: torch.zeros_like(c.demos),
                equivalent_when=lambda c: c.alpha == 0,
                why="that is SFT",
            ),
            Mutant("without the baseline", lambda c: c.demos ** (1 + c.alpha)),
        ),
    ),
    Claim(
        name="mean-probability-at-the-end",
        title="How likely the demonstrations are after training",
        kind="limit",
        statement=r"\lim_{t\to\infty} \mathbb{E}_{y\sim r}[\pi_t(y)] = "
        r"\frac{\sum_y r(y)^{1+\beta}}{\sum_y r(y)^{\beta}}, \quad \beta = \frac{1}{1-\alpha}; "
        r"\qquad \text{SFT: } \sum_y r(y)^2, \quad \text{DFT: } \max_y r(y)",
        note="The mean of a token-probability histogram after training, for data with irreducible "
        "noise. It never reaches 1, and no policy beats DFT's max r.",
        cites=("wu2025dft", "zhang2018gce"),
        cases=data(lambda a: a <= 1),
        assumptions=(INNER, ONE_MODE),
        tolerance=Numerical(),
        lhs=expected_p,
        rhs=lambda c: c.demos.max().reshape(1) if c.alpha == 1 else one(1 / (1 - c.alpha), c),
        mutants=(
            Mutant("1: all demonstrations learned", lambda _: scalars(1.0)),
            Mutant(
                "SFT's for all",
                lambda c: one(1.0, c),
                equivalent_when=lambda c: c.alpha == 0,
                why="that is SFT",
            ),
            Mutant(
                "max r for all",
                lambda c: c.demos.max().reshape(1),
                equivalent_when=lambda c: c.alpha == 1,
                why="that is DFT",
            ),
        ),
    ),
    Claim(
        name="likelier-and-yet-lossier",
        title="A sharper optimum raises the mean probability and the loss together",
        kind="inequality",
        statement=r"\mathbb{E}_r[p_\alpha] \ge \mathbb{E}_r[p_{\mathrm{SFT}}] \quad "
        r"\mathrm{and} \quad \mathbb{E}_r[-\log p_\alpha] \ge \mathbb{E}_r[-\log p_{\mathrm{SFT}}] "
        r"\qquad (0 \le \alpha < 1)",
        note="At the optima. A rising cross-entropy beside a rising mean probability is what "
        "sharpening looks like, and no sign of a fault.",
        cites=("wu2025dft", "zhang2018gce"),
        cases=spectra,
        relation="<=",
        lhs=lambda c: gold(c.demos, c.demos),
        rhs=lambda c: gold(c.demos, c.objective.optimum(c.demos)),
        mutants=(
            Mutant(
                "the loss falls",
                lambda c: gold(c.demos, c.objective.optimum(c.demos)) * scalars(1.0, -1.0),
            ),
            Mutant(
                "flatter instead of sharper",
                lambda c: gold(c.demos, c.sharpened(1 - c.alpha)),
                equivalent_when=lambda c: c.alpha == 0,
                why="that is SFT",
            ),
        ),
    ),
    Claim(
        name="power-above-one-is-prior-locked",
        title="Beyond DFT the start decides what is learned",
        kind="limit",
        statement=r"\lim_{t\to\infty} p_1 = \mathbf{1}\left[\frac{p_1(0)}{p_2(0)} > "
        r"\left(\frac{r_2}{r_1}\right)^{1/(\alpha-1)}\right] \qquad (\alpha > 1,\; V = 2)",
        note="For alpha > 1 every demonstrated token is a stable end point. The starts lie within "
        "2 per cent of the separatrix on both sides, and go to opposite corners.",
        cites=("zhang2018gce", "li2025beyond"),
        cases=locked,
        assumptions=(
            Assumption(
                "two demonstrated tokens",
                "with more tokens the basins have curved boundaries without a closed form",
            ),
        ),
        tolerance=Numerical(),
        lhs=lambda c: c.end,
        rhs=lambda c: scalars(float(c.odds > separatrix(scalars(*c.r), alpha=c.alpha))),
        mutants=(
            Mutant("the data's majority wins", lambda c: scalars(float(c.r[0] > c.r[1]))),
            Mutant("the prior's majority wins", lambda c: scalars(float(c.odds > 1))),
            Mutant(
                "the ratio upside down",
                lambda c: scalars(float(c.odds > 1 / separatrix(scalars(*c.r), alpha=c.alpha))),
            ),
        ),
    ),
)
