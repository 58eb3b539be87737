"""A training run as data: what is trained, on what, how, and what the paper got; and its plan.

A `Recipe` names everything that moves a number. Nothing of it is read from the network before the
run: `plan` says steps, memory and GPU-hours of a recipe by arithmetic from the model's shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from dft_theory.llm.generate import Sampling
from dft_theory.objectives import Objective, objectives

# How the gradients of a step's micro-batches become one. "token": the mean over all target tokens
# of the step. "micro-batch-sum": each micro-batch's own token mean, added and never divided, as the
# official trainer does it, so that the gradient is as many times larger as there are micro-batches.
Accumulation = Literal["token", "micro-batch-sum"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What memory and time depend on: weights in all, layers, hidden width, vocabulary."""

    parameters: int
    layers: int
    hidden: int
    vocab: int


SHAPES = {
    "smollm2-135m-instruct": Shape(parameters=134_515_008, layers=30, hidden=576, vocab=49_152),
    "Qwen/Qwen2.5-Math-1.5B": Shape(
        parameters=1_543_714_304, layers=28, hidden=1536, vocab=151_936
    ),
    "Qwen/Qwen2.5-Math-7B": Shape(parameters=7_615_616_512, layers=28, hidden=3584, vocab=152_064),
    "meta-llama/Llama-3.2-3B": Shape(
        parameters=3_212_749_824, layers=28, hidden=3072, vocab=128_256
    ),
    "meta-llama/Llama-3.1-8B": Shape(
        parameters=8_030_261_248, layers=32, hidden=4096, vocab=128_256
    ),
    "deepseek-ai/deepseek-math-7b-base": Shape(
        parameters=6_910_365_696, layers=30, hidden=4096, vocab=102_400
    ),
    "Qwen/Qwen2.5-3B": Shape(parameters=3_085_938_688, layers=36, hidden=2048, vocab=151_936),
    "Qwen/Qwen2.5-Coder-3B": Shape(parameters=3_085_938_688, layers=36, hidden=2048, vocab=151_936),
    "Qwen/Qwen2.5-Coder-7B": Shape(parameters=7_615_616_512, layers=28, hidden=3584, vocab=152_064),
}


