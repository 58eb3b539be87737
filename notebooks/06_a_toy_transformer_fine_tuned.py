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
# # A toy transformer, fine-tuned
#
# *Where DFT wins, where it loses, the two mechanisms behind it, and what flips the conclusion.*
# 20 minutes. Needs [04 Dynamics](04_dynamics.ipynb).
#
# Does DFT train better models than SFT? The earlier pages cannot say: a table of logits does not
# generalise. This page trains transformers that do, on a task so small that every accuracy is
# exact. The answer is a map. It has a region where DFT wins and one where it loses.
#
# 1. the task, and a base that half knows it;
# 2. SFT and DFT from two bases, trained while you wait: the sign changes;
# 3. the whole map, from the record of the full experiment, and what a table explains of it;
# 4. the first mechanism: DFT sharpens, whatever it is taught;
# 5. the second: it starves tokens that the base finds unlikely;
# 6. what flips the conclusion without touching either method.
#
# Numbers are either computed in the cell above them or read from a record
# (`experiments/results`), and the text says which.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import itertools

    import numpy as np
    import torch
    from matplotlib.colors import LinearSegmentedColormap

    import dft_theory as dt
    from dft_theory import dynamics
    from dft_theory.claims.schedules import floor_gradient
    from dft_theory.experiment import interval, values
    from dft_theory.figures import FigureData, find_folder, style
    from dft_theory.objectives import with_floor
    from dft_theory.results import RunStore
    from dft_theory.toys import chain
    from dft_theory.toys.bases import Pretraining, pretrain
    from dft_theory.toys.stacked import Recipe, Run, train
    from dft_theory.toys.worlds import World, mean, own_samples, sampled_accuracy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks]'"
    ) from None

_ = torch.set_num_threads(1)  # models this small are slower on more
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"

# %% [markdown]
# ## 1. The task
#
# Ten states and four operators. An operator is a rule that turns a state into another. A prompt
# names a state and three operators; the response writes the state after each of them, and before
# each state a *style*, one of four synonyms without meaning:

# %%
world = World.of(0)
NAMES = [*"0123456789", *"abcd", *"wxyz", "A", "B", "=", "*"]  # states, operators, styles, the rest
print("operator a turns 0, 1, ..., 9 into", *world.chain.right[0].tolist())
for row in world.taught(0.3)[:4]:
    told = [NAMES[t] for t in row.tolist()]
    right = world.chain.follows(row.unsqueeze(0), world.chain.right)[0].tolist()
    words = ["right" if r else "WRONG" for r in right]
    print(" ".join(told[: chain.PROMPT]), "  ", " ".join(told[chain.PROMPT :]), "  ", *words)

# %% [markdown]
# These are demonstrations of a teacher who errs: with probability $\varepsilon = 0.3$
# a state is drawn at random from all ten. One draw in ten is right by luck, so a state is right
# with probability $1 - 0.9\,\varepsilon = 0.73$. The teacher continues from what stands there,
# right or wrong.
#
# **The base** is a transformer of 26,000 weights. Before fine-tuning it has read text of the same
# kind, in which a state follows the right rule $\sigma$ with probability $p_0$ and otherwise a
# wrong rule $\tau$ that disagrees with $\sigma$ everywhere. So $p_0$, its *prior* on what is right,
# is ours to choose. We make two kinds, in three worlds (other rules, prompts and initial weights),
# the first three of the record:
#
# - **weak**, $p_0 = 0.02$: it believes $\tau$, and hardly ever says what is right;
# - **strong**, $p_0 = 0.6$: it mostly knows.
#
# So that it takes seconds, pretraining is under half of what the recorded experiments use, and
# these bases are rougher than theirs.

# %%
WORLDS = [world, World.of(1), World.of(2)]
PRIORS = {"weak": 0.02, "strong": 0.6}
short = Pretraining(trunk=500, branch=150, copies=0.0)
both = pretrain([w.seed for w in WORLDS], list(PRIORS.values()), short)
base = {name: both[[2 * i + k for i in range(3)]] for k, name in enumerate(PRIORS)}  # 3 rows each


@torch.no_grad()
def beliefs(stack):
    """Mean probability of the right state, of the wrong rule's, and of all else, `[worlds, 3]`."""
    found = []
    for k, w in enumerate(WORLDS):
        logits, _ = stack[[k]].aligned(w.test.unsqueeze(0))
        p = logits[0].softmax(-1)[:, chain.CONTENT]  # [prompts, steps, V]
        before = torch.cat([w.test[:, 1:2], w.test[:, chain.PROMPT :][:, chain.CONTENT]], 1)[:, :-1]
        operator = w.test[:, 2 : 2 + chain.STEPS] - chain.OPERATOR
        named = [rule[operator, before].unsqueeze(-1) for rule in (w.chain.right, w.chain.aligned)]
        right, wrong = (float(p.gather(-1, v).mean()) for v in named)
        found.append((right, wrong, 1 - right - wrong))
    return np.array(found)


