"""Where a number came from: code, versions, machine kind, seeds and time, but no names or paths."""

import functools
import hashlib
import inspect
import os
import platform
import re
import shlex
import subprocess
import textwrap
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

SCHEMA = 1
_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("dft-theory", "torch", "numpy", "scipy", "matplotlib", "transformers")
# An absolute path at the start of a word, also after = or a quote; not the // of an address.
_ABSOLUTE = re.compile(
    r"(?<![^\s=,:;'\"(\[{])(?:file://)?(?:[A-Za-z]:[\\/]|/(?!/))[^\s=,:;'\")\]}]+"
)


def manifest(
    command: str | Sequence[str],
    *,
    seeds: Sequence[int] = (),
    extra: Mapping[str, Any] | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """The record that makes a number traceable, as plain JSON values.

    `started` is a reading of `time.perf_counter()`; wall time is in seconds, None without it.
    Absolute paths in `command` and `extra` become relative ones, or bare names.
    Raises: ValueError for a `started` of another clock, or an `extra` that repeats a field.
    """
    wall = None if started is None else time.perf_counter() - started
    if wall is not None and not 0 <= wall <= time.perf_counter():
        raise ValueError("started must be a reading of time.perf_counter(), not of another clock")
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "command": _command(command),
        "git": _git(),
        "python": platform.python_version(),
        "packages": _packages(),
        "platform": _platform(),
        "seeds": [int(seed) for seed in seeds],
        "wall_seconds": None if wall is None else round(wall, 3),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    repeated = sorted(set(record) & set(extra or {}))
    if repeated:
        raise ValueError(f"extra must not repeat the manifest's own field {repeated[0]!r}")
    return record | {key: _without_paths(value) for key, value in (extra or {}).items()}


def source_hash(obj: object) -> str:
    """SHA-256 of an object's source, in hexadecimal.

    For a function or class: its own text (indentation aside) and the values a closure holds.
    For a dataclass instance, such as an objective: its class and every field, functions by source.
    Raises: TypeError for what has neither source nor a stable representation.
    """
    return hashlib.sha256(_describe(obj, frozenset()).encode()).hexdigest()


def _describe(value: object, seen: frozenset[int]) -> str:
    if id(value) in seen:
        return "..."
    seen |= {id(value)}
    if isinstance(value, functools.partial):
        return _describe((value.func, value.args, dict(value.keywords)), seen)
    if isinstance(value, types.FunctionType | types.MethodType | type | types.ModuleType):
        cells = getattr(value, "__closure__", None) or ()
        held = [_describe(cell.cell_contents, seen) for cell in cells]
        try:
            return "\n".join([textwrap.dedent(inspect.getsource(value)), *held])
        except OSError as error:
            raise TypeError(f"{value!r} has no source to hash: define it in a file") from error
    if is_dataclass(value):
        parts = [(f.name, getattr(value, f.name)) for f in fields(value)]
        return "\n".join([_describe(type(value), seen), *(_describe(p, seen) for p in parts)])
    if isinstance(value, Mapping):
        return _describe(tuple(value.items()), seen)
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(_describe(v, seen) for v in value)})"
    text = repr(value)
    if " at 0x" in text:
        raise TypeError(f"{text} has no source and no stable representation to hash")
    return text


def _command(command: str | Sequence[str]) -> str:
    if isinstance(command, str):
        return _in_words(command)
    return shlex.join(_argument(part) for part in command)


def _argument(text: str) -> str:
    """One argument, kept whole even where a path has spaces in it."""
    head, sign, value = text.rpartition("=")
    if Path(value).is_absolute() or PureWindowsPath(value).is_absolute():
        return head + sign + _relative(value)
    return _in_words(text)


def _in_words(text: str) -> str:
    return _ABSOLUTE.sub(lambda found: _relative(found[0]), text)


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        return _in_words(value)
    if isinstance(value, Path):
        return _relative(str(value))
    if isinstance(value, Mapping):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return value


def _relative(path: str) -> str:
    path = path.removeprefix("file://")
    if PureWindowsPath(path).drive:
        return PureWindowsPath(path).name
    for base in (Path.cwd(), _ROOT):
        # abspath, not resolve: a link such as .venv/bin/python should keep its own name
        if Path(path).is_absolute() and Path(os.path.abspath(path)).is_relative_to(base):  # noqa: PTH100
            return str(Path(os.path.abspath(path)).relative_to(base))  # noqa: PTH100
    return path if not Path(path).is_absolute() else Path(path).name


def _git() -> dict[str, Any] | None:
    """Commit, and whether a Python file differs from it; None outside the project's checkout.

    Records and figures do not make a tree dirty: they are what a run is there to write.
    """
    top = _ask_git("rev-parse", "--show-toplevel")
    commit = _ask_git("rev-parse", "--verify", "HEAD")
    if not top or not commit or Path(top).resolve() != _ROOT:
        return None
    changed = _ask_git("status", "--porcelain", "--", "*.py", "*.toml")
    return {"commit": commit, "dirty": changed != ""}


def _ask_git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _packages() -> dict[str, str]:
    """Versions of what is installed; a source tree that was not installed says so."""
    found = {"dft-theory": "source tree"}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _platform() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "os": platform.system(),
        "architecture": platform.machine(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
    }
