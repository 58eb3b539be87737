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
# # Dynamics: how fast, and where it ends
#
# *Escape times, end points and calibration in closed form, beside the differential equation.*
# 20 minutes. Needs the first lines of [00 Start here](00_start_here.ipynb).
#
# An objective is a direction at every point. What a model learns is where these directions lead,
# and how long the way takes. In general neither can be written down. In one case both can: a table
# of logits for one prompt, under plain gradient descent with small steps. This page derives the two
# answers for the weights $p^\alpha$, where SFT is $\alpha = 0$ and DFT is $\alpha = 1$, and puts an
# integrated differential equation beside each closed form.
#
# - **How fast:** a demonstration of probability $p_0$ takes a time that grows like $\log(1/p_0)$
#   under SFT and like $1/p_0$ under DFT.
# - **Where to:** from demonstrations that disagree, SFT learns their frequencies and DFT only the
#   most frequent one.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import numpy as np
    import torch

    import dft_theory as dt
    from dft_theory import dynamics
    from dft_theory.figures import style
    from dft_theory.figures.interactive import Sliders
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks,testing]'"
    ) from None

FAMILY = {0.0: dt.sft, 0.5: dt.power(0.5), 1.0: dt.dft, 2.0: dt.power(2.0)}
LABELS = {0.0: "SFT", 0.5: "$p^{1/2}$", 1.0: "DFT", 2.0: "$p^2$"}
COLOURS = {0.0: "#0072B2", 0.5: "#009E73", 1.0: "#D55E00", 2.0: "#555555"}

# %% [markdown]
# ## 1. One demonstration
#
# One prompt, responses of one token, $V$ tokens, logits $\theta \in \mathbb{R}^V$ and
# $\pi = \mathrm{softmax}(\theta)$. The demonstration is the token $y$, and $p = \pi(y)$. Two
# derivatives are all that is needed:
#
# $$\nabla_\theta \log p = e_y - \pi, \qquad \nabla_\theta\, p = p\,(e_y - \pi).$$
#
# The objective with weight $p^\alpha$, held constant, ascends $p^\alpha\, \nabla_\theta \log p$.
# With small steps descent follows a flow. Time is learning rate times number of steps:
#
# $$\dot\theta = p^\alpha\, (e_y - \pi).$$
#
# All weights push in the same direction $e_y - \pi$. They differ in its length. Here it is at
# $p = 0.01$ with four equally likely rivals:

# %%
first = torch.eye(5, dtype=torch.float64)[0]  # every demonstration is token 0
rare = dynamics.symmetric_start(0.01, vocab=5)
for objective in FAMILY.values():
    push = dynamics.velocity(objective, rare, first)
    print(f"{objective.title:22s}", push.numpy().round(6))

# %% [markdown]
# ### The speed of the probability
#
# By the chain rule the probability moves as
#
# $$\dot p = \nabla_\theta\, p \cdot \dot\theta
#   = p\,(e_y - \pi) \cdot p^\alpha (e_y - \pi)
#   = p^{1+\alpha}\, \lVert e_y - \pi \rVert^2 .$$
#
# One factor $p$ belongs to the softmax: a rare token is hard to move whatever the loss. The other,
# $p^\alpha$, is the weight. For the last factor,
#
# $$\lVert e_y - \pi \rVert^2 = (1-p)^2 + \sum_{v \ne y} \pi(v)^2 .$$
#
# The rivals share $1 - p$. The sum of their squares is least, $(1-p)^2/(V-1)$, if they share it
# evenly, and largest, $(1-p)^2$, if one of them has it all. Hence
#
# $$\frac{V}{V-1}\; p^{1+\alpha} (1-p)^2 \;\le\; \dot p \;\le\; 2\, p^{1+\alpha} (1-p)^2 .$$

# %%
print(dt.claim("bandit-speed-bounds").verify())

