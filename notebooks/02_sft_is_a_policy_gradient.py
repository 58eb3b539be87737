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
# # SFT is a policy gradient
#
# *The proof, the enumeration, and what 1/π does and does not mean.*
# 20 minutes. Needs [01 Score functions](01_score_functions.ipynb).
#
# The gradient of supervised fine-tuning can be written as an on-policy policy gradient with reward
# $\mathbf{1}[y = y^\star]$ and importance weight $1/\pi_\theta(y \mid x)$. The DFT paper (Wu et al.,
# arXiv 2508.05629) starts from this identity. This page proves it, enumerates it, and then asks
# what the weight $1/\pi$ does and does not explain.

# %%
# %matplotlib inline
try:
    import torch
    from IPython.display import Markdown, display

    import dft_theory as dt
    from dft_theory import enumeration
    from dft_theory.citations import citation, format_citation
    from dft_theory.claims.policy_gradient import data
    from dft_theory.claims.scope import PolicyCase
    from dft_theory.claims.variance import moments
    from dft_theory.figures import style
    from dft_theory.importance_weight import log10_samples_needed
except ModuleNotFoundError as missing:
    advice = "in the repository run `pip install -e '.[notebooks]'`, then restart the kernel"
    raise ModuleNotFoundError(f"{missing.name} is not installed: {advice}") from None

# %% [markdown]
# ## 1. The proof
#
# One prompt $x$, one demonstration $y^\star$. The SFT loss and its gradient are
#
# $$\mathcal{L}_{\mathrm{SFT}} = -\log \pi_\theta(y^\star \mid x), \qquad
# \nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\nabla_\theta \log \pi_\theta(y^\star \mid x).$$
#
# **Step 1.** Write one term as a sum over all responses, of which one counts:
#
# $$\nabla_\theta \log \pi_\theta(y^\star \mid x)
# = \sum_y \mathbf{1}[y = y^\star]\, \nabla_\theta \log \pi_\theta(y \mid x).$$
#
# **Step 2.** Multiply and divide by $\pi_\theta(y \mid x)$. This needs
# $\pi_\theta(y^\star \mid x) > 0$ and nothing else:
#
# $$= \sum_y \pi_\theta(y \mid x)\, \frac{\mathbf{1}[y = y^\star]}{\pi_\theta(y \mid x)}\,
# \nabla_\theta \log \pi_\theta(y \mid x).$$
#
# **Step 3.** Read the sum as an expectation under the policy:
#
# $$\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\,\mathbb{E}_{y \sim \pi_\theta}\left[
# \frac{\mathbf{1}[y = y^\star]}{\pi_\theta(y \mid x)}\,
# \nabla_\theta \log \pi_\theta(y \mid x) \right].$$
#
# That is the whole proof. Beside the policy gradient
# $\nabla J = \mathbb{E}_{y \sim \pi_\theta}[r(y)\, \nabla_\theta \log \pi_\theta(y \mid x)]$ the
# bracket has a reward $r = \mathbf{1}[y = y^\star]$ and a weight $w = 1/\pi_\theta(y \mid x)$. These
# are equations (5) and (6) of the paper.

# %% [markdown]
# ## 2. The enumeration
#
# Take a policy over three tokens and two positions: nine responses, so every expectation is a sum
# of nine terms. A `PolicyCase` holds a policy, a prompt and a demonstration, and enumerates what
# the formulas name.

# %%
policy = dt.AutoregressivePolicy.random(vocab=3, length=2, seed=0)
prompt = torch.tensor([0])
index = int(enumeration.probabilities(policy, prompt).argsort()[1])  # not a likely response
case = PolicyCase(policy, "nine responses", prompt, index)
drawn, counts = case.held_probs, case.reward * case.importance
print("  y        pi(y)    reward   1/pi(y)   pi * reward / pi")
for k, y in enumerate(case.responses.tolist()):
    row = case.held_probs[k], case.reward[k], case.importance[k], (drawn * counts)[k]
    print(y, ("{:10.4f}{:9.0f}{:11.2f}{:14.4f}").format(*row), "  <- y*" if k == index else "")

