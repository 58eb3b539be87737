# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From laptop to eight GPUs
#
# *A recipe and its plan, a loss that is checked before step one, what the printed loss hides, and
# Table 1 step by step.* 20 minutes. Needs [03 Reward rectification](03_reward_rectification.ipynb).
#
# A formula is checked on a table of three tokens. A training run is checked by nobody: it takes hours,
# and it prints a number that goes down in any case. This page follows one run from its settings to
# its score, and asks at each station what could be wrong there without anybody noticing:
#
# 1. the **recipe**: settings as data, and a plan before a GPU is rented;
# 2. the **head**: why no logits ever stand there whole;
# 3. the **first step**: the gradient is compared with the formula before anything moves;
# 4. the **metrics**: what DFT's loss does not say;
# 5. **accumulation**: what the paper's code does that its text does not say;
# 6. **death and resumption**, to the same bits;
# 7. **more GPUs**: one number that all must know;
# 8. **scores**: how wide is an interval;
# 9. **Table 1**, step by step, with its cost.
#
# Everything here runs on a processor in half a minute. Nothing in it was measured on a GPU, and the
# text says where a number is arithmetic.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import json
    import runpy
    import tempfile
    import textwrap
    import unittest.mock
    from dataclasses import fields, replace
    from pathlib import Path

    import numpy as np
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    import dft_theory as dt
    from dft_theory import paper
    from dft_theory.figures import find_folder, style
    from dft_theory.llm.chunked import Head, chunked
    from dft_theory.llm.gradient_check import WrongGradientError, check_first_step
    from dft_theory.llm.loss_adapter import loss_function
    from dft_theory.llm.recipe import SHAPES, Corpus, Recipe, describe, plan
    from dft_theory.llm.training import quiet, train
    from dft_theory.logprobs import target_stats
    from dft_theory.objectives import MicrobatchTokenMean, TokenMean
    from dft_theory.results import Run, read_json
    from dft_theory.seeding import generator, numpy_generator
    from dft_theory.statistics import bootstrap, paired, pass_at_k
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks,train]'"
    ) from None

ROOT = find_folder().parent  # of the checkout
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
quiet()
logging.set_verbosity_error()

# %% [markdown]
# ## 1. A recipe is data
#
# A run is determined by some twenty numbers. In a shell script with forty flags they are hard to
# compare, so here they are one frozen object. `experiments/recipes.py` holds one for every table and
# figure of the paper:

# %%
RECIPES = {r.name: r for r in runpy.run_path(str(ROOT / "experiments/recipes.py"))["RECIPES"]}
ours = RECIPES["table-1-qwen2.5-math-1.5b-dft"]
print(*(name for name in RECIPES if "1.5b" in name and "table" in name), sep="\n")
print(f"\n{ours.title}")
print(f"rate {ours.rate}, batch {ours.batch}, {ours.corpus.rows} rows, objective {ours.objective}")

# %% [markdown]
# `dft-theory train NAME --dry-run` prints it all, with a plan. Neither weights nor a network are
# needed. Its last part:

# %%
for line in describe(ours):
    if line.split()[0] in ("steps", "memory", "time", "paper", "deviation"):
        print(textwrap.fill(line, 98, subsequent_indent=17 * " "))

# %% [markdown]
# How to read it.
#
# **Steps.** 100,000 demonstrations in batches of 256 are 390 whole batches. The batch belongs to the
# recipe; the number of micro-batches follows from the GPUs.
#
# **Memory.** AdamW in float32 keeps four numbers of four bytes for each weight: the weight, its
# gradient, two moments. Sharded over $G$ GPUs that is $16 P/G$ bytes on each.
#
# **Time.** A weight and a token cost 2 operations in the forward pass and 4 in the backward pass, and
# 2 more where activations are computed twice to save memory. With $P$ weights, $D$ tokens and a
# share $u$ of the peak $F$ of the device that a run really reaches,
#
# $$\text{seconds} = \frac{8\, P\, D}{u\, F} .$$
#
# Redo it by hand:

# %%
shape, found = SHAPES[ours.model], plan(ours)
hours = 8 * shape.parameters * found.tokens / (0.4 * 989e12) / 3600
print(f"by hand: {16 * shape.parameters / 8 / 2**30:.1f} GiB a GPU for the state of AdamW,")
print(f"         {hours:.2f} GPU-hours; the plan says {found.gpu_hours:.2f}")