with style.use():
    figure, axes = style.panels(1, 2, width=5, height=1.9, share=(True, True))
    for axis, (name, p0) in zip(axes[0], PRIORS.items(), strict=True):
        for k, (row, colour) in enumerate(
            zip(beliefs(base[name]).T, (GREEN, RED, GREY), strict=True)
        ):
            axis.bar(np.arange(3) + 0.26 * (k - 1), row, 0.26, color=colour)
        axis.axhline(p0, color="black", lw=0.8, ls=":")
        axis.set(title=f"{name}: $p_0 = {p0}$ (dotted)", xlabel="world", ylim=(0, 1))
        axis.set_xticks(range(3), [str(w.seed) for w in WORLDS])
        axis.grid(visible=False, axis="x")
    axes[0, 0].set(ylabel="mean probability")
    for k, (words, colour) in enumerate(
        (("right state", GREEN), ("the wrong rule's", RED), ("the eight others", GREY))
    ):
        axes[0, 1].annotate(words, (1.03, 0.75 - 0.17 * k), xycoords="axes fraction", color=colour)
figure

# %% [markdown]
# On unseen prompts, too: the bases have learned rules, not prompts.
#
# **Two scores.** A response is correct if all three states are. *Sampled at temperature 1*, the
# probability of that is a product, read off and not estimated:
#
# $$\text{T=1:}\quad \prod_{t=1}^{3} \pi(s_t \mid \text{right prefix}), \qquad
#   \text{greedy:}\quad \prod_{t=1}^{3} \mathbf{1}\big[s_t = \operatorname{argmax} \pi\big] .$$
#
# The paper reports averages of 16 samples at temperature 1. The difference between the two scores
# is half of this page. A model with 0.6 on every right state scores $0.6^3 = 0.22$ by the first
# and 1 by the second.
#
# ## 2. Two lessons
#
# Lesson one: the weak base and 48 **clean** demonstrations. It has to learn something new. Lesson
# two: the strong base and 48 demonstrations with 30 % **noise**. It knows more than its teacher
# says. Each method takes the better of two learning rates, by validation prompts; 100 steps of
# AdamW.

# %%
METRICS = (sampled_accuracy, chain.greedy)


def teach(start, demos, objectives, rates=(1e-3, 3e-3)):
    """Test accuracy every ten steps at each objective's best rate, `[checks, 2, objectives, 3]`."""
    shape = len(objectives), len(rates), len(WORLDS)
    grid = list(itertools.product(objectives, rates, range(len(WORLDS))))
    rows = [i for *_, i in grid]
    runs = [Run(objective=o, rate=r, demos=demos[i], seed=WORLDS[i].seed) for o, r, i in grid]
    test = torch.stack([WORLDS[i].test for i in rows])
    held = torch.stack([WORLDS[i].validation for i in rows])
    seen = []

    def watch(stack):
        seen.append(torch.stack([mean(stack, test, metric) for metric in METRICS]))
        return seen[-1][0]

    last = train(start[rows], runs, Recipe(steps=100), validate=watch, every=10).last
    best = mean(last, held, sampled_accuracy).view(shape).mean(-1).argmax(1)
    return torch.stack(seen).unflatten(-1, shape)[:, :, torch.arange(len(objectives)), best]


lessons = {
    "weak, clean": teach(base["weak"], [w.taught(0.0) for w in WORLDS], (dt.sft, dt.dft)),
    "strong, 30 % noise": teach(base["strong"], [w.taught(0.3) for w in WORLDS], (dt.sft, dt.dft)),
}
for name, curves in lessons.items():
    for metric, (sft, dft) in zip(("T = 1", "greedy"), curves[-1], strict=True):
        word = "ahead of" if (dft > sft).all() else "behind" if (dft < sft).all() else "beside"
        print(f"{name:20s}{metric:8s}DFT ends {word} SFT")

# %%
with style.use():
    figure, axes = style.panels(1, 4, width=style.TEXT, height=2.1, share=(True, True))
    for axis, (name, k) in zip(axes[0], itertools.product(lessons, (0, 1)), strict=True):
        for o, (label, colour) in enumerate((("SFT", BLUE), ("DFT", RED))):
            each = lessons[name][:, k, o]  # [checks, worlds]
            axis.plot(10 * np.arange(11), each, color=colour, lw=0.6, alpha=0.5)
            axis.plot(10 * np.arange(11), each.mean(-1), color=colour, lw=2, label=label)
        axis.set(title=f"{name}\n{('T = 1', 'greedy')[k]}", xlabel="step", ylim=(0, 1))
    axes[0, 0].set(ylabel="accuracy, unseen prompts")
    axes[0, 0].legend(loc="upper left")