# %%
with style.use():
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.0)
    names = ["".join("abc"[v] for v in y) for y in case.responses.tolist()]
    titles = "how often it is drawn", "what a draw counts", "its share of the mean"
    labels = "$\\pi(y)$", "$\\mathbf{1}[y=y^\\star]\\,/\\,\\pi(y)$", "product"
    bars = drawn, counts, drawn * counts
    for axis, title, label, height in zip(axes[0], titles, labels, bars, strict=True):
        colours = [style.PALETTE["vermilion" if k == index else "grey"] for k in range(9)]
        axis.bar(names, height, color=colours)
        axis.set(title=title, ylabel=label)
    display(figure)

# %% [markdown]
# The demonstration (vermilion) is drawn with probability $\pi$ and then counts for $1/\pi$. Its share
# is exactly 1. Now both sides of the identity by independent routes: autograd of the training loss,
# which reads labels through a shift, a mask and a log-softmax; and a sum over the tree of prefixes,
# which multiplies probabilities as sampling would.

# %%
left = case.surrogate_gradient(dt.sft)
right = -case.on_policy(case.reward * case.importance)
print("size of the gradient       ", f"{float(left.norm()):.4f}")
print("sides differ by less than 1e-12:", bool((left - right).abs().max() < 1e-12))
for each in (
    policy,
    dt.TabularPolicy.random(vocab=4, length=3, seed=1),
    dt.ToyTransformer.random(vocab=3, length=2, seed=2),
):
    print(type(each).__name__, dt.claim("sft-is-policy-gradient").verify(each))

# %% [markdown]
# ## 3. From one demonstration to data
#
# A data set gives an average of such terms. Let $q(y \mid x)$ be the distribution of the
# demonstrations for the prompt $x$. The same three steps give
#
# $$\mathbb{E}_{y \sim q}[-\nabla_\theta \log \pi_\theta(y \mid x)]
# = -\,\mathbb{E}_{y \sim \pi_\theta}\left[\frac{q(y \mid x)}{\pi_\theta(y \mid x)}\,
# \nabla_\theta \log \pi_\theta(y \mid x)\right].$$
#
# With several right answers the indicator becomes a ratio. The right side of the paper's equation
# (5) averages over prompts alone and contains one $y^\star$ for each. For a prompt with two different
# answers no choice of that one makes it true in general.

# %%
print(dt.claim("data-average-is-a-sum-over-responses").verify())
print(dt.claim("stochastic-expert-needs-a-ratio").verify())
found = dt.claim("stochastic-expert-needs-a-ratio").verify().counterexample
print("smallest counterexample to the published form:", found.partition(":")[0])

# %% [markdown]
# ## 4. What $1/\pi$ does not mean (i): the weight belongs to the proposal
#
# Step 2 multiplied and divided by $\pi$. Any other distribution $q$ with $q(y^\star) > 0$ does as
# well:
#
# $$\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\,\mathbb{E}_{y \sim q}\left[
# \frac{\mathbf{1}[y = y^\star]}{q(y)}\, \nabla_\theta \log \pi_\theta(y \mid x)\right].$$
#
# The left side does not contain $q$. A weight that can be anything explains nothing about the
# gradient: it says how to correct a sampler, and SFT uses no sampler.

# %%
proposals = {
    "the policy": case.held_probs,
    "uniform": torch.full_like(case.held_probs, 1 / case.terms),
    "random": data(case),
    "0.99 on y*": 0.99 * case.reward + 0.01 / case.terms,
}
print("proposal q        q(y*)    weight 1/q(y*)    sides differ by less than 1e-12")
for name, q in proposals.items():
    mean = -(q * case.reward / q) @ case.scores
    same = bool((mean - left).abs().max() < 1e-12)
    print(f"{name:14s}{float(q[index]):9.4f}{float(1 / q[index]):18.2f}    {same}")
print(dt.claim("any-proposal-gives-the-identity").verify())

# %% [markdown]
# ## 5. What $1/\pi$ does not mean (ii): the gradient does not explode
#
# The weight grows without bound as $\pi(y^\star) \to 0$. It multiplies something that is drawn with
# probability $\pi(y^\star)$, and the product is 1. What is left is the score. In the $V$ logits $z$
# of one token, with $p$ for the vector of its probabilities, it is $e_y - p$ with squared norm
#
# $$\Vert e_y - p \Vert^2 = (1 - p_y)^2 + \sum_{v \neq y} p_v^2.$$
#
# The other probabilities sum to $1 - p_y$. Their squares sum to at most $(1 - p_y)^2$, when one
# rival has it all, and to at least $(1 - p_y)^2 / (V - 1)$, when all share it evenly. Hence
#
# $$(1 - p_y) \sqrt{\frac{V}{V - 1}} \;\leq\; \Vert \nabla_z(-\log p_y) \Vert
# \;\leq\; \sqrt{2}\,(1 - p_y) \;\leq\; \sqrt{2}.$$
#
# Rare tokens get the largest gradient, and it is bounded. The DFT gradient is $p_y$ times this and
# vanishes on rare tokens.
#
# ![Norm of the logit gradient against the probability of the target](../paper_figures/out/gradient_norm.png)

