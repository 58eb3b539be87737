"""Numbers of a diagnosis as a reader wants them."""

import math


def listed(parts: dict[str, str], most: int = 4) -> str:
    """Name and value of each, separated by commas; of more than `most`, how many are left out."""
    found = [f"{name} {value}" for name, value in parts.items()]
    rest = [f"{len(found) - most} more"] if len(found) > most else []
    return ", ".join(found[:most] + rest)


def percent(share: float) -> str:
    """A share as a percentage of two digits at most."""
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def number(x: float | None) -> str:
    """A number of steps, or of times, in words: `-` where unknown, `never` where infinite."""
    if x is None:
        return "-"
    if math.isinf(x):
        return "never"
    return f"{x:.2g}" if x < 100 else f"{x:,.0f}" if x < 1e6 else f"{x:.1e}"
