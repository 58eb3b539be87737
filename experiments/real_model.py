"""SFT, DFT and their relatives on a real language model, and who wins on worked sums.

Question: fine-tuned on the same demonstrations, each at its own best learning rate, does DFT or SFT
give the better SmolLM2-135M-Instruct, sampled and greedily, with right and with wrong steps?

Two tasks of running sums whose answer can be checked. "strong": three numbers of one digit, in the
form that the base itself uses; "weak": three numbers of two digits, written tight, which it does
not. Demonstrations are `clean`, or `noise` makes each step wrong with probability 0.3 (the next
step goes on from the wrong number), or they are the base's `own` unfiltered samples, which teach
nothing. SFT and DFT are trained over a grid of learning rates and seeds; every seed is scored at
the rate that was best on the other seeds, so no score chose its own rate. Other methods are trained
at the middle of the grid alone. All weights are trained, with float32 masters and products in
bfloat16, one epoch, by TRL's trainer with this package's loss; completions are drawn in bfloat16.
The first step's gradient of every run is checked. A seed has its own demonstrations and problems.

Cost: `--laptop` 50 minutes of two cores (the first 40 hold what is most telling), `--gpu` one GPU,
in calls of some minutes, not yet run. A row is written after every run, and a second call goes on
where the first one stopped.
Paper reference: Table 1, scaled down; the paper trains 1.5B to 8B models on 100,000 solutions.
Deviations: one model of 135 M weights, 4-bit weights made plain, sums in place of competition
mathematics, 128 demonstrations, and no default system prompt (it would double the cost).

    python experiments/real_model.py --laptop | --gpu [--minutes 10] [--workers 2]
"""

import argparse
import copy
import dataclasses
import hashlib
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dft_theory.diagnostics.bins import bin_index
from dft_theory.experiment import Judged, Prediction, Rows
from dft_theory.llm.data import (
    Demonstration,
    Demonstrations,
    Encoded,
    encode,
    end_of_turn,
    load_demonstrations,
    prompt_ids,
)
from dft_theory.llm.generate import Drawn, Sampling, TransformersEngine
from dft_theory.llm.grade import by_harness_rules
from dft_theory.llm.pretrained import Pretrained, load_pretrained
from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.objectives import Objective, Schedule, anneal, dft, objectives, sft, with_floor
from dft_theory.provenance import manifest
from dft_theory.results import Run, RunStore, write_json
from dft_theory.seeding import numpy_generator
from dft_theory.statistics import paired

RESULTS = Path(__file__).parent / "results"
NOISE = 0.3  # probability that a step is wrong
# ChatML without the system prompt that SmolLM2's own template adds to every conversation.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# --- the tasks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Running sums of numbers in [least, most], written with `space` between the signs."""

    name: str
    least: int
    most: int
    space: str
    terms: int = 3

    def question(self, numbers: Sequence[int]) -> str:
        """The numbers with plus signs between them."""
        return f"{self.space}+{self.space}".join(map(str, numbers))

    def in_words(self, numbers: Sequence[int]) -> str:
        """The same asked as no demonstration asks it: out of distribution."""
        *first, last = map(str, numbers)
        return f"What is the sum of {', '.join(first)} and {last}?"

    def solution(self, numbers: Sequence[int], errors: Sequence[int] = ()) -> str:
        """A line a step; each result is off by its error, and the next step goes on from it."""
        total, lines = numbers[0], []
        for i, number in enumerate(numbers[1:]):
            before, total = total, total + number + (errors[i] if errors else 0)
            lines.append(f"{before} + {number} = {total}".replace(" ", self.space))
        return "\n".join(lines)

    def formed(self, drawn: Drawn) -> bool:
        """Whether a completion has the form of a solution, right or wrong, and ends there."""
        step = r"\d+ \+ \d+ = \d+".replace(" ", self.space)
        return drawn.finished and bool(
            re.fullmatch(rf"{step}(\n{step}){{{self.terms - 2}}}", drawn.text.strip())
        )


TASKS = {
    "strong": Task("strong", 1, 9, " "),
    "weak": Task("weak", 10, 99, ""),
}
METHODS: dict[str, Objective] = {
    "sft": sft,
    "dft": dft,
    "p^1/2": objectives["power-0.5"],
    "threshold": objectives["thresholded-above-0.2"],
    "floored": objectives["floored-0.1"],
    "asft": objectives["asft-0.05"],
    "iw-sft": objectives["iw-sft-geometric-mean-clamp-0-16"],
    "eaft": objectives["eaft"],
}
ANNEALED = "sft-to-dft"
FLOORED_END = "dft-floored-end"  # DFT with a floor under the token that ends the turn
OTHERS = (*(name for name in METHODS if name not in ("sft", "dft")), ANNEALED)


