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
# # Check somebody else's loss
#
# *A released bug rebuilt, what it does, how a check finds it, and the check in your test suite.*
# 15 minutes. Needs nothing but the formula of DFT.
#
# A loss function is a few lines long. It is copied between frameworks, its shapes fit, the number it
# prints goes down. None of this says that it computes what its name says. This page
#
# 1. rebuilds a bug that was shipped in a released package: a DFT loss without its stop-gradient;
# 2. shows what the bug does to a model, and why no loss curve reveals it;
# 3. finds it, and others, with `check_loss_function`;
# 4. puts the check into a test suite of your own.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": "tight"}
try:
    import os
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    import numpy as np
    import pytest  # noqa: F401  (section 6 runs it)
    import torch
    import torch.nn.functional as F
    from IPython.display import Pretty

    import dft_theory as dt
    from dft_theory import dynamics
    from dft_theory.figures import FigureData, find_folder, style
    from dft_theory.testing import caller_shifts, check_loss_function
    from dft_theory.xrays.wrong_forms import WRONG_FORMS
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"This page needs {error.name}. In a checkout: pip install -e '.[notebooks,testing]'"
    ) from None

# %% [markdown]
# ## 1. The patient
#
# The first function gives the loss of each token, the second is the patient. It looks right:
# `exp(-nll)` is the probability, so the product is $p \cdot (-\log p)$.


# %%
def token_losses(logits, labels):
    """-log p of each target, 0 at labels of -100."""
    flat = logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(flat, labels[:, 1:].flatten(), reduction="none")


def shipped_dft(logits, labels, num_items=None):
    """DFT as it was released."""
    nll = token_losses(logits, labels)
    count = (labels[:, 1:] != -100).sum() if num_items is None else num_items
    return (torch.exp(-nll) * nll).sum() / count


# %% [markdown]
# This is the product that `CrossEntropyLoss(dft=True)` of twinkle-kit 0.5.1 forms, in our own lines
# ([PEERS.md](../PEERS.md) has the verdict on the released file). DFT's authors had the same slip in
# their README for a few hours, and mended it. It is a bug that everybody can write.
#
# A natural first test compares values with a trusted implementation, on random data:

# %%
generator = torch.Generator().manual_seed(0)
logits = 3 * torch.randn(4, 33, 20, dtype=torch.float64, generator=generator)
labels = torch.randint(20, (4, 33), generator=generator)


def slope(loss):
    """Gradient of a loss in the logits."""
    z = logits.clone().requires_grad_(True)
    return torch.autograd.grad(loss(z), z)[0]


def trusted(z):
    """DFT of this package, mean over targets."""
    return dt.dft.surrogate(dt.token_stats(z, labels), reduction=dt.TokenMean())


print("value, shipped ", f"{float(shipped_dft(logits, labels)):.12f}")
print("value, trusted ", f"{float(trusted(logits)):.12f}")
theirs, right = slope(lambda z: shipped_dft(z, labels)), slope(trusted)
cosine = float((theirs * right).sum() / (theirs.norm() * right.norm()))
print("cosine of the two gradients", f"{cosine:.3f}")

# %% [markdown]
# The values agree in every digit shown. The gradients do not even point the same way. A test that
# compares values, or asserts that the loss is positive, passes.
#
# ## 2. One missing `detach`
#
# With the stop-gradient the factor $p$ is a constant:
#
# $$-\nabla\big(-\mathrm{sg}(p) \log p\big) = p\, \nabla \log p .$$
#
# Without it the product rule adds a term. Since $\nabla p = p\, \nabla \log p$,
#
# $$-\nabla\big(-p \log p\big) = p\, \nabla \log p + \log p\; \nabla p
#   = p\,(1 + \log p)\, \nabla \log p .$$
#
# The weight is $p\,(1 + \log p)$. The bracket vanishes at $\log p = -1$:
#
# $$p = \frac1e \approx 0.368 .$$
#
# Above, the token is pushed up, more weakly than by DFT. **Below $1/e$ it is pushed down.** As a
# loss, $-p\log p$ is one term of an entropy: it is 0 at both ends, and descent goes to the end that
# lies downhill.
#
# The x-ray of a loss recovers the weight from the gradient, without reading the code:

# %%
seen = dt.xray(shipped_dft)
print(seen)

# %%
without = next(o for o in WRONG_FORMS if o.name == "dft-without-stop-gradient")
p = np.array(seen.p)
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.4)
    axis = axes[0, 0]
    axis.axhline(0, color="#888888", lw=0.7)
    axis.axvspan(0, np.exp(-1), color="#D55E00", alpha=0.1, lw=0)
    dense = torch.linspace(1e-6, 1, 400, dtype=torch.float64)
    axis.plot(dense, dt.dft.weight_at(dense) * (1 - dense), color="#0072B2", label="DFT")
    axis.plot(dense, without.weight_at(dense) * (1 - dense), color="#D55E00", label="no detach")
    axis.plot(p, np.array(seen.weight) * (1 - p), ".", color="#D55E00", label="x-ray of the loss")
    axis.annotate("pushed down", (0.05, -0.17), color="#D55E00")
    axis.set(xlabel="probability $p$ of the demonstrated token", ylim=(-0.2, 0.4))
    axis.set(ylabel="pull on its logit", title="the sign flips at 1/e")
    axis.legend(loc="upper left")
figure

# %%
for name in ("stop-gradient-decides-the-sign", "sign-flips-at-one-over-e"):
    print(f"{name:32s}", dt.claim(name).verify())

# %% [markdown]
# ## 3. What it does to a model
#
# **One token.** Follow the gradient flow of one demonstration from eight starts. The right panel
# shows what the trainer prints meanwhile.

# %%
one = torch.tensor([1.0, 0.0], dtype=torch.float64)
times = torch.logspace(-1, 2.5, 100, dtype=torch.float64)
with style.use():
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.4)
    for p0 in (0.02, 0.1, 0.2, 0.3, 0.36, 0.38, 0.5, 0.8):
        start = dynamics.symmetric_start(p0, vocab=2)
        path = dynamics.flow(without, start=start, demos=one, times=times).softmax(-1)[:, 0]
        colour = "#D55E00" if p0 < np.exp(-1) else "#0072B2"
        axes[0, 0].plot(times, path, color=colour)
        axes[0, 1].plot(times, -path * path.log(), color=colour)
    axes[0, 0].axhline(np.exp(-1), color="#888888", ls=":")
    axes[0, 0].annotate("1/e", (110, 0.4), color="#666666")
    axes[0, 0].set(ylabel="probability of the demonstration", title="two fates")
    axes[0, 1].set(ylabel="printed loss, $-p \\log p$", title="one loss curve: down")
    for axis in axes[0]:
        axis.set(xscale="log", xlabel="time (learning rate × steps)")
figure

# %% [markdown]
# Every demonstration that starts below $1/e$ is unlearned. And the printed loss falls from *every*
# start, for $-p \log p$ is small at both ends. A falling loss is what this bug looks like.
#
# **A batch.** The same with the function itself: 200 tokens with a table row each, 300 steps of
# gradient descent, and beside it the loss with the detach.


# %%
def repaired(logits, labels, num_items=None):
    """The same with the stop-gradient."""
    nll = token_losses(logits, labels)
    count = (labels[:, 1:] != -100).sum() if num_items is None else num_items
    return (torch.exp(-nll).detach() * nll).sum() / count


before = torch.sigmoid(torch.linspace(-6, 4, 200, dtype=torch.float64))
rows = torch.stack([dynamics.symmetric_start(float(q), vocab=10) for q in before])
begin = torch.cat([rows, rows[:1]]).unsqueeze(0)  # one response; the last row predicts nothing
target = torch.zeros(1, 201, dtype=torch.long)
after = {}
for loss in (shipped_dft, repaired):
    table = begin.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([table], lr=200.0)  # the loss is a mean over 200 tokens
    for _ in range(300):
        optimiser.zero_grad()
        loss(table, target).backward()
        optimiser.step()
    after[loss.__name__] = dt.token_stats(table.detach(), target).logp[0].exp()
    first, last = float(loss(begin, target)), float(loss(table.detach(), target))
    lost = int((after[loss.__name__] < before).sum())
    nll = float(-after[loss.__name__].log().mean())
    print(
        f"{loss.__name__:12s} printed loss {first:.3f} -> {last:.3f},  "
        f"-log p {float(-before.log().mean()):.2f} -> {nll:.2f},  {lost} of 200 tokens unlearned"
    )