# %%
p = np.geomspace(1e-4, 0.9999, 300)
pairs = torch.tensor(np.stack([p, 1 - p], -1))  # two tokens: both bounds are the same
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.3)
    for alpha in FAMILY:
        speeds = [float(dynamics.speed(pair, 0, alpha=alpha)) for pair in pairs]
        for axis in axes[0]:
            axis.plot(p, speeds, color=COLOURS[alpha], label=LABELS[alpha])
    axes[0, 0].set(xscale="log", yscale="log", ylim=(1e-12, 1), title="rare tokens: slope 1 + α")
    axes[0, 1].set(title="the same, linear")
    axes[0, 1].legend()
    for axis in axes[0]:
        axis.set(xlabel="probability $p$ of the demonstration", ylabel="speed $dp/dt$")
figure

# %% [markdown]
# Every curve falls on both sides. Near $p = 1$ nothing is left to learn. Near $p = 0$ the softmax
# saturates: Mei et al. (2020) call it the gravity well of the softmax. A weight that shrinks
# with $p$ makes the well deeper. The fastest moment is at $p = (1+\alpha)/(3+\alpha)$: one third for SFT,
# one half for DFT. (Set the derivative of $p^{1+\alpha}(1-p)^2$ to zero.)
#
# ## 2. The time it takes
#
# Take equally likely rivals and write $k = V/(V-1)$. The variables separate:
#
# $$\frac{\mathrm{d}p}{\mathrm{d}t} = k\, p^{1+\alpha} (1-p)^2
#   \quad\Longrightarrow\quad
#   k\, t = \int_{p_0}^{p_1} \frac{\mathrm{d}p}{p^{1+\alpha}(1-p)^2} .$$
#
# **SFT**, $\alpha = 0$. Partial fractions, with $u = p/(1-p)$ for the odds and
# $1/(1-p) = 1 + u$:
#
# $$\frac{1}{p\,(1-p)^2} = \frac1p + \frac1{1-p} + \frac1{(1-p)^2}
#   \quad\Longrightarrow\quad k\, t_{\mathrm{SFT}} = \Big[\ln u + u\Big]_{p_0}^{p_1} .$$
#
# **DFT**, $\alpha = 1$. Here the integrand is the square of $1/p + 1/(1-p)$:
#
# $$\frac{1}{p^2(1-p)^2} = \frac1{p^2} + \frac2p + \frac2{1-p} + \frac1{(1-p)^2}
#   \quad\Longrightarrow\quad
#   k\, t_{\mathrm{DFT}} = \Big[2\ln u + u - \frac1p\Big]_{p_0}^{p_1} .$$
#
# The new term is $-1/p$. At the lower end it contributes $+1/p_0$ to the time. That one term is
# most of what separates the two methods on rare tokens.
#
# The package states each time as a claim. Its other side knows nothing of partial fractions: it
# integrates the update of the objective that trains a language model, until the token arrives.

# %%
for name in ("sft-escape-time", "dft-escape-time", "power-escape-time"):
    print(f"{name:18s}", dt.claim(name).verify())

# %% tags=["thumbnail"]
times = torch.logspace(-1, 4, 26, dtype=torch.float64)
start = dynamics.symmetric_start(0.01, vocab=2)
goals = np.concatenate([np.geomspace(0.0101, 0.5, 100), np.linspace(0.505, 0.995, 100)])
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.4)
    axis = axes[0, 0]
    for alpha, objective in FAMILY.items():
        closed = [dynamics.escape_time(0.01, goal, alpha=alpha, vocab=2) for goal in goals]
        axis.plot(closed, goals, color=COLOURS[alpha], label=LABELS[alpha])
        logits = dynamics.flow(objective, start=start, demos=first[:2], times=times)
        axis.plot(times, torch.softmax(logits, -1)[:, 0], "o", color=COLOURS[alpha], ms=3)
    axis.set(xscale="log", xlim=(0.1, 1e4), xlabel="time (learning rate × steps)")
    axis.set(ylabel="probability of the demonstration", title="lines: closed form; dots: the ODE")
    axis.legend()