# %%
print(dt.claim("logit-gradient-lower-bound").verify())
print(dt.claim("sft-gradient-is-bounded").verify())
print(dt.claim("dft-gradient-vanishes-on-rare-tokens").verify())

# %% [markdown]
# ## 6. What $1/\pi$ does not mean (iii): the estimator nobody runs
#
# The first version of the paper speaks of unbounded, high-variance reward estimates. An estimator
# with that variance exists on paper: draw $y \sim \pi$ and return
# $\hat g = \frac{\mathbf{1}[y = y^\star]}{\pi(y)}\, s(y)$ with $s = \nabla_\theta \log \pi_\theta$.
# It is $s(y^\star) / \pi(y^\star)$ with probability $\pi(y^\star)$ and $0$ otherwise. So
#
# $$\mathbb{E}\,\hat g = s(y^\star), \qquad
# \mathbb{E}\Vert \hat g \Vert^2 = \frac{\Vert s(y^\star) \Vert^2}{\pi(y^\star)}, \qquad
# \mathrm{Var}(\hat g) = \left(\frac{1}{\pi(y^\star)} - 1\right) \Vert s(y^\star) \Vert^2.$$
#
# Three remarks:
#
# - **SFT does not run it.** The demonstration is given, nothing is drawn from the model, and this
#   variance is exactly 0. What varies in training is which demonstration comes next, and that
#   variance is at most $2T$ in the logits of $T$ tokens.
# - **DFT does not improve it.** Multiplying $\hat g$ by the constant $\pi(y^\star)$ divides its
#   mean and its standard deviation by the same number. The relative variance stays $1/\pi - 1$.
# - **On long responses nobody could run it.** The mean of $n$ draws has $1/n$ of the variance. For a
#   relative error $\epsilon$ it takes $(1/\pi - 1)/\epsilon^2$ draws.

# %%
print("          mean norm     variance   variance / mean^2    1/pi - 1")
for name, alpha in (("SFT", 0.0), ("DFT", 1.0)):
    m = moments(case, alpha)
    size, odds = float(m.mean.norm()), float(1 / case.held_probs[index] - 1)
    print(f"{name:7s}{size:12.4f}{m.variance:13.4f}{m.variance / size**2:20.4f}{odds:12.4f}")
for nats in (10, 50, 200):
    print(f"log pi = {-nats:4d} nats: 10^{log10_samples_needed(-nats):.0f} draws for 10 % error")
print(dt.claim("sampled-sft-variance").verify())
print(dt.claim("relative-variance-does-not-change").verify())
print(dt.claim("used-sft-variance-is-bounded").verify())

# %% [markdown]
# ![Variance of the sampled estimators and of the gradient that is used](../paper_figures/out/estimator_variance.png)
#
# (a) The variance of the sampled estimator falls with the weight. (b) Relative to its mean it is one
# curve for all. (c) The gradient that training uses has none of it: what varies there is which
# demonstration comes next (stars), whatever $\pi$.

# %% [markdown]
# ## 7. What $1/\pi$ does mean
#
# Three true statements remain.
#
# **It is the implied reward.** If an update with token weight $w(p)$ is *read* as a policy gradient,
# its reward for the demonstrated token is $w(p)/p$: the token is drawn with probability $p$, and
# $p \cdot w(p)/p$ is the weight. For SFT the reward is $1/p$, for DFT it is $1$. The
# left panel shows the reward, the right panel what reaches the target's logit, $w(p)\,(1 - p)$.

# %%
p = torch.logspace(-4, -0.001, 200, dtype=torch.float64)
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.3)
    for name, label in (("sft", "SFT"), ("power-0.5", "$w = p^{1/2}$"), ("dft", "DFT")):
        objective = dt.objective(name)
        axes[0, 0].plot(p, objective.implied_reward(p), color=objective.style.color, label=label)
        axes[0, 1].plot(p, objective.weight_at(p) * (1 - p), color=objective.style.color)
    axes[0, 0].set(title="reward it implies", yscale="log", ylabel="$w(p)\\,/\\,p$")
    axes[0, 1].set(title="pull on the target's logit", ylabel="$w(p)\\,(1-p)$")
    for axis in axes[0]:
        axis.set(xscale="log", xlabel="probability $p$ of the target")
    axes[0, 0].legend()
    display(figure)