# %%
with style.use():
    figure, axes = style.panels(1, 1, width=4.2, height=2.6)
    axis = axes[0, 0]
    axis.plot(before, before, color="#888888", lw=0.7)
    axis.plot(before, after["repaired"], ".", color="#0072B2", ms=3, label="with detach")
    axis.plot(before, after["shipped_dft"], ".", color="#D55E00", ms=3, label="without")
    axis.axvline(np.exp(-1), color="#888888", ls=":")
    axis.set(xscale="log", yscale="log", ylim=(1e-4, 2), xlabel="probability before")
    axis.set(ylabel="probability after", title="dotted: 1/e")
    axis.legend(loc=(0.55, 0.25), markerscale=2)
figure

# %% [markdown]
# Both printed losses fall to almost nothing, the wrong one further. The mean negative log-likelihood
# tells them apart. That is one practical rule: **log $-\log p$ beside any reweighted loss.**
#
# **A real model.** How many tokens of real demonstrations lie below $1/e$? The record of
# SmolLM2-135M-Instruct on 64 worked solutions of GSM8K says:

# %%
record = FigureData.load(find_folder() / "data" / "real_model_tokens.json")
share = 100 * record.column("token_share")
upper = np.array([float(str(name).split("-")[-1]) for name in record.column("bin")])
below = share[upper <= 0.3].sum()
print(f"{below:.0f} % of {int(record.column('tokens').sum())} tokens have p < 0.3")
with style.use():
    figure, axes = style.panels(1, 1, width=5, height=2.3)
    axis = axes[0, 0]
    colours = np.where(upper <= 0.3, "#D55E00", np.where(upper > 0.41, "#0072B2", "#CC79A7"))
    axis.bar(range(len(share)), share, color=colours)
    axis.set_xticks(range(len(share)), record.column("bin"), rotation=45, ha="right")
    axis.set(ylabel="tokens (%)", xlabel="probability of the demonstrated token")
    axis.set_title("red: would be pushed down; violet: the bin of 1/e")
    axis.grid(visible=False, axis="x")
figure

# %% [markdown]
# Nearly a third of the tokens, and the third that the model has not learned yet.
#
# ## 4. The check
#
# `check_loss_function` calls a loss as Hugging Face does, with unshifted labels, -100 where there
# is no target, and the number of targets of the global batch. It compares gradients with the
# closed form of the objective it claims to be, and then asks some twenty questions about labels,
# masks, counts, precision and edges.

# %%
report = check_loss_function(shipped_dft, claims_to_be=dt.dft)
print(report.verdict)
print(*report.diagnosis, sep="\n")

# %% [markdown]
# In full, with the smallest batch that shows each deviation:

# %%
Pretty(str(report))

# %% [markdown]
# A diagnosis is more than a failed comparison. The suite holds a list of well-known wrong forms,
# asks which of them has exactly this gradient, and names it. The other findings are real as well.
# Repair them one by one:


# %%
def upcast(logits, labels, num_items=None):
    """In float32, whatever the logits: bfloat16 has three digits."""
    return repaired(logits.float(), labels, num_items)


def counted(logits, labels, num_items=None):
    """A batch without targets has the count 1: the loss is 0 and not 0/0."""
    nll = token_losses(logits.float(), labels)
    kept = (labels[:, 1:] != -100).sum().clamp_min(1)
    return (torch.exp(-nll).detach() * nll).sum() / (kept if num_items is None else num_items)


for loss in (shipped_dft, repaired, upcast, counted):
    found = check_loss_function(loss, claims_to_be=dt.dft)
    print(f"{loss.__name__:12s} {found.verdict:9s} {'; '.join(found.diagnosis)}")

