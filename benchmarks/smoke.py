"""What README's training run takes on this machine, from the command to the scores.

    python benchmarks/smoke.py [--json FILE]

`dft-theory train smoke` in a fresh process and folder, on the word problems of the package. Wall
time is the machine's, busy or not; processor seconds are of all threads and processes together, and
on one thread (OMP_NUM_THREADS=1), where none waits for another, they hardly depend on other work.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from dft_theory.provenance import manifest
from dft_theory.results import Run, read_json, write_json

COMMAND = ["train", "smoke", "--out", "runs/smoke"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the record to this file")
    chosen = parser.parse_args()
    outside = {k: v for k, v in os.environ.items() if k != "DFT_THEORY_DATA"}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "dft_theory.cli", *COMMAND], cwd=folder, env=outside, check=True
        )
        wall = time.perf_counter() - started
        run = Run(Path(folder) / COMMAND[-1])
        record = {
            "command": " ".join(["dft-theory", *COMMAND]),
            "threads": torch.get_num_threads(),
            "wall_seconds": round(wall, 1),
            "cpu_seconds": round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]), 1),
            "gibibytes": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 1),
            "training": {"identity": run.manifest()["identity"], **run.summary()},
            "evaluation": read_json(run.folder / "evaluation" / "sample" / "evaluation.json"),
        }
    print(f"{record['wall_seconds']} s, {record['cpu_seconds']} s of processors")
    if chosen.json:
        about = manifest("python benchmarks/smoke.py --json FILE", started=started)
        write_json(chosen.json, {**record, "environment": about})


if __name__ == "__main__":
    main()