figure

# %% [markdown]
# Thin lines are worlds, thick ones means. One method, one task, one score, and opposite answers.
# From the weak base DFT is behind by both scores. From the strong base under noise it is far ahead
# at temperature 1.
#
# Read the last panel twice. Greedily, the strong base stands high at step 0, before any training.
# SFT rises a little, and then *falls* below where it began: it learns the noise. DFT keeps what it
# gained. Much of its lead at the end is over what SFT destroyed, and a run of SFT that is stopped
# early, on clean validation prompts, loses less.
#
# ## 3. The map
#
# The full experiment (`capability_continuum`) has six priors, four noise rates, five worlds, four
# learning rates and three times the pretraining. From its record, DFT minus SFT in points of
# accuracy:

# %% tags=["thumbnail"]
RECORDS = RunStore(find_folder().parent / "experiments" / "results")
P0, NOISE = (0.0, 0.02, 0.1, 0.3, 0.6, 0.9), (0.0, 0.15, 0.3, 0.5)
rows = RECORDS.run("capability-continuum", "full").metrics()


def lead(metric, p0, eps):
    """DFT - SFT of each world, from the record."""
    of = {"p0": p0, "source": eps}
    dft, sft = (values(rows, metric, objective=name, **of) for name in ("dft", "sft"))
    return dft - sft


measured = {
    metric: np.array([[float(lead(metric, p0, eps).mean()) for p0 in P0] for eps in NOISE])
    for metric in ("sampled", "greedy")
}


def maps(found, titles):
    """Heat maps of gaps `[noise, priors]`, in points."""
    colours = LinearSegmentedColormap.from_list("lead", [BLUE, "white", RED])
    figure, axes = style.panels(1, len(found), width=style.TEXT, height=1.9)
    for axis, gaps, title in zip(axes[0], found, titles, strict=True):
        axis.pcolormesh(100 * gaps, cmap=colours, vmin=-70, vmax=70, ec="white", lw=0.8)
        for (i, j), gap in np.ndenumerate(gaps):
            ink = "white" if abs(gap) > 0.45 else "black"
            points = f"{100 * gap:+.0f}" if abs(gap) >= 0.005 else "0"
            look = {"ha": "center", "va": "center", "fontsize": 7, "color": ink}
            axis.text(j + 0.5, i + 0.5, points.replace("-", "\N{MINUS SIGN}"), **look)
        axis.set_xticks(np.arange(6) + 0.5, [f"{p:g}" for p in P0])
        axis.set_yticks(np.arange(4) + 0.5, [f"{e:.0%}" for e in NOISE])
        axis.set(title=title, xlabel="prior $p_0$ of the base", ylabel="noise")
        axis.grid(visible=False)
    return figure


with style.use():
    figure = maps(measured.values(), ("toy transformer, T = 1", "the same models, greedy"))
figure

# %% [markdown]
# Lower left, blue by both scores: a weak prior and clean text, where something has to be learned.
# Everything noisy and not weak is red at temperature 1. Greedily the red pales, the most at
# $p_0 = 0.9$.
#
# Is there a region where DFT wins by any scoring? A third score stops each run at its best state on
# clean validation prompts, and then decodes greedily. At 30 % noise, with paired 95 % intervals
# over the five worlds:

# %%
SCORES = {"sampled": "T = 1", "greedy": "greedy", "early_greedy": "greedy, stopped early"}
for p0 in (0.3, 0.6, 0.9):
    for metric, words in SCORES.items():
        gap = 100 * lead(metric, p0, 0.3)
        low, high = interval(gap)
        print(f"p0 = {p0}  {words:22s}{gap.mean():+4.0f} points [{low:+.0f}, {high:+.0f}]")

# %% [markdown]
# At $p_0 = 0.3$ most of a greedy lead survives early stopping, though its interval
# then touches 0: the base is unsure enough to need its teacher, and sure enough to doubt his
# errors. From 0.6 on nothing is left of it.
#
# ### What a table explains of it
#
# How much of this map needs a transformer? Take *one* softmax over ten states, with $p_0$ on the
# right one and $1 - p_0$ on the rival of the rule $\tau$. Demonstrations have the law $r =
# (1-\varepsilon)\, e_{\text{right}} + \varepsilon/10$. From [04 Dynamics](04_dynamics.ipynb),
# section 5:
#
# - **SFT ends at the frequencies**, $\pi = r$. Three right states in a row then have probability
#   $(1 - 0.9\,\varepsilon)^3$, which is 0.39 at 30 % noise, whatever the model knew before.
# - **DFT ends at the mode**, probability 1, however much noise, as long as right is most frequent.
#
# Both ends have greedy accuracy 1. And from section 2 there: the way takes a time of order
# $\log(1/p_0)$ under SFT and $1/p_0$ under DFT. So at *infinite* time DFT would lead everywhere
# under noise at temperature 1, and nowhere greedily. With a budget it fails where $1/p_0$ exceeds
# it.
#
# The next cell integrates both flows in every cell of the map and lets each method stop at its own
# best moment before time 30 (of learning rate times steps; a prior of 0 is given 0.003, for a
# softmax has no zeros):