figure

# %% [markdown]
# All start at $p_0 = 0.01$ between two tokens. SFT is halfway after about 3 units of time, DFT
# after about 55. Look at the shape of DFT's curve: a long plateau, then a sudden rise. A run that
# is stopped on the plateau has learned nothing of this token.
#
# **Move it yourself.** With a kernel running (`make notebooks`) the next cell has two sliders, for
# the exponent and for the start. Dots mark $p = 1/2$, and the title says how many times SFT's time
# it took to get there. Without a kernel it shows three starts side by side.


# %%
def ways(axis, p0, alphas):
    """Probability over time from p0 among two tokens, and the times of p = 1/2."""
    odds = np.geomspace(1.05 * p0 / (1 - p0), 99, 120)
    half = []
    for alpha in alphas:
        time = [dynamics.escape_time(p0, u / (1 + u), alpha=alpha, vocab=2) for u in odds]
        half.append(dynamics.escape_time(p0, 0.5, alpha=alpha, vocab=2))
        colour = COLOURS.get(alpha, "#CC79A7")
        label = LABELS.get(alpha, f"$p^{{{alpha:.2f}}}$")
        axis.plot(time, odds / (1 + odds), color=colour, label=label)
        axis.plot(half[-1], 0.5, "o", color=colour, ms=4)
    axis.set(xscale="log", xlim=(0.03, 1e7), ylim=(0, 1.03), xlabel="time")
    return half


def trajectory(alpha, log10_p0):
    """One start, one weight, and SFT beside it."""
    with style.use():
        figure, axes = style.panels(1, 1, width=5, height=2.4)
        times = ways(axes[0, 0], 10**log10_p0, (0.0, alpha))
        axes[0, 0].set(ylabel="probability of the demonstration")
        axes[0, 0].set_title(f"from $p_0$ = {10**log10_p0:.2g}: {times[1] / times[0]:.3g} × SFT")
        axes[0, 0].legend(loc="upper left")
    return figure


with style.use():
    still, axes = style.panels(1, 3, width=style.TEXT, height=2.2, share=(True, True))
    for axis, p0 in zip(axes[0], (0.1, 0.01, 0.001), strict=True):
        ways(axis, p0, FAMILY)
        axis.set_title(f"from $p_0$ = {p0:g}")
    axes[0, 0].set(ylabel="probability")
    axes[0, 0].legend(loc="lower right")
Sliders(trajectory, still, {"alpha": (0, 2, 1), "log10_p0": (-4, -0.5, -2)})

# %% [markdown]
# ## 3. The law for rare tokens
#
# Let $p_0 \to 0$ at a fixed goal. Under SFT the integrand near $p_0$ is $1/p$, and its integral a
# logarithm. For $\alpha > 0$ it is $1/p^{1+\alpha}$, whose integral is a power:
#
# $$k\, t_{\mathrm{SFT}} = \ln \frac1{p_0} + O(1), \qquad\qquad
#   k\, t_\alpha = \frac{1}{\alpha\, p_0^{\alpha}}\,\big(1 + o(1)\big) .$$
#
# Each factor of ten in rarity *adds* $\ln 10 / k$ to SFT's time. It *multiplies* DFT's by ten.

# %%
print("time to p = 1/2, two tokens")
print("p0     ", *(f"{o.title:>21s}" for o in FAMILY.values()))
for p0 in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
    row = [dynamics.escape_time(p0, 0.5, alpha=alpha, vocab=2) for alpha in FAMILY]
    print(f"{p0:7.0e}", *(f"{t:21.4g}" for t in row))
for name in ("sft-escape-law", "power-escape-law"):
    print(f"{name:18s}", dt.claim(name).verify())

