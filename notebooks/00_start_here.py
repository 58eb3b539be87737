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
# # Start here: one identity
#
# *SFT is a policy gradient, and DFT removes its weight: enumerated on nine responses.*
# 10 minutes. Needs softmax and gradients.
#
# Supervised fine-tuning (SFT) raises the log-probability of a demonstration $y^\star$:
#
# $$\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\nabla_\theta \log \pi_\theta(y^\star \mid x).$$
#
# Reinforcement learning raises the expected reward of what the model itself writes:
#
# $$\nabla_\theta J = \mathbb{E}_{y \sim \pi_\theta}[r(y)\, \nabla_\theta \log \pi_\theta(y|x)].$$
#
# Dynamic Fine-Tuning (DFT; Wu et al., arXiv 2508.05629) starts from the remark that the first is an
# instance of the second. This page checks it on a policy small enough to hold in the hand.

# %%
# %matplotlib inline
try:
    import torch
    from IPython.display import display

    import dft_theory as dt
    from dft_theory import enumeration
    from dft_theory.figures import style
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks]'"
    ) from None

policy = dt.TabularPolicy.random(vocab=3, length=2, seed=0)
prompt = torch.tensor([0])
responses = policy.responses()
probs = enumeration.probabilities(policy, prompt).detach()
for y, p in zip(responses.tolist(), probs.tolist(), strict=True):
    print(y, f"{p:.4f}")

# %% [markdown]
# Nine responses, and their probabilities sum to one. Take one of them, not a likely one, as the
# demonstration, and let autograd differentiate the loss that trains. The policy is a table of
# logits for two prompts; the gradient below is that of the first one, a row for each position and
# a column for each token.

# %%
demo = responses[probs.argmin()].unsqueeze(0)
stats = policy.stats(prompt, demo)
loss = dt.sft.surrogate(stats, reduction=dt.SumOver())
by_autograd = enumeration.gradient(loss, policy)
print("demonstration", demo[0].tolist(), f"probability {float(probs.min()):.4f}")
print(by_autograd.reshape(2, 2, 3)[0].numpy().round(4))

# %% [markdown]
# Now the policy gradient: sum over *every* response the reward $\mathbf{1}[y = y^\star]$, times the
# weight $1/\pi_\theta(y \mid x)$, times the score. Only one response has a reward, and the weight
# makes up exactly for how rarely it would be drawn.


# %%
def reward_times_weight(y: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
    """1[y = y*] / pi(y|x)."""
    return (y == demo).all(-1) * torch.exp(-logp)


summed = -enumeration.policy_gradient(policy, prompt, reward_times_weight)
print("largest difference", float((summed - by_autograd).abs().max()))

# %% [markdown]
# In a picture: left the nine probabilities, right what each response adds to that sum in front of
# its score, $\pi_\theta(y|x)$ times reward times weight. Only the demonstration adds anything, and
# it adds exactly 1, however improbable it is.

# %%
names = ["".join(map(str, y)) for y in responses.tolist()]
added = probs * reward_times_weight(responses, probs.log())
colours = [
    style.PALETTE["vermilion" if y == demo[0].tolist() else "grey"] for y in responses.tolist()
]
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=1.9)
    for axis, bars in zip(axes[0], (probs, added), strict=True):
        axis.bar(names, bars.numpy(), color=colours)
        axis.set_xlabel("response $y$")
    axes[0, 0].set(ylabel=r"$\pi_\theta(y|x)$", title="how probable")
    axes[0, 1].set(
        ylabel=r"$\pi_\theta \cdot \mathbf{1}[y = y^\star] / \pi_\theta$", title="what it adds"
    )
    display(figure)

# %% [markdown]
# That is the identity. The package states it as a *claim*: two sides from independent routes, a
# tolerance that counts rounding units, and wrong versions ("mutants") that it must reject. The line
# it prints gives the number of cases (here nine demonstrations for each of two prompts), the share
# of the tolerance that the worst of them uses, and the mutants rejected.

# %%
print(dt.claim("sft-is-policy-gradient").verify(policy))

# %% [markdown]
# DFT multiplies each token's loss by its own probability, held constant, so that the weight $1/p$ of
# the token is gone. What remains is the gradient of the probabilities themselves. That is the first
# claim below. The second says why the factor is held constant: without that, the product rule adds
# a term, and tokens below $p = 1/e$ are pushed down.

# %%
print(dt.claim("token-dft-ascends-expected-hits").verify(policy))
print(dt.claim("stop-gradient-decides-the-sign").verify(policy))

# %% [markdown]
# Does $1/\pi$ make the SFT gradient explode on rare tokens? The weight does grow without bound; the
# gradient does not. It is largest on rare tokens and never exceeds $\sqrt 2$ in the logits, while
# DFT's vanishes there.
#
# ![Norm of the logit gradient against the probability of the target](../paper_figures/out/gradient_norm.png)

# %% [markdown]
# And $1/\pi$ is a choice: sample from any other distribution $q$ and the weight becomes $1/q$, with
# the same gradient. So the weight alone explains nothing. Nor does its variance: an estimator that
# did sample $y \sim \pi$ would be as noisy under DFT, relative to its mean, as under SFT. What DFT
# changes is *how the tokens share the update*, and whether that helps depends on the model and on
# the data.

# %%
print(dt.claim("any-proposal-gives-the-identity").verify(policy))
print(dt.claim("relative-variance-does-not-change").verify(policy))

# %% [markdown]
# Both happen, as toy transformers show whose accuracy is known exactly. In the upper row, orange
# where DFT ends above SFT and blue where below, over how much of the task the base already knows
# (across) and how many demonstrations are wrong (up), sampled and greedily:
#
# ![Where DFT ends above SFT and where below](../paper_figures/out/capability_continuum.png)
#
# [Notebook 06](06_a_toy_transformer_fine_tuned.ipynb) takes that picture apart.

# %% [markdown]
# Next: [01 Score functions](01_score_functions.ipynb) works the tools out by hand. On the command
# line, `dft-theory verify` checks all claims, `dft-theory reproduce` writes them as a page, and
# `experiments/real_model_tokens.py` repeats the identity on a real language model.