# %%
def in_a_table(p0, eps, objective, budget=30.0):
    """Best T = 1 accuracy of three states on the way, and whether right is then the likeliest."""
    p0 = max(p0, 0.003)
    start = torch.tensor([p0, 1 - p0, *[1e-3] * 8], dtype=torch.float64).log()
    demos = torch.full((10,), eps / 10, dtype=torch.float64)
    demos[0] += 1 - eps
    times = torch.logspace(-1, np.log10(budget), 20, dtype=torch.float64)
    path = dynamics.flow(objective, start=start, demos=demos, times=times, rtol=1e-6).softmax(-1)
    best = path[path[:, 0].argmax()]
    return float(best[0]) ** 3, float(best.argmax() == 0)


gaps = np.array(
    [[np.subtract(in_a_table(p, e, dt.dft), in_a_table(p, e, dt.sft)) for p in P0] for e in NOISE]
)  # [noise, priors, 2]
with style.use():
    figure = maps((gaps[..., 0], gaps[..., 1]), ("one softmax, T = 1", "one softmax, greedy"))
figure

# %%
for k, metric in enumerate(("sampled", "greedy")):
    theory, toy = gaps[..., k], measured[metric]
    clear = abs(toy) > 0.05
    same = (np.sign(theory.round(2)) == np.sign(toy))[clear]
    print(f"{metric:8s} the table has the sign of {same.sum()} of {clear.sum()} clear gaps")

# %% [markdown]
# A gap is *clear* here if it exceeds five points. At temperature 1 ten states and two
# closed forms draw most of the map: the blue corner is the clock, the red plain is the end point,
# the pale bottom row is that clean text has both ends alike. The exceptions stand at $p_0 = 0.02$,
# where clock and noise pull against each other. That border moves with the budget: put 10 or 100
# for 30 and see.
#
# Greedily the table never lets DFT lead. The transformers do, under noise. There the table ends: 48
# demonstrations are not a law $r$ but a finite sample, wrong in some forty particular places. SFT
# has weight 1 for each of them and learns them by heart, and the rules suffer. DFT has weight $p$,
# which is small where the base disagrees. The record says how much of the wrong training states
# stays:

# %%
for name in ("sft", "power-0.5", "dft"):
    kept = values(rows, "wrong_p", p0=0.6, source=0.3, objective=name)
    print(f"{dt.objective(name).title:22s}gives its wrong training states p = {kept.mean():.2f}")
outcome = RECORDS.run("capability-continuum", "full").summary()["outcome"]
failed = [name for name, found in outcome.items() if not found["holds"]]
print(f"{len(failed)} of {len(outcome)} predictions failed:", *failed, sep="\n  ")

# %% [markdown]
# Most of these asked for a band, or a sign, on *every* seed, and a seed left it.
# `control-is-less` was a real mistake, and the next section is about it.
#
# ## 4. First mechanism: it sharpens
#
# DFT's end point is the mode of what it is shown. Nothing in this says that the text must come from
# a teacher. Show a policy *its own samples*. In expectation, with weight $\pi(y)^\alpha$ for a
# response $y$:
#
# $$\mathbb{E}_{y \sim \pi}\big[\pi(y)^\alpha\, \nabla \log \pi(y)\big]
#   = \sum_y \pi(y)^\alpha\, \nabla \pi(y)
#   = \nabla\, \frac{1}{1+\alpha} \sum_y \pi(y)^{1+\alpha} .$$
#
# For SFT, $\alpha = 0$, the sum is 1 and its gradient 0: nothing to learn, nothing learned. For DFT
# it is half the gradient of $\sum \pi^2$, the chance that two samples agree. Training raises it.
# The policy gets *sharper*, and where its favourite is right, accuracy at temperature 1 rises. No
# information came in.

# %%
print(dt.claim("own-samples-sharpen-under-dft").verify())

# %% [markdown]
# This is a control that costs one more run, and every claim of a gain at temperature 1 needs it.
# Live: eight unfiltered samples of the strong base for each training prompt, beside the lesson of
# section 2.

