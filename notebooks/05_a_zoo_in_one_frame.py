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
# # A zoo in one frame
#
# *The catalogue as weights and rewards, which of them have a loss, and the x-ray of your own.*
# 20 minutes. Needs a look at [04 Dynamics](04_dynamics.ipynb).
#
# DFT is one of some thirty published ways to change the loss of supervised fine-tuning. Each comes
# with a name, a motivation and a notation of its own. In the logits of one token they are all the
# same kind of object. This page puts them side by side as curves, and asks three questions of each:
#
# - What **weight** does it give to a demonstrated token of probability $p$, and what reward is that?
# - Is it the gradient of **a loss** at all?
# - **Where does it end**, if demonstrations disagree?
#
# At the end you x-ray a loss of your own. [04 Dynamics](04_dynamics.ipynb) explains the third
# question for the powers of $p$; here its answers are quoted.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import math

    import torch

    import dft_theory as dt
    from dft_theory import dynamics
    from dft_theory.figures import style, xray
    from dft_theory.figures.interactive import Sliders
    from dft_theory.logprobs import target_stats
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks,testing]'"
    ) from None

# %% [markdown]
# ## 1. The frame
#
# At one position the model has logits $z$ and $\pi = \mathrm{softmax}(z)$; the demonstrated token is
# $y$ and $p = \pi(y)$. Let an update pull at the log-probability of every token $v$ with a force
# $A(v)$, held constant and perhaps 0. With $\nabla_z \log \pi(v) = e_v - \pi$,
#
# $$g = \sum_v A(v)\, \nabla_z \log \pi(v) = A - \Big(\sum_v A(v)\Big)\, \pi .$$
#
# Most methods touch the demonstrated token alone: $A = w\, e_y$. Then one number, the weight $w$,
# says everything:
#
# $$g = w\,(e_y - \pi).$$
#
# **The reward in disguise.** The policy gradient of a one-step reward $R(v)$ is
#
# $$\mathbb{E}_{v \sim \pi}\big[R(v)\, \nabla_z \log \pi(v)\big]
#   = \sum_v \pi(v)\, R(v)\, \nabla_z \log \pi(v) .$$
#
# Compare with $g$ term by term: $A(v) = \pi(v)\, R(v)$. Every update of the frame is a policy
# gradient with the reward $R(v) = A(v)/\pi(v)$. For a single weight this is
#
# $$R(v) = \mathbf{1}[v = y]\; \frac{w}{p} .$$
#
# SFT has $w = 1$ and the reward $1/p$. DFT has $w = p$ and the reward 1. That a method "is" a policy
# gradient is therefore no distinction. Its reward is.

# %%
print(dt.claim("weight-is-reward-times-probability").verify())

# %% [markdown]
# ## 2. The catalogue
#
# What may the weight read? The answer sorts the zoo:
#
# | family | the weight is a function of | examples |
# |---|---|---|
# | probability | the target's $p$ | DFT, $p^\alpha$, focal, CHORD-φ |
# | state | the whole next-token distribution | EAFT, IDFT, SRFT |
# | anchored | also a second target: a reference, or the model itself | ASFT, GEM, label smoothing |
# | ratio | $p$ over that of another policy | iw-SFT, PSFT, minorSFT |
# | sampled | rewards of samples, or comparisons | REINFORCE, GRPO, DPO |

# %%
for family in ("probability", "state", "anchored", "ratio", "sampled"):
    print(f"\n{family.upper():42s}WEIGHT")
    for o in dt.OBJECTIVES:
        if o.family == family:
            print(f"  {o.title:40s}{o.equation}")

