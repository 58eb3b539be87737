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
# # Reward rectification: from SFT to DFT
#
# *DFT, its potential, tokens against sequences, and equations (1) to (13) with their misprints.*
# 20 minutes. Needs [01 Score functions](01_score_functions.ipynb) and
# [02 SFT is a policy gradient](02_sft_is_a_policy_gradient.ipynb).
#
# Dynamic Fine-Tuning (DFT; Wu et al., arXiv 2508.05629) multiplies the loss of each token by the
# stop-gradient of its probability. This page derives what that descends, separates the loss that
# is derived (one weight for a response) from the loss that is used (one weight for each token),
# and goes through the paper's equations (1) to (13) with their misprints.

# %%
# %matplotlib inline
try:
    import torch
    from IPython.display import Markdown, display

    import dft_theory as dt
    from dft_theory import paper
    from dft_theory.citations import citation, format_citation
    from dft_theory.claims.rectification import batch, batch_gradient, step_probs, table_cosine
    from dft_theory.claims.scope import PolicyCase
    from dft_theory.claims.sequences import LongResponse
    from dft_theory.figures import style
except ModuleNotFoundError as missing:
    advice = "in the repository run `pip install -e '.[notebooks]'`, then restart the kernel"
    raise ModuleNotFoundError(f"{missing.name} is not installed: {advice}") from None

LEVELS = (dt.sft, dt.dft, dt.dft_geometric, dt.dft_sequence)


def show(equation: str, *names: str) -> None:
    """The statements of claims, checked here and now; of a refutation both versions."""
    parts = []
    for name in names:
        claim = dt.claim(name)
        verdict = claim.verify()
        heading = f"{equation} {claim.title}".strip()
        parts.append(f"**{heading}.** {verdict.cases} cases: *{verdict.words}*.")
        if claim.published is not None:
            parts.append(f"False ({claim.published.why}):")
            parts += [f"$${claim.published.statement}$$", "Corrected:"]
        parts.append(f"$${claim.statement}$$")
    display(Markdown("\n\n".join(parts)))


# %% [markdown]
# ## 1. Taking the weight away
#
# SFT's gradient is $-\mathbb{E}_{y \sim \pi_\theta}[w\, r\, \nabla_\theta \log \pi_\theta(y \mid x)]$
# with $r = \mathbf{1}[y = y^\star]$ and $w = 1/\pi_\theta(y \mid x)$. To *rectify* the reward, multiply
# by $1/w = \pi_\theta(y \mid x)$ and hold it constant, so that it acts as a number. Only the term
# $y = y^\star$ counts, so the factor leaves the expectation:
#
# $$\nabla_\theta \mathcal{L}_{\mathrm{DFT}}
# = -\,\mathrm{sg}(\pi_\theta(y^\star \mid x))\, \nabla_\theta \log \pi_\theta(y^\star \mid x).$$
#
# With the log-derivative identity $\nabla \log \pi = \nabla \pi / \pi$ the two factors cancel:
#
# $$-\,\pi_\theta(y^\star \mid x)\, \frac{\nabla_\theta \pi_\theta(y^\star \mid x)}
# {\pi_\theta(y^\star \mid x)} = -\nabla_\theta\, \pi_\theta(y^\star \mid x).$$
#
# So DFT ascends the **probability** of the demonstration where SFT ascends its logarithm. In the
# words of page 01: the surrogate $-\mathrm{sg}(\pi) \log \pi$ has the **potential** $-\pi$.

# %%
p = torch.linspace(0.01, 1, 200, dtype=torch.float64)
t = dt.TokenStats(logp=p.log()[:, None], mask=torch.ones(200, 1, dtype=torch.bool))
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.2)
    for objective, name in ((dt.sft, "SFT: $-\\log p$"), (dt.dft, "DFT: $-p$")):
        colour = objective.style.color
        axes[0, 0].plot(p, objective.potential(t)[:, 0], color=colour, label=name)
        axes[0, 1].plot(p, objective.weight_at(p) * (1 - p), color=colour)
    axes[0, 0].set(title="potential", ylim=(-1.1, 4.6))
    axes[0, 1].set(title="pull on the target's logit", ylabel="$w(p)\\,(1 - p)$")
    for axis in axes[0]:
        axis.set_xlabel("probability $p$ of the demonstration")
    axes[0, 0].legend()
    display(figure)

# %% [markdown]
# $-\log p$ is steep where $p$ is small. $-p$ has the slope $-1$ everywhere, and in the logits, where
# the softmax flattens small probabilities, that becomes a pull of $p\,(1 - p)$. Near $p = 1$ the two
# pulls agree. Near $p = 0$ SFT's is largest and DFT's vanishes: what the model thinks impossible is
# not learned.

