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
# # Score functions and importance weights
#
# *Scores, importance weights and the stop-gradient, by hand on three tokens.*
# 20 minutes. Needs softmax, gradients and expectations.
#
# Everything in this series is made of three tools: the **score** $\nabla_\theta \log \pi_\theta$,
# the **importance weight**, and the **stop-gradient**. This page works each of them out by hand on
# a table of three tokens and then lets the package check it. The pages that follow use the same
# three tools on whole responses.

# %%
# %matplotlib inline
try:
    import torch
    from IPython.display import Markdown, display

    import dft_theory as dt
    from dft_theory import enumeration
    from dft_theory.citations import citation, format_citation
    from dft_theory.claims.logit_gradient import entropy_like
    from dft_theory.claims.scope import TokenCase
    from dft_theory.figures import style
    from dft_theory.importance_weight import effective_sample_size, importance_weight
    from dft_theory.seeding import generator
except ModuleNotFoundError as missing:
    advice = "in the repository run `pip install -e '.[notebooks]'`, then restart the kernel"
    raise ModuleNotFoundError(f"{missing.name} is not installed: {advice}") from None

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## 1. A policy with three actions
#
# A **policy** is a distribution over responses $y$ to a prompt $x$. Here a response is one token
# out of $a, b, c$, and the parameters are the three logits $z$:
#
# $$\pi_z(y) = \frac{e^{z_y}}{\sum_v e^{z_v}}.$$
#
# With $z = (\log 0.1, \log 0.3, \log 0.6)$ the probabilities are $0.1$, $0.3$ and $0.6$, because
# they already sum to one.

# %%
theta = torch.tensor([[[0.1, 0.3, 0.6]]], dtype=torch.float64).log()  # [prompts, positions, V]
policy = dt.TabularPolicy(theta, length=1)
prompt = torch.tensor([0])
p = enumeration.probabilities(policy, prompt).detach()
print("responses     ", policy.responses().flatten().tolist())
print("probabilities ", p)

# %% [markdown]
# ## 2. The score
#
# The score is the gradient of the log-probability of one response in the parameters:
#
# $$s(y) = \nabla_\theta \log \pi_\theta(y).$$
#
# It says in which direction to move the parameters so that $y$ becomes more likely. For a softmax
#
# $$\log \pi_z(y) = z_y - \log \sum_v e^{z_v},$$
#
# and the derivative in $z_v$ has two terms. The first gives $1$ for $v = y$ and $0$ otherwise. The
# second gives $e^{z_v} / \sum_u e^{z_u} = \pi_z(v)$. Together
#
# $$s(y)_v = \mathbf{1}[v = y] - \pi_z(v), \qquad s(y) = e_y - \pi.$$
#
# By hand, for $\pi = (0.1, 0.3, 0.6)$:
#
# | $y$ | $s(y)$ |
# |---|---|
# | $a$ | $(0.9, -0.3, -0.6)$ |
# | $b$ | $(-0.1, 0.7, -0.6)$ |
# | $c$ | $(-0.1, -0.3, 0.4)$ |
#
# Autograd agrees:

# %%
scores = enumeration.scores(policy, prompt, policy.responses())
print(scores)

# %%
with style.use():
    figure, axes = style.panels(1, 3, width=style.TEXT, height=1.8, share=(True, True))
    for y, axis in enumerate(axes[0]):
        colours = [style.PALETTE["vermilion" if v == y else "grey"] for v in range(3)]
        axis.bar(["$z_a$", "$z_b$", "$z_c$"], scores[y].tolist(), color=colours)
        axis.axhline(0, color="black", lw=0.7)
        axis.set_title(f"score of ${'abc'[y]}$, $\\pi = {float(p[y]):.1f}$")
    axes[0, 0].set_ylabel("$s(y)$")
    display(figure)

# %% [markdown]
# Three things to see:
#
# - The response itself is pushed up, every other one down, in proportion to its probability.
# - The rarer the response, the longer its score. But it stays short: no entry exceeds 1.
# - Each score sums to zero. Adding a constant to all logits changes nothing, and so no gradient
#   points there.