# %% [markdown]
# What remains are two *remarks*, worth knowing and no deviations:

# %%
for finding in check_loss_function(counted, claims_to_be=dt.dft).findings:
    if finding.status == "remark":
        print(f"{finding.check}: {finding.message}")

# %% [markdown]
# ## 5. More patients
#
# Six more slips of a line each. Labels that wrap around and a count that is ignored stand in
# [PEERS.md](../PEERS.md) too.


# %%
def roll_wraps(logits, labels, num_items=None):
    """Labels rolled: the last logit is trained on the first label."""
    rolled = labels.roll(-1, -1)
    nll = F.cross_entropy(logits.float().flatten(0, 1), rolled.flatten(), reduction="none")
    count = (rolled != -100).sum().clamp_min(1) if num_items is None else num_items
    return (torch.exp(-nll).detach() * nll).sum() / count


def not_shifted(logits, labels, num_items=None):
    """Each token predicts itself."""
    nll = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    count = (labels != -100).sum().clamp_min(1) if num_items is None else num_items
    return (torch.exp(-nll).detach() * nll).sum() / count


def ignores_the_count(logits, labels, num_items=None):  # noqa: ARG001
    """The mean of this micro-batch, whatever the global count."""
    return counted(logits, labels)


def twice(logits, labels, num_items=None):
    """A kernel and a trainer both multiply by p."""
    nll = token_losses(logits.float(), labels)
    kept = (labels[:, 1:] != -100).sum().clamp_min(1)
    return (torch.exp(-2 * nll).detach() * nll).sum() / (kept if num_items is None else num_items)


def mean_first(logits, labels, num_items=None):
    """The loss is averaged before it is weighted."""
    nll = token_losses(logits.float(), labels)
    kept = (labels[:, 1:] != -100).sum().clamp_min(1)
    mean = nll.sum() / (kept if num_items is None else num_items)
    return torch.exp(-mean).detach() * mean


def wrong_factor(logits, labels, num_items=None):
    """The logarithm is detached, and not the probability."""
    nll = token_losses(logits.float(), labels)
    kept = (labels[:, 1:] != -100).sum().clamp_min(1)
    return (torch.exp(-nll) * nll.detach()).sum() / (kept if num_items is None else num_items)


patients = (roll_wraps, not_shifted, ignores_the_count, twice, mean_first, wrong_factor)
reports = {
    loss.__name__: check_loss_function(loss, claims_to_be=dt.dft)
    for loss in (shipped_dft, *patients, counted)
}
for name, found in reports.items():
    print(f"{name:18s} {found.verdict:9s} {'; '.join(found.diagnosis)}")

# %% [markdown]
# No single test finds all of them. Which check says NO to which patient:

# %%
checks = [f.check for f in reports["counted"].findings]
struck = [c for c in checks if any(r.finding(c).status == "NO" for r in reports.values())]
marks = np.array([[r.finding(c).status == "NO" for c in struck] for r in reports.values()])
with style.use():
    figure, axes = style.panels(1, 1, width=5.6, height=2.6)
    axis = axes[0, 0]
    axis.imshow(marks, cmap="Oranges", vmin=0, vmax=1.4, aspect="auto")
    axis.set_xticks(range(len(struck)), struck, rotation=45, ha="right")
    axis.set_yticks(range(len(reports)), list(reports))
    axis.set_xticks(np.arange(len(struck) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(reports) + 1) - 0.5, minor=True)
    axis.grid(visible=False)
    axis.grid(visible=True, which="minor", color="white", lw=1.5)
    axis.tick_params(which="minor", length=0)
    axis.set_title("orange: the check says NO")
figure

# %% [markdown]
# The wrong label, the forgotten count and the doubled weight leave different patterns. `mean_first`
# and `wrong_factor` are not DFT with a slip, but other objectives altogether. The x-ray says what
# they do:

# %%
for loss in (mean_first, wrong_factor):
    nearest = dt.xray(loss).nearest
    print(f"{loss.__name__}: {nearest}\n    {nearest.wrong}")