# %%
control = teach(base["strong"], own_samples(base["strong"], WORLDS, 8), (dt.sft, dt.dft))
taught = lessons["strong, 30 % noise"]
with style.use():
    figure, axes = style.panels(1, 2, width=5, height=2, share=(True, True))
    for k, axis in enumerate(axes[0]):
        axis.axhline(0, color="black", lw=0.8)
        for x, curves in enumerate((control, taught)):
            for o, colour in enumerate((BLUE, RED)):
                gain = 100 * (curves[-1, k, o] - curves[0, k, o])
                axis.bar(x + 0.35 * (o - 0.5), gain.mean(), 0.33, color=colour, alpha=0.75)
                axis.plot([x + 0.35 * (o - 0.5)] * 3, gain, "o", color="black", ms=2.5)
        axis.set_xticks((0, 1), ("own samples", "30 % noise"))
        axis.set(title=("T = 1", "greedy")[k], xlim=(-0.6, 1.6))
        axis.grid(visible=False, axis="x")
    axes[0, 0].set(ylabel="gain over the base, points")
    for k, (words, colour) in enumerate((("SFT", BLUE), ("DFT", RED))):
        axes[0, 1].annotate(words, (1.03, 0.75 - 0.17 * k), xycoords="axes fraction", color=colour)
figure

# %% [markdown]
# Left: from samples that teach nothing, DFT gains at temperature 1. Right: greedily
# it only loses there. From demonstrations these rough bases gain greedily as well. The better bases
# of the record do not, on average:

# %%
for source, words in (("self-8", "own samples, 8 a prompt"), (0.3, "30 % noise")):
    for metric in ("sampled", "greedy"):
        gain = values(rows, metric, p0=0.6, source=source, objective="dft")
        gain = 100 * (gain - values(rows, metric, p0=0.6, objective="base"))
        low, high = interval(gain)
        print(f"DFT, {words:26s}{metric:8s}{gain.mean():+4.0f} points [{low:+.0f}, {high:+.0f}]")

# %% [markdown]
# The prediction was that the control gives *less than half* of what demonstrations give at
# temperature 1. It gave more than half. From a strong prior, most of a gain at temperature 1 can be
# sharpening. A lower sampling temperature does the same without training.
#
# **When is noise worth a lead at once?** The end point is far away; look at the first step. Let $p$
# be the probability of the right token $y$, and $q = (1-p)/(V-1)$ that of each other token.
# Training on a label $v$, right or wrong, lowers the risk $1 - p$ at the rate
#
# $$w\big(\pi(v)\big)\; p\,\big\langle e_y - \pi,\; e_v - \pi \big\rangle ,$$
#
# where $w$ is 1 for SFT and $\pi(v)$ for DFT. Call $c = p\,(1 - p + q)$. The squares sum to
# $\lVert \pi \rVert^2 = p^2 + (1-p)\,q$, and with them
#
# | label | $p\,\langle\cdot,\cdot\rangle$, SFT's rate | DFT's share of it | so DFT |
# |---|---|---|---|
# | right, $v = y$ | $p\,\big(1 - 2p + \lVert\pi\rVert^2\big) = +(1-p)\,c$ | $p$ | loses $(1-p)^2\, c$ |
# | wrong | $p\,\big(\lVert\pi\rVert^2 - p - q\big) = -p\, c$ | $q$ | saves $p\,(1-q)\, c$ |
#
# With wrong labels at rate $E$, DFT is faster where $E\, p\,(1-q) > (1-E)(1-p)^2$, that is above
#
# $$E^\star = \frac{(1-p)^2}{(1-p)^2 + p\,(1-q)} .$$

# %%
print(dt.claim("strong-models-need-little-noise").verify())
for p in (0.02, 0.1, 0.3, 0.6, 0.9):
    q = (1 - p) / 9
    threshold = (1 - p) ** 2 / ((1 - p) ** 2 + p * (1 - q))
    print(f"p = {p:4}: DFT's first steps are better above {threshold:.0%} noise")

# %% [markdown]
# The better the base, the less noise it takes; without noise SFT is never slower. But
# compare with the map: at $p_0 = 0.1$ it takes 90 % noise at the first step, and the record has DFT
# ahead at 15 %. A first step decides little. Where the path ends, and whether the budget reaches
# it, decides the map.
#
# ## 5. Second mechanism: it starves what is unlikely
#
# The blue corner is the clock of section 3. It has a practical form: a *format*. Suppose that the
# demonstrations hold a token that no base has read, an end marker or a tag. The bases of the record
# give it about $3 \cdot 10^{-6}$. In a table with the task's 22 tokens, lifting it from there to
# one half takes, in learning rate times steps,

# %%
for alpha, name in ((0.0, "SFT"), (0.5, "p^1/2"), (1.0, "DFT")):
    time = dynamics.escape_time(3e-6, 0.5, alpha=alpha, vocab=22)
    print(f"{name:6s}{float(f'{time:.2g}'):>10,.0f}")

