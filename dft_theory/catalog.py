"""Registry and records to the generated parts of README, so that no number there is typed by hand.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Run
`python -m dft_theory.catalog` in the repository to bring README.md, notebooks/README.md and
experiments/real_model.md up to date; tests do the same and compare.
"""

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from dft_theory import notebooks, results, study
from dft_theory.answers import should_i_use_dft
from dft_theory.citations import citation
from dft_theory.claims import CLAIMS
from dft_theory.claims.base import Standing
from dft_theory.experiment import EXPERIMENTS
from dft_theory.objectives import MIXTURES, OBJECTIVES, Objective

EXCERPT = (
    "sft-is-policy-gradient",
    "token-dft-ascends-expected-hits",
    "sft-gradient-is-bounded",
    "relative-variance-does-not-change",
    "stop-gradient-decides-the-sign",
    "sequence-weight-underflows",
)
DIAGNOSED = "experiments/results/real-model-diagnosis/smollm2-gsm8k-n64.json"
FAMILIES = {
    "probability": "The weight is a function of the target's probability p",
    "state": "The weight reads the whole next-token distribution",
    "anchored": "A second pull over the vocabulary: references, smoothing, entropy",
    "ratio": "The weight is a ratio to another policy",
    "sampled": "Sampled or compared responses",
}
# The same in a word or two, for a line of links.
SHORT = {
    "probability": "Weights of p",
    "state": "Weights of the state",
    "anchored": "Anchors",
    "ratio": "Ratios",
    "sampled": "Samples",
}
# Methods that are listed beside these and re-weight no token.
ELSEWHERE = (
    ("SIFT", "song2024sift", "masks parameters, not tokens: an optimiser wrapper"),
    ("NEFTune", "jain2024neftune", "adds noise to the input embeddings; combines with any weight"),
    ("Decoupled graph networks", "", "no policy over tokens: listed beside DFT by name only"),
    ("Learned Fourier features", "", "a network architecture for value functions, no objective"),
)
_BLOCK = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def objectives_table() -> str:
    """A table for each family: what a weight reads, what it needs, what it descends, its source."""
    return "\n\n".join(
        f"**{heading}**\n\n{_family_table(family)}" for family, heading in FAMILIES.items()
    )