# %% [markdown]
# In these formulas `H` is the entropy of the next-token distribution and `pi_ref` a frozen reference
# model. `q` is the model itself or an earlier copy, and `rho` its ratio to an earlier copy. `A` beside
# a `w` is the update's pull on other tokens; as a weight of REINFORCE and GRPO it is the advantage.
# Most other letters are constants of the method; `dt.objective(name).note` says more of each.
#
# ## 3. Functions of $p$
#
# Write such an objective as a loss $f(p)$. Since $\nabla_z\, p = p\,(e_y - \pi)$,
#
# $$-\nabla_z f(p) = -f'(p)\, p\, (e_y - \pi)
#   \qquad\Longrightarrow\qquad w(p) = -p\, f'(p).$$
#
# The converse holds as well: any $w(p)$ has the loss $f(p) = \int_p^1 w(s)/s\; \mathrm{d}s$. So a
# stop-gradient on a function of $p$ alone hides an ordinary loss. Some of them:
#
# | objective | loss $f(p)$ | weight $-p f'(p)$ |
# |---|---|---|
# | SFT | $-\log p$ | $1$ |
# | DFT | $-p$ | $p$ |
# | $p^\alpha$ (generalised cross-entropy) | $(1 - p^\alpha)/\alpha$ | $p^\alpha$ |
# | mixture of DFT and SFT | $-\alpha p - (1-\alpha) \log p$ | $\alpha p + 1 - \alpha$ |
# | Taylor cross-entropy of order $t$ | $\sum_{i=1}^{t} (1-p)^i/i$ | $1 - (1-p)^t$ |
# | CHORD-φ | $\tfrac12 (1-p)^2$ | $p\,(1-p)$ |
# | focal loss | $-(1-p)^\gamma \log p$ | $(1-p)^\gamma - \gamma p (1-p)^{\gamma-1} \log p$ |
#
# The package checks each row against automatic differentiation of the loss:

# %%
for name in (
    "power-weights-are-generalised-cross-entropy",
    "taylor-weights",
    "chord-weight-descends-a-square",
    "focal-weights",
):
    print(f"{name:44s}", dt.claim(name).verify())

# %% [markdown]
# The package's figure draws every function of $p$ in the catalogue: in the top row the weights, in
# the middle the implied rewards, at the bottom the time in which one token of two is lifted from $p$
# to $1/2$.
#
# ![Weight, implied reward and learning time of every weight that is a function of p](../paper_figures/out/implied_reward.png)
#
# Read the left end for what happens to surprising tokens, and the right end for what happens to
# tokens already known. A weight that vanishes like $p^a$ needs a time like $1/p^a$ to learn a rare
# token. A floor $c$ costs a factor $1/c$ once, whatever the rarity. A weight that grows as $p$ falls
# spends the gradient on the least likely demonstrations, which are also the likeliest errors.
#
# **Move it yourself.** The weight $\max(p^\alpha, c)$ holds SFT ($\alpha = 0$), DFT
# ($\alpha = 1$), the powers between and beyond, and the floor. With a kernel running
# (`make notebooks`) the next cell has a slider for each of $\alpha$, $c$ and a token's $p$. Without
# one it shows five exponents, and dashed the floor $c = 0.1$ under DFT.


# %% tags=["thumbnail"]
grid = torch.logspace(-4, 0, 200, dtype=torch.float64)


def with_floor(alpha, floor):
    """max(p^alpha, floor) on the grid."""
    return dt.power(alpha).weight_at(grid).clamp_min(floor)


