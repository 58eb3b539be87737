"""The study on a real model (`experiments/real_model.py`) in tables, from its record alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dft_theory.diagnostics.bins import bin_labels
from dft_theory.results import RunStore

Found = Mapping[str, Any]
BINS = bin_labels()
CELLS = {
    ("strong", "noise"): "strong prior, 30 % of steps wrong",
    ("strong", "clean"): "strong prior, clean",
    ("weak", "clean"): "weak prior, clean",
}
NAMES = {
    "base": "base, not trained",
    "sft": "SFT",
    "dft": "DFT",
    "p^1/2": "p^½",
    "threshold": "SFT on p ≥ 0.2",
    "floored": "max(p, 0.1)",
    "asft": "ASFT",
    "iw-sft": "iw-SFT",
    "eaft": "EAFT",
    "dft-floored-end": "DFT, floor under the end",
    "sft-to-dft": "SFT, annealed to DFT",
}


def gaps(summary: Found) -> str:
    """DFT minus SFT in each cell, sampled beside greedy: every seed, mean and interval."""
    lines = [
        "| DFT - SFT, points | T = 1 | seeds | greedy | seeds | T = 1, put in words |",
        "|---|---|---|---|---|---|",
    ]
    compared = {(*cell, "dft"): title for cell, title in CELLS.items()}
    compared["weak", "clean", "dft-floored-end"] = (
        "the same, DFT with a floor under the end of turn"
    )
    for cell, title in compared.items():
        found = {
            g["how"]: g for g in summary["gaps"] if (g["task"], g["source"], g["first"]) == cell
        }
        if not found:
            lines.append(f"| {title} | not measured | | | | |")
            continue
        cells = [
            points(found["sampled"]),
            each(found["sampled"]),
            points(found["greedy"]),
            each(found["greedy"]),
            points(found["words_sampled"]),
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def points(gap: Found) -> str:
    """A mean and its interval in points; bold where it excludes 0."""
    mean, low, high = (signed(100 * gap[k]) for k in ("mean", "low", "high"))
    sure = "**" if gap["low"] * gap["high"] > 0 else ""
    return f"{sure}{mean}{sure} [{low}, {high}]"


def each(gap: Found) -> str:
    """The gap of every seed."""
    return ", ".join(signed(100 * value) for value in gap["seeds"])


def signed(value: float) -> str:
    """A whole number with its sign; 0 has none."""
    whole = round(value)
    return f"{whole:+d}" if whole else "0"


def table(summary: Found) -> str:
    """SFT, DFT and the base: accuracies, what is read, and the distance moved, at best rates."""
    lines = [
        "| | rates chosen | T = 1 | greedy | pass@4 | in words, T = 1 | right results | NLL "
        "| mean p | form | KL | English |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, source), title in CELLS.items():
        lines.append(f"| *{title}* |{' |' * 11}")
        for method, where in rows_of(task, source):
            found = [
                c
                for c in summary["cells"]
                if (c["task"], c["source"], c["method"]) == (task, where, method)
            ]
            if not found:
                lines.append(f"| {NAMES[method]} | not measured |{' |' * 10}")
                continue
            (c,) = found
            lines.append(f"| {NAMES[method]} | {rates(c['rates'])} | {accuracies(c)} | {read(c)} |")
    return "\n".join(lines)


def rows_of(task: str, source: str) -> list[tuple[str, str]]:
    """Methods of a cell's rows, and what they were taught by."""
    rows = [("base", "none"), ("sft", source), ("dft", source)]
    return [*rows, ("dft-floored-end", source)] if task == "weak" else rows


def rates(chosen: Sequence[float | None]) -> str:
    """The learning rate of each seed."""
    return ", ".join("–" if rate is None else f"{rate:.0e}".replace("e-0", "e-") for rate in chosen)


def accuracies(c: Found) -> str:
    """In percent: sampled, greedy, pass@k, asked in words."""
    return " | ".join(f"{100 * c[k]:.0f} %" for k in ("sampled", "greedy", "pass", "words_sampled"))


def read(c: Found) -> str:
    """Results, NLL, mean p, form, KL to the base in nats a token, perplexity of English."""
    kl = "0" if "kl" not in c else f"{c['kl']:.2f}"
    return (
        f"{c['result_p']:.2f} | {c['nll']:.3f} | {c['mean_p']:.3f} | "
        f"{100 * c['sampled_formed']:.0f} % | {kl} | {c['perplexity']:.1f}"
    )