# %% [markdown]
# ## 2. Tokens against sequences
#
# A response has $T$ tokens, $\pi_\theta(y^\star \mid x) = \prod_t \pi_t$ with
# $\pi_t = \pi_\theta(y^\star_t \mid y^\star_{<t}, x)$ and scores $s_t = \nabla_\theta \log \pi_t$. The
# derivation above is about the whole response:
#
# $$\nabla_\theta \mathcal{L}^{\mathrm{seq}}_{\mathrm{DFT}}
# = -\Big(\prod_t \pi_t\Big) \sum_t s_t .$$
#
# All tokens share one weight: for one demonstration this is SFT with another learning rate. The
# loss that is trained weights each token by its own probability:
#
# $$\mathcal{L}_{\mathrm{DFT}} = -\sum_t \mathrm{sg}(\pi_t) \log \pi_t, \qquad
# \nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\sum_t \pi_t\, s_t = -\nabla_\theta \sum_t \pi_t.$$
#
# Its potential is $-\sum_t \pi_t$. Put the model at each prefix of the demonstration and let it
# sample one token: $\sum_t \pi_t$ is the expected number of tokens it gets right. Equivalently
#
# $$\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\sum_t \mathbb{E}_{a \sim
# \pi_\theta(\cdot \mid y^\star_{<t}, x)}\left[\mathbf{1}[a = y^\star_t]\,
# \nabla_\theta \log \pi_\theta(a \mid y^\star_{<t}, x)\right],$$
#
# an exact policy gradient with reward 1 and no weight, one step deep. It is not the policy gradient
# of whole responses, because the prefixes are the expert's and not the model's.
#
# Take three tokens with $\pi_t = 0.9,\ 0.5,\ 0.05$.

# %%
rows = [[0.9, 0.07, 0.03], [0.5, 0.3, 0.2], [0.05, 0.15, 0.8]]  # position, then token
policy = dt.TabularPolicy(torch.tensor([rows, rows], dtype=torch.float64).log(), length=3)
case = PolicyCase(policy, "three tokens", torch.tensor([0]), index=0)  # y* is token 0 three times
t = case.stats.detach()
with style.use():
    figure, axes = style.panels(1, 1, width=style.TEXT, height=2.2)
    for k, objective in enumerate(LEVELS):
        weight = objective.weight(t).expand_as(t.logp)[0]
        places = torch.arange(3) + 0.2 * (k - 1.5)
        axes[0, 0].bar(places, weight, 0.18, color=objective.style.color, label=objective.title)
    axes[0, 0].set(yscale="log", ylim=(0.01, 2), ylabel="weight of the token")
    axes[0, 0].set_xticks(
        range(3), [f"token {k + 1}, $\\pi_{k + 1} = {rows[k][0]}$" for k in range(3)]
    )
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    display(figure)

gradients = {o.title: case.surrogate_gradient(o) for o in LEVELS}
sft = gradients["SFT (cross-entropy)"]
for name, g in gradients.items():
    cosine = float(g @ sft / (g.norm() * sft.norm()))
    print(f"{name:22s} norm {float(g.norm()):.4f}   cosine with SFT {cosine:.4f}")
print(f"closed form of the second cosine: {float(table_cosine(case)):.4f}")

# %% [markdown]
# The sequence weight and the geometric mean keep SFT's direction. The token weights turn it, away
# from the third token, which SFT pulls hardest. Neither of the two losses, with one weight for the
# sequence or one for each token, approximates the other. The closed form of the cosine, below, is
# that of a table, in which no two positions share a parameter. In it $p_t$ is the probability of
# the token and $\pi_t$ the whole distribution at its position.

# %%
show("", "token-dft-is-not-sequence-dft", "same-direction-for-one-token-only")

# %% [markdown]
# ## 3. Long responses
#
# The sequence weight is a product. In float32 it is exactly 0 below $-104$ nats, and a response of
# weight 0 teaches nothing. The geometric mean survives and treats all tokens of a response alike.

