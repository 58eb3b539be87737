"""The run store: small records, each written whole, that a later reader can trust.

A run is a folder `<root>/<experiment>/<name>/` with `manifest.json` (what was run, see
`provenance.manifest`), `metrics.jsonl` (one JSON object a line, in the order logged) and
`summary.json` (the numbers the run was for; present exactly when it finished). Failed and
negative runs stay.
"""

import errno
import json
import math
import os
import re
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS_LIMIT = 100_000  # bytes of metrics.jsonl that belong into version control
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RecordError(ValueError):
    """A record that is missing, damaged, or must not be overwritten; the message says which."""


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write a whole file: a temporary neighbour, flushed to disk, renamed into place.

    A reader sees the earlier file or the new one, never a part; an interrupted write removes its
    temporary file and leaves the earlier one as it was. Folders are made. Raises: OSError.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name[:80]}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            part.chmod(target.stat().st_mode & 0o777)
        part.replace(target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            kept = "the earlier file is intact" if target.exists() else "no part of it remains"
            raise OSError(
                error.errno, f"no room to write {path}: {kept}; free some space and run again"
            ) from error
        raise
    return Path(path)


def write_text(path: Path | str, text: str) -> Path:
    """`write_bytes` of UTF-8 text, line ends as given."""
    return write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> Path:
    """`write_bytes` of indented JSON. Raises: ValueError for NaN, infinities, foreign types."""
    return write_text(path, encode(value, where=str(path), indent=2) + "\n")


def encode(value: Any, *, where: str, indent: int | None = None) -> str:
    """Strict JSON (RFC 8259): a number that JSON lacks is an error, not a `NaN` in the file."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent)
    except (ValueError, TypeError) as error:
        found = _foreign(value)
        raise ValueError(
            f"{where}: {found or error} has no place in JSON; "
            "write None for what was not measured, and float(...) or .tolist() for arrays"
        ) from error


def _foreign(value: Any, place: str = "the value") -> str:
    """Where the first value is that JSON cannot hold, in words."""
    if isinstance(value, Mapping):
        items = [(f"{place}[{k!r}]", v) for k, v in value.items()]
        found = (_foreign(v, p) for p, v in items)
    elif isinstance(value, list | tuple):
        found = (_foreign(v, f"{place}[{i}]") for i, v in enumerate(value))
    elif value is None or isinstance(value, str | int):
        return ""
    elif isinstance(value, float):
        return "" if math.isfinite(value) else f"{place} = {value}"
    else:
        return f"{place}, a {type(value).__name__},"
    return next(filter(None, found), "")


def read_json(path: Path | str) -> Any:
    """The value in a JSON file. Raises: RecordError with the file and line for a damaged one."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise RecordError(f"there is no {path}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is damaged: {error}") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class Run:
    """One run's folder and its three files."""

    folder: Path

    @property
    def name(self) -> str:
        """`<experiment>/<name>`."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def finished(self) -> bool:
        """Whether the run got as far as its summary."""
        return (self.folder / "summary.json").exists()

    def start(self, manifest: Mapping[str, Any], *, replace: bool = False) -> None:
        """Write the manifest of a new run; with `replace`, of one that takes another's place.

        Raises: RecordError if the folder already holds a run.
        """
        earlier = [self.folder / f for f in ("summary.json", "metrics.jsonl", "manifest.json")]
        if not replace and any(file.exists() for file in earlier):
            raise RecordError(
                f"{self.folder} already holds a run: records are not overwritten silently; "
                "choose another name, or replace it on purpose with replace=True"
            )
        encode(manifest, where=f"manifest of {self.name}")  # refuse before anything is removed
        for file in earlier[:2]:
            file.unlink(missing_ok=True)
        write_json(self.folder / "manifest.json", dict(manifest))

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; a write that fails leaves the earlier lines intact.

        Warns once when the file outgrows what belongs into version control.
        """
        path = self.folder / "metrics.jsonl"
        line = encode(dict(record), where=f"metrics of {self.name}").encode() + b"\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = _whole_lines(path)
            try:
                file.truncate(size)  # the torn last line of a run that lost its power
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except BaseException as error:
                os.truncate(path, size)
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise OSError(
                        error.errno, f"no room to extend {path}: the {size} bytes before are intact"
                    ) from error
                raise
        if size <= METRICS_LIMIT < size + len(line):
            warnings.warn(
                f"{path} has passed {METRICS_LIMIT // 1000} kB: log every k-th step only, "
                "or keep this record out of version control",
                stacklevel=2,
            )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary: from here on the run counts as finished."""
        write_json(self.folder / "summary.json", dict(summary))

    def manifest(self) -> dict[str, Any]:
        """What was run. Raises: RecordError."""
        return self._read("manifest.json", "it was never started")

    def summary(self) -> dict[str, Any]:
        """What came out. Raises: RecordError, also for a run that did not finish."""
        return self._read("summary.json", "the run did not finish")

    def metrics(self) -> tuple[dict[str, Any], ...]:
        """Every whole line logged, in order. Raises: RecordError with the line number."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return ()
        lines = path.read_bytes()[: _whole_lines(path)].splitlines()
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line, parse_constant=_refuse)
            except ValueError as error:
                raise RecordError(f"{path} line {number} is damaged: {error}") from error
            if not isinstance(record, dict):
                raise RecordError(f"{path} line {number} is not a JSON object")
            records.append(record)
        return tuple(records)

    def _read(self, file: str, absent: str) -> dict[str, Any]:
        path = self.folder / file
        if not path.exists():
            raise RecordError(f"run {self.name} has no {file} in {self.folder}: {absent}")
        value = read_json(path)
        if not isinstance(value, dict):
            raise RecordError(f"{path} is damaged: it holds no JSON object")
        return value


def _whole_lines(path: Path) -> int:
    """Bytes up to and with the last line end."""
    return path.read_bytes().rfind(b"\n") + 1


@dataclass(frozen=True)
class RunStore:
    """All runs below one folder."""

    root: Path

    def run(self, experiment: str, name: str) -> Run:
        """The run of that name, whether or not it has been started.

        Raises: ValueError for a name that is not a plain folder name.
        """
        for part in (experiment, name):
            if not _NAME.fullmatch(part):
                raise ValueError(
                    f"{part!r} cannot name a run: use letters, digits and . _ + = -, "
                    "starting with a letter or digit"
                )
        return Run(Path(self.root) / experiment / name)

    def runs(self, experiment: str) -> Sequence[Run]:
        """Every started run of an experiment, by name. Raises: RecordError if there is none."""
        folder = Path(self.root) / experiment
        runs = tuple(Run(file.parent) for file in sorted(folder.glob("*/manifest.json")))
        if not runs:
            raise RecordError(f"no run of {experiment!r} is recorded in {self.root}")
        return runs