# %% [markdown]
# The package's figure draws the same table: lines are closed forms, markers integrated flows, dots
# the leading terms.
#
# <img src="../paper_figures/out/escape_times.png" width="480"
# alt="Time to learn one demonstration against its initial probability">
#
# **And other rivals?** A single rival is overtaken fastest, equal ones slowest. The bounds on the
# speed are within a factor $2(V-1)/V < 2$ of each other, and so are the times. The law does not
# depend on how the rest is shared:

# %%
print(dt.claim("escape-time-bounds").verify())

# %% [markdown]
# ## 4. One path, many clocks
#
# The weight is a positive number in front of $e_y - \pi$. It changes how fast the flow runs along
# its curve, and not the curve:
#
# $$\dot\theta = w(p)\,(e_y - \pi), \qquad
#   \mathrm{d}\tau = w(p)\,\mathrm{d}t \quad\Longrightarrow\quad
#   \frac{\mathrm{d}\theta}{\mathrm{d}\tau} = e_y - \pi .$$
#
# In the clock $\tau$ every objective is SFT. Three tokens show it: the probability of one rival
# against that of the target. Markers are at $t = 1, 4, 16, 64$.

# %%
start = torch.tensor([0.05, 0.75, 0.20], dtype=torch.float64).log()
with style.use():
    figure, axes = style.panels(1, 1, width=4, height=2.4)
    axis = axes[0, 0]
    for alpha, width in ((0.0, 4.0), (0.5, 2.4), (1.0, 1.0)):
        path = dynamics.flow(
            FAMILY[alpha],
            start=start,
            demos=first[:3],
            times=torch.logspace(-1, 3, 120, dtype=torch.float64),
        )
        stops = dynamics.flow(
            FAMILY[alpha],
            start=start,
            demos=first[:3],
            times=torch.tensor([1.0, 4.0, 16.0, 64.0], dtype=torch.float64),
        )
        line, dots = torch.softmax(path, -1), torch.softmax(stops, -1)
        axis.plot(line[:, 0], line[:, 1], color=COLOURS[alpha], lw=width, alpha=0.6)
        marker = {0.0: "o", 0.5: "s", 1.0: "^"}[alpha]
        axis.plot(
            dots[:, 0], dots[:, 1], marker, color=COLOURS[alpha], ms=5, mec="white", mew=0.6,
            label=LABELS[alpha], zorder=3,
        )  # fmt: skip
    axis.set(xlabel="probability of the target", ylabel="probability of a rival")
    axis.set(title="the same curve, passed at different times")
    axis.legend()
figure

# %%
print(dt.claim("orbit-equivalence").verify())

# %% [markdown]
# So on one demonstration DFT learns nothing that SFT does not learn, only later. Whatever tells
# them apart in practice must come from somewhere else:
#
# 1. demonstrations that **disagree** on one prompt (next section);
# 2. tokens that **share parameters**, so that a large weight on one is taken from another;
# 3. a **budget** that ends on the plateau;
# 4. the **optimiser**: Adam divides by the size of the gradient, and with it removes much of the
#    clock (claim `adam-ignores-gradient-scale`).
#
# ## 5. Demonstrations that disagree
#
# Now the same prompt has several responses with frequencies $r(v)$: several correct answers, or one
# answer and noise. The flow averages over them:
#
# $$\dot\theta = \mathbb{E}_{y \sim r}\big[\pi(y)^\alpha (e_y - \pi)\big]
#   \quad\Longleftrightarrow\quad
#   \dot\theta_k = r_k\, \pi_k^{\alpha} - \pi_k \sum_v r_v\, \pi_v^{\alpha} .$$
#
# Where does it rest? Call the sum $C$. Setting $\dot\theta_k = 0$ for a token with $\pi_k > 0$ gives
#
# $$r_k\, \pi_k^{\alpha - 1} = C
#   \quad\Longrightarrow\quad
#   \pi_k \;\propto\; r_k^{\,1/(1-\alpha)} \qquad (\alpha < 1).$$
#
# The exponent is 1 for SFT: the data themselves. It is 2 for $\alpha = 1/2$, and grows without
# bound as $\alpha \to 1$. At $\alpha = 1$ the condition reads $r_k = C$ and contains no $\pi$: no
# interior point can satisfy it unless all frequencies are equal. The flow must run to the boundary.