@dataclass(frozen=True)
class Problems:
    """One seed's instances of a task, all different: to score, to read, and to train on."""

    scored: list[tuple[int, ...]]
    words: list[tuple[int, ...]]
    read: list[tuple[int, ...]]
    taught: list[tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """Counts are for each seed; `samples` and `words_samples` completions a problem at T = 1."""

    grid: tuple[tuple[str, str], ...]  # (task, source) where SFT and DFT take every rate
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    others: tuple[tuple[str, str, int], ...]  # (task, source, seed) of the other methods
    own: tuple[tuple[str, int], ...]  # (task, seed) of training on the base's own samples
    demos: int = 128
    batch: int = 8
    problems: int = 32
    samples: int = 4
    words_problems: int = 16
    words_samples: int = 2
    read: int = 24
    max_new_tokens: int = 32
    base_tokens: int = 64
    at_once: int = 64  # completions drawn together
    other_rates: tuple[float, ...] = ()  # empty: the middle of `rates`

    @property
    def middle(self) -> tuple[float, ...]:
        """The rates of methods that are not scanned over `rates`."""
        return self.other_rates or (self.rates[len(self.rates) // 2],)


LAPTOP = Size(
    grid=(("strong", "noise"), ("weak", "clean"), ("strong", "clean")),
    rates=(1e-5, 3e-5, 1e-4),
    seeds=(0, 1, 2),
    others=(("strong", "noise", 0),),
    own=(("strong", 0),),
)
EVERY = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
GPU = Size(
    grid=tuple((task, source) for task in TASKS for source in ("clean", "noise")),
    rates=EVERY,
    seeds=(0, 1, 2, 3, 4),
    others=tuple((t, s, seed) for seed in (0, 1, 2) for t in TASKS for s in ("clean", "noise")),
    own=tuple((task, seed) for seed in (0, 1, 2) for task in TASKS),
    demos=240,
    problems=200,
    samples=16,
    words_problems=100,
    words_samples=4,
    read=64,
    at_once=1024,
    other_rates=EVERY[1:5],
)


@dataclass(frozen=True)
class Job:
    """One training, or with the method "base" none."""

    task: str
    source: str
    method: str
    rate: float | None
    seed: int


def plan(size: Size) -> list[Job]:
    """Every run, the most telling first: where time runs out, the last ones are missing."""
    base = [Job(task, "none", "base", None, seed) for seed in size.seeds for task in TASKS]

    def scanned(seeds: Sequence[int]) -> list[Job]:
        return [
            Job(task, source, method, rate, seed)
            for seed in seeds
            for task, source in size.grid
            for rate in size.rates
            for method in ("sft", "dft")
        ]

    rest = [
        Job(task, "own", method, rate, seed)
        for task, seed in size.own
        for rate in size.middle
        for method in ("sft", "dft")
    ] + [
        Job(task, source, method, rate, seed)
        for task, source, seed in size.others
        for rate in size.middle
        for method in OTHERS
    ]
    # Added when DFT had not learned to stop from a weak prior, in the runs of seeds 0 and 1.
    added = [
        Job("weak", "clean", FLOORED_END, rate, seed)
        for seed in size.seeds
        for rate in (3e-5, 1e-4)
    ]
    # Added when the best rates there, of SFT and of DFT with its floor, were the end of the grid.
    added += [
        Job("weak", "clean", method, 3e-4, seed)
        for seed in size.seeds
        for method in ("sft", "dft", FLOORED_END)
    ]
    first, then = scanned(size.seeds[:2]), scanned(size.seeds[2:])
    return list(dict.fromkeys([*base, *first, *rest, *then, *added]))


def instances(task: Task, seed: int, size: Size) -> Problems:
    """No instance of one list stands in another."""
    rng = numpy_generator(seed, "real-model", task.name)
    known: set[tuple[int, ...]] = set()

    def drawn(count: int) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        while len(found) < count:
            numbers = tuple(int(n) for n in rng.integers(task.least, task.most + 1, task.terms))
            if numbers not in known:
                known.add(numbers)
                found.append(numbers)
        return found

    return Problems(
        scored=drawn(size.problems),
        words=drawn(size.words_problems),
        read=drawn(size.read),
        taught=drawn(size.demos),
    )


def demonstrations(
    task: Task, taught: Sequence[tuple[int, ...]], noise: float, seed: int
) -> Iterator[Demonstration]:
    """Worked solutions; each step's result is off by 1 to 9, up or down, with that probability."""
    rng = numpy_generator(seed, "real-model", task.name, "noise")
    for i, numbers in enumerate(taught):
        steps = len(numbers) - 1
        off = rng.integers(1, 10, steps) * rng.choice([-1, 1], steps)
        errors = [int(e) for e in off * (rng.random(steps) < noise)]
        yield Demonstration(
            question=task.question(numbers),
            solution=task.solution(numbers, errors),
            answer=str(sum(numbers)),
            id=f"{task.name}-{seed}-{i}",
        )


# --- one run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What a worker holds between runs: the base, a narrow copy that completes, the size."""

    base: Pretrained
    narrow: Pretrained
    size: Size
    device: str

    @classmethod
    def of(cls, model: str | None, size: Size, device: str) -> "Bench":
        """The model by name, twice, under `TEMPLATE`."""
        base, narrow = (load_pretrained(model, dtype=d) for d in (torch.float32, torch.bfloat16))
        for source in (base, narrow):
            source.tokenizer.chat_template = TEMPLATE
            source.model.to(torch.device(device))
        return cls(base, narrow, size, device)

    def draw(
        self, questions: Sequence[str], samples: int, temperature: float, tokens: int, seed: int
    ) -> list[list[Drawn]]:
        """Completions by the weights that `narrow` has at the moment."""
        engine = TransformersEngine(self.narrow, batch=self.size.at_once)
        sampling = Sampling(
            samples=samples, temperature=temperature, max_new_tokens=tokens, instruction=""
        )
        return engine.draw([engine.chat(q) for q in questions], sampling, seed)

    def own(self, task: Task, seed: int) -> list[Encoded]:
        """The base's own samples of the training questions, unfiltered; cut ones have no end."""
        self.narrow.model.load_state_dict(self.base.model.state_dict())
        questions = [task.question(n) for n in instances(task, seed, self.size).taught]
        drawn = self.draw(questions, 1, 1.0, self.size.base_tokens, seed)
        found = []
        for question, (sample,) in zip(questions, drawn, strict=True):
            prompt = prompt_ids(question, self.base.tokenizer)
            ids = self.base.tokenizer(sample.text, add_special_tokens=False).input_ids
            ids = [*ids, end_of_turn(self.base.tokenizer)] if sample.finished or not ids else ids
            labels = [IGNORE_INDEX] * len(prompt) + ids
            found.append(Encoded(torch.tensor(prompt + ids), torch.tensor(labels)))
        return found


def run(bench: Bench, job: Job) -> dict[str, Any]:
    """The row of one job."""
    started, used = time.perf_counter(), time.process_time()
    task, size = TASKS[job.task], bench.size
    problems = instances(task, job.seed, size)
    held = [
        encode(d, bench.base.tokenizer) for d in demonstrations(task, problems.read, 0.0, job.seed)
    ]
    row: dict[str, Any] = asdict(job)
    if job.method == "base":
        model: Any = bench.base.model
        tokens = size.base_tokens
    else:
        if job.source == "own":
            taught = bench.own(task, job.seed)
        else:
            noise = NOISE if job.source == "noise" else 0.0
            made = demonstrations(task, problems.taught, noise, job.seed)
            taught = [encode(d, bench.base.tokenizer) for d in made]
        model, found = trained(bench, job, taught, held)
        row |= found
        tokens = size.max_new_tokens
    row |= read(model, bench, held)
    bench.narrow.model.load_state_dict(model.state_dict())
    row |= scored(bench, task, problems, job.seed, tokens)
    row["samples"] = {"scored": size.samples, "words": size.words_samples}
    row["seconds"] = round(time.perf_counter() - started, 1)
    row["cpu_seconds"] = round(time.process_time() - used, 1)
    return row


def trained(
    bench: Bench, job: Job, taught: Sequence[Encoded], held: Sequence[Encoded]
) -> tuple[Any, dict[str, Any]]:
    """The model after one epoch; the gradient check, the distance moved, what was printed last.

    Raises: WrongGradientError before the first step.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig

    from dft_theory.llm.trainer import ObjectiveTrainer
    from dft_theory.llm.training import first_step, quiet

    steps = len(taught) // bench.size.batch
    schedule: Schedule | None = None
    if job.method == ANNEALED:
        schedule = anneal(sft, dft, steps)
        objective = schedule.at(0)
    elif job.method == FLOORED_END:
        objective = with_floor(dft, [end_of_turn(bench.base.tokenizer)], 0.1)
    else:
        objective = METHODS[job.method]

    def rows(of: Sequence[Encoded]) -> Any:
        pairs = [{"input_ids": e.input_ids.tolist(), "labels": e.labels.tolist()} for e in of]
        return Dataset.from_list(pairs)

    class Anneal(TrainerCallback):  # type: ignore[misc]
        """Gives the trainer the schedule's objective of each step."""

        def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if schedule is not None:
                trainer.objective = schedule.at(state.global_step)

    assert job.rate is not None
    names = {f.name for f in dataclasses.fields(SFTConfig)}
    saving = "activation" if "activation_checkpointing" in names else "gradient"  # older ones
    quiet()
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            per_device_train_batch_size=bench.size.batch,
            max_steps=steps,
            learning_rate=job.rate,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 10),
            optim="adamw_torch_fused",
            adam_beta2=0.95,
            weight_decay=0.01,
            max_grad_norm=1.0,
            max_length=256,
            **{f"{saving}_checkpointing": False},
            bf16=True,
            use_cpu=bench.device == "cpu",
            seed=job.seed,
            data_seed=job.seed,
            logging_steps=max(1, steps // 4),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = ObjectiveTrainer(
            copy.deepcopy(bench.base.model),
            config,
            objective=objective,
            train_dataset=rows(taught),
            eval_dataset=rows(held),
            processing_class=bench.base.tokenizer,
            probe=len(held),
            callbacks=[Anneal()],
        )
        trainer.remove_callback(PrinterCallback)
        verdict = first_step(trainer)
        trainer.train()
    last = [log for log in trainer.state.log_history if "nll" in log][-1]
    return trainer.model.eval(), {
        "check": [float(f"{x:.2g}") for x in (verdict.deviation, verdict.tolerance)],
        "printed": round(last["surrogate"], 4),
        "train_nll": round(last["nll"], 4),
        "kl": round(trainer.kl_to_base(), 5),
    }


@torch.no_grad()
def read(model: Any, bench: Bench, held: Sequence[Encoded]) -> dict[str, Any]:
    """Held-out clean demonstrations and English, teacher-forced.

    `nll` and `mean_p` are means over tokens, `result_p` the mean over steps of the probability of
    the whole right number behind "=", `bins` counts of tokens by probability.
    """
    logp = [log_probabilities(model, e, bench) for e in held]
    whole = torch.cat(logp)
    results = [
        one[place == k].sum().exp()
        for e, one in zip(held, logp, strict=True)
        for place in [result_places(e, bench.base.tokenizer)]
        for k in range(1, int(place.max()) + 1)
    ]
    text = torch.cat([log_probabilities(model, e, bench) for e in english(bench.base.tokenizer)])
    return {
        "nll": round(float(-whole.mean()), 4),
        "mean_p": round(float(whole.exp().mean()), 4),
        "result_p": round(float(torch.stack(results).mean()), 4),
        "bins": torch.bincount(bin_index(whole.exp()), minlength=13).tolist(),
        "perplexity": round(float(text.neg().mean().exp()), 3),
    }


def log_probabilities(model: Any, e: Encoded, bench: Bench) -> Tensor:
    """Log-probabilities of the target tokens `[n]`, in float32 on the CPU."""
    labels = e.labels[1:]
    where = labels != IGNORE_INDEX
    with torch.autocast(bench.device, torch.bfloat16):
        states = model.base_model(e.input_ids[None].to(bench.device)).last_hidden_state[0, :-1]
        logits = model.get_output_embeddings()(states[where.to(bench.device)])
    found: Tensor = logits.float().log_softmax(-1).cpu().gather(-1, labels[where][:, None])
    return found[:, 0]


def result_places(e: Encoded, tokenizer: Any) -> Tensor:
    """For each target token k where it is a digit of the k-th result, else 0, `[n]`."""
    places, step, inside = [], 0, False
    for token in e.labels[e.labels != IGNORE_INDEX].tolist():
        text = tokenizer.decode([token])
        if "=" in text:
            step, inside = step + 1, True
        elif text != " " and not text.isdigit():
            inside = False
        places.append(step if inside and text.isdigit() else 0)
    return torch.tensor(places)


@lru_cache(maxsize=1)
def english(tokenizer: Any) -> list[Encoded]:
    """The word problems that come with the package, questions of the test split, as plain text."""
    texts = [d.question for d in load_demonstrations("sample", split="test")]
    ids = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    return [Encoded(i, i) for i in ids]


def scored(bench: Bench, task: Task, problems: Problems, seed: int, tokens: int) -> dict[str, Any]:
    """Right answers of each problem as one digit each, sampled and greedy, and shares of form."""
    found: dict[str, Any] = {}
    for name, chosen, samples in (
        ("", problems.scored, bench.size.samples),
        ("words_", problems.words, bench.size.words_samples),
    ):
        ask = task.in_words if name else task.question
        questions = [ask(n) for n in chosen]
        for how, temperature, k in (("sampled", 1.0, samples), ("greedy", 0.0, 1)):
            drawn = bench.draw(questions, k, temperature, tokens, seed)
            right = [
                sum(by_harness_rules(str(sum(n)), d.text).right for d in each)
                for n, each in zip(chosen, drawn, strict=True)
            ]
            found[name + how] = "".join(f"{r:x}" if r < 16 else "g" for r in right)
            every = [d for each in drawn for d in each]
            found[f"{name}{how}_cut"] = mean(not d.finished for d in every)
            found[f"{name}{how}_formed"] = mean(task.formed(d) for d in every)
    return found


def mean(truths: Iterator[bool]) -> float:
    """The share that is true, to four digits."""
    each = list(truths)
    return round(sum(each) / len(each), 4)


# --- all of them --------------------------------------------------------------------------------

_bench: Bench | None = None  # of a worker process


def _begin(model: str | None, size: Size, device: str, threads: int) -> None:
    global _bench
    torch.set_num_threads(threads)
    _bench = Bench.of(model, size, device)


def _one(job: Job) -> dict[str, Any]:
    assert _bench is not None
    return run(_bench, job)


def measure(
    record: Run,
    jobs: Sequence[Job],
    size: Size,
    *,
    model: str | None = None,
    device: str = "cpu",
    workers: int = 2,
    threads: int = 1,
    minutes: float | None = None,
) -> None:
    """Runs what the record lacks, in order; a row a run. After `minutes` none is begun."""
    done = {tuple(row[f.name] for f in dataclasses.fields(Job)) for row in record.metrics()}
    todo = [job for job in jobs if dataclasses.astuple(job) not in done]
    until = None if minutes is None else time.perf_counter() + 60 * minutes
    spawn = multiprocessing.get_context("spawn")
    begin = (model, size, device, threads)
    with ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=begin) as pool:
        running: set[Future[dict[str, Any]]] = set()
        while todo or running:
            late = until is not None and time.perf_counter() > until
            while todo and len(running) < workers and not late:
                running.add(pool.submit(_one, todo.pop(0)))
            if not running:
                break
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                row = future.result()
                record.log(row)
                key = [str(row[f.name]) for f in dataclasses.fields(Job)]
                print(" ".join(key), f"{row['seconds']:.0f} s, {len(todo)} to go", flush=True)


# --- what the rows say --------------------------------------------------------------------------

HOWS = ("sampled", "greedy", "words_sampled", "words_greedy")
READ = (
    *("nll", "mean_p", "result_p", "perplexity", "kl", "sampled_cut", "sampled_formed"),
    *("printed", "train_nll"),
)
DIGITS = "0123456789abcdefg"


def score(row: Mapping[str, Any], how: str) -> NDArray[np.float64]:
    """The share of right completions of each problem."""
    of = row["samples"]["words" if how.startswith("words") else "scored"]
    right = np.array([DIGITS.index(c) for c in row[how]], float)
    return right / (of if how.endswith("sampled") else 1)


def runs(rows: Rows, task: str, source: str, method: str) -> list[Mapping[str, Any]]:
    """The rows of a cell. Raises: ValueError where it was not run."""
    key = (task, source, method)
    found = [r for r in rows if (r["task"], r["source"], r["method"]) == key]
    if not found:
        raise ValueError(f"not run: {method} on {task}, {source}")
    return found


def best(rows: Rows, task: str, source: str, method: str) -> dict[int, Mapping[str, Any]]:
    """For each seed its run at the rate that was best on the other seeds.

    Best is the mean of sampled and greedy accuracy; of a lone seed, on itself.
    """
    mine = runs(rows, task, source, method)
    found = {}
    for seed in sorted({r["seed"] for r in mine}):
        others = [r for r in mine if r["seed"] != seed] or mine
        own = {r["rate"]: r for r in mine if r["seed"] == seed}

        def quality(rate: float, others: Rows = others) -> float:
            each = [score(r, how).mean() for r in others if r["rate"] == rate for how in HOWS[:2]]
            return float(np.mean(each)) if each else -1.0

        found[seed] = own[max(own, key=quality)]
    return found


def at(rows: Rows, task: str, source: str, method: str, rate: float | None) -> dict[int, Any]:
    """For each seed its run at a rate; None is `best`."""
    if rate is None:
        return best(rows, task, source, method)
    return {r["seed"]: r for r in runs(rows, task, source, method) if r["rate"] == rate}


def gap(
    rows: Rows,
    task: str,
    source: str,
    how: str,
    first: str = "dft",
    second: str = "sft",
    rate: float | None = None,
) -> dict[str, Any]:
    """Accuracy of `first` minus `second` on the same problems: of each seed, mean and interval.

    The interval and p-value resample problems, not trainings: three seeds are too few for that,
    and so each of them is told.
    """
    a = at(rows, task, source, first, rate)
    b = at(
        rows, *((task, "none", "base", None) if second == "base" else (task, source, second, rate))
    )
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise ValueError(f"no seed has both {first} and {second} on {task}, {source}")
    one, other = ([score(x[s], how) for s in seeds] for x in (a, b))
    told = paired(np.concatenate(one), np.concatenate(other))
    return {
        "task": task,
        "source": source,
        "how": how,
        "first": first,
        "second": second,
        "rate": rate,
        "seeds": [round(float((x - y).mean()), 4) for x, y in zip(one, other, strict=True)],
        "mean": round(told.difference.mean, 4),
        "low": round(told.difference.low, 4),
        "high": round(told.difference.high, 4),
        "p": round(told.p_value, 4),
    }


def numbers(found: Mapping[str, Any], name: str = "") -> dict[str, float]:
    """Mean and interval of a gap under names of their own."""
    return {f"{name}{key}": found[key] for key in ("mean", "low", "high")}


def reduce(rows: Rows, jobs: Sequence[Job]) -> dict[str, Any]:
    """Every cell at its best rate and at each rate, every gap, and how the predictions fared."""
    cells = sorted({(r["task"], r["source"], r["method"]) for r in rows})
    scanned = {c[:2] for c in cells if {(*c[:2], m) for m in ("sft", "dft")} <= set(cells)}
    table, curves, gaps = [], [], []
    for cell in cells:
        chosen = list(best(rows, *cell).values())
        rates = [r["rate"] for r in chosen]
        tried = sorted({r["rate"] for r in runs(rows, *cell) if r["rate"] is not None})
        table.append(
            {"task": cell[0], "source": cell[1], "method": cell[2], "rates": rates}
            | {"tried": tried, "seeds": [r["seed"] for r in chosen]}
            | means(chosen)
            | {"bins": np.sum([r["bins"] for r in chosen], axis=0).tolist()}
        )
        for rate in tried:
            each = list(at(rows, *cell, rate).values())
            curves.append(
                {"task": cell[0], "source": cell[1], "method": cell[2], "rate": rate}
                | {"seeds": [r["seed"] for r in each]}
                | means(each)
            )
    for task, source in sorted(scanned):
        gaps += [gap(rows, task, source, how) for how in HOWS]
    if ("weak", "clean", FLOORED_END) in cells:
        gaps += [gap(rows, "weak", "clean", how, FLOORED_END) for how in HOWS]
    for task, source, method in cells:
        for rate in sorted({r["rate"] for r in runs(rows, task, source, method)} - {None}):
            if source == "own":
                gaps += [gap(rows, task, source, how, method, "base", rate) for how in HOWS]
            elif method in OTHERS and (task, source) in scanned:
                gaps += [gap(rows, task, source, how, method, "sft", rate) for how in HOWS]
    done = {tuple(r[f.name] for f in dataclasses.fields(Job)) for r in rows}
    return {
        "runs": len(rows),
        "missing": [asdict(j) for j in jobs if dataclasses.astuple(j) not in done],
        "cpu_minutes": round(sum(r["cpu_seconds"] for r in rows) / 60, 1),
        "worst_check": max(r["check"][0] / r["check"][1] for r in rows if "check" in r),
        "cells": table,
        "curves": curves,
        "gaps": gaps,
        "outcome": outcome(rows),
    }


def means(chosen: Rows) -> dict[str, float]:
    """Means over seeds of accuracies, pass@k and what was read."""
    found = {how: float(np.mean([score(r, how).mean() for r in chosen])) for how in HOWS}
    k = chosen[0]["samples"]["scored"]
    found["pass"] = float(np.mean([(score(r, "sampled") > 0).mean() for r in chosen]))
    found |= {"k": k} | {
        name: float(np.mean([r[name] for r in chosen])) for name in READ if name in chosen[0]
    }
    return {name: round(value, 4) for name, value in found.items()}


def outcome(rows: Rows) -> dict[str, dict[str, Any]]:
    """For each prediction whether it holds, and its numbers; None where its runs are missing."""
    found: dict[str, dict[str, Any]] = {}
    for p in PREDICTIONS:
        try:
            holds, told = p.judge(rows)
            found[p.name] = {"holds": bool(holds), **told}
        except ValueError as error:
            found[p.name] = {"holds": None, "why": str(error)}
    return found


# --- predictions --------------------------------------------------------------------------------

NOISY, CLEAN, WEAK = ("strong", "noise"), ("strong", "clean"), ("weak", "clean")


def leads(
    cell: tuple[str, str],
    how: str,
    low: float,
    high: float,
    *,
    surely: bool = False,
    first: str = "dft",
) -> Callable[[Rows], Judged]:
    """`first` - SFT lies between; `surely`: its interval over problems is above 0 as well."""

    def judge(rows: Rows) -> Judged:
        found = gap(rows, *cell, how, first)
        return low < found["mean"] < high and (not surely or found["low"] > 0), numbers(found)

    return judge


def greedy_is_less(rows: Rows) -> Judged:
    """The sampled lead less the greedy one."""
    both = {how: gap(rows, "strong", "noise", how)["mean"] for how in HOWS[:2]}
    return both["sampled"] - both["greedy"] > 0.05, both


def chosen_rates(rows: Rows) -> Judged:
    """Mean logarithm of the chosen rates, DFT's less SFT's."""
    found = {}
    for cell in LAPTOP.grid:
        logs = [
            np.mean([np.log10(r["rate"]) for r in best(rows, *cell, m).values()])
            for m in ("dft", "sft")
        ]
        found["-".join(cell)] = float(logs[0] - logs[1])
    return max(found.values()) <= 0, found


def drifts(rows: Rows) -> Judged:
    """In how many of (cell, rate) DFT is farther from the base, over seeds that both have."""
    farther, of = 0, 0
    for cell in LAPTOP.grid:
        for rate in LAPTOP.rates:
            a, b = (at(rows, *cell, m, rate) for m in ("dft", "sft"))
            seeds = a.keys() & b.keys()
            if seeds:
                farther += sum(a[s]["kl"] - b[s]["kl"] for s in seeds) > 0
                of += 1
    return farther >= 7 * of / 9, {"farther": float(farther), "of": float(of)}


def reads(cell: tuple[str, str], metric: str, low: float, high: float) -> Callable[[Rows], Judged]:
    """DFT - SFT of a number that is read, means over seeds at the chosen rates, lies between."""

    def judge(rows: Rows) -> Judged:
        a, b = (means(list(best(rows, *cell, m).values()))[metric] for m in ("dft", "sft"))
        return low < a - b < high, {"dft": a, "sft": b}

    return judge


def floored_form(rows: Rows) -> Judged:
    """Shares of samples that have the form, at the chosen rates."""
    found = {
        m: means(list(best(rows, *WEAK, m).values()))["sampled_formed"]
        for m in (FLOORED_END, "dft", "sft")
    }
    return found[FLOORED_END] > 0.8, found


def own_samples(rows: Rows) -> Judged:
    """Sampled gains over the base from its own samples."""
    found = {m: gap(rows, "strong", "own", "sampled", m, "base")["mean"] for m in ("sft", "dft")}
    return abs(found["sft"]) <= 0.08 and found["dft"] > 0, found


def own_is_less(rows: Rows) -> Judged:
    """DFT's sampled gain over the base from noisy demonstrations and from own samples."""
    found = {s: gap(rows, "strong", s, "sampled", "dft", "base")["mean"] for s in ("noise", "own")}
    return found["noise"] > found["own"] + 0.1, found


def relatives(names: Sequence[str], low: float, high: float) -> Callable[[Rows], Judged]:
    """Sampled gaps to SFT at the same rate and seeds, each strictly between."""

    def judge(rows: Rows) -> Judged:
        rate = LAPTOP.middle[0]
        found = {m: gap(rows, "strong", "noise", "sampled", m, "sft", rate)["mean"] for m in names}
        return all(low < value < high for value in found.values()), found

    return judge


WRITTEN = "before any run but SFT's on another seed, after the base's diagnosis"
LATER = "after the runs of seeds 0 and 1, in which DFT did not learn to stop there"
PREDICTIONS = tuple(
    Prediction(name, statement, judge, LATER if name.startswith("floor") else WRITTEN)
    for name, statement, judge in (
        (
            "noise-sampled",
            "strong prior, 30 % of steps wrong: DFT leads SFT at T = 1 by more than 10 points, "
            "and its interval is above 0 (toy: +42)",
            leads(NOISY, "sampled", 0.10, 1, surely=True),
        ),
        (
            "noise-greedy",
            "there the greedy lead is smaller than the sampled one by more than 5 points",
            greedy_is_less,
        ),
        (
            "clean-sampled",
            "strong prior, clean: DFT and SFT differ by less than 15 points at T = 1 (toy: +2)",
            leads(CLEAN, "sampled", -0.15, 0.15),
        ),
        (
            "clean-greedy",
            "strong prior, clean: they differ by less than 10 points greedily (toy: -3)",
            leads(CLEAN, "greedy", -0.10, 0.10),
        ),
        (
            "weak-sampled",
            "weak prior, clean: DFT trails SFT at T = 1 (toy: -23 at p0 = 0.02, 0 at 0.1)",
            leads(WEAK, "sampled", -1, 0),
        ),
        (
            "weak-greedy",
            "weak prior, clean: DFT trails SFT greedily by more than 5 points (toy: -30 and -4)",
            leads(WEAK, "greedy", -1, -0.05),
        ),
        (
            "noise-results",
            "strong prior, noise: the probability of a right result is higher under DFT than "
            "under SFT by more than 0.05",
            reads(NOISY, "result_p", 0.05, 1),
        ),
        (
            "weak-results",
            "weak prior, clean: the probability of a right result is lower under DFT",
            reads(WEAK, "result_p", -1, 0),
        ),
        (
            "noise-words",
            "strong prior, noise: DFT leads at T = 1 also where the question is put in words",
            leads(NOISY, "words_sampled", 0, 1),
        ),
        (
            "weak-nll",
            "weak prior, clean: DFT's held-out NLL is higher than SFT's",
            reads(WEAK, "nll", 0, 10),
        ),
        (
            "weak-form",
            "weak prior: fewer of DFT's samples have the form of a solution (diagnose: 5 of 32 "
            "ends of turn get almost no gradient)",
            reads(WEAK, "sampled_formed", -1, 0),
        ),
        ("rates", "in no cell is DFT's best rate above SFT's, on average over seeds", chosen_rates),
        (
            "drift",
            "at the same rate DFT ends farther from the base than SFT (KL) in at least 7 of 9 "
            "pairs of cell and rate",
            drifts,
        ),
        (
            "own-samples",
            "on the base's own samples DFT gains at T = 1, and SFT stays within 8 points",
            own_samples,
        ),
        (
            "own-is-less",
            "DFT gains at least 10 points more from noisy demonstrations than from own samples",
            own_is_less,
        ),
        (
            "relatives-like-dft",
            "strong prior, noise, one rate and seed: p^1/2, threshold, floored, ASFT and the "
            "anneal lead SFT at T = 1",
            relatives(("p^1/2", "threshold", "floored", "asft", ANNEALED), 0, 1),
        ),
        (
            "relatives-like-sft",
            "there EAFT and iw-SFT differ from SFT by less than 10 points at T = 1",
            relatives(("eaft", "iw-sft"), -0.10, 0.10),
        ),
        (
            "floor-form",
            "weak prior: with a floor of 0.1 under the end of turn, as diagnose advises, more than "
            "80 % of DFT's samples have the form of a solution",
            floored_form,
        ),
        (
            "floor-sampled",
            "and it does not trail SFT at T = 1",
            leads(WEAK, "sampled", 0, 1, first=FLOORED_END),
        ),
        (
            "floor-greedy",
            "greedily it differs from SFT by less than 15 points",
            leads(WEAK, "greedy", -0.15, 0.15, first=FLOORED_END),
        ),
    )
)


# --- the command line ---------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Goes on with a record, and sums it up. Raises: SystemExit for another record's settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tier = parser.add_mutually_exclusive_group(required=True)
    tier.add_argument("--laptop", action="store_true", help="50 minutes of two cores")
    tier.add_argument("--gpu", action="store_true", help="the full grid, in several calls")
    tier.add_argument("--diagnose", action="store_true", help="what diagnose says of the base")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu, --gpu: cuda")
    parser.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    parser.add_argument("--workers", type=int, help="processes; default: 2, on a GPU 1")
    parser.add_argument("--anew", action="store_true", help="throw the record away and begin again")
    given = parser.parse_args(arguments)
    if given.diagnose:
        diagnosed()
        return
    name, size = ("gpu", GPU) if given.gpu else ("laptop", LAPTOP)
    device = given.device or ("cuda" if given.gpu else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: take --laptop, or --gpu --device cpu (days)")
    record, started = RunStore(RESULTS).run("real-model", name), time.perf_counter()
    if given.anew or not record.metrics():
        record.start(about(name, size, device), replace=True)
    else:
        begun, now = record.manifest(), about(name, size, device)
        if begun["size"] != now["size"]:
            raise SystemExit(f"{record.name} was begun with another size: --anew throws it away")
        # A prediction that was added between calls says so.
        write_json(record.folder / "manifest.json", begun | {"predictions": now["predictions"]})
    workers = given.workers or (1 if device == "cuda" else 2)
    jobs, before = plan(size), len(record.metrics())
    measure(record, jobs, size, device=device, workers=workers, minutes=given.minutes)
    wall = record.summary()["wall_minutes"] if record.finished else []
    if len(record.metrics()) > before:
        wall = [*wall, round((time.perf_counter() - started) / 60, 1)]
    record.finish({"wall_minutes": wall, "workers": workers, **reduce(record.metrics(), jobs)})
    print(report(record.summary()))


def about(name: str, size: Size, device: str) -> dict[str, Any]:
    """The manifest, written before the first run."""
    base = load_pretrained()
    text = "\n".join(d.question for d in load_demonstrations("sample", split="test"))
    return manifest(
        ["python", "experiments/real_model.py", f"--{name}"],
        seeds=size.seeds,
        extra={
            "model": {"name": base.name, "revision": base.revision},
            "device": device,
            "template": TEMPLATE,
            "size": json.loads(json.dumps(asdict(size))),
            "english": {
                "source": "questions of the bundled word problems, test split",
                "licence": "Apache-2.0",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            },
            "predictions": {p.name: f"{p.statement} (written {p.written})" for p in PREDICTIONS},
        },
    )


def diagnosed() -> None:
    """What `diagnose` says of the base before training, on 32 demonstrations of each task."""
    from dft_theory.diagnostics.text import lines
    from dft_theory.llm.diagnose import diagnose

    base, seed = load_pretrained(), 100  # a seed that is not trained on
    base.tokenizer.chat_template = TEMPLATE
    found = {}
    for task, noise in ((TASKS["strong"], NOISE), (TASKS["weak"], 0.0)):
        taught = instances(task, seed, LAPTOP).taught[:32]
        chosen = Demonstrations(
            items=tuple(demonstrations(task, taught, noise, seed)),
            source=task.name,
            split="train",
            licence="Apache-2.0",
            sha256="",
            rows=len(taught),
        )
        found[task.name] = lines(diagnose(base, chosen))
    record = RunStore(RESULTS).run("real-model", "diagnosis")
    model = {"name": base.name, "revision": base.revision}
    command = ["python", "experiments/real_model.py", "--diagnose"]
    record.start(manifest(command, seeds=[seed], extra={"model": model}), replace=True)
    record.finish(found)


def report(summary: Mapping[str, Any]) -> str:
    """One line a prediction."""
    words = {True: "held      ", False: "FAILED    ", None: "not judged"}
    lines = []
    for p in PREDICTIONS:
        told = summary["outcome"][p.name]
        said = [f"{k} {v:.3g}" for k, v in told.items() if isinstance(v, float)]
        lines.append(f"{words[told['holds']]} {p.name}: {p.statement} [{', '.join(said)}]")
    return "\n".join([*lines, f"{len(summary['missing'])} runs of the plan are missing"])


if __name__ == "__main__":
    main()
