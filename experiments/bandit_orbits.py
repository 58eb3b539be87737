"""What SFT, DFT and iw-SFT do to a bandit, on an expert's answers and on its own accepted ones.

Question: on one's own accepted samples, is SFT already the policy gradient, and what does DFT add?

A bandit of 12 arms of which 4 are correct (reward 1), and 20 random initial policies pi0. Expected
gradient flows, no sampling: RL (policy gradient under the current policy); SFT and DFT on an
expert's answers; rejection-sampling fine-tuning, that is SFT, DFT and iw-SFT on pi0's own samples
that were correct. Along each flow: return J, KL(pi||pi0), effective number of correct answers.
No policy with return J is nearer to pi0 than the Bernoulli divergence of J from J0.

Every flow is one of the catalogue's objectives under a law of the answers, and all priors are
integrated as one tensor.

Cost: seconds. Paper reference: section 3 (SFT as a policy gradient). Deviation: the paper has no
experiment on sampled data; exact flows say nothing about the noise of a finite sample.

    python experiments/bandit_orbits.py --quick | --full
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from dft_theory.experiment import Experiment, Prediction, Rows
from dft_theory.logprobs import target_stats
from dft_theory.objectives import Objective, iw_sft, objectives
from dft_theory.seeding import generator

ARMS, CORRECT = 12, 4
REWARD = torch.tensor([1.0] * CORRECT + [0.0] * (ARMS - CORRECT), dtype=torch.float64)
EXPERT = torch.tensor([0.4, 0.3, 0.2, 0.1] + [0.0] * (ARMS - CORRECT), dtype=torch.float64)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # of the way from J0 to 1
END = 1e4  # learning rate times steps
Judged = tuple[bool, dict[str, float]]


@dataclass(frozen=True)
class Size:
    """One prior for each seed."""

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"priors need distinct seeds, at least one, got {self.seeds}")


class Method(NamedTuple):
    """An objective and the law `[P, V]` of the answers that it is given, from pi and pi0."""

    objective: Objective
    law: Callable[[Tensor, Tensor], Tensor]


def on_policy(pi: Tensor, pi0: Tensor) -> Tensor:  # noqa: ARG001 (a law of both)
    """The current policy's own answers."""
    return pi


def expert(pi: Tensor, pi0: Tensor) -> Tensor:  # noqa: ARG001
    """An expert's answers, all correct."""
    return EXPERT.expand_as(pi)


def accepted(pi: Tensor, pi0: Tensor) -> Tensor:  # noqa: ARG001
    """The correct ones among pi0's answers: the posterior pi0 r / J0."""
    kept = pi0 * REWARD
    return kept / kept.sum(-1, keepdim=True)


METHODS = {
    "rl": Method(objectives["reinforce"], on_policy),
    "sft": Method(objectives["sft"], expert),
    "dft": Method(objectives["dft"], expert),
    "rft-sft": Method(objectives["sft"], accepted),
    "rft-dft": Method(objectives["dft"], accepted),
    "rft-iw-sft": Method(iw_sft("token", clamp=None), accepted),
}


def prior(seeds: Sequence[int]) -> Tensor:
    """Logits `[P, V]` of the initial policies: standard normal."""
    draw = [
        torch.randn(ARMS, dtype=torch.float64, generator=generator(s, "bandit-orbits"))
        for s in seeds
    ]
    return torch.stack(draw)


def drift(method: Method, theta: Tensor, start: Tensor) -> Tensor:
    """dtheta/dt `[P, V]`: the objective's field of each answer, averaged over their law.

    For one prior and a fixed law this is `dynamics.velocity`, which knows no reward and no pi0.
    """
    every = torch.arange(ARMS).expand(len(theta), ARMS)  # each arm in turn as the target
    stats = target_stats(theta.unsqueeze(1).expand(-1, ARMS, -1), every, needs=("log_probs",))
    first = torch.log_softmax(start, -1)
    stats = replace(stats, ref_logp=first, advantage=REWARD.expand_as(theta))
    law = method.law(torch.softmax(theta, -1), first.exp())
    return torch.einsum("py,pyv->pv", law, method.objective.field(stats))