# %%
lengths = range(10, 600, 5)
with style.use():
    figure, axes = style.panels(1, 1, width=style.TEXT, height=2.1)
    for p_token, look in ((0.9, "-"), (0.7, "--"), (0.5, ":")):
        weights = [float(LongResponse(n, p_token).weight()) for n in lengths]
        colour = dt.dft_sequence.style.color
        axes[0, 0].plot(
            lengths, weights, look, color=colour, label=f"sequence, $\\pi_t = {p_token}$"
        )
    means = [float(dt.dft_geometric.weight(LongResponse(n, 0.7).stats).max()) for n in lengths]
    colour = dt.dft_geometric.style.color
    axes[0, 0].plot(lengths, means, color=colour, label="geometric mean, $\\pi_t = 0.7$")
    axes[0, 0].axhline(2.0**-149, color="black", lw=0.7, ls="--")
    axes[0, 0].annotate("smallest float32", (470, 1e-43))
    axes[0, 0].set(yscale="log", xlabel="response tokens", ylabel="weight", ylim=(1e-47, 10))
    axes[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    display(figure)

# %% [markdown]
# Of real solutions (64 of GSM8K, read by a model of 135M parameters) more than half have the weight
# 0:
#
# ![Sequence weights of real solutions](../paper_figures/out/real_model_sequences.png)
#
# The paper compared the levels (version 3, Table 5). The form that follows from the derivation ends
# no better than the untrained model, and the form that works is the one that does not follow from
# it.

# %%
table = paper.table("5")
print(table.title, "(average accuracy in percent; no seeds or intervals are reported)")
for row in table.rows:
    print(f"  {row.method:16s}{row.average:6.2f}")
show("", "sequence-weight-underflows")

# %% [markdown]
# ## 4. The equations, one by one
#
# The numbers are those of version 3. Each claim is checked as the cell runs: its two sides take
# different routes, and every *mutant* of it must fail.
#
# **(1), (2)** the SFT loss and its gradient. No surprise.

# %%
show("(1)", "sft-loss-is-negative-log-likelihood")
show("(2)", "sft-gradient")

# %% [markdown]
# **(3), (4)** the RL objective and the policy gradient. The expectation is under $\pi_\theta$, and its
# gradient is not the expectation of $\nabla r$: the distribution moves, the reward does not.

# %%
show("(3)", "rl-objective")
show("(4)", "policy-gradient-theorem")

# %% [markdown]
# **(5), (6)** the identity of page 02. Version 1 calls it precisely an on-policy gradient, version 3
# says that it closely resembles one.

# %%
show("(5), (6)", "sft-is-policy-gradient")

# %% [markdown]
# **(7)** the rectification. Version 1 multiplies the *average* gradient by one weight, which has no
# meaning for two examples. Version 3 puts the weight inside the expectation, and still prints
# $\nabla \mathcal{L}_{\mathrm{SFT}}$ on the left, where $\nabla \mathcal{L}_{\mathrm{DFT}}$ is meant.

# %%
show("(7)", "rectified-weight-stays-inside")

# %% [markdown]
# **(8)** the sequence-level loss. Version 1 prints it without the minus sign (minimising it would
# lower the probability) and with $y^\star_t$ without its history. Version 3 has both right.

# %%
show("(8)", "sequence-dft-ascends-probability")

# %% [markdown]
# **(9)** the token-level loss, the one that is used. It is a new objective, not a form of (8). It is
# printed as a sum over tokens; the released trainer takes the mean over the tokens of a
# micro-batch, which weights long responses differently.

# %%
show("(9)", "token-dft-ascends-expected-hits", "token-dft-is-a-one-step-bandit")

# %% [markdown]
# **(10) to (13)**, appendix A.3: weight times score, the log-derivative, the cancellation, the
# result. In (12) the ratio $\mathrm{sg}(\pi)/\pi$ is cancelled. As a number it is 1. As a function
# it is not constant: its gradient is $-\nabla \log \pi$, so it may be cancelled only after the
# derivative is taken, which is what the appendix does. The derivation is for whole responses; its
# conclusion speaks of the target token. For one token both are the same, for the sum in (9) the
# conclusion that SFT and DFT share a direction is false (section 2).

# %%
show("(10)", "sequence-dft-is-weighted-score")
show("(11)", "log-derivative")
show("(12)", "stop-gradient-ratio")
show("(13)", "sequence-dft-by-finite-differences")

# %% [markdown]
# All misprints in one place:
#
# | where | printed | should be |
# |---|---|---|
# | version 1, (7) | the averaged gradient times one weight | the weight inside the expectation |
# | version 3, (7), left side | $\nabla \mathcal{L}_{\mathrm{SFT}}$ | $\nabla \mathcal{L}_{\mathrm{DFT}}$ |
# | version 1, (8) | no minus sign; $y^\star_t$ without history | $-\mathrm{sg}(\pi(y^\star \mid x)) \log \pi(y^\star \mid x)$ |
# | version 3, section 4.2 | cites (7) for the sparse reward | (6) |
# | version 3, A.3 | "the target token" | the whole response, or a response of one token |
# | (9) and the code | sum over tokens | the trainer: mean over the tokens of a micro-batch |

# %% [markdown]
# ## 5. Uniform reward is not uniform weight
#
# The paper notes that DFT's reward is 1 for every demonstration. That is the factor of
# $\nabla \pi$. The factor of the *score* is $\pi$ itself: of two demonstrations for one prompt, the
# one that the model already prefers gets the larger weight. Where demonstrations disagree, DFT ends
# at the most frequent one and not at their distribution (`dft-learns-the-mode`, page 04).

# %%
show("", "likely-demonstrations-dominate")

# %% [markdown]
# ## What could go wrong
#
# - **The weight is differentiated too.** Without `detach` the gradient has the factor
#   $1 + \log p$, and tokens below $p = 1/e$ are pushed down. The value of the loss is the same.
# - **The printed loss is read.** $-p \log p$ is at most $1/e$ and falls on both sides. Log the mean
#   of $p$ and the negative log-likelihood.
# - **Mean and sum are mixed up.** Over accumulated micro-batches a mean of means is not the mean:
#   divide by the token count of the whole batch.
# - **A rare token must be learned** (a format, a special token). DFT gives it a weight near 0. A
#   floor for the weight helps (`with_floor` in `dft_theory/objectives/schedules.py`), or some SFT
#   first (`switch`, in the same place).
# - **The result is credited to the derivation.** What works in Table 5 is the re-weighting of
#   tokens, which the derivation does not produce.

# %%
show("", "stop-gradient-decides-the-sign", "dft-loss-value-is-bounded")

# %% [markdown]
# ## Exercises
#
# Each cell holds a wrong answer; mend it. `case` is a policy with a demonstration: `held_probs` and
# `probs` are $\pi(y \mid x)$ of all responses $[N]$, constant and differentiable, `scores` has
# $[N, D]$, `index` is the place of $y^\star$, and `gradient(value)` differentiates.
#
# **1.** The gradient of the sequence-level loss $-\mathrm{sg}(\pi) \log \pi$. Below the stop-gradient
# was forgotten.


# %%
def sequence_gradient(case):
    p = case.held_probs[case.index]
    return -p * (1 + p.log()) * case.scores[case.index]


print(dt.claim("sequence-dft-is-weighted-score").check_attempt(sequence_gradient))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sequence_gradient(case):
#     p = case.held_probs[case.index]
#     return -p * case.scores[case.index]
# ```
#
# </details>
#
# **2.** The gradient of the token-level loss from its potential. `step_probs(case)` gives
# $\pi_1, \ldots, \pi_T$ with their graph.


# %%
def token_gradient(case):
    return -case.gradient(step_probs(case).prod())


print(dt.claim("token-dft-ascends-expected-hits").check_attempt(token_gradient))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def token_gradient(case):
#     return -case.gradient(step_probs(case).sum())
# ```
#
# </details>
#
# **3.** Equation (7) as the average over three demonstrations, `batch(case)` being their places.
# Below is the paper's first version: `batch_gradient(case, dt.sft)` is the averaged SFT gradient.


# %%
def rectified(case):
    return case.held_probs[batch(case)].mean() * batch_gradient(case, dt.sft)


print(dt.claim("rectified-weight-stays-inside").check_attempt(rectified))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def rectified(case):
#     places = batch(case)
#     return -(case.held_probs[places].unsqueeze(-1) * case.scores[places]).mean(0)
# ```
#
# </details>
#
# **4.** From which log-probability on is the sequence weight above 0 in float32? `case.log_prob` is
# in nats; return 1.0 or 0.0. The smallest positive float32 is $2^{-149}$, and half of it rounds
# to 0.


# %%
def weight_survives(case):
    return float(case.log_prob > -745)


print(dt.claim("sequence-weight-underflows").check_attempt(weight_survives))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def weight_survives(case):
#     return float(case.log_prob > -103.97)  # -150 log 2
# ```
#
# </details>

# %% [markdown]
# ## Sources

# %%
works = ("wu2025dft", "zhang2018gce", "zhang2023mixce", "li2025beyond")
display(Markdown("\n".join(f"- {format_citation(citation(key))}" for key in works)))

# %% [markdown]
# The loss itself is older: with the potential $1 - p$ it is the generalised cross-entropy at $q = 1$
# (Zhang and Sabuncu, 2018), and MixCE at mixing ratio 0. Li et al. study it among other functions
# of $p$.
#
# Next: [04 Dynamics](04_dynamics.ipynb) follows the gradients in time.