# %% [markdown]
# **Paper.** The cells that this run is to be compared with, and **deviations**: everything in which
# it is not the paper's run, or the paper does not say. A replication without such a list compares
# unknown things.
#
# ## 2. A head without logits
#
# What is missing in the plan? The largest tensor of the usual training loop: the logits, one number
# for each target and each token of the vocabulary. The usual loop holds them in float32, with their
# log-softmax and their gradient:

# %%
parts = ("weights", "gradients", "optimizer", "activations", "head")
colours = (BLUE, "#56B4E9", GREY, GREEN, "#E69F00")
names = ["LLaMA-3.2-3B", "LLaMA-3.1-8B", "DeepSeekMath-7B", "Qwen2.5-Math-1.5B", "Qwen2.5-Math-7B"]
with style.use():
    figure, axes = style.panels(1, 1, width=style.TEXT, height=2.4)
    axis = axes[0, 0]
    for k, name in enumerate(names):
        recipe = RECIPES[f"table-1-{name.lower()}-dft"]
        made, left = plan(recipe), 0.0
        for part, colour in zip(parts, colours, strict=True):
            size = getattr(made, part)
            axis.barh(k, size, left=left, color=colour, label=part if not k else None)
            left += size
        tokens = recipe.micro_batch * min(recipe.max_length, 2 * recipe.corpus.tokens)
        whole = 3 * 4 * tokens * SHAPES[recipe.model].vocab / 2**30
        axis.barh(
            k, whole, left=left, color="white", edgecolor=RED, hatch="////",
            label="whole logits, three times: not held" if not k else None,
        )  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set(xlabel="GiB on each of 8 GPUs (arithmetic)", title="the runs of Table 1")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# For the smallest model the logits would take more than everything else together. They are not
# needed. With $h$ the hidden state of a target, $z = W h$ and $L$ the surrogate, an objective only
# says how $L$ depends on log-probabilities, $g_v = \partial L/\partial \log \pi(v)$. The softmax and
# the product give the rest:
#
# $$\frac{\partial L}{\partial z} = g - \Big(\sum_v g_v\Big)\, \pi, \qquad
#   \frac{\partial L}{\partial h} = W^\top \frac{\partial L}{\partial z}, \qquad
#   \frac{\partial L}{\partial W} = \frac{\partial L}{\partial z}\, h^\top .$$
#
# Rows are independent. So a few rows of logits are made, turned into their own gradient in place,
# multiplied away and forgotten; the gradients are ready when the loss is. Here two rows at a time,
# beside whole logits and automatic differentiation, in float64:

# %%
g = generator(0, "notebook", "head")
hidden = torch.randn(2, 9, 16, dtype=torch.float64, generator=g).requires_grad_()
weight = torch.randn(500, 16, dtype=torch.float64, generator=g).requires_grad_()
targets = torch.randint(500, (2, 9), generator=g).masked_fill(
    torch.rand(2, 9, generator=g) < 0.3, -100
)
count = int((targets != -100).sum())
for name in ("sft", "dft", "dft-sequence", "eaft", "gem-0.7"):
    o = dt.objective(name)
    few = chunked(o, hidden, targets, Head(weight=weight), denominator=count, entries=1000)
    stats = target_stats(hidden @ weight.T, targets, needs=o.needs)
    one = torch.autograd.grad(few.loss, (hidden, weight))
    all_ = torch.autograd.grad(o.surrogate(stats, reduction=TokenMean()), (hidden, weight))
    far = max(float((a - b).norm() / b.norm()) for a, b in zip(one, all_, strict=True))
    print(f"{name:14s} gradients agree {'to 1e-13' if far < 1e-13 else f'only to {far:.0e}'}")

# %% [markdown]
# Objectives of whole responses need two passes: one for the weights, one for the gradients. What it
# costs is in a record (`benchmarks/chunked.py`; 1,024 rows of SmolLM2's width, float32, one thread
# of a processor). Bars are relative to whole logits; the dashed line is three bare matrix products,
# which no head can do without.

