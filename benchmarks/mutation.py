"""Mutation testing: how many small changes of the code do its tests and claims notice?

    python benchmarks/mutation.py                            a sample of every group, recorded
    python benchmarks/mutation.py objectives --only gates    one file, only printed
    python benchmarks/mutation.py testing --again            what survived in the record, once more
    python benchmarks/mutation.py --reasons                  write the reasons into the record

Each mutant (`mutants.py`) runs in a child of this process, which gets its source in place of the
module's on import: nothing is written to disk. A file is checked by its tests and, in `claims/`, by
its claims, which must all hold; an objective by the claims about all objectives too. A mutant
inside `Mutant(...)` or `Published(...)` changes a side that is wrong already, and may well stay
wrong: it is counted apart. `make mutation` installs what this needs and runs it.
"""

import argparse
import importlib
import os
import resource
import signal
import sys
import time
import tomllib
from collections import Counter
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy  # noqa: F401  loaded once, before children are forked
import pytest
import scipy.stats  # noqa: F401
import torch
from mutants import ROOT, SEED, drawn, places

from dft_theory.provenance import manifest
from dft_theory.results import read_json, write_json

FOLDER = ROOT / "experiments/results/mutation"
PLACES = {"objectives": 320, "claims": 320, "testing": 155}  # most places tried in a group
OUTCOMES = ("survived", "killed", "killed on import")  # by the exit status of the child
MEMORY = 12 * 2**30  # address space of a child, bytes


def outcome(path: Path, source: str, seconds: float) -> tuple[str, float]:
    """What becomes of a file with that source, and the processor seconds that it took to tell."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            status = judge(path, source)
        except BaseException:
            status = 1
        os._exit(status)
    _, status, used = os.wait4(child, 0)
    taken = used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) == signal.SIGXCPU else "killed", taken
    return OUTCOMES[os.waitstatus_to_exitcode(status)], taken


def judge(path: Path, source: str) -> int:
    """In the child: import the package afresh with that source, then run claims and tests."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    get_code = SourceFileLoader.get_code

    def instead(self: SourceFileLoader, fullname: str) -> Any:
        return compile(source, path, "exec") if fullname == name else get_code(self, fullname)

    SourceFileLoader.get_code = instead  # type: ignore[method-assign]
    for module in [m for m in sys.modules if m.partition(".")[0] == "dft_theory"]:
        del sys.modules[module]
    try:
        importlib.import_module(name)
    except Exception:
        return 2
    torch.set_num_threads(1)
    options = "-q -x -p no:xdist -p no:cacheprovider -W ignore::pytest.PytestAssertRewriteWarning"
    tests = [str(file) for file in tests_of(path)]
    if tests and pytest.main([*options.split(), f"--rootdir={ROOT}", *tests]) != 0:
        return 1
    scope = importlib.import_module("dft_theory.claims.scope").Scope.standard()
    modules = [importlib.import_module(f"dft_theory.claims.{name}") for name in claim_files(path)]
    return int(not all(claim.check(scope).holds for m in modules for claim in m.CLAIMS))


def claim_files(path: Path) -> list[str]:
    """Whose claims must hold: the file's own or, where it has none, of three files that use it.

    For an objective, those about the limits and potentials that every objective declares.
    """
    if path.parent.name == "objectives":
        return ["relatives"]
    if path.parent.name != "claims" or path.stem in ("__init__", "base", "tolerance"):
        return []
    line = f"from dft_theory.claims.{path.stem} import"
    users = [file for file in sorted(path.parent.glob("*.py")) if line in file.read_text()]
    stating = [file.stem for file in (path, *users) if "\nCLAIMS = (" in file.read_text()]
    return stating[:1] if path.stem in stating else stating[:3]


def tests_of(path: Path) -> list[Path]:
    """The file's own tests, then those of its group."""
    folder = ROOT / "tests" / path.parent.name
    group = {"objectives": "test_base.py", "testing": "test_*.py"}.get(folder.name, "")
    files = [folder / f"test_{path.stem}.py", *(sorted(folder.glob(group)) if group else ())]
    return [file for file in dict.fromkeys(files) if file.exists()]