# %% [markdown]
# ### Other conventions
#
# - A loss whose caller shifts the labels: wrap it in `caller_shifts`.
# - Another reduction: `check_loss_function(..., reduction=dt.SequenceMean())`; for a mean over each
#   micro-batch, `dt.MicrobatchTokenMean(size=2**31)`.
# - Another objective: `claims_to_be=` any of the catalogue that needs logits and labels alone.


# %%
def eaft_for_shifted(logits, targets):
    """EAFT by hand: entropy of the 20 likeliest tokens, over 3 nats."""
    logp = torch.log_softmax(logits.float(), -1)
    kept = targets != -100
    own = logp.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    top = logp.detach().topk(min(20, logp.shape[-1])).values.log_softmax(-1)
    entropy = torch.special.entr(top.exp()).sum(-1)
    return torch.where(kept, -entropy / 3 * own, 0.0).sum() / kept.sum().clamp_min(1)


mean = dt.MicrobatchTokenMean(size=2**31)
print(
    check_loss_function(
        caller_shifts(eaft_for_shifted), claims_to_be=dt.objective("eaft"), reduction=mean
    ).verdict
)

# %% [markdown]
# ## 6. In your own test suite
#
# A loss gets one test, and the diagnosis is the message of its assertion. An *objective* of your own
# gets every check that the catalogue's objectives get, one test each. This
# is a complete test file:

# %%
FILE = """\
import torch
import torch.nn.functional as F

import dft_theory as dt
from dft_theory.testing import check_loss_function, parametrize_with_checks


def my_loss(logits, labels, num_items=None):
    logits, labels = logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
    nll = F.cross_entropy(logits, labels, reduction="none")
    count = (labels != -100).sum().clamp_min(1) if num_items is None else num_items
    return (torch.exp(-nll) * nll).sum() / count


def test_my_loss_is_dft():
    report = check_loss_function(my_loss, claims_to_be=dt.dft)
    assert report.conforms, report.diagnosis


floor = dt.Objective(
    name="my-floor", title="DFT with a floor", weight=lambda t: t.logp.exp().clamp_min(0.1)
)


@parametrize_with_checks([floor])
def test_my_objective(objective, check):
    check(objective)
"""


QUIET = ["-q", "--tb=no", "-rf", "--color=no", "-p", "no:cacheprovider"]