# %%
demos = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
start = torch.tensor([0.02, 0.48, 0.30, 0.20], dtype=torch.float64).log()
times = torch.logspace(-1, 4, 120, dtype=torch.float64)
with style.use():
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.3, share=(True, True))
    for axis, alpha in zip(axes[0], (0.0, 0.5, 1.0), strict=True):
        path = dynamics.flow(FAMILY[alpha], start=start, demos=demos, times=times)
        end = dynamics.fixed_point(demos, alpha=alpha)
        for k, colour in enumerate(("#0072B2", "#D55E00", "#009E73", "#CC79A7")):
            axis.plot(times, torch.softmax(path, -1)[:, k], color=colour, label=f"r = {demos[k]}")
            axis.axhline(float(end[k]), color=colour, ls=":", lw=0.9)
        axis.set(xscale="log", xlabel="time", title=LABELS[alpha])
    axes[0, 0].set(ylabel="probability")
    axes[0, 0].legend(ncols=2, loc="upper left")
    axes[0, 0].set_ylim(0, 1.03)
figure

# %% [markdown]
# Dotted lines are the closed forms, `dynamics.fixed_point`. SFT ends at the frequencies, $p^{1/2}$
# at their squares (scaled to the sum 1), and DFT at the most frequent response alone.
#
# In the third panel the most frequent response (blue) starts at 0.02. Until $t \approx 5000$ the
# runner-up, which the prior prefers, has nearly all the probability. At $t = 1000$ nothing shows that
# this will change.

# %%
for name in ("sft-fits-the-data", "power-sharpens-the-data", "dft-learns-the-mode"):
    verdict = dt.claim(name).verify()
    print(f"{name}: {verdict.words}\n    {verdict}")

# %% [markdown]
# The last one is listed as *false as published*. The appendix of the paper argues that the two
# gradients are parallel, which is true of one demonstration, and is easily read as "the same target
# at another speed". With several demonstrations the targets differ.
#
# ## 6. Why DFT finds the mode
#
# Two lines are enough. The weight $\mathrm{sg}(p)$ cancels the $1/p$ in the gradient of $\log p$:
#
# $$\mathrm{sg}(\pi(y))\, \nabla \log \pi(y) = \nabla \pi(y)
#   \quad\Longrightarrow\quad
#   \mathbb{E}_{y\sim r}\big[\mathrm{sg}(\pi(y))\, \nabla \log \pi(y)\big]
#   = \nabla\, \mathbb{E}_{y\sim r}[\pi(y)] = \nabla \sum_v r_v\, \pi_v .$$
#
# The right-hand side is $\nabla\, \mathbb{E}_{v \sim \pi}[r_v]$: an *exact policy gradient whose
# reward is the frequency $r$*. A policy gradient without entropy bonus ends at the best action. In
# the logits,
#
# $$\dot\theta_k = \pi_k\,(r_k - \bar r), \qquad \bar r = \sum_v r_v\, \pi_v :$$
#
# what is more frequent than average grows, at a rate proportional to its present probability. The
# average $\bar r$ rises, so more and more responses fall below it.
#
# The general case is a matter of curvature. The objective with weight $p^\alpha$ descends
#
# $$\Phi_\alpha(\pi) = \mathbb{E}_{y \sim r}\left[\frac{1 - \pi(y)^\alpha}{\alpha}\right],
#   \qquad \text{and } \Phi_0(\pi) = \mathbb{E}_{y \sim r}[-\log \pi(y)] .$$
#
# As a function of the probabilities, $-\pi^\alpha/\alpha$ is convex for $\alpha < 1$, linear for
# $\alpha = 1$, concave for $\alpha > 1$. A strictly convex function on the simplex has one minimum,
# here inside. A linear one has its minimum in a corner. This concave one has a local minimum in
# *every* corner with a frequency above 0. For two responses of frequencies 0.6 and 0.4, with each
# potential rescaled to $[0, 1]$:

