"""`module:name` to the object it names: how the command line is given somebody's own code."""

import importlib
import sys
from pathlib import Path

from dft_theory.objectives import objectives
from dft_theory.registry import UnknownNameError


class SpecError(ValueError):
    """A spec that names nothing that can be loaded; the message says what was tried."""


def load(spec: str) -> object:
    """The object that `module:name` names; `name` may be dotted (`my_losses:Trainer.loss`).

    The current directory is importable, as it is with `python -m`. Raises: SpecError.
    """
    module_name, _, path = spec.partition(":")
    if module_name.endswith(".py"):
        module = Path(module_name).stem
        raise SpecError(f"{module_name} is a file: name its module, as in {module}:{path}")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise SpecError(f"{spec!r} is not module:name, as in my_losses:dft_loss")
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise SpecError(f"{module_name} imports {error.name}, which is not there") from error
        raise SpecError(
            f"there is no module {error.name!r} in {here} or among the installed packages"
        ) from error
    except (Exception, SystemExit) as error:  # a script may parse arguments when imported
        kind = type(error).__name__
        raise SpecError(f"importing {module_name} failed with {kind}: {error}") from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            file = getattr(sys.modules[module_name], "__file__", None) or module_name
            raise SpecError(f"{file} has no {path!r}") from error
    return found


def named(spec: str) -> object:
    """The objective of that name, or with a colon what `module:name` names.

    Raises: SpecError.
    """
    if ":" in spec:
        return load(spec)
    try:
        return objectives[spec]
    except UnknownNameError as error:
        raise SpecError(f"{error} A loss is named module:function, my_losses:dft_loss") from None