# %%
record = read_json(ROOT / "experiments/results/benchmarks/chunked.json")["found"]["49152"]
rows = {"sft": "SFT", "dft": "DFT", "eaft": "EAFT", "dft-sequence": "DFT (sequence)",
        "trl": "TRL's fused head"}  # fmt: skip
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=1.9, share=(False, True))
    for axis, what, title in zip(axes[0], ("seconds", "mib"), ("time", "memory"), strict=True):
        values = [record[what][name] / record[what]["full"] for name in rows]
        axis.barh(list(rows.values()), values, color=[BLUE, RED, GREEN, "#CC79A7", GREY])
        axis.axvline(1, color="#444444", lw=0.8)
        axis.axvline(record[what]["products"] / record[what]["full"], color="#444444", ls="--")
        axis.set(xlabel="relative to whole logits", title=title)
        axis.grid(visible=False, axis="y")
    axes[0, 0].invert_yaxis()
figure

# %% [markdown]
# ## 3. The first step
#
# Between the formula and the weights stand a collator, a template, a mask, a wrapper, a head and a
# trainer. Each of them can be wrong, and the number printed will go down. So before the first step
# the loss is called *as the trainer will call it*, on two sequences, and its gradient in the last
# hidden states is compared with the closed form
#
# $$\frac{\partial L}{\partial h} = -J(h)^\top \big(c \cdot \mathrm{field}\big), \qquad
#   \mathrm{field} = w\,(e_y - \pi) \ \text{for a weight } w,$$
#
# where $J$ is the model's own head and $c$ what the reduction multiplies a token by. Here is a
# random Llama, two sequences with 4 and 9 targets, and the adapter for Hugging Face's `Trainer`:

# %%
shape_of_it = LlamaConfig(
    vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    bos_token_id=258, eos_token_id=258, pad_token_id=258,
)  # fmt: skip
llama = LlamaForCausalLM(shape_of_it)
g = generator(0, "notebook", "llama")
with torch.no_grad():
    for parameter in llama.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.3, generator=g)
_ = llama.train()
ids = torch.randint(258, (2, 12), generator=g)
labels = ids.masked_fill(torch.arange(12) < torch.tensor([[8], [3]]), -100)
batch = {"input_ids": ids, "labels": labels}


def logits_of(inputs):
    """What a model returns to a trainer."""
    return llama(input_ids=inputs["input_ids"])


def adapter(inputs, count):
    """DFT, as it should be: the sum over this micro-batch, over the targets of the whole step."""
    return loss_function(dt.dft)(logits_of(inputs), inputs["labels"], count)


print(check_first_step(llama, adapter, batch, dt.dft))

# %% [markdown]
# Now five adapters that somebody has written. The check tells them that the step has three times as
# many targets as this batch, as in accumulation, and it wants sequences of unequal length: on equal
# ones a mean over responses cannot be told from a mean over tokens.


# %%
def ignores_the_count(inputs, _count):
    """Mean of the micro-batch."""
    return loss_function(dt.dft)(logits_of(inputs), inputs["labels"], None)


def without_detach(inputs, count):
    """-p log p, differentiated whole."""
    t = dt.token_stats(logits_of(inputs).logits, inputs["labels"])
    return -(t.logp.exp() * t.logp * t.mask).sum() / count


def shifted_twice(inputs, count):
    """Labels shifted here, and again in the loss."""
    return loss_function(dt.dft)(logits_of(inputs), inputs["labels"].roll(-1, 1), count)


def weighted_twice(inputs, count):
    """A kernel multiplies by p, and so does the trainer."""
    return loss_function(dt.power(2.0))(logits_of(inputs), inputs["labels"], count)


def mean_of_responses(inputs, _count):
    """Each response counts once, however long."""
    t = dt.token_stats(logits_of(inputs).logits, inputs["labels"])
    return dt.dft.surrogate(t, reduction=dt.SequenceMean())


verdicts = {}
for loss in (
    adapter, ignores_the_count, without_detach, shifted_twice, weighted_twice, mean_of_responses,
):  # fmt: skip
    value = float(loss(batch, torch.tensor(39)).detach())
    try:
        verdicts[loss.__name__] = check_first_step(llama, loss, batch, dt.dft)
        told = "holds"
    except WrongGradientError as error:
        verdicts[loss.__name__] = error.verdict
        told = error.verdict.diagnosis
    print(f"{loss.__name__:18s} prints {value:.4f}   {told}")