def curves(axes, rows):
    """Weights and implied rewards; rows are (alpha, floor, colour)."""
    for alpha, floor, colour in rows:
        weight = with_floor(alpha, floor)
        label = f"α = {alpha:.2g}" + (f", c = {floor:.2g}" if floor else "")
        look = {"color": colour, "ls": "--" if floor else "-", "label": label}
        axes[0].plot(grid, weight, **look)
        axes[1].plot(grid, weight / grid, **look)
    for axis, name in zip(axes, ("weight $w(p)$", "implied reward $w(p)/p$"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="probability $p$ of the target", ylabel=name)
    axes[0].set_ylim(1e-4, 30)
    axes[1].set_ylim(0.03, 1e5)


def weight_and_reward(alpha, floor, log10_p):
    """One weight, and one token marked on it."""
    near = int((grid.log10() - log10_p).abs().argmin())
    weight, p = float(with_floor(alpha, floor)[near]), float(grid[near])
    with style.use():
        figure, axes = style.panels(1, 2, width=style.TEXT, height=2.3)
        curves(axes[0], [(alpha, floor, "#0072B2")])
        axes[0, 0].plot(p, weight, "o", color="#D55E00")
        axes[0, 1].plot(p, weight / p, "o", color="#D55E00")
        axes[0, 0].set_title(f"at p = {p:.2g}: weight {weight:.2g}")
        axes[0, 1].set_title(f"reward {weight / p:.2g}, pull on the logit {weight * (1 - p):.2g}")
    return figure


with style.use():
    still, axes = style.panels(1, 2, width=style.TEXT, height=2.3)
    colours = {-0.5: "#CC79A7", 0.0: "#0072B2", 0.5: "#009E73", 1.0: "#D55E00", 2.0: "#555555"}
    curves(axes[0], [(alpha, 0.0, colour) for alpha, colour in colours.items()])
    curves(axes[0], [(1.0, 0.1, "#D55E00")])
    axes[0, 1].legend(loc="upper left", bbox_to_anchor=(1, 1))
Sliders(
    weight_and_reward, still, {"alpha": (-1, 2, 1), "floor": (0, 1, 0), "log10_p": (-4, -0.01, -1)}
)

# %% [markdown]
# ## 4. Functions of the state
#
# A token can be unlikely in two ways: the model is sure of something else, or of nothing. A
# function of $p$ cannot tell them apart. EAFT's weight is the entropy of the 20 likeliest tokens,
# divided by 3, which is about $\ln 20$: in the first state it holds back, in the second it trains
# rare tokens as SFT does. Below, 1,000 tokens; left, one rival holds the rest of the probability;
# right, 999 rivals share it.
#
# ![Weights where one rival holds the rest, and where 999 share it](../paper_figures/out/state_weights.png)
#
# SRFT appears twice: its paper multiplies by $e^{-H}$, its released code by $e^{+H}$.

# %%
for name in ("entropy-tells-conflict-from-diffuse", "srft-trusts-certain-demonstrations"):
    verdict = dt.claim(name).verify()
    print(f"{name}: {verdict.words}\n    {verdict}")

# %% [markdown]
# ## 5. Is there a loss?
#
# A trainer prints a number called loss. With a stop-gradient inside, the direction it follows need
# not be the gradient of that number, nor of any other. When is $g = w\,(e_y - \pi)$ a gradient in
# the logits? Exactly if its Jacobian $J$ is symmetric. Differentiate the product:
#
# $$J = (e_y - \pi)\,(\nabla_z w)^\top - w\,\big(\mathrm{diag}(\pi) - \pi \pi^\top\big).$$
#
# The second term is symmetric. The first is an outer product, symmetric only if both vectors are
# parallel:
#
# $$J = J^\top \iff \nabla_z w \;\parallel\; e_y - \pi .$$
#
# And $e_y - \pi$ is the direction of $\nabla_z\, p$. So for a stop-gradient weight the answer is
# short: **there is a loss where $w$ depends on the logits through $p$ alone, and none otherwise.**
# EAFT, IDFT, SRFT and DEFT (Rényi) have none.
#
# A picture without calculus: walk once around a circle in the space of logits and add up the work
# $g \cdot \mathrm{d}z$. In a landscape you are back at the height where you began. (The circle is
# off-centre on purpose. Around a state in which both rivals are alike, symmetry hides the effect.)

# %%
turn = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
plane = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
plane = plane / plane.norm(dim=-1, keepdim=True)
centre = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
ring = centre + 1.5 * torch.stack([turn.cos(), turn.sin()], -1) @ plane  # [721, 3]: three tokens
middle, step = (ring[1:] + ring[:-1]) / 2, ring.diff(dim=0)
stats = target_stats(
    middle.unsqueeze(0),
    torch.zeros(1, 720, dtype=torch.long),
    needs=("entropy", "log_probs", "targets"),
)
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.4)
    axis = axes[0, 0]
    for name in ("sft", "dft", "chord-phi", "eaft", "idft-1", "deft-renyi"):
        o = dt.objective(name)
        work = (o.field(stats)[0] * step).sum(-1).cumsum(0)
        axis.plot(
            turn[1:] / (2 * math.pi), work, color=o.style.color, ls=o.style.linestyle,
            label=f"{o.title}: {float(work[-1]):+.3f}".replace("-0.000", "+0.000"),
        )  # fmt: skip
    axis.axhline(0, color="#888888", lw=0.7)
    axis.set(xlabel="way around the circle", ylabel="work so far (nats)")
    axis.set(title="after one turn: back at zero, or not")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# EAFT, IDFT and DEFT come home with a difference: their field is not the slope of any landscape. The