def _family_table(family: str) -> str:
    rows = [
        f"| `{o.name}` | {o.title} | {_cell(o.equation)} | {reads(o)} | "
        f"{'yes' if o.potential else 'none'} | {'known' if o.optimum else ''} | {source(o.cite)} |"
        for o in OBJECTIVES
        if o.family == family
    ]
    head = (
        "| name | | weight w, target A | reads | potential | optimum | source |\n"
        "|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *rows])


def _cell(text: str) -> str:
    """Text inside a table cell: a bar would end it."""
    return text.replace("|", "\\|")


def reads(objective: Objective) -> str:
    """What the weight of a token reads beyond its own probability."""
    level = () if objective.level == "token" else (objective.level,)
    given = (n for n in objective.needs if n != "targets")
    return ", ".join((*level, *given)) or "p"


def source(key: str) -> str:
    """The work behind a key as a link, where it has a public address."""
    if not key:
        return ""
    work = citation(key)
    address = f"https://arxiv.org/abs/{work.arxiv}" if work.arxiv else work.url
    return f"[{key}]({address})" if address else key


def mixtures_table() -> str:
    """One row per published hybrid: its terms as source, objective and coefficient, and remark."""
    rows = [f"| `{m.name}` | {m.title} | {source(m.cite)} | {m.note} |" for m in MIXTURES]
    return "\n".join(["| name | | source | remark |\n|---|---|---|---|", *rows])


def elsewhere_table() -> str:
    """Methods named beside these that are not the same job, and why."""
    rows = [f"| {name} | {source(key)} | {why} |" for name, key, why in ELSEWHERE]
    return "\n".join(["| method | source | why it has no code here |\n|---|---|---|", *rows])


def claims_table() -> str:
    """Claims by what a reader may conclude from them: name and what it says."""
    parts = []
    for standing in get_args(Standing):
        group = [c for c in CLAIMS if c.standing == standing]
        if not group:
            continue
        rows = [f"| `{c.name}` | {c.title} |" for c in group]
        head = f"<summary>{len(group)} claims: {standing}</summary>\n\n| claim | |\n|---|---|"
        parts.append("\n".join([f"<details>{head}", *rows, "\n</details>"]))
    return "\n\n".join(parts)


def verify_excerpt(record: Mapping[str, Any]) -> str:
    """Lines of `dft-theory verify` as the committed record has them, and its last line."""
    by_name = {row["name"]: row for row in record["claims"]}
    lines = [
        f"{name:36s} {'ok ' if row['holds'] else 'NO '} {row['cases']:4d} cases  "
        f"worst {row['worst']:.2g} of tolerance  "
        f"mutants {row['mutants']['rejected']}/{row['mutants']['declared']} rejected  "
        f"{row['verdict']}"
        for name, row in ((name, by_name[name]) for name in EXCERPT)
    ]
    rows = record["claims"]
    lines.append("...")
    lines.append(
        f"{sum(r['holds'] for r in rows)} of {len(rows)} claims hold, "
        f"{sum(r['mutants']['rejected'] for r in rows)} of "
        f"{sum(r['mutants']['declared'] for r in rows)} mutants rejected, "
        f"{sum(r['cases'] for r in rows)} cases, {sum(r['seconds'] for r in rows):.1f} s"
    )
    return "\n".join(["```", *lines, "```"])


def real_model(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """What was measured on the real model, as a list."""
    rare = {k: 100 * sum(v[:4]) for k, v in summary["gradient_share"].items()}
    worst = {
        precision: max(
            max(c["worst_logits"], c["worst_hidden"])
            for c in summary["checks"]
            if c["precision"] == precision
        )
        for precision in ("float32", "float64")
    }
    least = min(c["least_mutant"] for c in summary["checks"])
    tokens = next(c["tokens"] for c in summary["checks"])
    certain = 100 * summary["token_count"][-1] / summary["tokens"]
    failed = [k for k, ok in summary["outcome"].items() if not ok]
    predictions = manifest["predictions"]
    missed = "; ".join(f'"{predictions[k]}"' for k in failed)
    return "\n".join(
        [
            f"- At {tokens} response tokens, summed over all {summary['vocabulary']:,} next "
            f"tokens, the gradients agree within {worst['float32']:.2g} of the tolerance in "
            f"float32 and {worst['float64']:.2g} in float64; with 1/pi dropped they miss it "
            f"{least:,.0f}-fold or worse.",
            f"- {summary['underflow_float32']} of {summary['demonstrations']} solutions have "
            f"pi(y*|x) = 0 in float32. A Monte Carlo check of the median solution to 10 % would "
            f"need 10^{summary['median_log10_samples']:.0f} samples.",
            f"- Of {summary['tokens']:,} tokens, {certain:.0f} % have p > 0.9; the largest weight "
            f"1/p is {summary['largest_weight']:.1e}, and the "
            f"weights 1/p have an effective sample size of {summary['ess_inverse_p']:.1f} tokens.",
            f"- SFT spends {rare['sft']:.0f} % of its gradient on tokens with p < 0.1, p^0.5 "
            f"{rare['power-0.5']:.0f} %, DFT {rare['dft']:.0f} %.",
            f"- The loss of {summary['nll_per_token']:.2f} nats per token under SFT prints as "
            f"{summary['dft_loss_per_token']:.2f} under DFT, on the same model.",
            f"- {len(predictions) - len(failed)} of {len(predictions)} predictions written before "
            f"the run came true; missed: {missed or 'none'}.",
        ]
    )


def example(readme: str) -> str:
    """What README's faulty loss prints: its code, run here; checks that are ok are left out."""
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "my_dft" in c)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "my_losses"})
    kept = [x for x in printed.getvalue().splitlines() if not x.startswith(("ok ", "n.a. "))]
    text = re.sub(r" \(\d+\.\d s\)", "", "\n".join(kept))
    return f"```\n{text}\n```"


def peers(record: Mapping[str, Any]) -> str:
    """Which implementations conform, and what is wrong with the others, by diagnosis."""
    rows = record["peers"]
    good = [r for r in rows if r["verdict"] == "conforms"]
    packages = {r["package"] for r in rows}
    lines = [
        f"{len(rows)} implementations in {len(packages)} packages were loaded and run; "
        f"{len(good)} conform: {_named(good)}. The others, by what is wrong:\n"
    ]
    faults = dict.fromkeys(d for r in rows for d in r["diagnosis"])
    for fault in sorted(faults, key=lambda f: -sum(f in r["diagnosis"] for r in rows)):
        lines.append(f"- {fault}: {_named([r for r in rows if fault in r['diagnosis']])}")
    return "\n".join(lines)