# %%
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2)
    axis = axes[0, 0]
    sizes = [max(v.deviation, 1e-8) for v in verdicts.values()]
    right = [v.holds for v in verdicts.values()]
    axis.barh(list(verdicts), sizes, color=[GREEN if ok else RED for ok in right], left=1e-8)
    axis.axvline(next(iter(verdicts.values())).tolerance, color="#444444", ls="--")
    axis.set(xscale="log", xlim=(1e-8, 30), xlabel="deviation of the gradient; dashed: tolerance")
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
figure

# %% [markdown]
# `without_detach` prints the same value as the right one, to the last digit. The gap between right
# and wrong is six orders of magnitude, so nothing hangs on the tolerance. `dft-theory train` makes
# this check on its own loss, whatever the model, the adapter and the sharding, writes the verdict
# into the manifest, and does not begin if it fails.
#
# ## 4. What the printed loss hides
#
# A model that trains in seconds: the same Llama reads bytes and learns sums. A tokenizer, a file of
# 130 demonstrations, a recipe:

# %%
folder = tempfile.TemporaryDirectory()
here = Path(folder.name)
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
reader = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
reader.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
reader.decoder = decoders.ByteLevel()
reader.add_special_tokens(["<user>", "<assistant>", "<end>"])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=reader,
    eos_token="<end>",
    pad_token="<end>",
    chat_template="{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}",
)
tokenizer.save_pretrained(here / "tiny")
llama.save_pretrained(here / "tiny")
sums = [
    {"question": f"{a}+{b}", "answer": f"{'well, ' * (a % 3)}it is {a + b}\n#### {a + b}"}
    for b in range(10)
    for a in range(13)
]
_ = (here / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
small = Recipe(
    name="sums", title="sums", model=str(here / "tiny"), objective="dft",
    corpus=Corpus(source=str(here / "sums.jsonl"), rows=130, tokens=40),
    rate=1e-2, batch=8, micro_batch=4, epochs=3, gpus=1, compute="float32", checkpointing=False,
)  # fmt: skip
runs = {name: train(replace(small, objective=name), here / name) for name in ("sft", "dft")}
print(*(f.name for f in sorted((here / "dft").iterdir())))
print("gradient check in the manifest:", runs["dft"].manifest()["gradient_check"]["holds"])

# %% tags=["thumbnail"]
lines = {name: [m for m in run.metrics() if "nll" in m] for name, run in runs.items()}
with style.use():
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.2)
    shown = (("surrogate", "what is printed as loss"), ("nll", "negative log-likelihood"),
             ("share_p_below_0.01", "share of tokens with p < 0.01"))  # fmt: skip
    for axis, (key, title) in zip(axes[0], shown, strict=True):
        for name, colour in (("sft", BLUE), ("dft", RED)):
            steps = [m["step"] for m in lines[name]]
            axis.plot(steps, [m[key] for m in lines[name]], color=colour, label=name.upper())
        axis.set(xlabel="step", title=title)
    axes[0, 0].set_yscale("log")
    axes[0, 0].legend()
figure

# %% [markdown]
# Read the red curve on the left alone and you see a loss that first rises, then falls to almost
# nothing: better than SFT's. The middle says the opposite: the likelihood has hardly moved since the
# tenth step. The right panel says why. Some four tokens in ten began at $p < 0.01$ and are still
# there: DFT gave them no weight, and $-p \log p$ of a token that it gave up is 0.
#
# Both ends of $-p \log p$ are 0, and its maximum is at $p = 1/e$. A falling DFT loss says that tokens
# have *left the middle*, and not in which direction. So every log of a run holds, beside it:
#
# | name | what it is | what to look for |
# |---|---|---|
# | `nll` | mean $-\log p$ | the only one that methods can be compared by |
# | `mean_p` | mean $p$ | what DFT ascends |
# | `effective_share` | $(\sum w)^2 / (N \sum w^2)$ | the share of tokens that carry the update |
# | `share_p_below_0.01` | rare targets | DFT's blind spot |
# | `grad_norm` | before clipping | whether the clip bites |
# | `eval_loss` | NLL of what was held out, whatever the objective | choose checkpoints by this |
#
# ## 5. What the paper's code does
#
# A batch of 256 does not fit into memory. It is cut into $M$ micro-batches with $n_1, \ldots, n_M$
# targets, and their gradients are added up. The mean over the tokens of the step is
#
# $$g = \nabla\, \frac{1}{\sum_m n_m} \sum_m \sum_{t \in m} \ell_t .$$
#
# The official trainer adds the micro-batches' own means, and its division by $M$ comes after the
# backward pass, where it changes the number that is logged and no gradient:
#
# $$g_{\mathrm{official}} = \sum_m \nabla\, \frac{1}{n_m} \sum_{t \in m} \ell_t .$$
#
# Two things happen. The gradient is about $M$ times as large, here eight times in the published
# setting. AdamW divides by its own root mean square and does not care, but the clip at norm 1 comes
# before it. And a token in a micro-batch of short responses counts for more.

