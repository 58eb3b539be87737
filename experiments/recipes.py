"""Training runs of the paper as recipes, with its numbers, and a small one for a laptop.

`dft-theory list` names them, `dft-theory train NAME --dry-run` prints one, without weights and
without a network. The text of the paper and its code describe different runs: a recipe follows the
text, `official` makes of it what the code does.
"""

from dataclasses import replace

from dft_theory import paper
from dft_theory.llm.recipe import Cell, Corpus, Recipe

QWEN = "Qwen2.5-Math-1.5B"
MODELS = {
    "LLaMA-3.2-3B": "meta-llama/Llama-3.2-3B",
    "LLaMA-3.1-8B": "meta-llama/Llama-3.1-8B",
    "DeepSeekMath-7B": "deepseek-ai/deepseek-math-7b-base",
    "Qwen2.5-Math-1.5B": "Qwen/Qwen2.5-Math-1.5B",
    "Qwen2.5-Math-7B": "Qwen/Qwen2.5-Math-7B",
    "Qwen2.5-3B": "Qwen/Qwen2.5-3B",
    "Qwen2.5-Coder-3B": "Qwen/Qwen2.5-Coder-3B",
    "Qwen2.5-Coder-7B": "Qwen/Qwen2.5-Coder-7B",
}
NO_TEMPLATE = ("LLaMA-3.2-3B", "LLaMA-3.1-8B", "DeepSeekMath-7B")  # base tokenizers without one
MATH = Corpus(source="hub:AI-MO/NuminaMath-CoT", rows=100_000, choice="random")
RATES = {"LLaMA-3.1-8B": 2e-5}  # all others 5e-5

SPREAD = (
    "no seeds or intervals are published; one setting was printed twice: SFT of Qwen2.5-Math-1.5B "
    "as 18.01 and 16.81, DFT as 31.58 and 30.67 (version 1, Tables 1 and 3)"
)
COMMON = (
    "one seed; the paper names none",
    "weights and moments are updated in float32, products taken in bfloat16; the text names no "
    "precision, the code updates bfloat16 weights",
    "a step divides by its target tokens; the code adds the means of its micro-batches, so that "
    "its gradient norms are as many times larger and clipping at 1.0 bites sooner",
    "demonstrations that fill no batch are drawn once, before the first epoch",
    "problems are asked under the tokenizer's own chat template and answers compared by "
    "math-verify; the paper used a fixed prompt and its harness's own comparison",
)
RANDOM = "100,000 rows are drawn at random, as the text says; the code takes the first ones"


def _cells(name: str, model: str, method: str) -> tuple[Cell, ...]:
    """A row of a table of the paper, with its average as printed."""
    table = paper.table(name)
    row = table.row(model, method)
    cells = {**row.cells, "average": row.average}
    return tuple(Cell(benchmark, value, table.source) for benchmark, value in cells.items())


def _model(model: str) -> tuple[str, ...]:
    if model not in NO_TEMPLATE:
        return ()
    return ("the base tokenizer has no chat template and the paper names none: User: / Assistant:",)


def smoke() -> Recipe:
    """Minutes on a laptop: whether everything works, not whether anything is learned."""
    return Recipe(
        name="smoke",
        title="SmolLM2-135M on 40 word problems, five steps",
        model="smollm2-135m-instruct",
        corpus=Corpus(source="default", rows=44, tokens=220),
        objective="dft",
        batch=8,
        micro_batch=4,
        max_length=256,
        compute="float32",
        checkpointing=False,
        gpus=1,
        evaluate_on=("sample",),
        deviations=("five steps on 40 demonstrations: it shows that a run works, no effect",),
    )


def table_1(model: str, objective: str) -> Recipe:
    """The main comparison: a base model on NuminaMath-CoT."""
    return Recipe(
        name=f"table-1-{model.lower()}-{objective}",
        title=f"{model} by {objective.upper()} on 100,000 demonstrations of NuminaMath-CoT",
        model=MODELS[model],
        corpus=MATH,
        objective=objective,
        rate=RATES.get(model, 5e-5),
        expected=_cells("1", model, objective),
        spread=SPREAD,
        deviations=(RANDOM, *_model(model), *COMMON),
        paper="Table 1",
    )