# %%
share = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)
rescaled = {}
for alpha, objective in FAMILY.items():
    both = torch.stack([share, 1 - share])  # [2, N]: the two responses
    stats = dt.TokenStats(logp=both.log(), mask=torch.ones_like(both, dtype=torch.bool))
    mean = torch.tensor([0.6, 0.4], dtype=torch.float64) @ objective.potential(stats)
    rescaled[alpha] = (mean - mean.min()) / (mean.max() - mean.min())
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.3)
    axis = axes[0, 0]
    for alpha, mean in rescaled.items():
        axis.plot(share, mean, color=COLOURS[alpha], label=LABELS[alpha])
        if alpha <= 1:
            lowest = float(share[mean.argmin()])
            axis.plot([lowest], [0], "o", color=COLOURS[alpha], clip_on=False, ms=5)
    axis.set(xlabel="probability of the more frequent response", ylabel="potential (rescaled)")
    axis.set(ylim=(0, 1.03), title="convex, linear, concave")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# ### Beyond DFT the start decides
#
# For $\alpha > 1$ both corners attract. Between them lies a hill, and which side the start is on
# decides. For two responses the top of the hill is where the forces balance,
# $r_1 \pi_1^{\alpha-1} = r_2 \pi_2^{\alpha-1}$:
#
# $$\frac{\pi_1}{\pi_2} = \left(\frac{r_2}{r_1}\right)^{1/(\alpha-1)} .$$
#
# The data say 70 to 30 for the first response. Does the model believe them?

# %%
two = torch.tensor([0.7, 0.3], dtype=torch.float64)
starts = np.linspace(0.04, 0.96, 33)
end_time = torch.tensor([1e5], dtype=torch.float64)
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.3)
    axis = axes[0, 0]
    for alpha, colour in ((1.0, "#D55E00"), (2.0, "#555555"), (4.0, "#CC79A7")):
        ends = []
        for p0 in starts:
            logits = dynamics.symmetric_start(p0, vocab=2)
            end = dynamics.flow(dt.power(alpha), start=logits, demos=two, times=end_time)[0]
            ends.append(float(torch.softmax(end, -1)[0]))
        axis.plot(starts, ends, ".-", color=colour, lw=0.7, label=f"α = {alpha:g}")
        if alpha > 1:
            odds = dynamics.separatrix(two, alpha=alpha)
            axis.axvline(odds / (1 + odds), color=colour, ls=":")
    axis.set(xlabel="start: probability of the 70 % response", ylabel="where it ends")
    axis.set(title="dotted: the separatrix")
    axis.legend(loc="lower right")
figure

# %%
print(dt.claim("power-above-one-is-prior-locked").verify())

# %% [markdown]
# ## 7. Calibration
#
# A model is calibrated if what it says with probability 0.3 happens with frequency 0.3. The end
# points of section 5 say at once who is. Put a model that *is* calibrated, $\pi = r$, into the flow:
#
# $$\dot\theta_k = r_k^{1+\alpha} - r_k \sum_v r_v^{1+\alpha} .$$
#
# For $\alpha = 0$ this is $r_k - r_k = 0$. SFT rests. For DFT it is $r_k\,(r_k - \mathbb{E}_r[r])$:
# training goes on, away from calibration.

# %%
print(dt.claim("update-at-the-data").verify())