def _named(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{r['name']} ({r['version']})" for r in rows)


def mutation(record: Mapping[str, Any]) -> str:
    """How many of the small changes made to the code its tests and claims noticed, by package."""
    lines = []
    for name, group in record.items():
        right, wrong = (noticed(group, side=side) for side in ("", "wrong side "))
        line = f"- `{name}/`: {right[0]} of {right[1]} mutants noticed ({right[0] / right[1]:.0%})"
        if wrong[1]:
            line += (
                f", and {wrong[0]} of {wrong[1]} inside sides that are wrong on purpose and may "
                f"stay wrong (together {(right[0] + wrong[0]) / (right[1] + wrong[1]):.0%})"
            )
        lines.append(line)
    return "\n".join(lines)


def noticed(group: Mapping[str, Any], *, side: str) -> tuple[int, int]:
    """Mutants noticed and made in a group, of those whose outcome is named with `side`."""
    outcomes = ("killed", "killed on import", "timeout", "survived")
    count = [sum(m.get(side + o, 0) for m in group["modules"].values()) for o in outcomes]
    return sum(count) - count[-1], sum(count)


def benchmark(record: Mapping[str, Any]) -> str:
    """Exact enumeration against a plain loop, against one bare pass, and its growth."""
    head = (
        "| sum over 7^4 = 2,401 responses | times faster than a loop | times one bare pass |\n"
        "|---|---|---|"
    )
    rows = [
        f"| {row['sum'].replace('_', ' ')}, {row['policy']} | {row['over_loop']:.0f} | "
        f"{row['over_bare']:.2f} |"
        if "error" not in row
        else f"| {row['sum'].replace('_', ' ')}, {row['policy']} | not measured: {row['error']} | |"
        for row in record["compare"]
    ]
    sizes = [r for r in record["size"] if r["sum"] == "policy_gradient" and "error" not in r]
    first, last = sizes[0], sizes[-1]
    growth = (
        f"\nFrom {first['responses']:,} to {last['responses']:,} responses (autoregressive table, "
        f"V = 10) a policy gradient goes from {1e3 * first['seconds']:.1f} ms to "
        f"{last['seconds']:.1f} s, {1e6 * last['seconds'] / last['responses']:.1f} microseconds a "
        f"response at the end, with a peak of {last['peak'] / 2**20:.0f} MiB for the whole process."
    )
    return "\n".join([head, *rows, growth])


def cost(record: Mapping[str, Any]) -> str:
    """What an objective costs beside torch's cross-entropy, and what it costs to judge one."""
    times, judged = record["seconds"], record["judging"]
    rows, width, vocab = record["shape"]
    names = [n for n in times if n not in ("cross_entropy", "floor")]
    lines = [
        f"| `{n}` | {times[n] / times['cross_entropy']:.2f} | {times[n] / times['floor']:.1f} |"
        for n in names
    ]
    head = (
        f"| loss and logit gradient, {rows} x {width - 1} tokens, V = {vocab:,} | times torch's "
        "`cross_entropy` | times one copy of the logits |\n|---|---|---|"
    )
    slowest, everything = judged["check_objective_slowest"], judged["check_objective_all"]
    tail = (
        f"\nTo judge: `check` of an objective takes at most {slowest:.1f} s "
        f"({everything:.0f} s for all {len(OBJECTIVES)}), of a loss function "
        f"{judged['check_loss_function']:.1f} s, an x-ray {judged['xray']:.1f} s."
    )
    return "\n".join([head, *lines, tail])


def experiments(root: Path) -> str:
    """Each toy experiment's question, and how its predictions fared."""
    lines = ["| question | script | predictions that held | missed |", "|---|---|---|---|"]
    for name in EXPERIMENTS:
        run = results.RunStore(root / "experiments/results").run(name, "full")
        outcome, script = run.summary()["outcome"], f"experiments/{name.replace('-', '_')}.py"
        missed = [key for key, found in outcome.items() if not found["holds"]]
        lines.append(
            f"| {run.manifest()['question']} | [{name}]({script}) | "
            f"{len(outcome) - len(missed)} of {len(outcome)} | {', '.join(missed) or 'none'} |"
        )
    return "\n".join(lines)


def boundary(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much more training than SFT the deficit costs, measured in the linear model."""

    def half(objective: str, p0: float) -> float:
        """Learning rate times steps at p = 1/2, of the longest run that all seeds finished."""
        mine = [
            r
            for r in rows
            if (r["objective"], r["eps"], r["p0"]) == (objective, 0.0, p0) and None not in r["half"]
        ]
        seeds = max(mine, key=lambda r: float(r["S"]))["half"]
        return float(sum(seeds) / len(seeds))

    ratios = {p0: half("dft", p0) / half("sft", p0) for p0 in (0.001, 0.01, 0.1)}
    parts = [f"{ratio:.0f} times from p0 = {p0:g}" for p0, ratio in ratios.items()]
    return (
        "In this second toy (frozen base, linear adapter, SGD) a clean fact takes DFT "
        f"{', '.join(parts)} the training that it takes SFT: the times grow like 1/p0 and "
        "log(1/p0). With that much training the deficit is gone."
    )


def head(record: Mapping[str, Any]) -> str:
    """The chunked head against whole logits, TRL's head, and three bare products."""
    lines = [
        "| loss and both gradients, 1,024 rows of width 576 | V | times whole logits: time "
        "| memory | times three bare products |",
        "|---|---|---|---|---|",
    ]
    names = {
        "sft": "SFT",
        "dft": "DFT",
        "eaft": "EAFT (reads the distribution)",
        "dft-sequence": "DFT (sequence, two passes)",
        "trl": "TRL's fused head, DFT",
        "liger": "Liger's scaled cross-entropy on the CPU, DFT",
    }
    for vocab, found in record["found"].items():
        seconds, mib = found["seconds"], found["mib"]
        lines += [
            f"| {title} | {int(vocab):,} | {seconds[name] / seconds['full']:.2f} | "
            f"{mib[name] / mib['full']:.2f} | {seconds[name] / seconds['products']:.2f} |"
            for name, title in names.items()
            if name in seconds  # Liger stands beside the package where `make peers` put it
        ]
    return "\n".join(lines)


def end_to_end(cpu: Mapping[str, Any], gpu: Mapping[str, Any] | None) -> str:
    """Whole training steps, ours and TRL's; cells of machines that nobody had stay empty."""
    weights = cpu["found"]["dft"]["weights"] / 1e6
    lines = [
        f"| a whole training step | CPU, {weights:.0f} M weights: tokens a second "
        "| times TRL's DFT | of the products' ceiling | GPU, 1.5 B weights: tokens a second "
        "| times TRL's DFT | MFU |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {
        "sft": "SFT",
        "dft": "DFT",
        "trl-dft": 'TRL, `loss_type="dft"`',
        "dft-liger": "DFT, Liger's layers",
        "trl-dft-liger": "TRL's DFT, Liger's layers",
    }
    for name, title in names.items():
        cells = [title]
        for record, share in ((cpu, "of_ceiling"), (gpu, "mfu")):
            found = {} if record is None else record["found"]
            if name not in found:
                cells += ["", "", ""]
                continue
            one, base = found[name], found["trl-dft"]["tokens_per_second"]
            speed = one["tokens_per_second"]
            cells += [f"{speed:,.0f}", f"{speed / base:.2f}", f"{one[share]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    seconds = {name: one["seconds"] for name, one in cpu["found"].items()}
    ratio = seconds["dft"] / seconds["sft"]
    lines.append(f"\nA step of DFT takes {ratio:.2f} times one of SFT on the same engine.")
    if gpu is None:
        lines[-1] += (
            " Cells are empty where nothing was measured: no GPU was at hand, and Liger's kernels "
            "for layers need one."
        )
    return "\n".join(lines)


def engines(record: Mapping[str, Any]) -> str:
    """Generation by vLLM beside transformers': speed and agreement."""
    speed = {name: record["tokens"][name] / record["seconds"][name] for name in record["seconds"]}
    return (
        f"On SmolLM2-135M-Instruct, {record['problems']} prompts together, "
        f"{record['max_new_tokens']} greedy tokens each ({record['dtype']}, {record['clock']}): "
        f"vLLM {record['vllm']} draws {speed['vllm']:.0f} tokens a second, transformers "
        f"{speed['transformers']:.0f}. {record['agree']} of {record['problems']} texts are the "
        "same to the last token."
    )


def stacked(record: Mapping[str, Any], linear: Mapping[str, Any]) -> str:
    """What training toys together gains, against a loop and against bare products."""
    seconds = record["seconds_per_step"]
    own = {int(k.split("/")[1]): v for k, v in seconds.items() if k.startswith("stacked/")}
    many = min(own, key=lambda k: own[k])
    step = own[many]
    return (
        f"Toy transformers are trained {many} at a time: {0.01 / step:.1f} runs of 100 steps a "
        f"second on one thread, {seconds['loop'] / step:.1f} times a loop over single runs and "
        f"{step / seconds[f'bare/{many}']:.1f} times their matrix products alone; the linear "
        f"models of the compute boundary gain {linear['speed']['ratio']:g} times over their loop."
    )


def diagnosis(record: Mapping[str, Any]) -> str:
    """What `diagnose` printed on the real model."""
    return "\n".join(["```", *record["text"], "```"])


def power(found: Mapping[str, Any]) -> str:
    """What the diagnosis's regimes were worth on scenarios that they were not fitted to."""
    lines = []
    for scoring, name in (("sampled", "sampled at temperature 1"), ("greedy", "greedily")):
        p = found["power"][scoring]
        lines.append(
            f"- {name}: {p['answered']:.0f} of {p['asked']:.0f} worlds got an answer, "
            f"{p['right']:.0f} the right one, {p['opposite']:.0f} the opposite; rank correlation "
            f"{p['rho']:.2f} [{p['low']:.2f}, {p['high']:.2f}] over {p['n']} scenarios."
        )
    return "\n".join(lines)


def smoke(found: Mapping[str, Any]) -> str:
    """What README's training run did and took, in its words."""
    training, scores = found["training"], found["evaluation"]
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    right = round(scores["average"]["mean"] * scores["problems"])
    return (
        f"`train smoke` is the whole way in small. SmolLM2-135M takes {training['steps']} steps on "
        "64 word problems of the package (GSM8K's, where `DFT_THEORY_DATA` has them) and answers "
        f"{scores['problems']} others, which two judges grade; manifest, metrics, weights, "
        f"completions and scores are in `runs/smoke/`. On {threads} all of it took "
        f"{found['cpu_seconds']:.0f} seconds of processor time and {found['gibibytes']} GiB. The "
        f"held-out NLL ended at {training['eval_loss']:.2f} nats a token, {right} of "
        f"{scores['problems']} answers were right, and the judges differed on "
        f"{scores['judges_differ']:.0%} of them: it shows that everything works, not that anything "
        "is learned."
    )


def blocks(root: Path) -> dict[str, Callable[[], str]]:
    """Every generated part by name, from the records below `root`. Raises: RecordError."""
    run = root / "experiments/results/real-model-tokens/smollm2-135m-instruct-gsm8k-n64"
    ledger = root / "experiments/results/ledger/ledger.json"
    speed = root / "experiments/results/benchmarks/enumeration.json"
    on_gpu = speed.with_name("end_to_end_cuda.json")
    return {
        "example": lambda: example((root / "README.md").read_text(encoding="utf-8")),
        "objectives": objectives_table,
        "mixtures": mixtures_table,
        "elsewhere": elsewhere_table,
        "claims": claims_table,
        "verify": lambda: verify_excerpt(results.read_json(ledger)),
        "peers": lambda: peers(results.read_json(root / "experiments/results/peers/peers.json")),
        "mutation": lambda: mutation(
            results.read_json(root / "experiments/results/mutation/mutation.json")
        ),
        "experiments": lambda: experiments(root),
        "boundary": lambda: boundary(
            results.RunStore(root / "experiments/results").run("compute-boundary", "full").metrics()
        ),
        "head": lambda: head(
            results.read_json(root / "experiments/results/benchmarks/chunked.json")
        ),
        "end-to-end": lambda: end_to_end(
            results.read_json(speed.with_name("end_to_end.json")),
            results.read_json(on_gpu) if on_gpu.exists() else None,
        ),
        "engines": lambda: engines(results.read_json(speed.with_name("engines.json"))),
        "stacked": lambda: stacked(
            results.read_json(root / "experiments/results/benchmarks/stacked_training.json"),
            results.RunStore(root / "experiments/results")
            .run("compute-boundary", "full")
            .summary(),
        ),
        "smoke": lambda: smoke(
            results.read_json(root / "experiments/results/benchmarks/smoke.json")
        ),
        "diagnosis": lambda: diagnosis(results.read_json(root / DIAGNOSED)),
        "power": lambda: power(results.read_json(root / "dft_theory/data/regime.json")),
        "should": lambda: should_i_use_dft(root),
        "cost": lambda: cost(
            results.read_json(root / "experiments/results/benchmarks/objectives.json")
        ),
        "benchmark": lambda: benchmark(results.read_json(speed)),
        "notebooks": lambda: notebooks.index(root / "notebooks"),
        "real-model": lambda: real_model(
            results.read_json(run / "summary.json"), results.read_json(run / "manifest.json")
        ),
        **study.blocks(root),
    }


def refreshed(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """`text` with every generated part written anew. Raises: KeyError for an unknown part."""
    return _BLOCK.sub(lambda m: f"{m[1]}{parts[m[2]]()}\n{m[3]}", text)


if __name__ == "__main__":
    for readme in map(Path, ("README.md", "notebooks/README.md", "experiments/real_model.md")):
        results.write_text(readme, refreshed(readme.read_text(), blocks(Path())))