def pytest_says(text):
    """The outcome of pytest on a file of this text, without timings."""
    # where CI or BUILD_NUMBER is set, pytest adds long explanations to its summary
    here = {k: v for k, v in os.environ.items() if k not in ("CI", "BUILD_NUMBER")}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_losses.py").write_text(text)
        found = subprocess.run(
            [sys.executable, "-m", "pytest", *QUIET],
            cwd=folder,
            env=here | {"COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
    return found.stdout.rsplit(" in ", 1)[0]


print(pytest_says(FILE))

# %% [markdown]
# The loss in the file is the patient once more. With the detach:

# %%
print(pytest_says(FILE.replace("torch.exp(-nll) * nll", "torch.exp(-nll).detach() * nll")))

# %% [markdown]
# For a file on the command line, without writing a test:
#
# ```sh
# dft-theory check my_losses:my_loss --as dft        # exit status 0, 1 (deviates) or 2
# dft-theory xray my_losses:my_loss --draw my_loss.png
# ```
#
# ## What could go wrong
#
# - **Conforming is not converging.** The check says that a function has the gradient it claims. It
#   says nothing of whether that gradient helps your model.
# - **A function is not a trainer.** The division by the global count, gradient accumulation and the
#   average over processes happen outside. [PEERS.md](../PEERS.md) checks whole trainers where it
#   can.
# - **A processor is not an accelerator.** Fused kernels may take another path on a GPU. Run the check
#   on the path that trains.
# - **Random values test little.** At the usual small random logits all $p$ are near $1/V$. The
#   suite's batches include confident, impossible and extreme tokens on purpose.
# - **A remark is not a pass.** A loss that always computes in float32 cannot be checked by finite
#   differences in float64.
#
# ## Exercises
#
# Each function gets a *case* of a claim and returns the claim's right-hand side. What stands there
# is wrong on purpose.
#
# **1.** Why is a falling DFT loss no sign of learning? Return its slope in the probability,
# $\frac{\mathrm d}{\mathrm dp}(-p \log p)$. `case.tensor` is $p$.


# %%
def slope_of_the_printed_loss(case):
    """d/dp of -p log p."""
    return -1 / case.tensor


print(dt.claim("dft-loss-value-misleads").check_attempt(slope_of_the_printed_loss))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def slope_of_the_printed_loss(case):
#     return -(1 + case.tensor.log())
# ```
#
# </details>
#
# **2.** The gradient in the target's logit, without the stop-gradient and with it, as a stack of
# two. `case.p` is $p$, `case.rest` is $1 - p$ without cancellation.


# %%
def two_slopes(case):
    """d/dz_y of -p log p, and of the DFT loss."""
    return torch.stack([-case.p * case.rest, -case.p * case.rest])


print(dt.claim("stop-gradient-decides-the-sign").check_attempt(two_slopes))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def two_slopes(case):
#     dft = -case.p * case.rest
#     return torch.stack([(1 + case.p.log()) * dft, dft])
# ```
#
# </details>
#
# **3.** One of these lines is the loss of DFT, another has its gradient. Decide by reading, then let
# the check decide.

# %%
CANDIDATES = {
    "a": lambda nll: -torch.exp(-nll),
    "b": lambda nll: torch.exp(-nll.detach()) * nll,
    "c": lambda nll: 1 - torch.exp(-nll).detach() * nll,
    "d": lambda nll: torch.exp(-nll) * torch.log(nll),
}
your_answer = "c"


def candidate(logits, labels, num_items=None):
    """A candidate's terms, masked and averaged."""
    nll = token_losses(logits.float(), labels)
    kept = labels[:, 1:].flatten() != -100
    count = kept.sum().clamp_min(1) if num_items is None else num_items
    return torch.where(kept, CANDIDATES[your_answer](nll), 0.0).sum() / count


answer = check_loss_function(candidate, claims_to_be=dt.dft)
print(your_answer, answer.verdict, "; ".join(answer.diagnosis))

# %% [markdown]
# <details><summary>Solution</summary>
#
# *b* is the loss. *a* is its potential $-p$: the same gradient and another value, which the report
# accepts as "a loss that may be read" (`print(answer)`). *c* has the opposite sign, *d* takes a
# logarithm too many.
#
# </details>
#
# **4.** Write $p^{1/2}$ so that it conforms in every check. What stands here is off in
# more than one place.


# %%
def square_root(logits, labels, num_items=None):
    """Weight p^(1/2)."""
    nll = token_losses(logits, labels)
    count = (labels[:, 1:] != -100).sum() if num_items is None else num_items
    return (torch.exp(-nll / 2) * nll).sum() / count


answer = check_loss_function(square_root, claims_to_be=dt.power(0.5))
print("right" if answer.conforms else f"not yet: {'; '.join(answer.diagnosis)}")

# %% [markdown]
# <details><summary>Solution</summary>
#
# The stop-gradient, the upcast and the count of a batch without targets:
#
# ```python
# def square_root(logits, labels, num_items=None):
#     nll = token_losses(logits.float(), labels)
#     kept = (labels[:, 1:] != -100).sum().clamp_min(1)
#     weight = torch.exp(-nll / 2).detach()
#     return (weight * nll).sum() / (kept if num_items is None else num_items)
# ```
#
# </details>
#
# ## Sources
#
# - Wu et al. 2025 (arXiv 2508.05629): DFT. Its README lacked the detach at commit 597a4fa and was
#   mended the same day.
# - [PEERS.md](../PEERS.md): twenty implementations in ten packages, loaded and run, with versions.
# - `dft_theory/testing/` holds the checks, `dft_theory/testing/forms.py` the wrong forms that a
#   diagnosis knows, `dft_theory/xrays/wrong_forms.py` those of the x-ray.