def curves(summary: Found) -> str:
    """Every learning rate of SFT and DFT, means over the seeds that ran."""
    lines = [
        "| cell | rate | seeds | SFT T = 1 | DFT T = 1 | SFT greedy | DFT greedy | SFT KL | DFT KL "
        "| SFT English | DFT English | DFT prints | its NLL |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, source), title in CELLS.items():
        here = [c for c in summary["curves"] if (c["task"], c["source"]) == (task, source)]
        for rate in sorted({c["rate"] for c in here}):
            pair = {c["method"]: c for c in here if c["rate"] == rate}
            if not {"sft", "dft"} <= set(pair):
                continue
            both = [pair["sft"], pair["dft"]]
            cells = [f"{100 * c[k]:.0f} %" for k in ("sampled", "greedy") for c in both]
            cells += [f"{c['kl']:.2f}" for c in both] + [f"{c['perplexity']:.1f}" for c in both]
            cells += [f"{pair['dft'][k]:.3f}" for k in ("printed", "train_nll")]
            seeds = "/".join(dict.fromkeys(str(len(c["seeds"])) for c in both))
            lines.append(f"| {title} | {rates([rate])} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def histograms(summary: Found) -> str:
    """Shares of held-out response tokens by probability, before and after, at best rates."""
    lines = ["| percent of tokens | " + " | ".join(BINS) + " |", "|---|" + "---|" * len(BINS)]
    for (task, source), title in CELLS.items():
        for method, where in rows_of(task, source):
            for c in summary["cells"]:
                if (c["task"], c["source"], c["method"]) == (task, where, method):
                    total = sum(c["bins"])
                    shares = (f"{100 * n / total:.1f}" for n in c["bins"])
                    lines.append(f"| {title}: {NAMES[method]} | {' | '.join(shares)} |")
    return "\n".join(lines)


def others(summary: Found) -> str:
    """The other methods against SFT at the same rate and seeds, and the control."""
    lines = [
        "| method | taught by | against | rate | seeds | T = 1, points | greedy, points |",
        "|---|---|---|---|---|---|---|",
    ]
    against = [g for g in summary["gaps"] if g["rate"] is not None]
    for key in dict.fromkeys((g["task"], g["source"], g["first"], g["second"]) for g in against):
        found = {
            g["how"]: g for g in against if (g["task"], g["source"], g["first"], g["second"]) == key
        }
        task, source, first, second = key
        by = "the base's own samples" if source == "own" else CELLS[task, source]
        lines.append(
            f"| {NAMES[first]} | {by} | {NAMES[second]} | {rates([found['sampled']['rate']])} | "
            f"{len(found['sampled']['seeds'])} | {points(found['sampled'])} | "
            f"{points(found['greedy'])} |"
        )
    if not against:
        lines.append("| not measured | | | | | | |")
    return "\n".join(lines)


def predictions(summary: Found, manifest: Found) -> str:
    """Each prediction, and how it fared."""
    words = {True: "held", False: "**failed**", None: "not judged"}
    lines = ["| prediction | | numbers |", "|---|---|---|"]
    for name, said in manifest["predictions"].items():
        told = summary["outcome"][name]
        found = ", ".join(f"{k} {v:.3g}" for k, v in told.items() if isinstance(v, float))
        sentence, _, stamp = said.replace("|", "\\|").partition(" (written ")
        if not stamp.startswith("before"):
            sentence += f" *(written {stamp.removesuffix(')')})*"
        lines.append(f"| {sentence} | {words[told['holds']]} | {found or told.get('why', '')} |")
    return "\n".join(lines)


def diagnosis(found: Found) -> str:
    """What `diagnose` said of each task before training: losses, starved tokens, conflicts."""
    lines = []
    for task, text in found.items():
        first = next(i for i, line in enumerate(text) if line.startswith("Your NLL"))
        last = next(i for i, line in enumerate(text) if line.startswith("SFT or another?"))
        lines += [f"{task} prior:", *text[first:last]]
    return "\n".join(["```", *lines, "```"])


def fared(summary: Found) -> str:
    """How many predictions held, and which failed."""
    told = summary["outcome"]
    judged = [name for name, found in told.items() if found["holds"] is not None]
    failed = [name for name in judged if not told[name]["holds"]]
    return (
        f"Of {len(told)} predictions, {len(judged) - len(failed)} held"
        + (f", {len(failed)} failed ({', '.join(failed)})" if failed else "")
        + (f", {len(told) - len(judged)} could not be judged" if len(told) > len(judged) else "")
        + "."
    )


def cost(summary: Found, manifest: Found) -> str:
    """What was run, how long it took, and what is missing."""
    size = manifest["size"]
    wall = summary["wall_minutes"]
    missing = summary["missing"]
    text = (
        f"{summary['runs']} runs of {size['demos']} demonstrations ({size['batch']} a step), "
        f"{summary['cpu_minutes']:.0f} processor minutes in {sum(wall):.0f} minutes of wall time "
        f"on two processes of one thread, on two cores that others used too: "
        f"{summary['cpu_minutes'] / 2:.0f} minutes a core. "
        f"{size['problems']} problems a seed, {size['samples']} samples each. "
        f"The first step's gradient of every run was within {summary['worst_check']:.2f} of its "
        "tolerance."
    )
    if missing:
        text += f" Not run, for want of time: {len(missing)} runs of the plan."
    return text


def verdict(summary: Found, manifest: Found) -> str:
    """README's block: the priors, the gaps, how the predictions fared, and the cost."""
    p0 = {c["task"]: c["result_p"] for c in summary["cells"] if c["method"] == "base"}
    priors = (
        "Before training, in the right form, the model gives a right result probability "
        f"{p0['strong']:.2f} (strong prior) or {p0['weak']:.2f} (weak). Right answers to new sums:"
    )
    return "\n\n".join([priors, gaps(summary), f"{fared(summary)} {cost(summary, manifest)}"])


def blocks(root: Path) -> dict[str, Callable[[], str]]:
    """Generated parts of README and of the write-up. Raises: RecordError."""
    store = RunStore(root / "experiments" / "results")
    run = store.run("real-model", "laptop")
    both = (run.summary, run.manifest)
    return {
        "study": lambda: verdict(*(read() for read in both)),
        "study-gaps": lambda: gaps(run.summary()),
        "study-table": lambda: table(run.summary()),
        "study-curves": lambda: curves(run.summary()),
        "study-histograms": lambda: histograms(run.summary()),
        "study-others": lambda: others(run.summary()),
        "study-diagnosis": lambda: diagnosis(store.run("real-model", "diagnosis").summary()),
        "study-predictions": lambda: predictions(*(read() for read in both)),
        "study-fared": lambda: fared(run.summary()),
        "study-cost": lambda: cost(*(read() for read in both)),
    }