# printed loss may still fall, but it is not the quantity that the update descends, and there is none.
# DFT's printed loss is not that quantity either, but $-p$ is: finite differences of $-p$ agree with
# DFT's update. With EAFT's no function does. The x-ray measures the same in one number, the
# asymmetry of the Jacobian:

# %%
print(f"{'objective':26s}{'potential':11s}{'asymmetry':>10s}   weight depends on")
for name in ("dft", "gem-0.7", "eaft", "idft-1", "deft-renyi"):
    seen = dt.xray(name)
    size = f"{seen.asymmetry:.2f}"
    depends = ", ".join(("p", *seen.depends_on))
    print(
        f"{dt.objective(name).title:26s}{'yes' if seen.potential else 'no':11s}{size:>10s}   {depends}"
    )

# %% [markdown]
# GEM reads the rivals and has a loss all the same. Its update is no single weight: its second target
# is the gradient of a function of its own. Weights that read the *batch* (TALR's median loss, DEFT's
# mean probability) have no potential: token $i$'s weight moves with token $j$'s logits, and not in
# the same way the other way round.
#
# One trap: with $V = 2$ every field has a potential, for a line has no room to turn. A test on
# binary toys cannot see the difference (claim `two-tokens-always-have-a-potential`).

# %%
print(dt.claim("weights-turn-off-the-score").verify())
print("no potential:", ", ".join(o.name for o in dt.OBJECTIVES if o.potential is None))

# %% [markdown]
# ## 6. Where they end
#
# Let demonstrations of frequencies $r(v)$ compete in one state, and train a table to the end. The
# *population optimum* is the shortest description of an objective that there is.
#
# **Weights that ignore the target keep the data.** If $w$ depends on the state only, the average
# update is $w \sum_v r_v (e_v - \pi) = w\,(r - \pi)$, zero at $\pi = r$. EAFT and SRFT change when
# something is learned, and not what.
#
# **Weights that read $p$ move the optimum.** $p^\alpha$ ends at $r^{1/(1-\alpha)}$, DFT at the
# mode. CHORD-φ ends at $\max(0, 1 - \nu/r_v)$, with the $\nu$ that makes the sum 1: it keeps a few
# responses and drops the rest.
#
# **A second target is more data.** The update of SFT with a KL anchor averages to
# $(r - \pi) + \lambda\,(b - \pi)$ with the reference $b$. It vanishes at
# $\pi = (r + \lambda b)/(1 + \lambda)$. Label smoothing is the same with a uniform $b$. GEM replaces
# the model's own term by a sharpened one, $r - \mathrm{softmax}(z/\beta)$, so the end is flatter
# than the data, $r^\beta$.

# %%
r = torch.tensor([0.50, 0.30, 0.15, 0.05], dtype=torch.float64)
b = torch.tensor([0.10, 0.20, 0.30, 0.40], dtype=torch.float64)
rows = {"data r": r, "reference b": b}
for name in ("sft", "eaft", "power-0.5", "dft", "chord-phi", "power--0.5", "gem-0.7"):
    o = dt.objective(name)
    rows[o.title] = o.optimum(r)
