"""A named, ordered, immutable collection that suggests the nearest name when one is unknown."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar


class Named(Protocol):
    """Anything with a `name`."""

    @property
    def name(self) -> str: ...  # noqa: D102


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T]):
    """Name -> item, in the order given.

    Raises: UnknownNameError (a KeyError) for an unknown name, with the nearest known ones;
    ValueError for a name used twice.
    """

    def __init__(self, kind: str, items: Iterable[T]) -> None:
        self._kind = kind
        self._items: dict[str, T] = {}
        for item in items:
            if item.name in self._items:
                raise ValueError(f"two {kind}s are named {item.name!r}")
            self._items[item.name] = item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise UnknownNameError(self._kind, name, tuple(self._items))
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class UnknownNameError(KeyError):
    """No item of that name; the message names the nearest ones."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        near = near or [k for k in known if name in k][:3]
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        self.message = f"there is no {kind} named {name!r}. {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message
