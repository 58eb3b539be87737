"""A training run as data: what is trained, on what, how, and what the paper got; and its plan.

A `Recipe` names everything that moves a number. Nothing of it is read from the network before the
run: `plan` says steps, memory and GPU-hours of a recipe by arithmetic from the model's shape.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

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


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Demonstrations: a source, and which of its rows.

    `source` is what `load_demonstrations` takes, or `hub:<owner>/<name>`. `rows` None is all.
    "first" takes them in stored order, "random" a seeded draw. `tokens` is the mean length in
    tokens of prompt and response that the plan reckons with.
    """

    source: str
    rows: int | None = None
    choice: Literal["first", "random"] = "first"
    tokens: int = 500


@dataclass(frozen=True)
class Cell:
    """One published number: benchmark, value in percent, and where it stands."""

    benchmark: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; defaults are the paper's main protocol (sections 4.1 and 4.2, its code).

    Rates are per AdamW step, lengths in tokens, `batch` in demonstrations of one step over all
    GPUs. `parameters` is the dtype that the optimizer updates: "bfloat16" keeps no master copy.
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
    checkpointing: bool = True
    gpus: int = 8
    seeds: tuple[int, ...] = (0,)
    checkpoints: tuple[int, ...] = ()
    evaluate_on: tuple[str, ...] = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
    expected: tuple[Cell, ...] = ()
    spread: str = ""
    deviations: tuple[str, ...] = ()
    paper: str = ""

    def __post_init__(self) -> None:
        objectives[self.objective]  # an unknown name is refused with the nearest ones
        share = self.micro_batch * self.gpus
        if self.batch % share:
            raise ValueError(
                f"{self.name}: a batch of {self.batch} is no multiple of {self.micro_batch} "
                f"demonstrations on each of {self.gpus} GPUs: change batch, micro_batch or gpus"
            )
        if not 0 <= self.warmup < 1 or self.rate <= 0 or self.epochs < 1:
            raise ValueError(f"{self.name}: rate > 0, epochs >= 1 and warmup in [0, 1)")

    @property
    def loss(self) -> Objective:
        """The objective itself."""
        return objectives[self.objective]

    @property
    def micro_batches(self) -> int:
        """Gradient accumulation: micro-batches of a step on each GPU."""
        return self.batch // (self.micro_batch * self.gpus)

    def steps(self, rows: int) -> int:
        """Optimizer steps; the last, incomplete batch of an epoch is dropped, as in the paper."""
        return self.epochs * (rows // self.batch)


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
    gradients: float
    optimizer: float
    activations: float
    head: float
    gpu_hours: float

    @property
    def memory(self) -> float:
        """GiB of one GPU in all."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head


def plan(recipe: Recipe, shape: Shape | None = None) -> Plan:
    """Steps, memory and GPU-hours of one seed of a recipe.

    Weights, gradients and moments are sharded over the GPUs (FSDP2); with an adapter each has them
    whole (DDP), and a reference without an adapter is a whole copy more. Activations: with
    checkpointing the input of each layer and one layer's inside, without it about 34 bytes a
    token, layer and hidden unit in bfloat16 (arXiv 2205.05198, without attention matrices). The
    head is gathered whole, with its gradient; logits never are.
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
    trained, parts, copies = shape.parameters, recipe.gpus, 0
    if recipe.lora_rank is not None:  # two thin matrices at seven linear layers of each block
        trained, parts = 14 * recipe.lora_rank * shape.hidden * shape.layers, 1
    elif {"ref_logp", "ref_log_probs"} & set(recipe.loss.needs):
        copies = 1
    tokens_at_once = recipe.micro_batch * min(recipe.max_length, 2 * recipe.corpus.tokens)
    each = 2 if recipe.compute == "bfloat16" else 4
    layer = 17 * each * tokens_at_once * shape.hidden
    inputs = each * tokens_at_once * shape.hidden * shape.layers
    activations = inputs + layer if recipe.checkpointing else layer * shape.layers
    steps = recipe.steps(recipe.corpus.rows)
    tokens = steps * recipe.batch * recipe.corpus.tokens
    passes = 8 if recipe.checkpointing else 6  # operations a weight and token
    return Plan(
        steps=steps,
        warmup_steps=math.floor(recipe.warmup * steps),
        tokens=tokens,
        weights=width * shape.parameters * (1 / parts + copies) / GIB,
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
        f"GPUs; {found.tokens / 1e6:.0f} M tokens",
        f"  memory         about {found.memory:.0f} GiB a GPU: weights {found.weights:.1f}, "
        f"gradients {found.gradients:.1f}, optimizer {found.optimizer:.1f}, activations "
        f"{found.activations:.1f}, head {found.head:.1f}",
        f"  time           about {found.gpu_hours:.1f} GPU-hours a seed at {UTILISATION:.0%} of "
        f"{PEAK / 1e12:.0f} TFLOP/s, {len(recipe.seeds)} seed(s)",
    ]
    lines += [f"  paper          {c.benchmark} {c.value:g} % ({c.source})" for c in recipe.expected]
    if recipe.spread:
        lines.append(f"  spread         {recipe.spread}")
    lines += [f"  deviation      {text}" for text in recipe.deviations]
    return lines


def _shown(value: object) -> str:
    if isinstance(value, Corpus):
        rows = "all rows" if value.rows is None else f"{value.choice} {value.rows:,} rows"
        return f"{value.source}, {rows}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