# %% [markdown]
# ## 3. The score has mean zero
#
# $$\mathbb{E}_{y \sim \pi}[s(y)] = \sum_y \pi(y)\, \nabla \log \pi(y)
# = \sum_y \pi(y)\, \frac{\nabla \pi(y)}{\pi(y)}
# = \nabla \sum_y \pi(y) = \nabla 1 = 0.$$
#
# The middle step is the **log-derivative identity**, $\nabla \log \pi = \nabla \pi / \pi$. By hand,
# in the first logit: $0.1 \cdot 0.9 - 0.3 \cdot 0.1 - 0.6 \cdot 0.1 = 0.09 - 0.03 - 0.06 = 0$.
#
# It has two consequences. Training on a model's own unfiltered samples with cross-entropy does
# nothing on average. And a constant may be subtracted from any reward (a *baseline*) without
# changing the mean gradient.
#
# The package states such facts as *claims*. A line that begins with "ok" says that both sides of a
# claim, computed on independent routes, agree on all cases, and that wrong versions of it ("mutants")
# do not.

# %%
print("largest entry of the mean score below 1e-15:", bool((p @ scores).abs().max() < 1e-15))
print(dt.claim("score-has-zero-mean").verify())
print(dt.claim("log-derivative").verify())

# %% [markdown]
# ## 4. The policy gradient
#
# Give each response a reward $r(y)$. The expected reward is $J = \sum_y \pi(y)\, r(y)$, and
#
# $$\nabla J = \sum_y r(y)\, \nabla \pi(y) = \sum_y \pi(y)\, r(y)\, \nabla \log \pi(y)
# = \mathbb{E}_{y \sim \pi}[r(y)\, s(y)].$$
#
# The first sum needs every response. The last is an expectation under the policy, so it can be
# estimated from samples: that is REINFORCE (Williams, 1992). Take $r = (1, 0, 0)$. By hand,
# $\nabla J = 0.1 \cdot (0.9, -0.3, -0.6) = (0.09, -0.03, -0.06)$.


# %%
def reward_for_a(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """1[y = a]."""
    return (y[:, 0] == 0).double()


print("E[r s]  ", enumeration.policy_gradient(policy, prompt, reward_for_a))
expected = enumeration.probabilities(policy, prompt)[0]  # J = pi(a)
print("grad J  ", enumeration.gradient(expected, policy))

# %% [markdown]
# Compare it with the score $s(a) = (0.9, -0.3, -0.6)$, the direction of supervised fine-tuning on
# $a$. The direction is the same, and the policy gradient is shorter by the factor $\pi(a) = 0.1$.
# Sampling finds $a$ once in ten draws, a demonstration shows it every time. That factor is what
# the rest of this series is about.

# %% [markdown]
# ## 5. Importance weights
#
# Suppose we want an average under $q$ and can only draw from $\pi$. Multiply and divide by $\pi$:
#
# $$\mathbb{E}_{y \sim q}[f(y)] = \sum_y q(y)\, f(y) = \sum_y \pi(y)\, \frac{q(y)}{\pi(y)}\, f(y)
# = \mathbb{E}_{y \sim \pi}[w(y)\, f(y)], \qquad w(y) = \frac{q(y)}{\pi(y)}.$$
#
# It holds if $\pi(y) > 0$ wherever $q(y) f(y) \neq 0$, and for any $f$. With $f = 1$ it says that
# **weights have mean one** under the distribution that is sampled from.
#
# Let $q$ be a point mass on the demonstration $a$. Then $w = (1/0.1, 0, 0) = (10, 0, 0)$: drawn
# once in ten times and counted tenfold. This is the weight $1/\pi$ of the DFT paper.

# %%
demonstrations = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
for name, q in (("point mass on a", demonstrations), ("uniform", uniform), ("pi itself", p)):
    w = q * importance_weight(p.log())
    print(f"{name:16s} w = {w.numpy().round(2)}   mean under pi {float(p @ w):.3f}")
print(dt.claim("importance-weights-average-to-one").verify())

# %% [markdown]
# The mean is always right. The price is the spread,
# $\mathrm{Var}_\pi(w) = \mathbb{E}_\pi[w^2] - 1 = \sum_y q(y)^2 / \pi(y) - 1$,
# which for the point mass is $1/\pi(a) - 1 = 9$. Kish's *effective sample size* says how many
# equally weighted draws a weighted set is worth: $\mathrm{ESS} = (\sum_i w_i)^2 / \sum_i w_i^2$.
#
# The picture runs the estimator. The mean of $w$ must be 1. For $\pi(a) = 0.1$ a thousand draws
# give it roughly. For $\pi(a) = 0.001$ they see $a$ about once: a run either jumps by $1000/n$ at the
# $n$-th draw or stays at 0, and three of the four stay.

# %%
rare = dt.TabularPolicy(torch.tensor([[[0.001, 0.3, 0.699]]]).double().log(), length=1)
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.1, share=(True, True))
    for axis, drawn_from, pi in zip(axes[0], (policy, rare), (0.1, 0.001), strict=True):
        for seed in range(4):
            draws = drawn_from.sample(1000, prompt=prompt, generator=generator(seed, "running"))
            weights = (draws[:, 0] == 0) / pi
            axis.plot(weights.cumsum(0) / torch.arange(1, 1001), lw=1)
        axis.axhline(1, color="black", lw=0.8, ls="--")
        axis.set(title=f"$\\pi(a) = {pi}$", xlabel="draws from $\\pi$", ylim=(-0.1, 4))
    axes[0, 0].set_ylabel("running mean of $w$")
    display(figure)

