"""vLLM beside transformers' generation: how fast each is, and whether they say the same.

    python benchmarks/engines.py [--device cpu|cuda] [--json FILE]    (`make engines` installs vLLM)

One model (SmolLM2-135M-Instruct), the same prompts at once in both engines, in one process;
interleaved, best of several. Greedily, both produce the same number of tokens where they agree. On
the CPU in float32 and on one thread (CPU seconds, which other work on the machine disturbs less
than wall time); on CUDA in bfloat16 on the wall. Every token of vLLM's texts is held against the
one that transformers finds best after the same beginning: a text may part at a near tie, and only
there.
"""

import argparse
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dft_theory.llm import load_pretrained
from dft_theory.llm.generate import Drawn, Sampling, TransformersEngine, VllmEngine
from dft_theory.llm.pretrained import Pretrained
from dft_theory.llm.problems import load_problems
from dft_theory.provenance import manifest
from dft_theory.results import write_json

ROUNDS = 3
PROBLEMS, TOKENS = 16, 64
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


def engines(device: str) -> tuple[TransformersEngine, VllmEngine]:
    """Both, on the same weights; vLLM inside this process, for its time to be counted."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # as many as OMP_NUM_THREADS
    dtype = DTYPES[device]
    source = load_pretrained(dtype=getattr(torch, dtype))
    source.model.to(device)
    vllm = VllmEngine.load(None, dtype=dtype, device=device, batch=64)
    return TransformersEngine(source, batch=64), vllm


def shortfall(source: Pretrained, prompt: list[int], said: Drawn) -> float:
    """How far the worst token of a greedy text is from transformers' best one there, in nats."""
    ids = source.tokenizer(said.text, add_special_tokens=False).input_ids
    with torch.no_grad():
        whole = torch.tensor([prompt + ids], device=source.model.device)
        logits = source.model(whole).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(-1, whole[0, len(prompt) :, None]).squeeze(-1)
    return float((logits.amax(-1) - chosen).max())


def timed(clock: Callable[[], float], engine: Any, prompts: Any, sampling: Sampling) -> Any:
    """Seconds and answers of one call."""
    started = clock()
    found = engine.draw(prompts, sampling, 0)
    return clock() - started, found


def compare(device: str) -> dict[str, Any]:
    """Seconds, tokens and agreement of both engines."""
    both = dict(zip(("transformers", "vllm"), engines(device), strict=True))
    source = both["transformers"].source
    problems = load_problems("sample", limit=PROBLEMS)
    greedy = Sampling(samples=1, temperature=0.0, max_new_tokens=TOKENS)
    prompts = [both["transformers"].chat(p.question + greedy.instruction) for p in problems]
    if prompts != [both["vllm"].chat(p.question + greedy.instruction) for p in problems]:
        raise ValueError("the engines make different prompts of the same questions")
    clock = time.process_time if device == "cpu" else time.perf_counter
    best: dict[str, float] = dict.fromkeys(both, float("inf"))
    said: dict[str, list[Drawn]] = {}
    for _ in range(ROUNDS):
        for name, engine in both.items():
            seconds, found = timed(clock, engine, prompts, greedy)
            best[name] = min(best[name], seconds)
            answers = [one for (one,) in found]
            if said.setdefault(name, answers) != answers:
                print(f"{name}: a repeated greedy call gave another text")
    gaps = [
        shortfall(source, prompt, one) for prompt, one in zip(prompts, said["vllm"], strict=True)
    ]
    same = [a == b for a, b in zip(said["transformers"], said["vllm"], strict=True)]
    return {
        "device": device,
        "clock": "CPU time of one thread" if device == "cpu" else "wall",
        "dtype": DTYPES[device],
        "problems": PROBLEMS,
        "max_new_tokens": TOKENS,
        "rounds": ROUNDS,
        "seconds": best,
        "tokens": {name: sum(one.tokens for one in found) for name, found in said.items()},
        "agree": sum(same),
        "shortfall": max(gaps),
        "vllm": next(metadata.version(n) for n in ("vllm-cpu", "vllm") if _installed(n)),
    }


def _installed(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=tuple(DTYPES))
    parser.add_argument("--json", type=Path, help="write the record to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    found = compare(chosen.device)
    for name, seconds in found["seconds"].items():
        print(f"{name:12s} {found['tokens'][name] / seconds:8.1f} tokens a second")
    print(f"{found['agree']} of {PROBLEMS} greedy texts agree, shortfall {found['shortfall']:.1g}")
    if chosen.json:
        about = manifest("python benchmarks/engines.py --json FILE", started=started)
        write_json(chosen.json, found | {"environment": about})


if __name__ == "__main__":
    main()
