"""Checkpoints that can be trusted: whole, and of this run.

A process can be killed at any moment, also while it writes. So a checkpoint counts once a last
small file stands in it, which names the run and the size of every other file.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from dft_theory.results import RecordError, read_json, write_json

COMPLETE = "complete.json"
KEPT = 2  # the newest ones; an older one is there if the newest turns out to be damaged


def seal(folder: Path, identity: str) -> None:
    """Declare a checkpoint complete, as one of the run `identity`."""
    write_json(folder / COMPLETE, {"run": identity, "bytes": _sizes(folder)})


def prune(root: Path, keep: Collection[int], newest: int = KEPT) -> None:
    """Remove all sealed checkpoints but the `newest`; of the steps `keep` the model stays.

    The optimizer's state is twice the model's size and serves to resume alone.
    """
    sealed = _sealed(root)
    for folder in sealed[: len(sealed) - newest]:
        (folder / COMPLETE).unlink()  # first: what is half removed is not complete
        if _step(folder) in keep:
            (folder / "optimizer.pt").unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)


def newest(root: Path, identity: str) -> Path | None:
    """The newest complete checkpoint of a run; None where none was completed.

    What was being written when a run was killed is no checkpoint and is passed over. Raises:
    RecordError, naming it, for one of another run and one whose files are not what was written.
    """
    found = _sealed(root)
    if not found:
        return None
    folder = found[-1]
    record = read_json(folder / COMPLETE)
    if record["run"] != identity:
        raise RecordError(
            f"{folder} belongs to another run: recipe, objective, data, model or number of steps "
            "differ. Resume with the same ones, or train into another folder"
        )
    sizes = _sizes(folder)
    for name, size in record["bytes"].items():
        if sizes.get(name) != size:
            has = f"{sizes[name]:,} bytes" if name in sizes else "gone"
            raise RecordError(
                f"{folder} is damaged: {name} is {has}, written were {size:,} bytes. Remove that "
                "folder to resume from the checkpoint before it"
            )
    return folder


def _sealed(root: Path) -> list[Path]:
    return sorted((f.parent for f in root.glob(f"checkpoint-*/{COMPLETE}")), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != COMPLETE)
    return {f.relative_to(folder).as_posix(): f.stat().st_size for f in files}