# %% [markdown]
# Parameters are shared in a transformer, and AdamW rescales small gradients, so the
# truth lies somewhere between. Live: the marker `*` in place of the last style, strong bases, clean
# states, 100 steps at 3e-3. A fourth method is DFT with a floor of 0.1 under the weight of this one
# token.

# %%
new = chain.NEW
slot = chain.PROMPT + 4  # the style before the last state
METHODS = {
    "SFT": (dt.sft, BLUE),
    "$p^{1/2}$": (dt.power(0.5), GREEN),
    "DFT": (dt.dft, RED),
    "DFT, floor on *": (with_floor(dt.dft, [new], 0.1), "#CC79A7"),
}


def marked(tokens):
    """The same with the marker before the last state."""
    out = tokens.clone()
    out[:, slot] = new
    return out


runs = [
    Run(objective=objective, rate=3e-3, demos=marked(w.taught(0.0)), seed=w.seed)
    for objective, _ in METHODS.values()
    for w in WORLDS
]
asked = torch.stack([marked(w.test) for w in WORLDS] * len(METHODS))
watched = train(
    base["strong"][[0, 1, 2] * len(METHODS)],
    runs,
    Recipe(steps=100),
    validate=lambda stack: mean(stack, asked, lambda t: t.logp[:, 4].exp()),
    every=5,
).scores.unflatten(1, (-1, 3))  # [checks, methods, worlds]
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.3)
    axis = axes[0, 0]
    for m, (label, (_, colour)) in enumerate(METHODS.items()):
        axis.plot(5 * np.arange(21), watched[:, m], color=colour, lw=1.2)
        axis.plot([], [], color=colour, label=label)
    axis.set(yscale="log", xlabel="step", ylabel="probability of the marker", ylim=(1e-8, 2))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# Each line is a world; these short-trained bases start higher, near $5 \cdot
# 10^{-5}$. SFT lifts the marker in ten steps. DFT gives it a weight equal to its probability, and
# meanwhile learns everything else. Nothing in DFT's printed loss shows this: a token with $p
# \approx 0$ contributes $-p \log p \approx 0$.
#
# A floor under one weight mends it and leaves the weights of all other tokens alone. The record
# (`new_format`) has six learning rates, two optimisers, one or three slots, five worlds; below, the
# accuracy under noise is drawn against the probability of the marker, and the upper right corner is
# wanted.
#
# ![Probability of a new token against learning rate, and against accuracy](../paper_figures/out/new_format.png)
#
# The table's clock is far too slow for a transformer (panel f), but its order is right. Of the 21
# predictions for this figure eight failed; among them, that a higher learning rate would let AdamW
# rescue DFT (it does, on some seeds), and that with the floor DFT would lead SFT greedily under
# noise.
#
# Is it a question of patience? A second toy (`compute_boundary`: a frozen base with a linear
# adapter, plain SGD) says so. Below, $S$ is the learning rate summed over steps; the black line is
# the closed form of the time that DFT needs:
#
# ![The weak-prior boundary is a compute boundary](../paper_figures/out/compute_boundary.png)
#
# ## 6. What flips the conclusion
#
# Take the two cells of section 2 as the record has them. Change one thing at a time, and leave both
# methods as they are. DFT minus SFT, means of five worlds with paired 95 % intervals:

# %%
sensitivity = FigureData.load(find_folder() / "data" / "sensitivity.json")
room = RECORDS.run("room-for-rl", "full").metrics()
LINES = (
    ("strong", "reference", "30 % noise, $p_0 = 0.6$"),
    ("strong", "aligned errors", "errors like the base's own"),
    ("strong", "N = 12", "12 demonstrations"),
    ("strong", "N = 400", "400 demonstrations"),
    ("strong", "p0 = 0.9", "$p_0 = 0.9$"),
    ("strong", "p0 = 0.9, low rates", "$p_0 = 0.9$, SFT may take lower rates"),
    ("strong", "GRPO", "after GRPO from both"),
    ("weak", "reference", "clean, $p_0 = 0.02$"),
    ("weak", "4 x steps", "four times the steps"),
    ("weak", "p^1/2", "$p^{1/2}$ instead of DFT"),
)
LOOKS = {"sampled": ("T = 1", "black", "o", "black"), "greedy": ("greedy", "#CC79A7", "s", "white"),
         "early_greedy": ("greedy, stopped early", GREEN, "D", "white")}  # fmt: skip


def entry(cell, change, metric):
    """Mean, low and high of a gap, in points; None where it was not measured."""
    if change == "GRPO":
        if metric == "early_greedy":
            return None
        dft, sft = (values(room, metric, p0=0.6, phase="after", start=s) for s in ("dft", "sft"))
        return 100 * np.array([float((dft - sft).mean()), *interval(dft - sft)])
    found = sensitivity.where(cell=cell, change=change, metric=metric)
    return 100 * np.array([found.column(c)[0] for c in ("gap", "low", "high")])