def official(recipe: Recipe) -> Recipe:
    """The same run as the paper's code does it, where the code is not what the text says."""
    replaced = (RANDOM, *COMMON[1:3])
    return replace(
        recipe,
        name=f"{recipe.name}-official",
        title=f"{recipe.title}, as in the official code",
        corpus=replace(recipe.corpus, choice="first"),
        accumulation="micro-batch-sum",
        parameters="bfloat16",
        deviations=(
            "the first 100,000 rows, bfloat16 weights, and sums of micro-batch means, as in the "
            "official code; which of both ways made the published numbers is not known",
            "attention and layers are those of transformers; the code patches in Liger kernels",
            *(text for text in recipe.deviations if text not in replaced),
        ),
    )


def table_2(objective: str, method: str) -> Recipe:
    """Offline: the base model's own samples that are right, on four answers to each question."""
    return replace(
        table_1(QWEN, "dft"),
        name=f"table-2-accepted-samples-{objective}",
        title=f"{QWEN} by {objective.upper()} on its own accepted samples",
        corpus=Corpus(source="accepted-samples.jsonl", rows=140_000),
        objective=objective,
        expected=_cells("2", QWEN, method),
        deviations=(
            "accepted-samples.jsonl has to be made first: four completions of each of 100,000 "
            "questions at temperature 1 (dft-theory generate), those graded right, as question and "
            "answer; about 140,000 are reported, the exact number is not",
            "version 1 says 10,000 questions, from which 140,000 samples cannot come",
            *COMMON,
        ),
        paper="Table 2",
    )


def table_3(model: str, objective: str) -> Recipe:
    """Code: the best-rated answers to 10,000 prompts of UltraFeedback."""
    return replace(
        table_1(QWEN, objective),
        name=f"table-3-{model.lower()}-{objective}",
        title=f"{model} by {objective.upper()} on UltraFeedback",
        model=MODELS[model],
        corpus=Corpus(source="ultrafeedback.jsonl", rows=10_000),
        warmup=0.05,
        batch=16,
        micro_batch=2,
        evaluate_on=(),
        expected=_cells("3", model, objective),
        spread="no seeds or intervals are published",
        deviations=(
            "ultrafeedback.jsonl has to be made first: prompt and best-rated answer as question "
            "and answer; which 10,000 prompts is not stated",
            "HumanEval, HumanEval+ and MultiPL-E run code: score the trained model with their own "
            "harnesses; how the paper decoded is not stated",
            *COMMON[:-1],
        ),
        paper="Table 3",
    )


def table_5(objective: str) -> Recipe:
    """What the weight is the probability of: the response, its geometric mean, or the token."""
    return replace(
        table_1(QWEN, "dft"),
        name=f"table-5-{objective}",
        title=f"{QWEN} by {objective}",
        objective=objective,
        expected=_cells("5", QWEN, objective),
        deviations=(
            RANDOM,
            "the code of these rows was not published: the formulas are the text's",
            *COMMON,
        ),
        paper="Table 5",
    )


def table_8(objective: str) -> Recipe:
    """Long solutions, three epochs."""
    return replace(
        table_1(QWEN, objective),
        name=f"table-8-{objective}",
        title=f"{QWEN} by {objective.upper()} on OpenR1-Math, three epochs",
        corpus=Corpus(source="openr1-math.jsonl", rows=45_000, tokens=1500),
        epochs=3,
        expected=_cells("8", QWEN, objective),
        spread="no seeds or intervals are published",
        deviations=(
            "openr1-math.jsonl has to be made first, from the 45,000 or so verified solutions of "
            "at most 8192 tokens that LUFFY selected; the exact number is not stated",
            "the length limit is not stated; at 2048, the limit of the other runs, most of these "
            "solutions lose their end",
            *COMMON,
        ),
        paper="Table 8",
    )


