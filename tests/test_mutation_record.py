"""The record of the mutation run is whole, explained, and what the README's sentence is made of."""

from pathlib import Path

import pytest

from dft_theory import catalog
from dft_theory.results import read_json

ROOT = Path(__file__).resolve().parents[1]
RECORD = read_json(ROOT / "experiments/results/mutation/mutation.json")
SURVIVORS = [s for group in RECORD.values() for s in group["survivors"]]


def test_every_group_was_sampled_and_says_from_which_code():
    made = {
        name: sum(catalog.noticed(group, side=side)[1] for side in ("", "wrong side "))
        for name, group in RECORD.items()
    }
    assert made["objectives"] >= 300
    assert made["claims"] >= 300
    assert made["testing"] >= 150
    assert all(group["manifest"]["git"]["commit"] for group in RECORD.values())


@pytest.mark.parametrize("name", RECORD)
def test_every_survivor_that_is_counted_is_listed(name):
    modules, survivors = RECORD[name]["modules"], RECORD[name]["survivors"]
    for wrong in (False, True):
        outcome = "wrong side survived" if wrong else "survived"
        listed = [s["file"] for s in survivors if s["wrong_side"] is wrong]
        assert {file: listed.count(file) for file in modules} == {
            file: counts.get(outcome, 0) for file, counts in modules.items()
        }


@pytest.mark.parametrize("survivor", SURVIVORS, ids=lambda s: f"{s['file']}:{s['line']}")
def test_every_survivor_has_a_reason(survivor):
    assert len(survivor["reason"].split()) >= 3, (
        f"add `{survivor['before']}` to experiments/results/mutation/reasons.toml "
        "and run `python benchmarks/mutation.py --reasons`"
    )


def test_the_sentence_counts_a_record_by_hand():
    module = {"killed": 5, "killed on import": 1, "timeout": 1, "survived": 3}
    assert catalog.mutation(
        {"objectives": {"modules": {"a.py": module, "b.py": {"killed": 2}}}}
    ) == ("- `objectives/`: 9 of 12 mutants noticed (75%)")
    wrong = {"killed": 3, "survived": 1, "wrong side survived": 3, "wrong side killed": 1}
    assert catalog.mutation({"claims": {"modules": {"c.py": wrong}}}) == (
        "- `claims/`: 3 of 4 mutants noticed (75%), and 1 of 4 inside sides that are wrong on "
        "purpose and may stay wrong (together 50%)"
    )