# %% [markdown]
# **It decides how the update is shared.** At a single token SFT and DFT have the same direction and
# differ in length. Over many tokens the lengths differ from token to token, and so the direction of
# the sum differs: SFT gives a rare token $1/p$ times what DFT gives it.
#
# **It makes SFT fit a distribution.** In section 3 the update rests where
# $\mathbb{E}_{y \sim \pi}[(q/\pi)\, s] = 0$. With $\pi = q$ the ratio is the constant 1, and the
# score has mean zero: SFT rests at the distribution of the demonstrations. Take the $1/\pi$ away and
# $q$ is a reward like any other; a policy that collects rewards ends at its largest value. DFT
# learns the mode, the most frequent answer ([04 Dynamics](04_dynamics.ipynb)).

# %%
for name in ("weight-is-reward-times-probability", "sft-fits-the-data", "dft-learns-the-mode"):
    verdict = dt.claim(name).verify()
    print(f"{name:36s} {'holds' if verdict.holds else 'fails'}: {dt.claim(name).title}")

# %% [markdown]
# ## What could go wrong
#
# - **"SFT is on-policy RL."** The identity is exact, and the right side is never sampled. SFT does
#   not explore, and no reward has to be found.
# - **"The reward is sparse."** It would be if $y^\star$ had to be drawn. It is given.
# - **"$1/\pi$ causes instability."** The gradient in the logits is bounded by $\sqrt 2$ a token.
#   Whether large gradients on rare tokens harm generalisation is an empirical question.
# - **Whole responses in floating point.** $\pi(y^\star \mid x)$ of a long response underflows. Keep
#   $\log \pi$, and never form $1/\pi$.

# %% [markdown]
# ## Exercises
#
# Each cell holds a wrong answer; mend it. `case` is like the one above: `held_probs`, `reward`,
# `importance` have shape $[N]$, `scores` has $[N, D]$, and `index` is the place of $y^\star$.
#
# **1.** The gradient of the SFT loss as a sum over all responses.


# %%
def as_policy_gradient(case):
    return -(case.held_probs * case.reward) @ case.scores


print(dt.claim("sft-is-policy-gradient").check_attempt(as_policy_gradient))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def as_policy_gradient(case):
#     return -(case.held_probs * case.reward * case.importance) @ case.scores
# ```
#
# </details>
#
# **2.** The same from the *uniform* proposal, $q(y) = 1/N$. The answer below draws from $q$ and
# keeps the weight $1/\pi$.


# %%
def from_uniform(case):
    q = torch.full_like(case.held_probs, 1 / case.terms)
    return -(q * case.reward * case.importance) @ case.scores


print(dt.claim("any-proposal-gives-the-identity").check_attempt(from_uniform))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def from_uniform(case):
#     q = torch.full_like(case.held_probs, 1 / case.terms)
#     return -(q * case.reward / q) @ case.scores
# ```
#
# </details>
#
# **3.** The smallest bound of the form $c\,(1 - p)$ on the norm of the SFT gradient in the logits
# of one token. `case.p` is $p$, `case.rest` is $1 - p$.


# %%
def bound(case):
    return case.rest / case.p


print(dt.claim("sft-gradient-is-bounded").check_attempt(bound))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def bound(case):
#     return 2**0.5 * case.rest
# ```
#
# </details>
#
# **4.** The variance (trace of the covariance) of the sampled estimator of section 6.


# %%
def sampled_variance(case):
    square = case.scores[case.index].square().sum()
    return square / case.held_probs[case.index]


print(dt.claim("sampled-sft-variance").check_attempt(sampled_variance))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def sampled_variance(case):
#     square = case.scores[case.index].square().sum()
#     return (1 / case.held_probs[case.index] - 1) * square
# ```
#
# </details>

# %% [markdown]
# ## Sources

# %%
works = ("wu2025dft", "williams1992reinforce", "sutton1999policy", "qin2025iwsft")
display(Markdown("\n".join(f"- {format_citation(citation(key))}" for key in works)))

# %% [markdown]
# Next: [03 Reward rectification](03_reward_rectification.ipynb) takes the weight away.