# %%
print(dt.claim("official-accumulation-is-a-sum-of-means").verify())
g = generator(0, "notebook", "accumulation")
lengths = torch.randint(5, 200, (32, 1), generator=g)
ragged = torch.randint(50, (32, 200), generator=g).masked_fill(torch.arange(200) >= lengths, -100)
z = torch.randn(32, 200, 50, generator=g, dtype=torch.float64).requires_grad_()
terms = target_stats(z, ragged)


def slope(reduction):
    """Gradient of the DFT loss in the logits."""
    return torch.autograd.grad(dt.dft.surrogate(terms, reduction=reduction), z, retain_graph=True)[
        0
    ]


mean, official = slope(TokenMean()), slope(MicrobatchTokenMean(4, accumulate="sum"))
cosine = float((mean * official).sum() / (mean.norm() * official.norm()))
per_row = (official.norm(dim=(1, 2)) / mean.norm(dim=(1, 2))).split(4)
print(f"8 micro-batches of 4: {float(official.norm() / mean.norm()):.1f} times as long, ", end="")
print(f"cosine {cosine:.3f}")
print("a token counts, by micro-batch:", *(f"{float(part[0]):.1f}" for part in per_row))

# %% [markdown]
# A published number was made by one of the two. So the package has both: `accumulation` in a recipe,
# and a twin `NAME-official` of each run of Table 1, in which everything is as in the code where the
# code is not what the text says:

# %%
twin = RECIPES[ours.name + "-official"]
for f in fields(Recipe):
    a, b = getattr(ours, f.name), getattr(twin, f.name)
    if a != b and f.name not in ("name", "title", "deviations"):
        shown = [x.choice if f.name == "corpus" else x for x in (a, b)]
        print(f"{f.name:14s} text: {shown[0]:10s} code: {shown[1]}")

# %% [markdown]
# ## 6. Killed and resumed
#
# A machine goes away in the middle of a night. Let it happen at step 27 of the DFT run above, and
# resume:


# %%
def dies(run, metrics, log=Run.log):
    """The power fails when step 27 is logged."""
    if metrics["step"] == 27:
        raise KeyboardInterrupt
    log(run, metrics)


try:
    with unittest.mock.patch.object(Run, "log", dies):
        train(small, here / "killed")
except KeyboardInterrupt:
    print("killed;", *(f.name for f in sorted((here / "killed").iterdir())))
resumed = train(small, here / "killed", resume=True)
print("resumed at step", resumed.summary()["resumed_at"])
same = resumed.summary()["weights_sha256"] == runs["dft"].summary()["weights_sha256"]
print("the same bits as the run that was never interrupted:", same)
try:
    train(replace(small, rate=2e-2), here / "killed", resume=True)
except ValueError as error:
    print("and with another rate:", str(error).rpartition("killed ")[2])

