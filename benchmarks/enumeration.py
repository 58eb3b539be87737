"""How fast are exact sums over all responses: against a plain loop, bare PyTorch, and their size.

    python benchmarks/enumeration.py [--json FILE]

Everything is measured in one run on one core, each row in a process of its own (so that peaks of
memory do not mix), warmed up, best of several. Ratios are what counts; seconds are of this machine.

(a) `policy_gradient` and `estimator_moments` against one backward pass for each of 7^4 responses;
(b) against one bare batched forward and backward pass of the same size, with no checks, no mask,
    no label shift, and rows and targets prepared beforehand;
(c) against the number of responses, 10^3 to 10^6, on an autoregressive table.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory import enumeration
from dft_theory.policies import AutoregressivePolicy, Policy, ToyTransformer
from dft_theory.policies.base import with_prompt
from dft_theory.provenance import manifest
from dft_theory.results import write_json

GIB = 2**30
ROUNDS = 3
PROMPT = torch.tensor([0])
SUMS = ("policy_gradient", "estimator_moments")
POLICIES = ("autoregressive", "transformer")
TIME_LIMIT = 300.0  # seconds for one row
MEMORY_LIMIT = 12 * GIB  # address space of one row, so that a failure stays a row in the table


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Seconds for the same sum three ways, and the largest distance between their results."""

    sum: str
    policy: str
    responses: int
    parameters: int
    loop: float
    exact: float
    bare: float
    distance: float

    @property
    def over_loop(self) -> float:
        return self.loop / self.exact

    @property
    def over_bare(self) -> float:
        return self.exact / self.bare


@dataclass(frozen=True, kw_only=True)
class Size:
    """Cost of one sum over `responses` responses; memory in bytes, before and at its peak."""

    sum: str
    responses: int
    seconds: float
    before: int
    peak: int


def coefficient(responses: Tensor, logp: Tensor) -> Tensor:
    """A reward that differs between responses: the sum of the tokens."""
    return responses.sum(-1).to(logp.dtype)


def best(f: Callable[[], object], *, repeats: int) -> float:
    """Shortest of `repeats` runs, in seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def exact(name: str, policy: Policy) -> Tensor:
    """The sum under test: the mean, and for the moments the variance after it."""
    if name == "policy_gradient":
        return enumeration.policy_gradient(policy, PROMPT, coefficient)
    moments = enumeration.estimator_moments(policy, PROMPT, coefficient)
    return with_variance(moments.mean, moments.variance)


def plain_loop(name: str, policy: Policy) -> Tensor:
    """The same by one forward and one backward pass for each response."""
    held = list(policy.parameters())
    mean: Tensor | float = 0.0
    square = 0.0
    for response in policy.responses():
        logp = policy.log_probs(PROMPT, response.unsqueeze(0)).sum()
        score = torch.cat([g.flatten() for g in torch.autograd.grad(logp, held)])
        p, c = float(logp.detach().exp()), float(response.sum())
        mean = mean + p * c * score
        square += p * c**2 * float(score.square().sum())
    assert isinstance(mean, Tensor)
    if name == "policy_gradient":
        return mean
    return with_variance(mean, square - float(mean.square().sum()))


def with_variance(mean: Tensor, variance: float) -> Tensor:
    """Both moments in one vector, so that routes can be compared."""
    return torch.cat([mean, torch.tensor([variance], dtype=mean.dtype)])


def bare(policy: Policy) -> Callable[[], Tensor]:
    """One batched forward and backward pass over all responses, everything else prepared."""
    responses = policy.responses()
    reward = coefficient(responses, torch.zeros((), dtype=torch.float64))
    tokens = with_prompt(PROMPT, responses)[0]
    held = list(policy.parameters())
    targets = responses.flatten()
    if isinstance(policy, AutoregressivePolicy):
        steps = [policy.row_index(responses[:, :t]) for t in range(policy.length)]
        rows = torch.stack(steps, dim=1).flatten()

        def logits() -> Tensor:
            return policy.theta[0].index_select(0, rows)
    else:
        assert isinstance(policy, ToyTransformer)

        def logits() -> Tensor:
            return policy.logits(tokens)[:, :-1].flatten(0, 1)

    def step() -> Tensor:
        logp = -F.cross_entropy(logits(), targets, reduction="none")
        logp = logp.unflatten(0, responses.shape).sum(-1)
        loss = (logp.detach().exp() * reward * logp).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, held)])

    return step


def compare(name: str, kind: str) -> Comparison:
    """Loop, exact and bare on 7^4 = 2401 responses."""
    policy: Policy = (
        AutoregressivePolicy.random(vocab=7, length=4, seed=0, contexts=1)
        if kind == "autoregressive"
        else ToyTransformer.random(vocab=7, length=4, seed=0)
    )
    step = bare(policy)
    found, slow = exact(name, policy), plain_loop(name, policy)
    step()
    repeats = 8 if name == "policy_gradient" else 2
    loop = fast = floor = math.inf
    for _ in range(ROUNDS):  # in turns, so that a busy machine disturbs all three alike
        loop = min(loop, best(lambda: plain_loop(name, policy), repeats=1))
        fast = min(fast, best(lambda: exact(name, policy), repeats=repeats))
        floor = min(floor, best(step, repeats=8))
    return Comparison(
        sum=name,
        policy=kind,
        responses=policy.vocab**policy.length,
        parameters=sum(p.numel() for p in policy.parameters()),
        loop=loop,
        exact=fast,
        bare=floor,
        distance=float((found - slow).abs().max() / slow.abs().max()),
    )


def size(name: str, length: int) -> Size:
    """One sum over 10^length responses."""
    policy = AutoregressivePolicy.random(vocab=10, length=length, seed=0, contexts=1)
    before = resident()
    exact(name, policy)
    seconds = best(lambda: exact(name, policy), repeats=2 if length > 5 else 5)
    return Size(sum=name, responses=10**length, seconds=seconds, before=before, peak=resident())


def resident() -> int:
    """Peak resident memory of this process so far, bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def row(task: str, *args: str) -> dict[str, object]:
    """Run `task` in a process of its own; its fields, or the `error` that stopped it."""
    command = [sys.executable, __file__, "--task", task, *args]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"more than {TIME_LIMIT:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"error": last[:160]}
    fields: dict[str, object] = json.loads(done.stdout)
    return fields