def run(group: str, only: str, again: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts for each module, and survivors, of the sampled places; of `again` only, if any."""
    started, spent = time.perf_counter(), 0.0
    files = [f for f in sorted((ROOT / "dft_theory" / group).glob("*.py")) if only in f.stem]
    found = [place for file in files for place in places(file)]
    sample = sorted(found, key=lambda place: place.rank)[: PLACES[group]]
    counts: dict[str, Counter[str]] = {}
    survivors: list[dict[str, Any]] = []
    limits: dict[frozenset[Path | str], float] = {}
    for place in sorted(sample, key=lambda place: (place.path, place.line)):
        change = drawn(place)
        if change is None or (again and not any(same(vars(change), old) for old in again)):
            continue
        checks = frozenset((*tests_of(place.path), *claim_files(place.path)))
        if checks not in limits:
            state, seconds = outcome(place.path, place.path.read_text(), 600)
            if state != "survived":
                raise SystemExit(f"{change.file} is {state} as it stands: mend it first")
            limits[checks], spent = 20 + 5 * seconds, spent + seconds
        state, seconds = outcome(place.path, change.source, limits[checks])
        spent += seconds
        side = "wrong side " if change.wrong_side else ""
        counts.setdefault(change.file, Counter())[side + state] += 1
        if state == "survived":
            survivors.append({k: v for k, v in vars(change).items() if k != "source"})
        print(
            f"{state:16}{seconds:6.1f} s  {change.file}:{change.line}  {change.after}", flush=True
        )
    return {
        "manifest": manifest(f"benchmarks/mutation.py {group}", seeds=[SEED], started=started),
        "places": len(found),
        "processor_seconds": round(spent),
        "modules": counts,
        "survivors": survivors,
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are the same change of the same code."""
    return all(one[k] == other[k] for k in ("file", "line", "operator", "before", "after"))


def updated(
    old: dict[str, Any], tried: list[dict[str, Any]], new: dict[str, Any]
) -> dict[str, Any]:
    """A group's record with what became of survivors. Raises: SystemExit where one is gone."""
    if sum(sum(counts.values()) for counts in new["modules"].values()) != len(tried):
        raise SystemExit("the code of a survivor has changed: run the group anew")
    modules = {file: Counter(counts) for file, counts in old["modules"].items()}
    for file, counts in new["modules"].items():
        for state, n in counts.items():
            side = "wrong side " if state.startswith("wrong side ") else ""
            modules[file].update({side + "survived": -n})
            modules[file].update({state: n})
    survivors = [s for s in old["survivors"] if s not in tried] + new["survivors"]
    return {**old, "modules": modules, "survivors": survivors, "again": new["manifest"]}


def explained(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the reason of each survivor: of the first entry that fits, or none."""
    reasons = tomllib.loads((FOLDER / "reasons.toml").read_text()).get("reason", [])
    for survivor in (s for group in record.values() for s in group["survivors"]):
        fits = [r for r in reasons if all(survivor[k] == v for k, v in r.items() if k != "why")]
        default = "a wrong side stays wrong" if survivor["wrong_side"] else ""
        survivor["reason"] = fits[0]["why"] if fits else default
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", default=PLACES, help=f"of {', '.join(PLACES)}")
    parser.add_argument("--only", default="", help="files with this in their name")
    parser.add_argument("--again", action="store_true", help="what survived in the record")
    parser.add_argument("--reasons", action="store_true", help="run nothing: write the reasons")
    chosen = parser.parse_args()
    file = FOLDER / "mutation.json"
    record = read_json(file) if file.exists() else {}
    for group in () if chosen.reasons else chosen.groups:
        if chosen.again:
            old = record[group]
            tried = [s for s in old["survivors"] if chosen.only in s["file"]]
            record[group] = updated(old, tried, run(group, chosen.only, tried))
        elif chosen.only:
            run(group, chosen.only, [])
            continue
        else:
            record[group] = run(group, "", [])
        write_json(file, explained(record))
    if chosen.reasons:
        write_json(file, explained(record))


if __name__ == "__main__":
    main()