def table_9(model: str, objective: str) -> Recipe:
    """Adapters of rank 8."""
    return replace(
        table_1(model, objective),
        name=f"table-9-{model.lower()}-{objective}",
        title=f"{model} by {objective.upper()}, LoRA of rank 8",
        lora_rank=8,
        expected=_cells("9", model, objective),
        spread="no seeds or intervals are published",
        deviations=(
            RANDOM,
            "rank 8 is stated; alpha (here 16), adapted layers (here all linear ones), dropout "
            "(here none) and the rate (here that of full training) are not",
            *_model(model),
            *COMMON,
        ),
        paper="Table 9",
    )


def figure_1(objective: str) -> Recipe:
    """Accuracy in the course of training: the run of Table 1 with its checkpoints kept."""
    return replace(
        table_1(QWEN, objective),
        name=f"figure-1-{objective}",
        title=f"{QWEN} by {objective.upper()}, twelve checkpoints",
        checkpoints=tuple(paper.figure("1")["checkpoints"]),
        expected=(),
        deviations=(RANDOM, "the figure's values are not published", *COMMON),
        paper="Figure 1",
    )


def figure_2(objective: str) -> Recipe:
    """Token probabilities after training: the run of Table 1; the histogram is drawn elsewhere."""
    return replace(
        figure_1(objective),
        name=f"figure-2-{objective}",
        title=f"{QWEN} by {objective.upper()}, for its token probabilities",
        checkpoints=(),
        evaluate_on=(),
        deviations=(
            RANDOM,
            "the figure's values are not published, nor of which demonstrations they are: draw "
            "them of the training data (dft-theory diagnose --model FOLDER/model)",
            *COMMON[:-1],
        ),
        paper="Figure 2",
    )


def figure_3(objective: str, *, rate: float = 5e-5, batch: int = 256) -> Recipe:
    """One bar of the sweep over learning rates and batch sizes."""
    where = f"rate-{rate:g}" if batch == 256 else f"batch-{batch}"
    extra = ("this rate is not in the figure: it ends at 1e-5",) if rate < 1e-5 else ()
    return replace(
        figure_1(objective),
        name=f"figure-3-{where}-{objective}",
        title=f"{QWEN} by {objective.upper()}, rate {rate:g}, batch {batch}",
        rate=rate,
        batch=batch,
        checkpoints=(),
        deviations=(RANDOM, "the figure's values are not published", *extra, *COMMON),
        paper="Figure 3, extended" if extra else "Figure 3",
    )


def natural_questions(objective: str) -> Recipe:
    """Short answers to questions of fact, where DFT falls below the base model."""
    return replace(
        table_1(QWEN, objective),
        name=f"natural-questions-{objective}",
        title=f"Natural Questions by {objective.upper()}",
        corpus=Corpus(source="natural-questions.jsonl", rows=87_925, tokens=60),
        max_length=512,
        evaluate_on=(),
        expected=_cells("nq", "not stated", objective),
        spread="no seeds or intervals are published",
        deviations=(
            "model, rows, rate, batch, prompt and metric are not stated: these are the main run's, "
            "on the training split of the open version",
            "natural-questions.jsonl has to be made first, with question and answer",
            *COMMON[:-1],
        ),
        paper="section 4.5",
    )


BOTH = ("sft", "dft")
MAIN = tuple(table_1(model, o) for model in tuple(MODELS)[:5] for o in BOTH)
LOWER = (5e-6, 2e-6, 1e-6)  # rates at which SFT is often run, and which the figure leaves out
RECIPES: tuple[Recipe, ...] = (
    smoke(),
    *MAIN,
    *map(official, MAIN),
    table_2("sft", "rft"),
    table_2("dft", "dft on accepted samples"),
    *(table_3(m, o) for m in ("Qwen2.5-3B", "Qwen2.5-Coder-3B", "Qwen2.5-Coder-7B") for o in BOTH),
    *map(table_5, ("dft-sequence", "dft-geometric", "dft")),
    *map(table_8, BOTH),
    *(table_9(m, o) for m in ("LLaMA-3.2-3B", QWEN) for o in BOTH),
    *map(figure_1, BOTH),
    *map(figure_2, BOTH),
    *(figure_3(o, rate=r) for r in (*paper.figure("3")["rates"], *LOWER) for o in BOTH),
    *(figure_3(o, batch=b) for b in paper.figure("3")["batches"] if b != 256 for o in BOTH),
    *map(natural_questions, BOTH),
)