# What a corpus holds, and which objectives can be trained on it: any that reads a demonstration
# alone; for problems, answered by the model itself, and for pairs those that TRL's trainers have.
Holds = Literal["demonstrations", "problems", "pairs"]
TRAINED_ON: dict[Holds, str | None] = {
    "demonstrations": None,
    "problems": "grpo-0.2-0.2",
    "pairs": "dpo-0.1",
}
OF_DEMONSTRATIONS = {"targets", "entropy", "log_probs", "ref_logp", "ref_log_probs"}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A source, what its rows are, and which of them.

    `source` is what `dft_theory.llm.corpus.load` takes. `rows` None is all. "first" takes them in
    stored order, "random" a seeded draw. `tokens` is the mean length in tokens of prompt and
    response that the plan reckons with.
    """

    source: str
    rows: int | None = None
    choice: Literal["first", "random"] = "first"
    tokens: int = 500
    holds: Holds = "demonstrations"


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Answers that the model draws in training, `group` of each problem, `tokens` long at most.

    They are drawn at temperature 1, from the whole distribution: what is sampled is the policy.
    Raises: ValueError for a group in which no answer can be better than another.
    """

    group: int = 4
    tokens: int = 2048

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ValueError(
                f"a group of {self.group} has no standard deviation, and its advantage is 0: "
                "draw at least 2 answers a problem"
            )
        if self.tokens < 1:
            raise ValueError("rollouts of no token cannot be graded: tokens >= 1")


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What a trained model is asked: sets of problems, all or the first `limit` of each, and how.

    The default is the paper's: five sets, 16 samples at temperature 1, 4096 tokens at most.
    """

    problems: tuple[str, ...] = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
    limit: int | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __str__(self) -> str:
        how, most = self.sampling, f"first {self.limit} of " if self.limit else ""
        drawn = f"{how.samples} samples at temperature {how.temperature:g}"
        return (
            f"{most}{', '.join(self.problems)}; {drawn if how.temperature else 'greedily'}, "
            f"at most {how.max_new_tokens} tokens"
        )


@dataclass(frozen=True)
class Cell:
    """One published number: benchmark, value in percent, and where it stands."""

    benchmark: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; defaults are the paper's main protocol (sections 4.1 and 4.2, its code).

    Rates are per AdamW step, lengths in tokens, `batch` in rows of the corpus of one step over all
    GPUs, `micro_batch` in demonstrations, answers or pairs that one GPU takes at once.
    `parameters` is the dtype that the optimizer updates: "bfloat16" keeps no master copy.
    `rollouts` are for problems alone. Each of `seeds` is a run of its own. `evaluation` is done
    with the trained model at the end, None where other tools have to.
    `expected` are the paper's cells, `spread` the run-to-run spread that is known for them,
    `deviations` what differs from the paper or is not stated there.
    """

    name: str
    title: str
    model: str
    corpus: Corpus
    objective: str
    rate: float = 5e-5
    warmup: float = 0.1
    batch: int = 256
    micro_batch: int = 4
    epochs: int = 1
    max_length: int = 2048
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.01
    clip: float = 1.0
    accumulation: Accumulation = "token"
    parameters: Literal["float32", "bfloat16"] = "float32"
    compute: Literal["float32", "bfloat16"] = "bfloat16"
    lora_rank: int | None = None
    rollouts: Rollouts | None = None
    checkpointing: bool = True
    gpus: int = 8
    seeds: tuple[int, ...] = (0,)
    checkpoints: tuple[int, ...] = ()
    evaluation: Exam | None = Exam()
    expected: tuple[Cell, ...] = ()
    spread: str = ""
    deviations: tuple[str, ...] = ()
    paper: str = ""

    def __post_init__(self) -> None:
        objectives[self.objective]  # an unknown name is refused with the nearest ones
        if self.answers % (self.micro_batch * self.gpus):
            raise ValueError(
                f"{self.name}: a batch of {self.answers} is no multiple of {self.micro_batch} "
                f"demonstrations on each of {self.gpus} GPUs: change batch, micro_batch or gpus"
            )
        if not 0 <= self.warmup < 1 or self.rate <= 0 or self.epochs < 1:
            raise ValueError(f"{self.name}: rate > 0, epochs >= 1 and warmup in [0, 1)")
        self._check_data()

    def _check_data(self) -> None:
        """Raises: ValueError for an objective that the rows of the corpus cannot train."""
        holds, trained_by = self.corpus.holds, TRAINED_ON[self.corpus.holds]
        needed = sorted(set(self.loss.needs) - OF_DEMONSTRATIONS)
        if trained_by is None and (needed or self.loss.level == "group"):
            raise ValueError(
                f"{self.name}: {self.objective} needs "
                f"{', '.join(needed) or 'responses that are compared in groups'}, and "
                "demonstrations alone do not have it"
            )
        if trained_by not in (None, self.objective):
            raise ValueError(
                f"{self.name}: {holds} are trained on by {trained_by}, not by {self.objective}"
            )
        if (self.rollouts is None) == (holds == "problems"):
            raise ValueError(
                f"{self.name}: problems need rollouts, which answer them, and {holds} have answers"
                if self.rollouts
                else f"{self.name}: problems have no answers to train on: give rollouts=Rollouts()"
            )
        if trained_by is None:
            return
        if self.lora_rank is not None or self.accumulation != "token":
            raise ValueError(
                f"{self.name}: {self.objective} is trained in full, over whole steps: leave out "
                "lora_rank and accumulation"
            )
        if self.rollouts is not None and self.rollouts.tokens >= self.max_length:
            raise ValueError(
                f"{self.name}: answers of {self.rollouts.tokens} tokens leave no room for a prompt "
                f"in max_length = {self.max_length}: raise it, or lower rollouts.tokens"
            )

    @property
    def loss(self) -> Objective:
        """The objective itself."""
        return objectives[self.objective]

    @property
    def answers(self) -> int:
        """What a step trains on: its demonstrations, pairs, or samples of its problems."""
        return self.batch * (1 if self.rollouts is None else self.rollouts.group)

    @property
    def anchored(self) -> bool:
        """Whether the objective compares with a frozen reference."""
        return bool({"ref_logp", "ref_log_probs"} & set(self.loss.needs))

    @property
    def micro_batches(self) -> int:
        """Gradient accumulation: micro-batches of a step on each GPU."""
        return self.answers // (self.micro_batch * self.gpus)

    def steps(self, rows: int) -> int:
        """Optimizer steps; the last, incomplete batch of an epoch is dropped, as in the paper."""
        return self.epochs * (rows // self.batch)


def each_seed(
    recipe: Recipe, out: Path, seeds: Sequence[int] | None = None
) -> list[tuple[Recipe, Path]]:
    """The runs of a recipe, one a seed, and their folders.

    `seeds` take the place of the recipe's. A recipe's only seed goes to `out`, others to
    `out/seed-N`.
    """
    if seeds is None and len(recipe.seeds) == 1:
        return [(recipe, out)]
    chosen = dict.fromkeys(recipe.seeds if seeds is None else seeds)
    return [(replace(recipe, seeds=(seed,)), out / f"seed-{seed}") for seed in chosen]


GIB = 2.0**30
PEAK = 989e12  # bfloat16 operations a second of an H100 SXM, dense
UTILISATION = 0.4  # what a tuned run of these sizes reaches of it; an assumption, and printed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe will take, by arithmetic: gibibytes are of one GPU, hours of all together."""

    steps: int
    warmup_steps: int
    tokens: int
    weights: float
    reference: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    gpu_hours: float

    @property
    def memory(self) -> float:
        """GiB of one GPU in all."""
        kept = self.weights + self.reference + self.gradients + self.optimizer
        return kept + self.activations + self.head


def plan(recipe: Recipe, shape: Shape | None = None) -> Plan:
    """Steps, memory and GPU-hours of one seed of a recipe.

    Weights, gradients and moments are sharded over the GPUs (FSDP2); with an adapter each has them
    whole (DDP). A reference without an adapter is a whole copy more on each (that of pairs, which
    TRL shards, a share more), and one more pass over the tokens. Activations: with
    checkpointing the input of each layer and one layer's inside, without it about 34 bytes a
    token, layer and hidden unit in bfloat16 (arXiv 2205.05198, without attention matrices). The
    head is gathered whole, with its gradient; logits never are. Time and memory are of training:
    what drawing rollouts takes depends on the engine, and is not in them.
    Raises: ValueError for a model whose shape is not known and not given, or unknown rows.
    """
    shape = shape or SHAPES.get(recipe.model)
    if shape is None:
        raise ValueError(
            f"the shape of {recipe.model} is not known here: pass it, or take one of "
            f"{', '.join(SHAPES)}"
        )
    if recipe.corpus.rows is None:
        raise ValueError(f"{recipe.name}: say how many rows the plan is for (corpus.rows)")
    width = 2 if recipe.parameters == "bfloat16" else 4
    trained, parts, copies = shape.parameters, recipe.gpus, 0.0
    if recipe.lora_rank is not None:  # two thin matrices at seven linear layers of each block
        trained, parts = 14 * recipe.lora_rank * shape.hidden * shape.layers, 1
    elif recipe.anchored:
        copies = 1 / parts if recipe.corpus.holds == "pairs" else 1.0
    sides = 2 if recipe.corpus.holds == "pairs" else 1
    tokens_at_once = sides * recipe.micro_batch * min(recipe.max_length, 2 * recipe.corpus.tokens)
    each = 2 if recipe.compute == "bfloat16" else 4
    layer = 17 * each * tokens_at_once * shape.hidden
    inputs = each * tokens_at_once * shape.hidden * shape.layers
    activations = inputs + layer if recipe.checkpointing else layer * shape.layers
    steps = recipe.steps(recipe.corpus.rows)
    tokens = steps * sides * recipe.answers * recipe.corpus.tokens
    # Operations a weight and token.
    passes = (8 if recipe.checkpointing else 6) + (2 if recipe.anchored else 0)
    return Plan(
        steps=steps,
        warmup_steps=math.floor(recipe.warmup * steps),
        tokens=tokens,
        weights=width * shape.parameters / parts / GIB,
        reference=width * shape.parameters * copies / GIB,
        gradients=width * trained / parts / GIB,
        optimizer=2 * width * trained / parts / GIB,
        activations=activations / GIB,
        head=(each + 4) * shape.vocab * shape.hidden / GIB,
        gpu_hours=passes * shape.parameters * tokens / (PEAK * UTILISATION) / 3600,
    )


def describe(recipe: Recipe, shape: Shape | None = None) -> list[str]:
    """The resolved plan in lines: every setting, what it takes, what the paper got."""
    found = plan(recipe, shape)
    hidden = {"name", "title", "expected", "spread", "deviations", "paper"}
    lines = [f"{recipe.name}: {recipe.title} ({recipe.paper or 'not in the paper'})"]
    for f in fields(recipe):
        if f.name not in hidden:
            lines.append(f"  {f.name:14s} {_shown(getattr(recipe, f.name))}")
    lines += [
        f"  steps          {found.steps}, warm-up {found.warmup_steps}; "
        f"{recipe.micro_batches} micro-batches of {recipe.micro_batch} on each of {recipe.gpus} "
        f"GPUs; {found.tokens:,} tokens",
        f"  memory         about {found.memory:.0f} GiB a GPU: weights {found.weights:.1f}, "
        + (f"reference {found.reference:.1f}, " if found.reference else "")
        + f"gradients {found.gradients:.1f}, optimizer {found.optimizer:.1f}, activations "
        f"{found.activations:.1f}, head {found.head:.1f}",
        f"  time           about {found.gpu_hours:.1f} GPU-hours a seed at {UTILISATION:.0%} of "
        f"{PEAK / 1e12:.0f} TFLOP/s, {len(recipe.seeds)} seed(s)"
        + ("; drawing the answers comes on top" if recipe.rollouts else ""),
    ]
    lines += [f"  paper          {c.benchmark} {c.value:g} % ({c.source})" for c in recipe.expected]
    if recipe.spread:
        lines.append(f"  spread         {recipe.spread}")
    lines += [f"  deviation      {text}" for text in recipe.deviations]
    return lines


def _shown(value: object) -> str:
    if isinstance(value, Corpus):
        rows = "all rows" if value.rows is None else f"{value.choice} {value.rows:,} rows"
        return f"{value.holds} of {value.source}, {rows}"
    if isinstance(value, Rollouts):
        return f"{value.group} a problem, at most {value.tokens} tokens, temperature 1"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
