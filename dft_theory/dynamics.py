"""Exact gradient flow of a softmax bandit: how fast each objective learns, and where it ends.

One prompt, one response of one token, V logits theta. On demonstrations drawn from r an objective
of weight w moves the logits by dtheta_k/dt = r_k w(p_k) - p_k sum_v r_v w(p_v). Time is learning
rate times steps. For w = p^alpha (SFT 0, DFT 1) the speed, the time to learn one demonstration
and the end points have closed forms; `flow` and `reach` integrate the same objects numerically
and share nothing with them but the definition.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from dft_theory.logprobs import target_stats
from dft_theory.objectives import Objective, power

RTOL = 1e-10  # relative and absolute tolerance of the integrator, in logits


def speed(probs: Tensor, target: int, *, alpha: float) -> Tensor:
    r"""dp/dt of the demonstrated token: p^(1+alpha) ||e_y - pi||^2.

    Gradient flow on one demonstration y moves the logits by p^alpha (e_y - pi), and grad p is
    p (e_y - pi). 1 - p is summed over the other tokens: subtracting from 1 cancels near p = 1.

    Shapes: `probs [V]`; returns a scalar. Units: probability per unit of time.
    Raises: ValueError unless `probs` is a distribution and `target` one of its tokens.
    Source: Mei et al. 2020 (the softmax "gravity well"); alpha = 1 is their policy gradient.
    """
    _distribution(probs, "probs")
    if not 0 <= target < probs.shape[0]:
        raise ValueError(f"target {target} is not one of the {probs.shape[0]} tokens")
    rest = torch.cat([probs[:target], probs[target + 1 :]])
    return probs[target] ** (1 + alpha) * (rest.sum() ** 2 + rest.square().sum())


def spread(vocab: int) -> float:
    """The k = V / (V - 1) of ||e_y - pi||^2 = k (1 - p)^2 for equally likely other tokens.

    Any other split of 1 - p lies between this and 2, the value for a single competitor (V = 2).

    Raises: ValueError for fewer than two tokens.
    """
    if vocab < 2:
        raise ValueError(f"a choice needs at least 2 tokens, got vocab = {vocab}")
    return vocab / (vocab - 1)


def escape_time(p0: float, p1: float, *, alpha: float, vocab: int) -> float:
    r"""Time in which gradient flow on one demonstration lifts its probability from p0 to p1.

    T = 1/k \int_{p0}^{p1} dp / (p^(1+alpha) (1-p)^2), competitors equally likely. Closed form by
    partial fractions for whole alpha >= 0 and for alpha = 1/2; for other alpha adaptive
    quadrature of (1 + e^-x)^alpha (1 + e^x) / k over the log-odds x, where the integrand is smooth
    (relative error about 1e-12). With u = p / (1-p): k T_SFT = [ln u + u] and
    k T_DFT = [2 ln u - 1/p + u] between the ends.

    Units: learning rate times steps. Raises: ValueError unless 0 < p0 < p1 < 1 and V >= 2.
    Source: Wu et al. 2025 define the two objectives; the integral is elementary.
    """
    k = spread(vocab)
    _ascending(p0, p1)
    if alpha == 0.5 or (alpha >= 0 and float(alpha).is_integer()):
        return (_antiderivative(p1, alpha) - _antiderivative(p0, alpha)) / k
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha}")
    area, _ = quad(
        lambda x: math.exp(alpha * math.log1p(math.exp(-x))) * (1 + math.exp(x)),
        _log_odds(p0),
        _log_odds(p1),
        epsabs=0.0,
        epsrel=1e-12,
        limit=500,
    )
    return float(area) / k


def escape_law(p0: float, *, alpha: float, vocab: int) -> float:
    """Leading term of `escape_time` for a token that starts rare: p0 -> 0 at fixed p1.

    ln(1/p0) / k for SFT (alpha = 0), and 1 / (alpha k p0^alpha) for alpha > 0: logarithm against
    power. The former is off by a constant, the latter by a factor that tends to 1.

    Units: learning rate times steps. Raises: ValueError unless 0 < p0 < 1, alpha >= 0, V >= 2.
    """
    k = spread(vocab)
    if not 0 < p0 < 1:
        raise ValueError(f"p0 is a probability strictly between 0 and 1, got {p0}")
    if not 0 <= alpha < math.inf:
        raise ValueError(f"the law is for finite alpha >= 0, got {alpha}")
    return math.log(1 / p0) / k if alpha == 0 else 1 / (alpha * k * p0**alpha)


def fixed_point(demos: Tensor, *, alpha: float) -> Tensor:
    """Where gradient flow from the inside of the simplex ends, for alpha <= 1.

    p proportional to r^(1/(1-alpha)) for alpha < 1: r itself for SFT, sharper for larger alpha.
    The mode of r for DFT, which is exact policy gradient with reward vector r.

    Shapes: `demos` r `[V]`; returns `[V]`.
    Raises: ValueError where r is not a distribution, alpha > 1 (the end depends on the start: see
    `separatrix`), or alpha = 1 and r has two modes.
    Source: Zhang and Sabuncu 2018 (the loss); Mei et al. 2020 (alpha = 1).
    """
    _distribution(demos, "demos")
    optimum = power(alpha).optimum
    if optimum is None:
        raise ValueError(
            f"with alpha = {alpha:g} > 1 every token with demonstrations is a stable end point and "
            "the start decides; for two tokens `separatrix` says where"
        )
    if alpha == 1 and int((demos == demos.max()).sum()) > 1:
        raise ValueError("two tokens are equally frequent: DFT may end at any mixture of them")
    return optimum(demos)


def separatrix(demos: Tensor, *, alpha: float) -> float:
    """Odds p_1 / p_2 on which the outcome turns, for two tokens and alpha > 1.

    (r_2 / r_1)^(1/(alpha-1)): above it flow ends at token 1, below at token 2, whatever r.

    Shapes: `demos` r `[2]`. Raises: ValueError for other shapes, alpha <= 1, or r with a zero.
    """
    _distribution(demos, "demos")
    if demos.shape[0] != 2 or not bool((demos > 0).all()):
        raise ValueError(f"the separatrix is for two demonstrated tokens, got r = {demos.tolist()}")
    if not alpha > 1:
        raise ValueError(f"only alpha > 1 locks the prior in, got alpha = {alpha}")
    first, second = demos.tolist()
    return float((second / first) ** (1 / (alpha - 1)))


def velocity(objective: Objective, theta: Tensor, demos: Tensor) -> Tensor:
    """dtheta/dt = E_{y~r}[w (e_y - pi)]: minus the population gradient in the logits.

    Shapes: `theta`, `demos` and the result `[V]`.
    Raises: ValueError where the weight reads more than the next-token distribution.
    """
    if not objective.is_function_of_p:
        return demos @ _state_field(objective, theta)
    probs = torch.softmax(theta, -1)
    pull = demos * objective.weight_at(probs)
    return pull - probs * pull.sum()


def flow(
    objective: Objective, *, start: Tensor, demos: Tensor, times: Tensor, rtol: float = RTOL
) -> Tensor:
    """Logits at increasing `times >= 0` of the gradient flow from `start`, by DOP853.

    Shapes: `start` logits `[V]`, `demos` r `[V]`, `times [N]`; returns `[N, V]`, float64.
    Raises: ValueError for shapes that do not fit, times out of order, or r not a distribution.
    """
    _same_tokens(start, demos)
    if times.dim() != 1 or bool((times < 0).any()) or bool((times.diff() <= 0).any()):
        raise ValueError("times must be a vector of increasing numbers >= 0")
    found = solve_ivp(
        _field(objective, demos),
        (0.0, float(times[-1])),
        start.double().numpy(),
        method="DOP853",
        t_eval=times.double().numpy(),
        rtol=rtol,
        atol=rtol,
    )
    return torch.from_numpy(found.y.T.copy())


def reach(
    objective: Objective, *, start: Tensor, target: int, p1: float, rtol: float = RTOL
) -> tuple[float, Tensor]:
    """Time and logits at which flow on the one demonstration `target` reaches probability p1.

    Shapes: `start` logits `[V]`; returns a float (learning rate times steps) and `[V]`, float64.
    Raises: ValueError where p1 is not above the start's p, or is never reached.
    """
    if start.dim() != 1 or not 0 <= target < start.shape[0]:
        raise ValueError(f"target {target} is not a token of logits {list(start.shape)}")
    if not 0 < p1 < 1:
        raise ValueError(f"p1 lies strictly between 0 and 1, got {p1}")
    goal = _log_odds(p1)
    field = _field(objective, torch.eye(start.shape[0], dtype=torch.float64)[target])

    def log_odds(theta: NDArray[np.float64]) -> float:
        rest = np.delete(theta, target)
        return float(theta[target] - rest.max() - np.log(np.exp(rest - rest.max()).sum()))

    def arrival(_: float, theta: NDArray[np.float64]) -> float:
        return log_odds(theta) - goal

    theta0 = start.double().numpy()
    if not log_odds(theta0) < goal:
        raise ValueError(f"p1 = {p1} must exceed the probability at the start")
    arrival.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(
        field, (0.0, 1e18), theta0, method="DOP853", events=arrival, rtol=rtol, atol=rtol
    )
    if not len(found.t_events[0]):
        raise ValueError(f"{objective.name} never lifts this token to {p1}: its weight vanishes")
    # The event lies on an interpolant of lower order than the steps: step to it from the last
    # grid point, and let Newton's method remove what is left.
    time = float(found.t[-1])
    found = solve_ivp(
        field, (found.t[-2], time), found.y[:, -2], method="DOP853", rtol=rtol, atol=rtol
    )
    theta = found.y[:, -1]
    moving = field(time, theta)
    odds = np.exp(np.delete(theta, target))
    rate = moving[target] - float(np.delete(moving, target) @ odds / odds.sum())
    step = (goal - log_odds(theta)) / rate
    return time + step, torch.from_numpy(theta + step * moving)


def symmetric_start(p0: float, *, vocab: int) -> Tensor:
    """Logits `[V]` that give token 0 probability p0 and the others (1 - p0) / (V - 1) each.

    Raises: ValueError unless 0 < p0 < 1 and V >= 2.
    """
    spread(vocab)
    if not 0 < p0 < 1:
        raise ValueError(f"p0 is a probability strictly between 0 and 1, got {p0}")
    theta = torch.zeros(vocab, dtype=torch.float64)
    theta[0] = _log_odds(p0) + math.log(vocab - 1)
    return theta


def _antiderivative(p: float, alpha: float) -> float:
    r"""\int dp / (p^(1+alpha) (1-p)^2), up to a constant."""
    if alpha == 0.5:
        u = math.sqrt(p)
        return -2 / u + u / (1 - p) + 1.5 * math.log((1 + u) ** 2 / (1 - p))
    # 1/(p^(n+1) (1-p)^2) = 1/(1-p)^2 + (n+1)/(1-p) + sum_{j=1}^{n+1} (n+2-j)/p^j
    n = int(alpha)
    poles = sum((n + 1 - m) / (m * p**m) for m in range(1, n + 1))
    return (n + 1) * _log_odds(p) + 1 / (1 - p) - poles


def _field(
    objective: Objective, demos: Tensor
) -> Callable[[float, NDArray[np.float64]], NDArray[np.float64]]:
    held = demos.double()

    def field(_: float, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        moved: NDArray[np.float64] = velocity(objective, torch.from_numpy(theta), held).numpy()
        return moved

    return field


def _state_field(objective: Objective, theta: Tensor) -> Tensor:
    """The field for each of the V tokens as the target, `[V, V]`."""
    if objective.level in ("batch", "group"):
        raise ValueError(f"{objective.name} compares tokens of a batch: it has no flow of its own")
    vocab = theta.shape[0]
    rows, targets = theta.expand(vocab, 1, vocab), torch.arange(vocab).unsqueeze(-1)
    stats = target_stats(rows, targets, needs=("entropy", "log_probs"))
    return objective.field(stats)[:, 0]


def _log_odds(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def _ascending(p0: float, p1: float) -> None:
    if not (0 < p0 < 1 and 0 < p1 < 1):
        raise ValueError(f"p0 and p1 lie strictly between 0 and 1, got {p0} and {p1}")
    if not p0 < p1:
        raise ValueError(f"the demonstrated token only gains: p1 = {p1} must exceed p0 = {p0}")


def _distribution(r: Tensor, name: str) -> None:
    if r.dim() != 1 or r.shape[0] < 2:
        raise ValueError(f"{name} is one distribution [V] over V >= 2 tokens, got {list(r.shape)}")
    if not bool((r >= 0).all()) or abs(float(r.double().sum()) - 1) > 1e-6:
        raise ValueError(f"{name} must be non-negative and sum to 1, got {r.tolist()}")


def _same_tokens(start: Tensor, demos: Tensor) -> None:
    _distribution(demos, "demos")
    if start.shape != demos.shape:
        raise ValueError(f"start has shape {list(start.shape)} and demos {list(demos.shape)}")