# %% [markdown]
# Weights, moments, schedule, order of the data and random states are all restored, and the records
# written after the checkpoint are taken back. A checkpoint counts once a last small file in it names
# the run and the size of every other file, so that half of one is never taken for whole. "The same
# bits" is the only criterion that cannot be argued with: a resumption that is slightly different
# shows as a bend in a curve that somebody will explain.
#
# ## 7. More GPUs
#
# In a step over $G$ processes each sees its own micro-batches, and must divide by the targets of
# *all*. Data-parallel training then averages gradients over processes. So each process returns
#
# $$L_k = \frac{G}{N} \sum_{t \in k} \ell_t, \qquad
#   \frac1G \sum_k \nabla L_k = \nabla\, \frac1N \sum_t \ell_t ,$$
#
# and the result is the token mean, whoever had the long responses. Without $N$ it would be a mean of
# means, which is the mistake of section 5 once more. It is tested with two processes on a processor:
# to rounding, and for a whole recipe to the same bits
# ([DISTRIBUTED.md](../experiments/DISTRIBUTED.md); there also what is refused and why).
#
# The commands, for eight GPUs:
#
# ```sh
# torchrun --nproc-per-node 8 -m dft_theory.cli train table-1-qwen2.5-math-7b-dft
# accelerate launch --config_file experiments/accelerate/fsdp2_8gpu.yaml \
#     -m dft_theory.cli train table-1-qwen2.5-math-7b-dft              # the same
# ```
#
# Weights, gradients and moments are sharded (FSDP2). How far do they come down?

# %%
gpus = [1, 2, 4, 8, 16, 32, 64]
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.3)
    axis = axes[0, 0]
    for name, colour in (
        ("LLaMA-3.1-8B", RED),
        ("LLaMA-3.2-3B", GREEN),
        ("Qwen2.5-Math-1.5B", BLUE),
    ):
        recipe = RECIPES[f"table-1-{name.lower()}-dft"]
        needed = [plan(replace(recipe, gpus=n)).memory for n in gpus]
        axis.plot(gpus, needed, "o-", color=colour, label=name)
    axis.axhline(80e9 / 2**30, color="#444444", ls="--", lw=0.9)
    axis.annotate("80 GB", (40, 82))
    axis.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="GiB on each")
    axis.set_xticks(gpus, gpus)
    axis.set_yticks([2, 5, 10, 20, 50, 100], [2, 5, 10, 20, 50, 100])
    axis.minorticks_off()
    axis.set(title="full fine-tuning, float32 state (arithmetic)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# What does not shrink is the floor on the right: activations of a micro-batch, and the head with its
# gradient, which each device gathers whole.
#
# ## 8. A score and its interval
#
# The paper reports avg@16: sixteen samples of each problem at temperature 1, the share of right ones,
# averaged over problems. How far would it move with other problems of the same kind? Problem $i$ has
# a chance $p_i$; with $n$ problems and $k$ samples each, the law of total variance gives
#
# $$\mathrm{Var}(\mathrm{avg@}k) = \frac1n \Big( \mathrm{Var}_i(p_i)
#   + \frac1k\, \mathbb{E}_i\big[p_i (1 - p_i)\big] \Big).$$
#
# More samples shrink the second term only. Whoever counts $16\, n$ independent samples gets an
# interval that is far too narrow. Two models on the same problems: the second is a little better
# everywhere.

# %%
rng = numpy_generator(0, "notebook", "problems")


def chances(n):
    """Chances of two models on n problems of very different difficulty."""
    ease = rng.normal(-1.2, 2.2, n)
    return [1 / (1 + np.exp(-(ease + gain))) for gain in (0.0, 0.4)]


def halves(n, k, *, pair):
    """Half of a 95 % interval in points: of one score, or of a paired difference."""
    a, b = many
    between = (b - a).var() if pair else a.var()
    within = (a * (1 - a)).mean() + (b * (1 - b)).mean() * pair
    return 196 * np.sqrt((between + within / k) / n)


many = chances(200_000)
n = np.geomspace(20, 2000, 60)
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.4)
    axis = axes[0, 0]
    for k, colour in ((1, GREY), (16, BLUE)):
        axis.plot(n, halves(n, k, pair=False), color=colour, label=f"one score, k = {k}")
    axis.plot(n, halves(n, 16, pair=True), color=RED, label="difference, paired, k = 16")
    for size, name in ((30, "AIME24"), (40, "AMC23"), (500, "MATH-500")):
        axis.axvline(size, color="#999999", ls=":", lw=0.9)
        axis.annotate(name, (size * 1.03, 0.17), rotation=90, fontsize=6.5, va="bottom")
    axis.set(xscale="log", yscale="log", ylim=(0.15, 25), xlabel="problems")
    axis.set(ylabel="half of the 95 % interval (points)")
    axis.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20], [0.2, 0.5, 1, 2, 5, 10, 20])
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# Sixteen samples narrow the interval by a third, pairing by more than half: the difficulty of the
# problems is common to both models and drops out. In practice chances are not known, and resampling
# the *problems* does the same job:

