"""Training runs of the paper as recipes, with its numbers, and a small one for a laptop.

`dft-theory list` names them, `dft-theory train NAME --dry-run` prints one, without weights and
without a network. Public corpora (`hub:`) are loaded by a run alone: from `<name>/<split>.jsonl` in
the folder that DFT_THEORY_DATA names, where that is there, else over the network. Their columns are
in `dft_theory.llm.corpus.PUBLIC`. The text of the paper and its code describe different runs: a
recipe follows the text, `official` makes of it what the code does.
"""

from dataclasses import replace

from dft_theory import paper
from dft_theory.llm.generate import Sampling
from dft_theory.llm.recipe import Cell, Corpus, Exam, Recipe, Rollouts

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
    "demonstrations that fill no batch are drawn once, before the first epoch; the code draws them "
    "anew in each",
    "a response ends as the chat template ends a turn, with the line break that may follow; the "
    "code appends the tokenizer's end-of-text token",
    "a gradient norm that is no number stops the run; the code leaves out the step",
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
        title="SmolLM2-135M on 64 word problems, eight steps, asked 16 others",
        model="smollm2-135m-instruct",
        corpus=Corpus(source="default", rows=68, tokens=220),
        objective="dft",
        batch=8,
        micro_batch=4,
        max_length=256,
        compute="float32",
        checkpointing=False,
        gpus=1,
        evaluation=Exam(
            problems=("sample",),
            sampling=Sampling(samples=1, temperature=0.0, max_new_tokens=192),
        ),
        deviations=("eight steps on 64 demonstrations: it shows that a run works, no effect",),
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
    """The same run as the paper's code does it, where the code is not what the text says.

    Source: github.com/yongliang-wu/DFT, verl/verl/trainer/fsdp_dft_trainer.py and
    verl/verl/trainer/config/sft_trainer.yaml at commit 86f2a00, README.md at 0622902. AdamW has all
    parameters in one group, norms and biases decay as well (0.01, betas 0.9 and 0.95); the cosine
    goes to 0 after int(0.1 steps) steps of warm-up; a micro-batch is differentiated before it is
    divided by their number; the sum is clipped at 1.0. That trainer also raises the weight to a
    power by kind of token (sa_dft, on by default), which the paper knows nothing of: not followed.
    """
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


SAMPLED = (
    "{} has to be made first: four completions of each of 100,000 questions at temperature 1, "
    "graded (dft-theory generate --samples 4, then dft-theory grade --training-data); {}"
)


def table_2(objective: str, method: str, table: str = "2") -> Recipe:
    """Offline: the base model's own samples that are right, on four answers to each question."""
    return replace(
        table_1(QWEN, "dft"),
        name=f"table-2-accepted-samples-{objective}",
        title=f"{QWEN} by {objective.upper()} on its own accepted samples",
        corpus=Corpus(source="accepted-samples.jsonl", rows=140_000),
        objective=objective,
        expected=_cells(table, QWEN, method),
        deviations=(
            SAMPLED.format(
                "accepted-samples.jsonl", "about 140,000 are reported, the exact number is not"
            ),
            "version 1 says 10,000 questions, from which 140,000 samples cannot come",
            *(
                ("which of iw-SFT's weights was taken, and what clamp, is not stated",)
                if objective.startswith("iw-sft")
                else ()
            ),
            *COMMON,
        ),
        paper=f"Table {table[0]}" + (", version 1" if "v1" in table else ""),
    )


def table_2_dpo() -> Recipe:
    """Offline: a right against a wrong sample of the base model, by TRL's DPO trainer."""
    return replace(
        table_1(QWEN, "dft"),
        name="table-2-dpo",
        title=f"{QWEN} by DPO on its own right and wrong samples",
        corpus=Corpus(source="preference-pairs.jsonl", rows=100_000, holds="pairs"),
        objective="dpo-0.1",
        rate=1e-6,
        warmup=0.05,
        batch=128,
        micro_batch=2,
        expected=_cells("2", QWEN, "dpo"),
        spread="no seeds or intervals are published",
        deviations=(
            SAMPLED.format(
                "preference-pairs.jsonl",
                "one pair a question here, which gives fewer than the 100,000 that are reported "
                "where all four are right or all are wrong: set rows to what there is",
            ),
            "TRL's trainer; the paper used ms-swift, and names no beta: 0.1, the default of both",
            "a step is the mean over its pairs; the optimizer's settings are the main run's",
            *COMMON[:2],
            COMMON[-1],
        ),
        paper="Table 2",
    )


def table_2_grpo() -> Recipe:
    """Online: four answers to each question, graded and compared, by TRL's GRPO trainer."""
    return replace(
        table_1(QWEN, "dft"),
        name="table-2-grpo",
        title=f"{QWEN} by GRPO on graded answers of its own",
        corpus=replace(MATH, holds="problems"),
        objective="grpo-0.2-0.2",
        rate=1e-6,
        max_length=4096,
        rollouts=Rollouts(group=4, tokens=3072),
        expected=_cells("2", QWEN, "grpo"),
        spread="no seeds or intervals are published",
        deviations=(
            "TRL's trainer, drawing with transformers' generation; the paper used verl, and its "
            "batch of 256 is read as verl counts, in questions: 1024 answers a step",
            "clip (0.2 on both sides), distance to a reference (none), length of answers (3072 "
            "tokens) and number of steps (one epoch) are not stated",
            "a step is the mean over its tokens, and one generation serves one step, so that no "
            "ratio is clipped",
            "questions are those of NuminaMath-CoT with a boxed answer; which were asked, under "
            "which prompt and how they were graded is not stated: the evaluation's prompt, and 1 "
            "for an answer that math-verify finds equal",
            "TRL divides an advantage by its group's standard deviation plus 1e-4",
            *COMMON[:2],
            COMMON[-1],
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
        corpus=Corpus(
            source="hub:HuggingFaceH4/ultrafeedback_binarized", rows=10_000, choice="random"
        ),
        warmup=0.05,
        batch=16,
        micro_batch=2,
        evaluation=None,
        expected=_cells("3", model, objective),
        spread="no seeds or intervals are published",
        deviations=(
            "which 10,000 prompts is not stated: a random draw of the 61,135 of the split "
            "train_sft, whose chosen answer is the best rated of four, whatever they ask for",
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
        corpus=Corpus(
            source="hub:Elliott/Openr1-Math-46k-8192", rows=45_000, choice="random", tokens=1500
        ),
        epochs=3,
        expected=_cells("8", QWEN, objective),
        spread="no seeds or intervals are published",
        deviations=(
            "of the verified solutions of at most 8192 tokens that LUFFY selected, about 45,000 "
            "are reported and the exact number is not; their system prompt is left out, as the "
            "paper's other runs have none of their own",
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
            "rank 8 is stated; alpha (16), adapted layers (all linear ones) and dropout (none) are "
            "the code's defaults, the rate (here that of full training) is not stated",
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
        evaluation=None,
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
        corpus=Corpus(
            source="hub:google-research-datasets/nq_open", rows=87_925, choice="random", tokens=60
        ),
        max_length=512,
        evaluation=None,
        expected=_cells("nq", "not stated", objective),
        spread="no seeds or intervals are published",
        deviations=(
            "model, rows, rate, batch, prompt and metric are not stated: these are the main run's, "
            "on the training split of the open version",
            "of several answers the first is trained on",
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
    table_2("iw-sft-geometric-mean-clamp-0-16", "iw-sft on accepted samples", "2-v1"),
    table_2_dpo(),
    table_2_grpo(),
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
