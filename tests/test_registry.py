"""Names in order, one item each, and a helpful word where a name is unknown."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from dft_theory.objectives import OBJECTIVES, objectives
from dft_theory.registry import Registry, UnknownNameError


@dataclass(frozen=True)
class Item:
    name: str


ITEMS = tuple(map(Item, ("sft", "dft", "dft-sequence", "power-0.5")))


def test_a_registry_maps_names_to_items_in_the_order_given():
    registry = Registry("objective", ITEMS)
    assert isinstance(registry, Mapping)
    assert list(registry) == [item.name for item in ITEMS]
    assert tuple(registry.values()) == ITEMS
    assert len(registry) == len(ITEMS)
    assert all(registry[item.name] is item for item in ITEMS)


def test_membership_and_get_do_not_raise():
    registry = Registry("objective", ITEMS)
    assert "dft" in registry
    assert "rlhf" not in registry
    assert registry.get("rlhf") is None


def test_two_items_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two objectives are named 'sft'"):
        Registry("objective", (Item("sft"), Item("dft"), Item("sft")))


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [("dtf", "dft"), ("dft-sequnce", "dft-sequence"), ("power", "power-0.5"), ("ft", "sft")],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_ones(asked, suggested):
    registry = Registry("objective", ITEMS)
    with pytest.raises(UnknownNameError) as caught:
        registry[asked]
    text = str(caught.value)
    assert text.startswith(f"there is no objective named {asked!r}. Did you mean ")
    assert suggested in text.partition("Did you mean ")[2]


def test_a_name_near_to_nothing_is_answered_with_all_of_them():
    with pytest.raises(KeyError) as caught:
        Registry("claim", ITEMS)["zzzz"]
    # KeyError alone would print the message in quotes.
    assert str(caught.value) == (
        "there is no claim named 'zzzz'. Known: sft, dft, dft-sequence, power-0.5."
    )


def test_items_cannot_be_replaced():
    with pytest.raises(TypeError):
        Registry("objective", ITEMS)["sft"] = Item("sft")


def test_the_catalogue_of_objectives_is_the_tuple_by_name():
    assert tuple(objectives.values()) == OBJECTIVES
    assert list(objectives)[:2] == ["sft", "dft"]