draws = policy.sample(1000, prompt=prompt, generator=generator(0, "running"))[:, 0]
print("1,000 draws, q uniform:    ESS", round(effective_sample_size((uniform / p)[draws].log())))
print("1,000 draws, q point mass: ESS", int((draws == 0).sum()), "(the draws that were a)")

# %% [markdown]
# ## 6. The stop-gradient
#
# The stop-gradient $\mathrm{sg}(u)$ has the value of $u$ and the derivative of a constant. In
# PyTorch it is `u.detach()`. With it one can write down a number whose *gradient* is a wanted
# vector although its *value* is not the thing being optimised. Such a number is a **surrogate**.
#
# Take $p = \pi(y)$ and three expressions:
#
# $$A = -\mathrm{sg}(p) \log p, \qquad B = -p \log p, \qquad C = \frac{\mathrm{sg}(p)}{p}.$$
#
# $A$ is the DFT loss of one token. $A$ and $B$ have the same value. By the product rule
#
# $$\nabla A = -p\, \nabla \log p, \qquad
# \nabla B = -(\nabla p) \log p - p\, \nabla \log p = -(1 + \log p)\, p\, \nabla \log p.$$
#
# The factor $1 + \log p$ is negative below $p = 1/e \approx 0.37$: descending $B$ pushes such a
# token **down**. And $C$ equals 1 for every $p$, yet
#
# $$\nabla C = \mathrm{sg}(p)\, \nabla \frac{1}{p} = -\frac{p}{p^2}\, \nabla p = -\nabla \log p,$$
#
# the gradient of the SFT loss. A value that never changes can train a model.

# %%
expressions = {
    "A  -sg(p) log p": lambda t: dt.dft.surrogate(t, reduction=dt.SumOver()),
    "B  -p log p": lambda t: -(t.logp.exp() * t.logp).sum(),
    "C  sg(p) / p": lambda t: (t.logp.detach() - t.logp).exp().sum(),
}
for name, expression in expressions.items():
    value = expression(policy.stats(prompt, policy.responses()[:1]))  # the token a, p = 0.1
    slope = enumeration.gradient(value, policy)
    print(f"{name:16s} value {value.item():.4f}   gradient {slope.numpy().round(3)}")
print(dt.claim("stop-gradient-ratio").verify())
print(dt.claim("stop-gradient-decides-the-sign").verify())

# %% [markdown]
# The left panel draws the common value of $A$ and $B$. The right panel draws what each does to the
# logit of the target, on two tokens: above zero the target goes up.

# %%
grid = torch.linspace(0.005, 0.995, 100, dtype=torch.float64)
cases = [TokenCase(torch.stack([g.logit(), g * 0]), 0, "two tokens") for g in grid]
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.2)
    left, right = axes[0]
    left.plot(grid, -grid * grid.log(), color=style.PALETTE["black"])
    left.set(title="value", ylabel="$-p \\log p$")
    right.plot(grid, [-float(c.logit_gradient(dt.dft)[0]) for c in cases], color=dt.dft.style.color)
    right.plot(grid, [-float(entropy_like(c)) for c in cases], color=dt.sft.style.color, ls="--")
    right.axhline(0, color="black", lw=0.7)
    right.annotate("$A$: with stop-gradient", (0.5, 0.262), color=dt.dft.style.color, ha="center")
    right.annotate("$B$: without", (0.56, 0.06), color=dt.sft.style.color)
    right.set(title="push on the target's logit", ylabel="descent direction", ylim=(-0.13, 0.3))
    for axis in axes[0]:
        axis.axvline(torch.e**-1, color="black", lw=0.7, ls=":")
        axis.set_xlabel("probability $p$ of the target")
    right.annotate("$1/e$", (0.38, -0.12))
    display(figure)

# %% [markdown]
# So the printed value of a surrogate means nothing by itself. Watch it during training: below, the
# token $a$ starts at $p = 0.02$ and DFT trains it with plain gradient descent. Learning never goes
# backwards, and the printed loss rises first and falls later.

