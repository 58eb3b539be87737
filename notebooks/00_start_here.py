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
import torch

import dft_theory as dt
from dft_theory import enumeration

policy = dt.TabularPolicy.random(vocab=3, length=2, seed=0)
prompt = torch.tensor([0])
responses = policy.responses()
probs = enumeration.probabilities(policy, prompt).detach()
for y, p in zip(responses.tolist(), probs.tolist(), strict=True):
    print(y, f"{p:.4f}")

# %% [markdown]
# Nine responses, and their probabilities sum to one. Take one of them, not a likely one, as the
# demonstration, and let autograd differentiate the loss that trains.

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
# That is the identity. The package states it as a *claim*: two sides from independent routes, a
# tolerance that counts rounding units, and wrong versions ("mutants") that it must reject.

# %%
print(dt.claim("sft-is-policy-gradient").verify(policy))

# %% [markdown]
# DFT multiplies each token's loss by its own probability, held constant, so that the weight is
# gone. What remains is the gradient of the probabilities themselves:

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
# the same gradient. So the weight alone explains nothing. What DFT changes is *which tokens share
# the update*, and whether that helps depends on the model and on the data.

# %%
print(dt.claim("any-proposal-gives-the-identity").verify(policy))
print(dt.claim("relative-variance-does-not-change").verify(policy))

# %% [markdown]
# Next: `dft-theory verify` checks the whole ledger, `dft-theory reproduce` writes it as a page, and
# `experiments/real_model_tokens.py` repeats the identity on a real language model.