rows["Label smoothing, ε = 0.1"] = dt.objective("label-smoothing-0.1").optimum(r)
rows["SFT + 0.1 KL(ref‖π)"] = dt.objective("sft-kl-0.1").optimum(r, b)
rows["ASFT, λ = 0.05"] = dt.objective("asft-0.05").optimum(r, b)
table = torch.stack(list(rows.values())).numpy()
with style.use():
    figure, axes = style.panels(1, 1, width=4.2, height=3.2)
    axis = axes[0, 0]
    axis.imshow(table, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for i, row in enumerate(table):
        for k, value in enumerate(row):
            ink = "white" if value > 0.6 else "black"
            axis.text(k, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    axis.axhline(1.5, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_xticks(range(4), [f"response {k + 1}" for k in range(4)])
    axis.set_title("probability at the end of training")
    axis.grid(visible=False)
figure

# %% [markdown]
# The closed forms are declared by the objectives. An integrated flow that knows nothing of them
# ends in the same place:

# %%
for name, long in (("sft", 1e3), ("eaft", 1e4), ("power-0.5", 1e4), ("gem-0.7", 1e3), ("dft", 1e6)):
    o = dt.objective(name)
    time = torch.tensor([long], dtype=torch.float64)
    end = dynamics.flow(o, start=torch.zeros_like(r), demos=r, times=time)[0].softmax(-1)
    far = float((end - o.optimum(r)).abs().max())
    print(f"{o.title:22s} within {'1e-4' if far < 1e-4 else f'{far:.1e}'} of its optimum")
for name in ("declared-optimum-is-stationary", "state-weights-keep-the-data"):
    print(f"{name:32s}", dt.claim(name).verify())

# %% [markdown]
# ## 7. X-ray of a loss you bring
#
# Nothing above needs the source of a loss. Its gradient in the logits is enough: put one target at
# probability $p$, measure the pull on its logit, divide by $1 - p$, and that is the weight. `xray`
# does so on a grid of $p$, for several ways to spread the rest, and looks for relatives in the
# catalogue.
#
# Here is a loss that is not in the catalogue. It takes the logarithm of $p + c$, so that it stays
# bounded when $p = 0$. What does that do?


# %%
def bounded_log(logits, labels, num_items=None):
    """Mean of -log(p + 0.05) over targets."""
    targets = labels[:, 1:]
    logp = torch.log_softmax(logits[:, :-1], -1)
    p = logp.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1).exp()
    kept = targets != -100
    count = kept.sum().clamp_min(1) if num_items is None else num_items
    return torch.where(kept, -(p + 0.05).log(), 0.0).sum() / count


own = dt.xray(bounded_log)
print(own)

# %% [markdown]
# The weight is $p/(p + c)$: DFT with 20 times the learning rate far below $c = 0.05$, and SFT far
# above it. It is the likelihood of a model that admits that a label may be noise: with a share
# $\eta$ of uniform labels, $(1 - \eta)\, p + \eta/V$ is proportional to $p + c$. Compare it with
# the floor, which does the opposite at the same place: $\max(p, c)$ is SFT below $c$ (at $c$ times
# the learning rate) and DFT above.

# %%
with style.use():
    figure = xray.draw([own, dt.xray(dt.floored(0.05)), dt.xray("power-0.5")])
figure

# %% [markdown]
# A second one weights by how the target compares with the model's favourite, $p/\max_v \pi(v)$.
# Reasonable, and close to DFT. But it reads the state:


# %%
def against_the_favourite(logits, labels, num_items=None):
    """Mean of -sg(p / max pi) log p over targets."""
    targets = labels[:, 1:]
    logp = torch.log_softmax(logits[:, :-1], -1)
    own = logp.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    kept = targets != -100
    weight = (own - logp.amax(-1)).exp().detach()
    count = kept.sum().clamp_min(1) if num_items is None else num_items
    return torch.where(kept, -weight * own, 0.0).sum() / count


print(dt.xray(against_the_favourite))

# %% [markdown]
# "Potential: none". With that one line you know that the update descends neither the number that it
# prints nor any other, and that no finite-difference test of it can pass.
#
# ## What could go wrong
#
# - **One token is not a model.** The frame describes the pull on the logits of one position.
#   Between positions the weights compete for shared parameters, and there only their ratios count.
# - **The optimum is not the result.** A weight that vanishes at rare tokens may never get near its
#   optimum in a run of ordinary length.
# - **Normalisers hide in reductions.** Averaging over the *kept* tokens multiplies a threshold's
#   learning rate by $N/N_{\mathrm{kept}}$ (claim `kept-tokens-change-the-learning-rate`).
# - **A name is not a formula.** Papers and released code disagree more than once (SRFT's sign,
#   EAFT's constant). X-ray the function that you call, not the one you read about.
# - **Nearest is not near.** For an unknown loss `xray` names the nearest relative with a distance.
#   At a distance of 0.3 the two have little in common but a tendency.
#
# ## Exercises
#
# Each function gets a *case* of a claim and returns the claim's right-hand side. What stands there
# is wrong on purpose.
#
# **1.** The pull of $p^\alpha$ on the target's logit is $p^\alpha (1-p)$. At which $p$ is it
# largest? `case.value` is $\alpha$. (Page 04 asked for the speed of $p$ itself, which has another
# maximum.)


# %%
def steepest(case):
    """The probability that p^alpha moves most."""
    return 1 / (1 + case.value)


print(dt.claim("steepest-probability").check_attempt(steepest))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def steepest(case):
#     return case.value / (1 + case.value)
# ```
#
# </details>
#
# **2.** Derive the population optimum of CHORD-φ. `case.demos` is $r$; return a distribution of the
# same shape. Hint: which $\pi$ makes $r_v\,(1 - \pi_v)$ the same for all responses that keep a
# probability? For the others $r_v$ lies below that level. Start with all responses, and drop the
# rarest until this is so.


# %%
def water_filling(case):
    """Where CHORD's weight ends."""
    return case.demos


print(dt.claim("chord-optimum-is-water-filling").check_attempt(water_filling))

# %% [markdown]
# <details><summary>Solution</summary>
#
# Over the $n$ most frequent responses $\sum (1 - \nu/r_v) = 1$ gives $\nu = (n-1)/\sum 1/r_v$.
#
# ```python
# def water_filling(case):
#     r = case.demos.sort(descending=True).values
#     for n in range(len(r), 0, -1):
#         level = (n - 1) / (1 / r[:n]).sum()
#         if level < r[n - 1]:
#             break
#     return (1 - level / case.demos).clamp_min(0)
# ```
#
# </details>
#
# **3.** GEM ends at $r^\beta$, here with $\beta = 0.7$. With which $\alpha$ does $p^\alpha$ end
# there? Try values until the difference vanishes, then derive it.

# %%
guess = -0.3
gap = dt.power(guess).optimum(r) - dt.objective("gem-0.7").optimum(r)
print("right" if float(gap.abs().max()) < 1e-9 else f"not yet: off by {float(gap.abs().max()):.3f}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Section 6 has the exponents: $1/(1 - \alpha) = \beta$, so $\alpha = 1 - 1/\beta$.
#
# ```python
# guess = 1 - 1 / 0.7
# ```
#
# </details>
#
# **4.** Write a loss of which `xray` says that it *is* the focal loss with exponent 2. Change the
# one below. (Beware: a stop-gradient on the factor gives another weight.)


# %%
def mine(logits, labels):
    """Sum over targets."""
    targets = labels[:, 1:]
    logp = torch.log_softmax(logits[:, :-1], -1)
    own = logp.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    factor = (1 - own.exp()).square().detach()
    return torch.where(targets != -100, -factor * own, 0.0).sum()


seen = dt.xray(mine)
print(
    "right" if seen.nearest.exact and seen.nearest.name == "focal-2" else f"not yet: {seen.nearest}"
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The focal loss is differentiated whole, so the factor is not detached:
#
# ```python
#     factor = (1 - own.exp()).square()
# ```
#
# </details>
#
# ## Sources
#
# The catalogue cites each objective: `dft_theory.objective(name).cite` is a key of
# `dft_theory/references.bib`. Of this page: Wu et al. 2025 (DFT, arXiv 2508.05629); Zhang and
# Sabuncu 2018 (generalised cross-entropy, 1805.07836); Feng et al. 2020 (Taylor cross-entropy); Lin
# et al. 2017 (focal loss); Li et al. 2025 (probability-based objectives, 2510.00526); Zhang et al.
# 2025 (CHORD, 2508.11408); Diao et al. 2026 (EAFT, 2601.02151); Zhang et al. 2026 (IDFT,
# 2602.12222); Fu et al. 2025 (SRFT, 2506.19767); Li et al. 2024 (GEM, 2408.16673); Zhu et al. 2025
# (ASFT, 2509.23753).
#
# Next: [10 Check somebody else's loss](10_check_somebody_elses_loss.ipynb).