# %%
learner = dt.TabularPolicy(torch.tensor([[[0.02, 0.38, 0.6]]]).double().log(), length=1)
optimiser = torch.optim.SGD(learner.parameters(), lr=1.0)
learned, printed = [], []
for _ in range(120):
    stats = learner.stats(prompt, learner.responses()[:1])
    loss = dt.dft.surrogate(stats, reduction=dt.SumOver())
    learned.append(stats.logp.exp().item())
    printed.append(loss.item())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=1.9)
    axes[0, 0].plot(printed, color="black")
    axes[0, 1].plot(learned, color=dt.dft.style.color)
    axes[0, 0].set(title="the loss that is printed", ylabel="$-p \\log p$", ylim=(0, 0.42))
    axes[0, 1].set(title="what is learned", ylabel="$p$", ylim=(0, 1))
    for axis in axes[0]:
        axis.set_xlabel("step")
    display(figure)

# %% [markdown]
# What can be read and compared is a **potential**: a function whose true gradient, without any
# stop-gradient, is that of the surrogate. For DFT it is $-p$, for SFT $-\log p$. Not every
# objective has one ([05 A zoo in one frame](05_a_zoo_in_one_frame.ipynb)).

# %%
t = policy.stats(prompt, policy.responses()[:1])
potential = dt.dft.potential_value(t, reduction=dt.SumOver())
slope = enumeration.gradient(potential, policy)
print(f"-p               value {potential.item():.4f}   gradient {slope.numpy().round(3)}, as A's")
print(dt.claim("dft-loss-value-misleads").verify())

# %% [markdown]
# ## What could go wrong
#
# - **A forgotten `detach`.** The loss looks the same to the last digit, and rare tokens are
#   unlearned. Compare gradients, never values: `dft-theory check` does.
# - **Weights without support.** Where $\pi(y) = 0$ and $q(y) > 0$ the weight does not exist and the
#   identity is false. A softmax is never 0 on paper; in float32 a product of many probabilities is.
# - **A mean that is right and useless.** Importance weighting is unbiased for every $\pi(a) > 0$.
#   The second panel of section 5 is unbiased too.
# - **A score read as a step.** $s(y)$ is a gradient in the logits. In a network it is multiplied by
#   the Jacobian of the logits, and Adam rescales what comes out.

# %% [markdown]
# ## Exercises
#
# Each cell holds a wrong answer. Mend the function and run the cell: the check compares it with a
# claim of the package on many cases, and tells known errors by name.
#
# **1.** The gradient of $-\log \pi(y)$ in the logits. `case.probs` is $\pi$ and `case.onehot` is
# $e_y$, both of shape $[V]$.


# %%
def sft_gradient(case):
    return case.onehot - case.probs


print(dt.claim("sft-logit-gradient").check_attempt(sft_gradient))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sft_gradient(case):
#     return case.probs - case.onehot
# ```
#
# </details>
#
# **2.** The score of $y^\star$ from its probability. `case.probs` holds $\pi(y)$ of all responses
# with its graph, `case.held_probs` the same as constants, `case.index` is the place of $y^\star$,
# and `case.gradient(value)` differentiates in the parameters.


# %%
def score(case):
    return case.gradient(case.probs[case.index])


print(dt.claim("log-derivative").check_attempt(score))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def score(case):
#     return case.gradient(case.probs[case.index]) / case.held_probs[case.index]
# ```
#
# </details>
#
# **3.** Kish's effective sample size of the weights `case.importance`, shape $[N]$.


# %%
def ess(case):
    return len(case.importance)


print(dt.claim("effective-sample-size-of-weights").check_attempt(ess))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def ess(case):
#     return case.importance.sum() ** 2 / case.importance.square().sum()
# ```
#
# </details>
#
# **4.** The gradient of $\mathrm{sg}(\pi) / \pi$ at $y^\star$, where $\pi = \pi(y^\star)$. Its value
# is always 1. `case.scores` holds the score of every response, $[N, D]$.


# %%
def gradient_of_one(case):
    return 0 * case.scores[case.index]


print(dt.claim("stop-gradient-ratio").check_attempt(gradient_of_one))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def gradient_of_one(case):
#     return -case.scores[case.index]
# ```
#
# </details>

# %% [markdown]
# ## Sources

# %%
works = ("williams1992reinforce", "sutton1999policy", "wu2025dft")
display(Markdown("\n".join(f"- {format_citation(citation(key))}" for key in works)))

# %% [markdown]
# Next: [02 SFT is a policy gradient](02_sft_is_a_policy_gradient.ipynb) puts the three tools
# together.
