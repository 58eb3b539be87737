"""Pure functions out of a wheel, for packages that cannot be imported beside the others.

The function runs as it was released; nothing of it is written down here.
"""

import ast
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".peers" / "wheels"


class Absent(Exception):
    """The package is not there, or does not run here; the message says what is missing."""


def find(name: str, version: str = "", *, folder: Path = FOLDER) -> Path:
    """The wheel of a distribution. Raises: Absent."""
    found = sorted(folder.glob(f"{name.replace('-', '_')}-{version or '*'}-*.whl"))
    if not found:
        raise Absent(f"no wheel of {name} {version}".rstrip() + ": run `make peers`")
    return found[-1]


def version_of(wheel: Path) -> str:
    """The version in a wheel's file name."""
    return wheel.name.split("-")[1]


def sha256(wheel: Path) -> str:
    """SHA-256 of a wheel, in hexadecimal: which code it was that ran."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def function(
    wheel: Path, member: str, *names: str, given: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """The function `names[0]` of a module in a wheel, with the others that it calls.

    `given` holds what the module imports and the functions use. Raises: Absent for a module or
    function that this version does not have.
    """
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise Absent(f"{wheel.name} has no {member}")
        tree = ast.parse(archive.read(member))
    picked: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    missing = set(names) - {node.name for node in picked if isinstance(node, ast.FunctionDef)}
    if missing:
        raise Absent(f"{member} of {wheel.name} has no {', '.join(sorted(missing))}")
    scope = dict(given or {})
    exec(compile(ast.Module(picked, []), f"{wheel.name}/{member}", "exec"), scope)
    chosen: Callable[..., Any] = scope[names[0]]
    return chosen