# %%
pair = chances(40)
right = [rng.binomial(16, p) for p in pair]
print("first ", bootstrap(right[0] / 16))
print("second", bootstrap(right[1] / 16))
print("second - first, paired:", paired(right[1] / 16, right[0] / 16).difference)
for k in (1, 4, 16):
    found = [float(pass_at_k(16, counts, k).mean()) for counts in right]
    print(f"pass@{k:<2d}  {found[0]:.3f}  {found[1]:.3f}")

# %% [markdown]
# The two intervals overlap for the most part, and the paired difference is clear. (`dft-theory grade A
# --against B` prints it, with the p-value of a sign-flip test.) The last lines are a second reading:
# pass@$k$ asks whether *any* of $k$ samples is right. A method that only sharpens gains at $k = 1$
# and loses the gain, or more, at $k = 16$. Report both, and a greedy score.
#
# Now the paper's Table 1, where no interval is printed. On AIME24 a cell is a number of right samples
# out of 480:

# %%
for row in paper.table("1").rows:
    if row.method in ("sft", "dft"):
        hits = row.cells["AIME24"] * 4.8
        print(
            f"{row.model:18s} {row.method}   {row.cells['AIME24']:5.2f} %   about {hits:2.0f} of 480"
        )

# %% [markdown]
# Two right samples against none decide nothing. The MATH-500 columns are another matter: 11 to 21
# points on four of the models cannot be chance over problems. Whether they are chance over *runs* is not
# known, for one seed is reported, and whether the learning rate was SFT's best is a third question
# (see README, "Should I use DFT?").
#
# ## 9. Table 1, step by step
#
# | step | command | cost |
# |---|---|---|
# | 1. read the plan | `dft-theory train table-1-qwen2.5-math-1.5b-dft --dry-run` | nothing |
# | 2. does it run here? | `dft-theory train smoke` | minutes on a laptop |
# | 3. what is in the data? | `dft-theory diagnose --model M --data D` | minutes |
# | 4. train, both methods | `torchrun ... train table-1-...-sft`, then `-dft` | GPU-hours below |
# | 5. a fair rate for SFT | `figure-3-rate-...-sft`, and below the figure's end | the same again, each |
# | 6. as the code did it | `table-1-...-dft-official` | the same again |
# | 7. the scores | `train` evaluates at its end; after `torchrun`, one process with `--resume` | not measured |
# | 8. compare | `dft-theory grade A --against B`, paired | minutes |
# | 9. more seeds | `--seed 1 --seed 2` | times seeds |
#
# The training, by arithmetic (all ten cells of SFT and DFT, one seed each, at 40 % of an H100's peak):

# %%
total = 0.0
for name in names:
    recipe = RECIPES[f"table-1-{name.lower()}-dft"]
    made = plan(recipe)
    total += 2 * made.gpu_hours
    print(f"{name:18s} 2 x {made.gpu_hours:4.1f} GPU-hours, {made.memory:3.0f} GiB a GPU")
print(f"together {total:.0f} GPU-hours a seed")
problems = {"MATH-500": 500, "Minerva": 272, "OlympiadBench": 675, "AIME24": 30, "AMC23": 40}
completions = 16 * sum(problems.values())
print(f"evaluation: {completions:,} completions of up to 4,096 tokens for each model")