def orbit(method: Method, start: Tensor, times: NDArray[np.float64]) -> Tensor:
    """Logits `[N, P, V]` at the times, of the flow from `start [P, V]`, by DOP853."""

    def field(_: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = drift(method, torch.from_numpy(flat).reshape(start.shape), start)
        return moved.flatten().numpy()

    span = (0.0, float(times[-1]))
    found = solve_ivp(
        field, span, start.flatten().numpy(), method="DOP853", t_eval=times, rtol=1e-9, atol=1e-9
    )
    return torch.from_numpy(found.y.T.copy()).reshape(-1, *start.shape)


def gradient(value: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Gradient of a function of the policy in its logits, by autograd."""
    leaf = theta.detach().requires_grad_()
    return torch.autograd.grad(value(torch.softmax(leaf, -1)).sum(), leaf)[0]


def measure(size: Size) -> list[dict[str, Any]]:
    """One row for each prior and method, and one for each prior with the equalities' errors.

    `kl` (nats) and `number` stand where the return first reaches `J`; `end_*` at time END; `fall`
    is the largest loss of return on the way.
    """
    start = prior(size.seeds)
    log_prior = torch.log_softmax(start, -1)
    times = np.concatenate([[0.0], np.geomspace(1e-2, END, 600)])
    j0 = log_prior.exp() @ REWARD
    rows, orbits = [], {name: orbit(m, start, times) for name, m in METHODS.items()}
    for name, thetas in orbits.items():
        log_pi = torch.log_softmax(thetas, -1)
        pi = log_pi.exp()
        right = pi[..., :CORRECT] / pi[..., :CORRECT].sum(-1, keepdim=True)
        kl = (pi * (log_pi - log_prior)).sum(-1)
        number = torch.special.entr(right).sum(-1).exp()
        returns = pi[..., :CORRECT].sum(-1)
        for i, seed in enumerate(size.seeds):
            j = returns[:, i].numpy()
            goal = float(j0[i]) + np.array(SHARES) * (1 - float(j0[i]))
            curves = {"kl": kl[:, i].numpy(), "number": number[:, i].numpy()}
            best = np.maximum.accumulate(j)  # on an expert's answers J may fall for a while
            new = np.concatenate([[True], j[1:] > best[:-1]])
            at = {k: PchipInterpolator(j[new], v[new])(goal) for k, v in curves.items()}
            ends = {f"end_{k}": v[-1] for k, v in {"J": j, **curves}.items()}
            ends["fall"] = (best - j).max()
            rows.append(
                {"seed": seed, "method": name, "J": goal.round(7).tolist()}
                | {k: v.round(7).tolist() for k, v in at.items()}
                | {k: float(f"{v:.6g}") for k, v in ends.items()}
            )
    return rows + equalities(size.seeds, start, orbits["rft-iw-sft"])


def equalities(seeds: Sequence[int], start: Tensor, path: Tensor) -> list[dict[str, Any]]:
    """Largest error, in units of eps64, of the three equalities: fields against autograd of J."""
    pi0 = torch.softmax(start, -1)
    j0 = (pi0 @ REWARD).unsqueeze(-1)
    grad_j = gradient(lambda pi: pi @ REWARD, start)
    first = j0 * drift(METHODS["rft-sft"], start, start) - grad_j
    weighted, counted = [], []
    for theta in path[::60]:
        moved = (j0 * drift(METHODS[name], theta, start) for name in ("rft-iw-sft", "rft-dft"))
        weighted.append(next(moved) - gradient(lambda pi: pi @ REWARD, theta))
        counted.append(next(moved) - gradient(lambda pi: (pi * pi0) @ REWARD, theta))
    worst = [first, *(torch.stack(errors).abs().amax(0) for errors in (weighted, counted))]
    names = ("first_step", "iw_everywhere", "double_count")
    scaled = [(e.abs().amax(-1) / torch.finfo(e.dtype).eps).tolist() for e in worst]
    posterior = accepted(pi0, pi0)
    number = torch.special.entr(posterior).sum(-1).exp().tolist()
    return [
        {"seed": s, "method": "prior", "J0": float(j0[i]), "posterior_number": number[i],
         **{n: round(e[i], 3) for n, e in zip(names, scaled, strict=True)}}
        for i, s in enumerate(seeds)
    ]  # fmt: skip


# --- what the rows say --------------------------------------------------------------------------


def of(rows: Rows, method: str, key: str) -> NDArray[np.float64]:
    """One key of a method's rows, by prior. Raises: ValueError where there are none."""
    found = [r[key] for r in rows if r["method"] == method]
    if not found:
        raise ValueError(f"no row of {method}")
    return np.array(found)


def least_kl(j: NDArray[np.float64], j0: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest KL(pi||pi0) of a policy with return J: that of a coin J from a coin J0, in nats."""
    return j * np.log(j / j0) + (1 - j) * np.log((1 - j) / (1 - j0))


def exact(key: str) -> Callable[[Rows], Judged]:
    """Whether an equality holds to 64 eps64 in every prior."""

    def judge(rows: Rows) -> Judged:
        worst = float(of(rows, "prior", key).max())
        return worst < 64, {"worst in eps64": worst}

    return judge


def posterior_end(rows: Rows) -> Judged:
    """End of RFT-SFT against the posterior's number of answers and -log J0."""
    number = of(rows, "rft-sft", "end_number") - of(rows, "prior", "posterior_number")
    kl = of(rows, "rft-sft", "end_kl") + np.log(of(rows, "prior", "J0"))
    far = {"number": float(abs(number).max()), "kl": float(abs(kl).max())}
    return max(far.values()) < 0.01, far


def collapse(rows: Rows) -> Judged:
    """Mean effective number of correct answers at the end."""
    means = {m: float(of(rows, m, "end_number").mean()) for m in ("rl", "rft-iw-sft", "rft-dft")}
    return max(means.values()) < 1.1, means


ORDERED = ("rft-sft", "rl", "rft-dft")


def order(rows: Rows) -> Judged:
    """Smallest step in KL at equal J: least possible, RFT-SFT, RL, RFT-DFT."""
    j0 = of(rows, "prior", "J0")[:, None]
    kls = [least_kl(of(rows, "rl", "J"), j0), *(of(rows, m, "kl") for m in ORDERED)]
    steps = [float((b - a).min()) for a, b in itertools.pairwise(kls)]
    found = dict(zip(("RFT-SFT", "RL", "RFT-DFT"), steps, strict=True))
    return steps[0] > -1e-6 and min(steps[1:]) > 0, found


def near_least(rows: Rows) -> Judged:
    """How far RFT-SFT strays from the least possible KL."""
    least = least_kl(of(rows, "rft-sft", "J"), of(rows, "prior", "J0")[:, None])
    most = float((of(rows, "rft-sft", "kl") - least).max())
    return most < 0.05, {"most": most}


def same_orbit(rows: Rows) -> Judged:
    """RL and iw-SFT at equal J."""
    apart = float(abs(of(rows, "rl", "kl") - of(rows, "rft-iw-sft", "kl")).max())
    return apart < 1e-3, {"most": apart}


def beyond_rl(rows: Rows) -> Judged:
    """RFT-DFT minus RL at 9/10 of the way."""
    i = SHARES.index(0.9)
    lead = float((of(rows, "rft-dft", "kl") - of(rows, "rl", "kl"))[:, i].mean())
    return lead > 0.05, {"mean": lead}


def expert_ends(rows: Rows) -> Judged:
    """SFT keeps the expert's variety, DFT one answer."""
    variety = float(torch.special.entr(EXPERT).sum().exp())
    sft = float(abs(of(rows, "sft", "end_number") - variety).max())
    dft = float(of(rows, "dft", "end_number").max())
    return sft < 0.01 and dft < 1.1, {"sft off by": sft, "dft most": dft}


def speed() -> dict[str, float]:
    """Flows a second (RFT-SFT to time 100), 20 priors as one tensor and one at a time."""
    method, start, times = METHODS["rft-sft"], prior(range(20)), np.array([0.0, 100.0])
    started = time.perf_counter()
    orbit(method, start, times)
    batched = 20 / (time.perf_counter() - started)
    started = time.perf_counter()
    for row in start:
        orbit(method, row.unsqueeze(0), times)
    loop = 20 / (time.perf_counter() - started)
    return {"batched": round(batched, 2), "loop": round(loop, 2), "ratio": round(batched / loop, 1)}


# Written before the first run.
PREDICTIONS = (
    Prediction(
        "first-step",
        "J0 times the RFT-SFT field is grad J at pi0, to 64 eps64",
        exact("first_step"),
    ),
    Prediction(
        "iw-is-rl",
        "J0 times the iw-SFT field is grad J all along its flow, to 64 eps64",
        exact("iw_everywhere"),
    ),
    Prediction(
        "dft-counts-twice",
        "J0 times the RFT-DFT field is the policy gradient of the reward r pi0, to 64 eps64",
        exact("double_count"),
    ),
    Prediction(
        "posterior",
        "RFT-SFT ends within 0.01 of KL = -log J0 and of the posterior's number of answers",
        posterior_end,
    ),
    Prediction(
        "collapse",
        "RL, iw-SFT and RFT-DFT end with a mean effective number of answers below 1.1",
        collapse,
    ),
    Prediction(
        "order",
        "at equal J, least KL <= RFT-SFT < RL < RFT-DFT, in every prior",
        order,
    ),
    Prediction(
        "rft-sft-is-near-the-least",
        "RFT-SFT stays within 0.05 nats of the least KL",
        near_least,
    ),
    Prediction(
        "one-orbit",
        "RL and iw-SFT have the same KL at equal J, to 0.001 nats",
        same_orbit,
    ),
    Prediction(
        "beyond-rl",
        "at 9/10 of the way RFT-DFT is on average 0.05 nats farther from pi0 than RL",
        beyond_rl,
    ),
    Prediction(
        "expert",
        "on the expert's answers SFT keeps exp(H) to 0.01, DFT keeps fewer than 1.1, every prior",
        expert_ends,
    ),
)

EXPERIMENT = Experiment(
    name="bandit-orbits",
    question="On one's own accepted samples, is SFT already the policy gradient, and what does DFT "
    "add?",
    script=__file__,
    predictions=PREDICTIONS,
    quick=Size(tuple(range(100, 104))),
    full=Size(tuple(range(20))),
    measure=measure,
    speed=speed,
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(EXPERIMENT.main())
