"""The identity on a real model and real text, and what its weights look like there.

Question: at every response token of real solutions, does autograd through the training objective
equal the policy gradient summed over the whole vocabulary? How large is the weight 1/pi on real
solutions, and where do SFT, DFT and p^1/2 spend their gradient?

Model: SmolLM2-135M-Instruct. Data: the first demonstrations of GSM8K's training split (or the
bundled word problems). Cost: laptop minutes. Paper reference: Figure 2 (base model), equations (5)
to (9). Deviation: one small model; the paper shows Qwen2.5-Math-1.5B on its own data.

    python experiments/real_model_tokens.py [--limit 64] [--data gsm8k]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from dft_theory.diagnostics.bins import bin_index, bin_labels
from dft_theory.importance_weight import effective_sample_size
from dft_theory.llm.data import load_demonstrations
from dft_theory.llm.pretrained import load_pretrained
from dft_theory.llm.token_identity import (
    Check,
    Response,
    check,
    gradient_share,
    responses,
)
from dft_theory.objectives import dft, objectives, sft
from dft_theory.provenance import manifest
from dft_theory.results import RunStore

RESULTS = Path(__file__).parent / "results"
CHECKED = 4  # demonstrations on which the gradients are compared; all of them enter the statistics
OBJECTIVES = (sft, objectives["power-0.5"], dft)

# Written before the first run; the outcome of each is computed in `reduce` and kept either way.
PREDICTIONS = {
    "identity": "every gradient agrees within tolerance, in float32 and in float64",
    "underflow": "more than half of the solutions have pi(y*|x) = 0 in float32",
    "samples": "the median solution needs more than 10^40 samples for a Monte Carlo check",
    "certain": "more than a quarter of the tokens have p > 0.9",
    "sft_mass": "SFT spends more than half of its gradient mass on tokens with p < 0.1",
    "dft_mass": "DFT spends less than a tenth of its gradient mass on tokens with p < 0.1",
    "ess": "the weights 1/p have an effective sample size below 1 % of the tokens",
}


def run(*, limit: int, data: str | None, model: str | None) -> None:
    """Measure, and write the record."""
    started = time.perf_counter()
    source = load_pretrained(model)
    chosen = load_demonstrations(data, limit=limit)
    name = f"{source.name.split('/')[-1]}-{chosen.source.split(':')[-1]}-n{len(chosen)}"
    checks = [c for d in chosen.items[:CHECKED] for c in check(source, d, OBJECTIVES)]
    found = list(responses(source, chosen))
    record = RunStore(RESULTS).run("real-model-tokens", name)
    record.start(
        manifest(
            ["python", "experiments/real_model_tokens.py", "--limit", str(limit)],
            started=started,
            extra={
                "model": {"name": source.name, "revision": source.revision},
                "data": {
                    "source": chosen.source,
                    "split": chosen.split,
                    "sha256": chosen.sha256,
                    "rows": chosen.rows,
                    "used": len(chosen),
                },
                "predictions": PREDICTIONS,
            },
        ),
        replace=True,
    )
    for r in found:
        record.log(
            {
                "id": r.id,
                "tokens": len(r.tokens),
                "log_prob": round(r.log_prob, 4),
                "float32_weight": r.float32_weight,
                "log10_samples": round(r.log10_samples, 3),
            }
        )
    vocabulary = source.model.get_input_embeddings().num_embeddings
    record.finish({"vocabulary": vocabulary, **reduce(found, checks)})
    print(record.folder)


def reduce(found: list[Response], checks: list[Check]) -> dict[str, object]:
    """Histogram, gradient shares, weights, checks, and how the predictions fared."""
    logp = torch.cat([r.logp for r in found])
    norms = torch.cat([r.score_norm for r in found])
    p = logp.exp()
    count = torch.bincount(bin_index(p), minlength=13)
    shares = {o.name: gradient_share(o, logp, norms) for o in OBJECTIVES}
    samples = statistics.median(r.log10_samples for r in found)
    dead = sum(r.float32_weight == 0 for r in found)
    summary: dict[str, object] = {
        "demonstrations": len(found),
        "tokens": len(logp),
        "nll_per_token": round(float(-logp.mean()), 4),
        "mean_p": round(float(p.mean()), 4),
        "dft_loss_per_token": round(float((-p * logp).mean()), 4),
        "entropy_per_token": round(float(torch.cat([r.entropy for r in found]).mean()), 4),
        "bins": bin_labels(),
        "token_count": count.tolist(),
        "gradient_share": {k: [round(float(x), 6) for x in v] for k, v in shares.items()},
        "largest_weight": float((-logp).max().exp()),
        "ess_inverse_p": round(effective_sample_size(-logp), 3),
        "ess_p": round(effective_sample_size(logp), 1),
        "underflow_float32": dead,
        "median_log10_samples": round(samples, 2),
        "median_log_prob": round(statistics.median(r.log_prob for r in found), 2),
        "checks": [
            {
                "objective": name,
                "precision": precision,
                "tokens": sum(c.tokens for c in group),
                "worst_logits": round(max(c.logits for c in group), 5),
                "worst_hidden": round(max(c.hidden for c in group), 5),
                "least_mutant": round(min(c.mutant for c in group), 1),
            }
            for (name, precision), group in _grouped(checks).items()
        ],
    }
    below = {k: float(v[:4].sum()) for k, v in shares.items()}
    summary["outcome"] = {
        "identity": all(c.holds for c in checks),
        "underflow": dead > len(found) / 2,
        "samples": samples > 40,
        "certain": bool((p > 0.9).double().mean() > 0.25),
        "sft_mass": below["sft"] > 0.5,
        "dft_mass": below["dft"] < 0.1,
        "ess": effective_sample_size(-logp) < 0.01 * len(logp),
    }
    return summary


def _grouped(checks: list[Check]) -> dict[tuple[str, str], list[Check]]:
    groups: dict[tuple[str, str], list[Check]] = {}
    for c in checks:
        groups.setdefault((c.objective, c.precision), []).append(c)
    return groups


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=64, help="number of demonstrations")
    parser.add_argument("--data", help="gsm8k, sample, hub:openai/gsm8k or a .jsonl file")
    parser.add_argument("--model", help="a hub id or a folder (default: SmolLM2-135M-Instruct)")
    options = parser.parse_args()
    run(limit=options.limit, data=options.data, model=options.model)