# %% [markdown]
# Training is the cheap part. Fifteen models (with the bases) times 24,272 sampled completions, and
# grading them, is the larger one, and its time depends on the engine; it is not measured here.
#
# ## What could go wrong
#
# - **A checked gradient is not a checked run.** The first step says nothing of the data. Look at
#   one formatted demonstration, its mask, and its last target: is the end of the turn among them?
# - **The check is as fine as its dtype.** In bfloat16 it sees errors above 9 %. Make it once in
#   float32.
# - **A plan is arithmetic.** It assumes a utilisation of 40 %, and knows nothing of your network, of
#   fragmentation or of the framework's own buffers. Expect to be off by tens of per cent.
# - **Two processes on a processor are not eight GPUs.** NCCL, mixed precision under FSDP2 and several
#   machines were not run here.
# - **The other chat template.** A base tokenizer has none, the paper names none, and scores move by
#   points with it.
# - **One seed.** The one setting that the paper printed twice has the averages 18.01 and 16.81 for
#   SFT, 31.58 and 30.67 for DFT (`spread` in the recipe). Differences of a point mean nothing.
#
# ## Exercises
#
# Two of these return the right-hand side of a claim. What stands there is wrong on purpose.
#
# **1.** The gradient that the official trainer accumulates, in the logits. `case.draw()` gives logits
# `[8, 6, 5]` that require a gradient, and targets `[8, 6]` with -100; micro-batches hold two
# sequences. `target_stats(logits, targets)` and an objective's `surrogate` do the rest.


# %%
def accumulated(case):
    logits, targets = case.draw()
    loss = dt.dft.surrogate(target_stats(logits, targets), reduction=TokenMean())
    return torch.autograd.grad(loss, logits)[0]


print(dt.claim("official-accumulation-is-a-sum-of-means").check_attempt(accumulated))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def accumulated(case):
#     logits, targets = case.draw()
#     stats = target_stats(logits, targets)
#     loss = dt.dft.surrogate(stats, reduction=MicrobatchTokenMean(2, accumulate="sum"))
#     return torch.autograd.grad(loss, logits)[0]
# ```
#
# </details>
#
# **2.** Somebody implements "SFT on tokens with $p \ge c$" by masking the others out of the loss. What
# does that do to the gradient, which should have been `case.over_all()`? `case.counts` has the number
# of all targets and of those kept.


# %%
def masked_out(case):
    return case.over_all()


print(dt.claim("kept-tokens-change-the-learning-rate").check_attempt(masked_out))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def masked_out(case):
#     every, kept = case.counts
#     return every / kept * case.over_all()
# ```
#
# </details>
#
# **3.** How many GPUs of 80 GB does the recipe for LLaMA-3.1-8B need at least? A power of two; a tenth
# of the memory stays free. Guess from $16 P/G$ before you ask the plan.

# %%
your_answer = 1
recipe = RECIPES["table-1-llama-3.1-8b-dft"]
fits = [n for n in (1, 2, 4, 8, 16) if plan(replace(recipe, gpus=n)).memory <= 0.9 * 80e9 / 2**30]
if your_answer == fits[0]:
    print("right")
else:
    needed = plan(replace(recipe, gpus=your_answer)).memory
    print(
        f"not yet: that is {needed:.0f} GiB on each" if your_answer < fits[0] else "fewer will do"
    )

# %% [markdown]
# **4.** Write an adapter for EAFT that passes its check. What stands here has two errors. Mend one,
# and the diagnosis names the other. (`needs` says what an objective reads.)


# %%
def eaft_adapter(inputs, _count):
    o = dt.objective("eaft")
    t = dt.token_stats(logits_of(inputs).logits, inputs["labels"].roll(-1, 1), needs=o.needs)
    return o.surrogate(t, reduction=TokenMean())


try:
    check_first_step(llama, eaft_adapter, batch, dt.objective("eaft"))
    print("right")
except WrongGradientError as error:
    print("not yet:", error.verdict.diagnosis)

# %%
folder.cleanup()

# %% [markdown]
# ## Sources
#
# - Wu et al. 2025, *On the Generalization of SFT* (arXiv 2508.05629): protocol and Table 1. Its
#   trainer, `fsdp_dft_trainer.py` at commit e153181, for the accumulation.
# - Korthikanti et al. 2022, *Reducing Activation Recomputation* (arXiv 2205.05198): bytes of
#   activations in a plan.
# - Chen et al. 2021, *Evaluating Large Language Models Trained on Code* (arXiv 2107.03374): the
#   unbiased pass@$k$.
# - `dft_theory/llm/`: `recipe`, `chunked`, `gradient_check`, `trainer`, `training`, `checkpoints`;
#   `dft_theory/statistics.py`; [DISTRIBUTED.md](../experiments/DISTRIBUTED.md).
#
# Before you train on your own data: [09 Should I use DFT?](09_should_i_use_dft.ipynb)