def slope(sizes: Sequence[Size]) -> float:
    """Least-squares slope of log seconds against log responses."""
    x = torch.tensor([math.log(s.responses) for s in sizes], dtype=torch.float64)
    y = torch.tensor([math.log(s.seconds) for s in sizes], dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def child(task: str, args: Sequence[str]) -> None:
    """The part that measures."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    result = compare(*args) if task == "compare" else size(args[0], int(args[1]))
    print(json.dumps(asdict(result)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.task:
        child(chosen.task[0], chosen.task[1:])
        return

    started = time.perf_counter()
    record: dict[str, list[dict[str, object]]] = {"compare": [], "size": []}
    print(f"torch {torch.__version__}, one thread\n")
    print("7^4 = 2401 responses         parameters  loop ms  exact ms  bare ms  loop/exact  "
          "exact/bare  distance")  # fmt: skip
    for name in SUMS:
        for kind in POLICIES:
            fields = row("compare", name, kind)
            label = f"{name:18}{kind:15}"
            if "error" in fields:
                fields = {"sum": name, "policy": kind, **fields}
                print(f"{label} {fields['error']}")
            else:
                c = Comparison(**fields)  # type: ignore[arg-type]
                fields |= {"over_loop": c.over_loop, "over_bare": c.over_bare}
                print(
                    f"{label} {c.parameters:5d} {1e3 * c.loop:8.0f} {1e3 * c.exact:9.2f} "
                    f"{1e3 * c.bare:8.2f} {c.over_loop:10.0f}x {c.over_bare:10.2f}x "
                    f"{c.distance:9.1e}"
                )
            record["compare"].append(fields)

    for name in SUMS:
        print(f"\n{name}, autoregressive, V = 10")
        print("responses   seconds  us/response  peak MiB  of which the sum MiB")
        sizes = []
        for length in (3, 4, 5, 6):
            fields = row("size", name, str(length))
            record["size"].append({"sum": name, "responses": 10**length, **fields})
            if "error" in fields:
                print(f"{10**length:9d}  {fields['error']}")
                continue
            s = Size(**fields)  # type: ignore[arg-type]
            sizes.append(s)
            print(
                f"{s.responses:9d} {s.seconds:9.4f} {1e6 * s.seconds / s.responses:12.3f} "
                f"{s.peak / 2**20:9.0f} {(s.peak - s.before) / 2**20:11.0f}"
            )
        if len(sizes) > 1:
            print(f"log-log slope {slope(sizes):.2f}, last decade {slope(sizes[-2:]):.2f}")

    if chosen.json:
        made = manifest("python benchmarks/enumeration.py", started=started)
        write_json(chosen.json, {"manifest": made, **record})


if __name__ == "__main__":
    main()