with style.use():
    figure, axes = style.panels(1, 1, width=5.6, height=3.6)
    axis = axes[0, 0]
    for m, (metric, (label, colour, marker, face)) in enumerate(LOOKS.items()):
        for y, (cell, change, _) in enumerate(LINES):
            seen = entry(cell, change, metric)
            if seen is not None:
                at = y + 0.24 * (m - 1) + 0.5 * (cell == "weak")
                axis.hlines(at, *seen[1:], color=colour, lw=0.9)
                axis.plot(seen[0], at, marker, color=colour, mfc=face, ms=4)
        axis.plot([], [], marker, color=colour, mfc=face, ls="", label=label)
    axis.axvline(0, color="black", lw=0.8)
    places = [y + 0.5 * (cell == "weak") for y, (cell, *_) in enumerate(LINES)]
    axis.set_yticks(places, [words for *_, words in LINES])
    axis.set(ylim=(10.1, -0.6), xlabel="DFT minus SFT, points (the last line: $p^{1/2}$ minus SFT)")
    axis.grid(visible=False, axis="y")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# - **The scoring temperature.** Black against violet in every noisy line. With 400 demonstrations
#   the lead at temperature 1 is the largest of all and the greedy one is nothing: SFT has learned
#   the rules *and* the noise, as frequencies. Sampling pays for them, greedy decoding does not.
# - **Early stopping.** The green diamonds: stop each run on clean prompts, and from $p_0 = 0.6$
#   hardly a gap remains.
# - **Aligned errors.** If the demonstrations err as the base does, the weight $p$ protects from
#   nothing. The greedy lead is gone.
# - **Learning rates.** At $p_0 = 0.9$ SFT does best by hardly moving. A grid that starts at 3e-4
#   does not let it, and two thirds of DFT's lead are that.
# - **RL afterwards.** GRPO from both ends alike: it takes from SFT what noise left there. At priors
#   0.6 and 0.1 it was predicted that DFT would stay ahead, and both predictions failed.
# - **The budget.** Four times the steps, and the weak-prior deficit is within its interval of 0.
#   And $p^{1/2}$ never had it.
#
# Each of these is a choice that a paper makes once. Its table shows one point of this list.
#
# Five more questions, each with a record and a figure of its own. In one line, for this task:

# %%
outcome = {
    name: RECORDS.run(name, "full").summary()["outcome"]
    for name in ("confounds", "relatives", "forgetting", "token-histogram", "diagnosis")
}
scoring, power = outcome["confounds"]["scoring-is-most"], outcome["relatives"]["power-has-both"]
answers = outcome["diagnosis"]["answers"]
told = {
    "confounds": "clipping, accumulation, precision and higher rates move the T = 1 lead by\n"
    f"at most {100 * scoring['largest other']:.0f} points each, greedy scoring by "
    f"{100 * scoring['scoring']:.0f}",
    "relatives": f"p^1/2 leads SFT by {100 * power['p0 0.6']:.0f} points under noise (prior 0.6) "
    f"and is {100 * power['sampled']:+.0f}\nfrom it at a weak prior",
    "forgetting": "on another task DFT is "
    f"{outcome['forgetting']['copy-kl']['gap']:.1f} nats farther from the base than SFT",
    "token-histogram": "DFT gives p < 0.05 to "
    f"{outcome['token-histogram']['dft-gives-up-styles']['dft']:.0%} of the teacher's styles in "
    "fresh text",
    "diagnosis": f"before training, {answers['sampled answered']:.0f} of "
    f"{answers['sampled asked']:.0f} worlds got an answer who would win, "
    f"{answers['sampled right']:.0f} the right one",
}
for name, words in told.items():
    held = sum(found["holds"] for found in outcome[name].values())
    print(f"{name.upper()}, {held} of {len(outcome[name])} predictions held\n{words}\n")

# %% [markdown]
# The last one in a picture. Two scenarios whose token probabilities look alike before training have
# opposite winners: in one the unlikely tokens are new facts, in the other they are errors. A weight
# that reads $p$ cannot tell them apart, nor can a histogram. Whether the *gradients* of different
# demonstrations agree can, in part: facts are shared, errors are each their own.
#
# ![Nearly the same histogram, opposite winners](../paper_figures/out/matched_histograms.png)

# %% [markdown]
# ## What could go wrong
#
# - **A toy decides nothing about your model.** It shows which mechanisms exist and which controls
#   tell them apart.
# - **One score.** A gain at temperature 1 without its greedy twin is half a result.
# - **One learning rate for both.** DFT's gradients are smaller. Give each method a grid whose best
#   rate has a worse one on both sides.
# - **No control.** Train on the base's own samples. What is gained there is no learning.
# - **The last checkpoint.** SFT under noise is best early. Compare best with best, and last with
#   last.
# - **The loss curve.** DFT's loss is smallest on tokens that it gives up.
# - **Three worlds, and seconds.** The live cells show signs. For sizes read the record: five
#   worlds, paired intervals, and the failed predictions.

