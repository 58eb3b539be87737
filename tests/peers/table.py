"""The field, checked: runs every adapter through the conformance suite and writes what came out.

    python tests/peers/table.py            measure, write the record and PEERS.md
    python tests/peers/table.py --render   write PEERS.md from the record as it is

`make peers` installs what the adapters call and runs the first.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import wheels
from adapters import PEERS, Peer, trl_step
from wheels import Absent

from dft_theory import results
from dft_theory.provenance import manifest
from dft_theory.testing import Report, check_loss_function
from dft_theory.testing.report import not_applicable

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "experiments" / "results" / "peers" / "peers.json"
TABLE = ROOT / "PEERS.md"
HEAD = """# The field, checked

What other packages compute when they are asked for DFT, and for two of its relatives. Each row is
released code that was loaded and run on a CPU, forward and backward, through the checks of
`dft_theory.testing`: its gradient in the logits against the closed form, and how it treats labels,
masks, counts, precision and edges. Nothing here was retyped. `make peers` installs the packages,
runs the checks, and writes this file from its record.

*Ours* names what the adapter had to add: that part is not theirs. A deviation is named with the
smallest batch that shows it: B rows of T tokens, V in the vocabulary, and N, the token count of
the global batch, where it was given.
"""


def examine(peer: Peer, fn: Callable[..., Any]) -> Report:
    """The suite's report, with the checks outside this adapter's reach set aside."""
    report = check_loss_function(fn, claims_to_be=peer.claims_to_be, reduction=peer.reduction)
    findings = tuple(
        replace(not_applicable(peer.outside[f.check]), check=f.check)
        if f.check in peer.outside
        else f
        for f in report.findings
    )
    return replace(report, findings=findings)


def row(peer: Peer) -> dict[str, Any]:
    """What one adapter found, as JSON. Raises: Absent."""
    about = {
        "name": peer.name,
        "package": peer.package,
        "version": peer.version(),
        "sha256": wheels.sha256(wheels.find(peer.package, peer.wheel)) if peer.wheel else None,
        "called": peer.called,
        "ours": peer.composed,
        "outside": dict(peer.outside),
        "note": peer.note,
    }
    report = examine(peer, peer.load())
    found = report.as_dict()
    kept = [f for f in found["findings"] if f["status"] != "ok"]
    return about | {
        "claim": found["claim"],
        "verdict": found["verdict"],
        "diagnosis": found["diagnosis"] if report.deviations else [],
        "failure": found["failure"],
        "passed": len(found["findings"]) - len(kept),
        "findings": kept,
        "seconds": found["seconds"],
    }


def measure() -> dict[str, Any]:
    """The record: every adapter that loads here, and why the others do not."""
    started, rows, absent = time.perf_counter(), [], []
    try:
        step = trl_step()
    except Absent:
        step = None
    for peer in PEERS:
        try:
            rows.append(row(peer))
            outcome = rows[-1]["verdict"]
        except Absent as reason:
            absent.append({"name": peer.name, "package": peer.package, "reason": str(reason)})
            outcome = f"not loaded: {reason}"
        sys.stdout.write(f"{peer.name:36s} {outcome}\n")
    extra = {"peers": rows, "absent": absent, "trl_step": step}
    return manifest(["python", "tests/peers/table.py"], started=started, extra=extra)


def deviations(row: Mapping[str, Any]) -> str:
    """The faults by name, each with the smallest case that shows it."""
    if row["failure"]:
        return str(row["failure"])
    failed = [f for f in row["findings"] if f["status"] == "NO"]
    # A fault that the whole gradient was recognised by is shown by the gradient.
    shown = {f["check"]: f["case"] for f in reversed(failed)}
    cases = {name: shown.get("gradient", shown.get("value")) for name in row["diagnosis"]}
    cases |= {f["diagnosis"]: f["case"] for f in reversed(failed) if f["diagnosis"] in cases}
    cases |= {
        f["message"]: f["case"]
        for f in failed
        if not f["diagnosis"] and f["check"] not in ("gradient", "value")
    }
    said = {name: (case or "no single case").replace(" N=None", "") for name, case in cases.items()}
    return "; ".join(f"{name} ({case})" for name, case in said.items())


def asides(record: Mapping[str, Any]) -> list[str]:
    """What was set aside, and remarks, each with the rows that it is about."""
    about: dict[str, list[str]] = {}
    for r in record["peers"]:
        for check, reason in r["outside"].items():
            about.setdefault(f"`{check}` was set aside: {reason}", []).append(r["name"])
        for f in r["findings"]:
            if f["status"] == "remark":
                about.setdefault(f"Remark, no deviation: {f['message']}", []).append(r["name"])
    return [f"- {what}. {'; '.join(names)}." for what, names in about.items()]


def table(record: Mapping[str, Any]) -> str:
    """PEERS.md: a row for each implementation."""
    lines = [HEAD, f"Checked {record['utc'][:10]}, Python {record['python']}, torch "]
    lines[-1] += f"{record['packages']['torch']}.\n"
    lines += [
        "| | package | what was called | held to | ours | verdict | deviations |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in record["peers"]:
        found = deviations(r) + (f". Note: {r['note']}" if r["note"] else "")
        package = f"{r['package']} {r['version']}"
        cells = (r["name"], package, r["called"], r["claim"], r["ours"], r["verdict"])
        lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in (*cells, found))} |")
    lines += ["", *asides(record)]
    if record["absent"]:
        lines += ["", "Not loaded in this run:", ""]
        lines += [f"- {a['name']}: {a['reason']}" for a in record["absent"]]
    if record["trl_step"] is not None:
        lines += [
            "",
            "One whole step of TRL's `SFTTrainer` on a tiny random Llama, four micro-batches of "
            "different lengths: the gradient at its weights is ours of the whole batch within "
            f"{record['trl_step']:.1g} of its norm.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the record and the table."""
    parser = argparse.ArgumentParser(description="what other packages compute, as PEERS.md")
    parser.add_argument("--render", action="store_true", help="do not measure again")
    if not parser.parse_args().render:
        warnings.simplefilter("ignore")
        results.write_json(RECORD, measure())
    results.write_text(TABLE, table(results.read_json(RECORD)))


if __name__ == "__main__":
    main()
