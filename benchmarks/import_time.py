"""What `import dft_theory` costs beyond `import torch`, in milliseconds.

    python benchmarks/import_time.py [--runs N] [--json FILE]

Each run is a fresh interpreter that times its own imports, so that start-up is not counted: one
kind imports torch and then the package, the other imports torch alone twice over (the second
import is a dictionary look-up) and shows the noise floor. Medians; the runs alternate.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

TARGET = 100.0  # milliseconds
TIMED = """
import sys, time
import torch
before = time.perf_counter()
import {module}
print(1e3 * (time.perf_counter() - before))
print(" ".join(sorted({heavy} & set(sys.modules))))
"""
HEAVY = {"transformers", "matplotlib", "hypothesis", "scipy", "datasets", "pandas"}


def timed(module: str) -> tuple[float, str]:
    """Milliseconds of `import module` after `import torch`, and which heavy packages are loaded."""
    code = TIMED.format(module=module, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return float(lines[0]), lines[1] if len(lines) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="of each kind, at least 5")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    chosen = parser.parse_args()
    if chosen.runs < 5:
        parser.error("a median of fewer than 5 runs says little: pass --runs 5 or more")
    timed("dft_theory")  # writes the byte code, fills the file cache
    pairs = [(timed("dft_theory"), timed("torch")) for _ in range(chosen.runs)]
    package = [milliseconds for (milliseconds, _), _ in pairs]
    floor = statistics.median(milliseconds for _, (milliseconds, _) in pairs)
    median = statistics.median(package)
    extra = set(pairs[0][0][1].split()) - set(pairs[0][1][1].split())
    print(
        f"import dft_theory beyond import torch: median {median:.1f} ms "
        f"({min(package):.1f} to {max(package):.1f}, {chosen.runs} runs; floor {floor:.3f} ms), "
        f"{median / TARGET:.2f} of the target {TARGET:g} ms"
    )
    print(f"heavy packages that it loads: {', '.join(sorted(extra)) or 'none'}")
    if chosen.json:
        record = {"median_ms": median, "runs_ms": package, "floor_ms": floor, "heavy": list(extra)}
        partial = chosen.json.with_suffix(".tmp")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(chosen.json)


if __name__ == "__main__":
    main()