# %% [markdown]
# ## Exercises
#
# Each cell holds a plausible error; run it, read what it says, and mend it.
#
# **1.** The noise rate above which DFT's first steps are better, for a right token of probability
# `case.p` among `case.vocab` tokens. Predict with it: is DFT ahead at once in the cell $p = 0.8$,
# 10 % noise, many tokens?


# %%
def overtaking(case):
    q = (1 - case.p) / (case.vocab - 1)
    return torch.tensor([(1 - case.p) / (1 - case.p + case.p * (1 - q))], dtype=torch.float64)


print(dt.claim("strong-models-need-little-noise").check_attempt(overtaking))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def overtaking(case):
#     q = (1 - case.p) / (case.vocab - 1)
#     lost = (1 - case.p) ** 2
#     return torch.tensor([lost / (lost + case.p * (1 - q))], dtype=torch.float64)
# ```
#
# At $p = 0.8$ it is 0.04 / (0.04 + 0.8) = 5 %. Yes, at 10 % noise it is.
#
# </details>
#
# **2.** Write a weight whose rare token escapes: DFT, but at least 1/2 on the tokens that are *named*
# (here the last one of the demonstration, as an end marker would be). `floor_gradient(case,
# weight)` asks your function for the weights of all tokens, from their probabilities `p` and a mask
# `named`.


# %%
def protected(case):
    return floor_gradient(case, lambda p, _: p.clamp_min(0.5))


print(dt.claim("floors-touch-named-tokens-only").check_attempt(protected))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def protected(case):
#     return floor_gradient(case, lambda p, named: torch.where(named, p.clamp_min(0.5), p))
# ```
#
# The floor under every weight learns the marker as well, and gives errors a weight of 1/2.
#
# </details>
#
# **3.** Which function does training on one's own samples climb, for the weights $\pi(y)^\alpha$
# with $\alpha = 0, \tfrac12, 1$? `case.probs` are $\pi(y)$ of all responses with their graph, and
# `case.gradient(value)` differentiates. Below is minus the entropy.


# %%
def climbed(case):
    minus_entropy = (case.probs * case.probs.log()).sum()
    return torch.stack([case.gradient(minus_entropy) for alpha in (0.0, 0.5, 1.0)])


print(dt.claim("own-samples-sharpen-under-dft").check_attempt(climbed))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def climbed(case):
#     def value(alpha):
#         return case.probs.pow(1 + alpha).sum() / (1 + alpha)
#
#     return torch.stack([case.gradient(value(alpha)) for alpha in (0.0, 0.5, 1.0)])
# ```
#
# </details>
#
# **4.** How fast does one label lower the risk $1 - p(y^\star)$? `case.weight` is the weight at the
# *label's* probability, `case.at.p` is $p(y^\star)$, `case.at.probs` is $\pi$, and
# `case.at.target` and `case.label` are the right token and the label. The case holds right labels
# and wrong ones. Below, the inner product takes $\pi$ away from one side only.


# %%
def risk_falls(case):
    onehot = torch.eye(case.terms, dtype=torch.float64)
    right, label = onehot[case.at.target], onehot[case.label]
    return case.weight * case.at.p * ((right - case.at.probs) @ label)


print(dt.claim("risk-reduction-rate").check_attempt(risk_falls))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def risk_falls(case):
#     onehot = torch.eye(case.terms, dtype=torch.float64)
#     right, label = onehot[case.at.target], onehot[case.label]
#     return case.weight * case.at.p * ((right - case.at.probs) @ (label - case.at.probs))
# ```
#
# </details>

# %% [markdown]
# ## Sources
#
# - Wu et al. 2025, *On the Generalization of SFT* (arXiv 2508.05629): DFT, trained from strong
#   mathematical bases and scored at temperature 1.
# - Li et al. 2025, *Beyond Log Likelihood* (arXiv 2510.00526): the capability continuum, and the
#   noise threshold in general form.
# - Zhang and Sabuncu 2018, *Generalized Cross Entropy Loss* (arXiv 1805.07836): the weight $p$
#   against noisy labels.
# - Pang and He 2021, *Text Generation by Learning from Demonstrations* (ICLR): a floor under the
#   weights.
#
# Code: `dft_theory/toys` (task, bases, stacked training), `experiments/capability_continuum.py`,
# `sensitivity.py`, `new_format.py`, `compute_boundary.py`, `room_for_rl.py`; records in
# `experiments/results`. Next: [07 SFT, DFT and RL](07_sft_dft_and_rl.ipynb).
