"""What a head with an objective costs when the logits never stand there whole.

    python benchmarks/chunked.py [--device cpu|cuda] [--json FILE]    (Liger: PYTHONPATH=.peers)

Loss and both gradients of 1,024 rows of width 576 (SmolLM2's head; on CUDA 16,384 rows of width
1,536 in bfloat16), a quarter of them masked, against two vocabularies. Interleaved in one process,
best of several; on the CPU in float32 and in CPU seconds of one thread, which other work on the
machine disturbs less than wall time. Memory is the peak of a process of its own above what it held
before the call (resident pages on the CPU, which needs Linux). Peers:

full        whole logits and TRL's DFT function as it was before version 1.15 (float32, gather minus
            logsumexp, -exp(log p).detach() log p), written out here
trl         TRL's fused head (`trl.kernels.ChunkedLogProbFunction`) and DFT on its log-probabilities
liger       Liger's scaled cross-entropy (`LigerFusedLinearScaledCrossEntropyFunction`: on Hopper a
            fused kernel, elsewhere torch) and DFT on its token losses, as PEERS.md holds it to
liger-fused Liger's fused linear cross-entropy with token scaling, Triton's: on CUDA only
products    the three matrix products alone that any such head needs, masked rows dropped, each into
            memory that is there: the limit
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from dft_theory.llm.chunked import chunked
from dft_theory.llm.head import Head
from dft_theory.objectives import objectives
from dft_theory.provenance import manifest
from dft_theory.results import write_json
from dft_theory.seeding import generator

ROUNDS = 3
VOCABULARIES = (49_152, 151_936)
CASES = ("sft", "dft", "eaft", "dft-sequence", "full", "trl", "liger", "liger-fused", "products")
MIB = 2**20


def batch(device: str, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states `[1, N, H]`, head `[V, H]`, targets `[1, N]` with a quarter masked."""
    rows, width = (1024, 576) if device == "cpu" else (16_384, 1536)
    g = generator(0, "benchmark", "chunked")
    hidden = torch.randn(1, rows, width, generator=g)
    weight = torch.randn(vocab, width, generator=g) / width**0.5
    targets = torch.randint(vocab, (1, rows), generator=g)
    targets = targets.masked_fill(torch.rand(1, rows, generator=g) < 0.25, -100)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    moved = (x.to(device, dtype).requires_grad_() for x in (hidden, weight))
    return (*moved, targets.to(device))


def ours(name: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """An objective of the catalogue through `chunked`."""
    head = Head(weight=weight)
    loss = chunked(objectives[name], hidden, targets, head, denominator=(targets >= 0).sum()).loss
    torch.autograd.grad(loss, (hidden, weight))


def full(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Whole logits; the function as TRL published it up to 1.14, in its own words of torch."""
    logits = hidden @ weight.T
    mask = targets >= 0
    picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    logp = picked - torch.stack([torch.logsumexp(row.float(), -1) for row in logits])
    terms = -logp.exp().detach() * logp
    torch.autograd.grad((terms * mask).sum() / mask.sum(), (hidden, weight))


def trl(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """TRL's fused head on the rows that have a target."""
    from trl.kernels import ChunkedLogProbFunction

    kept = targets >= 0
    logp, *_ = ChunkedLogProbFunction.apply(
        hidden[kept], weight, None, targets[kept], 1.0, 32_768, None, 1.0, ("log_probs",)
    )
    torch.autograd.grad((-logp.exp().detach() * logp).sum() / len(logp), (hidden, weight))


def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Liger's token losses on the rows that have a target, weighted here."""
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    kept = targets >= 0
    nll = LigerFusedLinearScaledCrossEntropyFunction.apply(hidden[kept], weight, targets[kept])
    torch.autograd.grad(((-nll).exp().detach() * nll).sum() / len(nll), (hidden, weight))


def liger_fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Liger's Triton kernel, which weights by itself."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    rows = (hidden.flatten(0, 1), weight, targets.flatten())
    loss = liger_fused_linear_cross_entropy(*rows, use_token_scaling=True)
    torch.autograd.grad(loss, (hidden, weight))


def products(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Forward, gradient of the states, gradient of the head: nothing else, 256 rows at a time."""
    with torch.no_grad():
        rows = hidden[targets >= 0]
        of_rows, of_weight = torch.empty_like(rows), torch.zeros_like(weight)
        room = rows.new_empty(256, len(weight))
        for part, gradient in zip(rows.split(256), of_rows.split(256), strict=True):
            logits = torch.mm(part, weight.T, out=room[: len(part)])
            torch.mm(logits, weight, out=gradient)
            of_weight.addmm_(logits.T, part)


def case(name: str) -> Callable[[Tensor, Tensor, Tensor], None]:
    """The function of a case."""
    others = {"full": full, "trl": trl, "products": products}
    others |= {"liger": liger, "liger-fused": liger_fused}
    return others.get(name) or (lambda *tensors: ours(name, *tensors))


def cases(device: str) -> list[str]:
    """The cases that can run here."""
    absent = set() if find_spec("liger_kernel") else {"liger", "liger-fused"}
    absent |= set() if device == "cuda" else {"liger-fused"}
    return [name for name in CASES if name not in absent]


def peak(device: str, vocab: int, name: str) -> float:
    """MiB above what was held before one call, in this process."""
    tensors = batch(device, vocab)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case(name)(*tensors)
        return float(torch.cuda.max_memory_allocated() - before) / MIB
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew (Linux)
    before = high_water()
    case(name)(*tensors)
    return high_water() - before


def high_water() -> float:
    """Most memory ever resident since the mark was reset, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def seconds(device: str, vocab: int) -> dict[str, float]:
    """Best time of each case: of this process on the CPU, on the wall with CUDA."""
    tensors = batch(device, vocab)
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = dict.fromkeys(cases(device), float("inf"))
    for _ in range(ROUNDS):
        for name in best:
            started = clock()
            case(name)(*tensors)
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], clock() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path, help="write the record to this file")
    parser.add_argument("--peak", nargs=2, metavar=("V", "CASE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.peak:
        print(peak(chosen.device, int(chosen.peak[0]), chosen.peak[1]))
        return
    started, found = time.perf_counter(), {}
    for vocab in VOCABULARIES:
        times = seconds(chosen.device, vocab)
        memory = {}
        for name in cases(chosen.device):
            command = [sys.executable, __file__, "--device", chosen.device]
            command += ["--peak", str(vocab), name]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            memory[name] = float(out)
        found[str(vocab)] = {"seconds": times, "mib": memory}
        for name in cases(chosen.device):
            print(
                f"V {vocab:7,d}  {name:13s} {times[name]:7.3f} s  {memory[name]:7.0f} MiB  "
                f"{times[name] / times['full']:.2f} x the time and "
                f"{memory[name] / memory['full']:.2f} x the memory of whole logits  "
                f"{times[name] / times['products']:.2f} x the products"
            )
        print(f"V {vocab:7,d}  a step of DFT takes {times['dft'] / times['sft']:.3f} x one of SFT")
    if chosen.json:
        about = manifest("python benchmarks/chunked.py --json FILE", started=started)
        clock = "wall" if chosen.device == "cuda" else "CPU time of one thread"
        record = {"device": chosen.device, "clock": clock, "rounds": ROUNDS, "found": found}
        record["environment"] = about
        write_json(chosen.json, json.loads(json.dumps(record)))


if __name__ == "__main__":
    main()
