"""Whole training steps: our trainer beside TRL's, on a model with random weights.

    python benchmarks/end_to_end.py [--device cpu|cuda] [--json FILE]    (Liger: PYTHONPATH=.peers)

On CUDA a model of Qwen2.5-Math-1.5B's shape, float32 weights under bfloat16, on the wall; on the
CPU a small one in float32, in CPU seconds of one thread, which shows that the command runs and what
an objective costs. Forward, backward, clipping and AdamW; the same rows, a quarter of the tokens
without a label. In one process, trainers built anew in turn; of each round the median step after a
warm-up, of these the best. Operations are 6 for each weight and token (attention and what is
computed twice left out), beside those that one large product of matrices reaches here. Ways:

sft, dft    `ObjectiveTrainer`: one engine, two objectives
trl-dft     TRL's `SFTTrainer(loss_type="dft")`, whose head finds entropy and accuracy at each step
...-liger   the same with Liger's kernels for norms, rotary embeddings and MLPs, on CUDA only; TRL
            keeps its own head then, and so do we
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from dft_theory.llm.trainer import PEAKS, ObjectiveTrainer
from dft_theory.objectives import objectives
from dft_theory.provenance import manifest
from dft_theory.results import write_json
from dft_theory.seeding import generator, seed_of

WAYS = ("sft", "dft", "trl-dft", "dft-liger", "trl-dft-liger")
SHAPES = {
    "cpu": {
        "vocab_size": 32_768,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "cuda": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
BATCH = {"cpu": (4, 128), "cuda": (4, 2048)}  # rows and tokens of a step
ROUNDS, WARM, STEPS = 3, 2, 6


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds of each step."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds, self.started = clock, list[float](), 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Starts."""
        self.started = self.clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stops."""
        self.seconds.append(self.clock() - self.started)


def clock_of(device: str) -> Callable[[], float]:
    """CPU time, or the wall behind what the GPU was asked for."""
    if device == "cpu":
        return time.process_time

    def wall() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wall


def rows_of(device: str) -> Dataset:
    """Random tokens, of which the first quarter of a row is a prompt."""
    rows, length = BATCH[device]
    g = generator(0, "benchmark", "end-to-end")
    ids = torch.randint(
        3, SHAPES[device]["vocab_size"], (rows * (WARM + STEPS), length), generator=g
    )
    labels = ids.clone()
    labels[:, : length // 4] = -100
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def trainer(way: str, device: str, folder: str) -> SFTTrainer:
    """A trainer of a new model, the same for every way."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed_of(0, "benchmark", "weights"))
        model = Qwen2ForCausalLM(
            Qwen2Config(**SHAPES[device], tie_word_embeddings=True, max_position_embeddings=4096)
        )
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    ours, liger = not way.startswith("trl"), way.endswith("liger")
    if ours and liger:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2(
            model=model, cross_entropy=False, fused_linear_cross_entropy=False
        )
    config = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=BATCH[device][0],
        max_steps=WARM + STEPS,
        learning_rate=1e-5,
        use_cpu=device == "cpu",
        bf16=device == "cuda",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        loss_type="nll" if ours else "dft",
        use_liger_kernel=liger and not ours,
    )
    given = {"train_dataset": rows_of(device), "processing_class": tokenizer}
    if ours:
        objective = objectives[way.removesuffix("-liger")]
        return ObjectiveTrainer(model, config, objective=objective, **given)
    return SFTTrainer(model, args=config, **given)


def round_of(way: str, device: str) -> dict[str, float]:
    """Seconds of the median step, and the most memory in GiB (CUDA)."""
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(way, device, folder)
        watch = Stopwatch(clock_of(device))
        made.add_callback(watch)
        made.remove_callback(PrinterCallback)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        made.train()
        found = {"seconds": statistics.median(watch.seconds[WARM:])}
        found["weights"] = float(sum(p.numel() for p in made.model.parameters()))
        if device == "cuda":
            found["gib"] = torch.cuda.max_memory_allocated() / 2**30
    del made
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def ceiling(device: str) -> float:
    """Operations a second of one large product in the dtype of the forward pass: best of five."""
    size, clock = (1024 if device == "cpu" else 8192), clock_of(device)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    a = torch.ones(size, size, device=device, dtype=dtype)
    out, best = torch.empty_like(a), float("inf")
    for _ in range(5):
        started = clock()
        torch.mm(a, a, out=out)
        best = min(best, clock() - started)
    return 2 * size**3 / best


def ways(device: str) -> list[str]:
    """Those that can run here."""
    liger = device == "cuda" and find_spec("liger_kernel") is not None
    return [way for way in WAYS if liger or not way.endswith("liger")]


def measure(device: str) -> dict[str, Any]:
    """Every way's seconds a step, tokens a second and operations; best of the rounds."""
    limit, found = ceiling(device), dict[str, dict[str, float]]()
    for _ in range(ROUNDS):
        for way in ways(device):
            new = round_of(way, device)
            if way not in found or new["seconds"] < found[way]["seconds"]:
                found[way] = new
        limit = max(limit, ceiling(device))
    rows, length = BATCH[device]
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    peak = next((value for known, value in PEAKS.items() if known in name), None)
    for one in found.values():
        one["tokens_per_second"] = rows * length / one["seconds"]
        operations = 6 * one["weights"] * one["tokens_per_second"]
        one["of_ceiling"] = operations / limit
        if peak is not None:
            one["mfu"] = operations / peak
    return {
        "device": name,
        "clock": "wall" if device == "cuda" else "CPU time of one thread",
        "shape": SHAPES[device],
        "batch": BATCH[device],
        "rounds": ROUNDS,
        "ceiling": limit,
        "found": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=tuple(SHAPES))
    parser.add_argument("--json", type=Path, help="write the record to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    started = time.perf_counter()
    record = measure(chosen.device)
    found = record["found"]
    for way, one in found.items():
        print(
            f"{way:14s} {one['seconds']:7.3f} s a step  {one['tokens_per_second']:8.0f} tokens/s  "
            f"{one['tokens_per_second'] / found['trl-dft']['tokens_per_second']:.2f} x trl-dft  "
            f"{one['of_ceiling']:.2f} of the ceiling"
            + (f"  MFU {one['mfu']:.3f}" if "mfu" in one else "")
            + (f"  {one['gib']:.1f} GiB" if "gib" in one else "")
        )
    print(f"a step of DFT takes {found['dft']['seconds'] / found['sft']['seconds']:.3f} x SFT's")
    if chosen.json:
        command = f"python benchmarks/end_to_end.py --device {chosen.device} --json FILE"
        write_json(chosen.json, record | {"environment": manifest(command, started=started)})


if __name__ == "__main__":
    main()