# %%
noise = torch.randn(12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
laws = torch.softmax(1.6 * noise, -1)  # twelve prompts, twenty responses each
with style.use():
    figure, axes = style.panels(1, 1, width=3.6, height=2.7)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#888888", lw=0.8)
    for alpha, colour in ((0.0, "#0072B2"), (0.5, "#009E73"), (0.75, "#CC79A7"), (1.0, "#D55E00")):
        ends = torch.stack([dynamics.fixed_point(r, alpha=alpha) for r in laws])
        axis.plot(laws.flatten(), ends.flatten(), ".", color=colour, ms=3, label=f"α = {alpha:g}")
    axis.set(xlim=(0, 0.75), ylim=(-0.02, 1.03))
    axis.set(xlabel="frequency in the data", ylabel="probability after training")
    axis.set(title="on the grey line: calibrated")
    axis.legend(markerscale=2, loc="upper left", bbox_to_anchor=(1, 1))
figure

# %% [markdown]
# For $\alpha < 1$ the damage is a temperature: $\pi^{1-\alpha} \propto r$, so dividing the logits by
# the temperature $1/(1-\alpha)$ restores the frequencies. `fixed_point` does that too, with the
# exponent $\alpha' = -\alpha/(1-\alpha)$, for which $1/(1-\alpha') = 1-\alpha$. DFT's end point has
# lost the frequencies, and no temperature brings them back.

# %%
for alpha in (0.25, 0.5, 0.75):
    ends = [dynamics.fixed_point(r, alpha=alpha) for r in laws]
    back = [dynamics.fixed_point(end, alpha=-alpha / (1 - alpha)) for end in ends]
    worst = max(float((b - r).abs().max()) for b, r in zip(back, laws, strict=True))
    print(f"alpha = {alpha:4}: data restored within {'1e-12' if worst < 1e-12 else worst}")
ends = torch.stack([dynamics.fixed_point(r, alpha=1.0) for r in laws])
print(
    "DFT: probability 1 for a response whose frequency is, on average,",
    f"{float((ends * laws).sum(-1).mean()):.2f}",
)

# %% [markdown]
# Sharpening is not always a fault. If the most frequent response is the right one and the rest is
# noise, a policy at its mode is always right, and a calibrated one, sampled at temperature 1, with
# probability $\max r$. Judged by how often they match a fresh demonstration, the two score $\max r$
# and $\sum r^2$. Greedy decoding of the SFT model would give the same gain. The package's figure
# shows the three end points, and that the mean probability of the data, $\mathbb{E}_r[\pi]$, and the
# loss on them rise *together*:
#
# ![End points of training, mean probability, and loss](../paper_figures/out/fixed_points.png)

# %%
for name in ("mean-probability-at-the-end", "likelier-and-yet-lossier"):
    print(f"{name:28s}", dt.claim(name).verify())

# %% [markdown]
# ## What could go wrong
#
# - **Another optimiser.** Time is learning rate times steps of plain gradient descent. Adam's step
#   hardly depends on the size of the gradient. In a table it removes the law $1/p_0$. Where rare
#   tokens share parameters with many easy ones it comes back.
# - **A table does not generalise.** Nothing here says what happens on other prompts. It says what
#   the objective asks for on this one.
# - **Ties.** If two responses are equally frequent, DFT may rest at any mixture of them, and the
#   start decides. Near a tie the drift towards the mode is proportional to the gap, and slow.
# - **A finite budget.** The end of the flow is not the end of your run. In section 5 the mode starts
#   at $p_0 = 0.02$ and is found only at $t \approx 5000$, a hundred times $1/p_0$.
# - **Tokens are not responses.** For responses of several tokens, token-level DFT is a sum of such
#   bandits, one for each demonstrated prefix, and not sequence-level DFT
#   (claim `token-dft-is-not-sequence-dft`).
# - **Exactly zero.** A logit of $-\infty$ never moves under any of these weights.

# %% [markdown]
# ## Exercises
#
# Write the right-hand side of a claim yourself. Each function below gets a *case* of the claim and
# returns a tensor, of shape `[1]` where the answer is one number. What stands there is a plausible
# error, so that you see how an answer is judged.
#
# **1.** The time of DFT from `case.p0` to `case.p1` among `case.vocab` equally likely tokens. Do
# the integral before you look up.


# %%
def time_of_dft(case):
    """Time to lift the demonstration from case.p0 to case.p1."""
    k = case.vocab / (case.vocab - 1)
    odds = [p / (1 - p) for p in (case.p0, case.p1)]
    return torch.tensor([2 * np.log(odds[1] / odds[0]) + odds[1] - odds[0]]) / k


print(dt.claim("dft-escape-time").check_attempt(time_of_dft))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def time_of_dft(case):
#     k = case.vocab / (case.vocab - 1)
#     start, end = (
#         2 * np.log(p / (1 - p)) + p / (1 - p) - 1 / p for p in (case.p0, case.p1)
#     )
#     return torch.tensor([(end - start) / k])
# ```
#
# </details>
#
# **2.** SFT's law for rare tokens has a constant after the logarithm, which depends on the goal
# `case.p1`. Give $k\, t_{\mathrm{SFT}}$ up to terms that vanish with $p_0$.


# %%
def law_of_sft(case):
    """k t for a small case.p0."""
    return torch.tensor([np.log(1 / case.p0)])


print(dt.claim("sft-escape-law").check_attempt(law_of_sft))

# %% [markdown]
# <details><summary>Solution</summary>
#
# At the lower end $\ln u + u$ is $\ln p_0 + O(p_0)$.
#
# ```python
# def law_of_sft(case):
#     u = case.p1 / (1 - case.p1)
#     return torch.tensor([np.log(1 / case.p0) + np.log(u) + u])
# ```
#
# </details>
#
# **3.** After training under $p^\alpha$, how likely are the demonstrations on average,
# $\mathbb{E}_r[\pi_\infty(y)]$? Use `case.demos` ($r$) and `case.alpha`, which is at most 1 and may
# be 1.


# %%
def mean_probability(case):
    """E_r of the probability at the end of training."""
    return (case.demos @ case.demos).reshape(1)


print(dt.claim("mean-probability-at-the-end").check_attempt(mean_probability))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def mean_probability(case):
#     if case.alpha == 1:
#         return case.demos.max().reshape(1)
#     end = case.demos ** (1 / (1 - case.alpha))
#     return (case.demos @ end / end.sum()).reshape(1)
# ```
#
# </details>
#
# **4.** Two responses with frequencies `case.r`, a weight with `case.alpha` above 1, and a start
# with odds `case.odds` $= \pi_1/\pi_2$. Where does $\pi_1$ end, at 0 or at 1?


# %%
def winner(case):
    """1 if the first response takes all, else 0."""
    return torch.tensor([case.r[0] > case.r[1]])


print(dt.claim("power-above-one-is-prior-locked").check_attempt(winner))

# %% [markdown]
# <details><summary>Solution</summary>
#
# Above the top of the hill of section 6 the first response takes all.
#
# ```python
# def winner(case):
#     top = (case.r[1] / case.r[0]) ** (1 / (case.alpha - 1))
#     return torch.tensor([case.odds > top])
# ```
#
# </details>
#
# ## Sources
#
# - Wu et al. 2025, *On the Generalization of SFT* (arXiv 2508.05629): DFT, and the argument of its
#   appendix A.3.
# - Zhang and Sabuncu 2018, *Generalized Cross Entropy Loss* (arXiv 1805.07836): the family
#   $(1 - p^q)/q$, seven years earlier, for noisy labels.
# - Mei et al. 2020, *Escaping the Gravitational Pull of Softmax* (NeurIPS): why a softmax policy
#   gradient is slow at rare actions, and its speed near the optimum.
# - Li et al. 2025, *Beyond Log Likelihood* (arXiv 2510.00526): which exponent suits which prior.
#
# `dft_theory/dynamics.py` holds every closed form of this page;
# `dft_theory/claims/gradient_flow.py` and `population_optima.py` hold the claims. Next:
# [05 A zoo in one frame](05_a_zoo_in_one_frame.ipynb).
