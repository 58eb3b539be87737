"""Should I use DFT? The toy's answer in ten lines, each number read from a record."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dft_theory.experiment import interval, values
from dft_theory.results import RunStore

Read = Callable[..., Tensor]  # metric and keys of a row to a value for each seed


def should_i_use_dft(root: Path) -> str:
    """Advice as a list, from the records below `root`. Raises: RecordError where one is missing."""
    store = RunStore(root / "experiments" / "results")

    def of(experiment: str) -> Read:
        rows = store.run(experiment, "full").metrics()
        return lambda metric, **where: values(rows, metric, **where)

    grid, sens, slot = of("capability-continuum"), of("sensitivity"), of("new-format")
    forget, room = of("forgetting"), of("room-for-rl")

    def lead(metric: str, **where: object) -> Tensor:
        return grid(metric, objective="dft", **where) - grid(metric, objective="sft", **where)

    def changed(metric: str, change: str, *, cell: str = "strong", by: str = "dft") -> Tensor:
        mine = sens(metric, cell=cell, change=change, objective=by)
        other = "reference" if change == "p^alpha" else change
        return mine - sens(metric, cell=cell, change=other, objective="sft")

    noisy: Mapping[str, Any] = {"source": 0.3, "p0": 0.6}
    clean: Mapping[str, Any] = {"source": 0.0, "p0": 0.6}
    weak: Mapping[str, Any] = {"source": 0.0, "p0": 0.02}

    def gain(source: object) -> Tensor:
        start = grid("sampled", source="none", p0=0.6, objective="base")
        return grid("sampled", source=source, p0=0.6, objective="dft") - start

    def new(method: str) -> float:
        where: Mapping[str, Any] = {"optimizer": "adamw", "source": 0.0, "slots": 1}
        return float(slot("new", method=method, rate=3e-3, **where).mean())

    def rl(phase: str) -> Tensor:
        dft, sft = (room("sampled", p0=0.6, phase=phase, start=m) for m in ("dft", "sft"))
        return dft - sft

    def style(objective: str) -> Tensor:
        where: Mapping[str, Any] = {"kind": "taught", "p0": 0.6, "eps": 0.3}
        return forget("copy_kl_styles", objective=objective, **where)

    rare = float(slot("new", slots=1, method="base").mean())
    far = style("dft") - style("sft")
    low, high = interval(far)
    lines = [
        "**Yes, where the base mostly knows it and demonstrations are noisy.** Prior 0.6, 30 % of "
        f"the states wrong: DFT leads SFT by {points(lead('sampled', **noisy))} sampled at "
        f"temperature 1; on clean ones by {points(lead('sampled', **clean))}.",
        "**Look greedily before you believe it.** The same runs differ by "
        f"{points(lead('greedy', **noisy))} greedily, and stopped early on clean prompts by "
        f"{points(lead('early_greedy', **noisy))}.",
        "**It sharpens, whatever it is taught.** Eight of the base's *own unfiltered* samples a "
        f"prompt teach nothing, and DFT gains {points(gain('self-8'))} over the base from them; "
        f"from the noisy demonstrations it gains {points(gain(0.3))}.",
        "**No, from a weak prior.** Prior 0.02, clean: "
        f"{points(lead('sampled', **weak))} at temperature 1, {points(lead('greedy', **weak))} "
        "greedily. p^½ has no such deficit: "
        f"{points(changed('sampled', 'p^alpha', cell='weak', by='power-0.5'))}.",
        "**No, if a format or a special token must be learned.** One that the base gives "
        f"{rare:.0e} ends at p = {new('sft'):.2f} under SFT and {new('dft'):.2f} under DFT "
        "(AdamW, 3e-3). With "
        f"`with_floor` on that token: {new('named-floor'):.2f}; with SFT first: "
        f"{new('warm-up'):.2f}.",
        "**No, if the demonstrations err as the model does.** Errors along the base's own wrong "
        f"rule leave {points(changed('sampled', 'aligned errors'))} at temperature 1 and "
        f"{points(changed('greedy', 'aligned errors'))} greedily.",
        "**Give SFT lower learning rates too.** At prior 0.9 rates down to 3e-5 take DFT's lead "
        f"from {points(changed('sampled', 'p0 = 0.9'))} to "
        f"{points(changed('sampled', 'p0 = 0.9, low rates'))}.",
        "**Do not expect it to forget less.** On another task it moves the synonyms "
        f"{far.mean().item():+.1f} nats [{low:+.1f}, {high:+.1f}] farther from the base than SFT "
        "does (prior 0.6, 30 % noise).",
        "**Not as a start for RL.** GRPO from each makes a lead of "
        f"{points(rl('before'))} one of {points(rl('after'))}: it takes from SFT what noise left "
        "there.",
        "**Ask before you train:** `dft-theory diagnose` on your model and demonstrations. It "
        "shows which tokens will get almost no gradient and where to look. Who will win it "
        "forecasts for the toy alone; on a real model it says that it cannot tell.",
    ]
    base = {m: grid(m, source="none", p0=0.6, objective="base") for m in ("sampled", "greedy")}
    start = (
        f"At prior 0.6 the base itself answers {base['sampled'].mean():.0%} of the prompts at "
        f"temperature 1 and {base['greedy'].mean():.0%} greedily."
    )
    return "\n".join([start, "", *(f"{i}. {line}" for i, line in enumerate(lines, start=1))])


def points(difference: Tensor) -> str:
    """A mean difference of accuracies in points, with its paired 95 % interval."""
    low, high = interval(100 * difference)
    return f"{_whole(100 * difference.mean().item())} points [{_whole(low)}, {_whole(high)}]"


def _whole(x: float) -> str:
    return f"{round(x):+d}" if round(x) else "0"
