"""Named random generators: the same root seed and names give the same numbers, in any order."""

import hashlib

import numpy as np
import torch


def seed_of(root: int, *names: str | int) -> int:
    """A 63-bit seed from a root seed and names."""
    text = "/".join([str(root), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(root: int, *names: str | int) -> torch.Generator:
    """A torch generator of its own for `names`; the global one is never touched."""
    return torch.Generator().manual_seed(seed_of(root, *names))


def numpy_generator(root: int, *names: str | int) -> np.random.Generator:
    """As `generator`, for numpy and scipy."""
    return np.random.default_rng(seed_of(root, *names))
