"""The registry, the reading of wheels, and the committed record: no other package is needed."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import wheels
from adapters import PEERS, Peer
from table import RECORD, TABLE, deviations, table
from wheels import Absent

from dft_theory import results
from dft_theory.testing.loss_function import CHECKS
from dft_theory.testing.report import name_of

ROOT = Path(__file__).parents[2]
RECORDED = results.read_json(RECORD)
ROWS = {row["name"]: row for row in RECORDED["peers"]}


def pins(lock: str) -> set[tuple[str, str]]:
    lines = (ROOT / lock).read_text().splitlines()
    return {tuple(line.split("==")) for line in lines if not line.startswith("#")}


def test_names_are_unique() -> None:
    assert len({p.name for p in PEERS}) == len(PEERS)


def test_checks_set_aside_exist() -> None:
    known = {name_of(check) for check in CHECKS}
    assert {name for p in PEERS for name in p.outside} <= known


def test_every_package_is_pinned() -> None:
    read = pins("requirements-peers-read.lock")
    assert {(p.package, p.wheel) for p in PEERS if p.wheel} == read
    installed = {name for name, _ in pins("requirements-peers.lock") | pins("requirements.lock")}
    assert {p.package for p in PEERS if not p.wheel} <= installed


@pytest.mark.parametrize("wheel", ["", "1.0"])
def test_an_absent_package_says_how_to_get_it(wheel: str) -> None:
    nowhere = replace(PEERS[0], package="no-such-package", wheel=wheel)
    with pytest.raises(Absent, match=r"no-such-package.*make peers"):
        nowhere.version()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of two functions, one calling the other, and a module that must not be run."""
    path = tmp_path / "some_pack-1.2-py3-none-any.whl"
    source = (
        "import nothing_of_this_name\n"
        "raise SystemExit('the module was run')\n"
        "def twice(x): return factor * _once(x)\n"
        "def _once(x): return x\n"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_pack/loss.py", source)
    return path


def test_a_function_runs_without_its_module(wheel: Path) -> None:
    fn = wheels.function(wheel, "some_pack/loss.py", "twice", "_once", given={"factor": 2})
    assert fn(21) == 42
    assert fn.__code__.co_filename == "some_pack-1.2-py3-none-any.whl/some_pack/loss.py"


def test_a_wheel_without_the_function_is_absent(wheel: Path) -> None:
    with pytest.raises(Absent, match="has no gone"):
        wheels.function(wheel, "some_pack/loss.py", "twice", "gone")
    with pytest.raises(Absent, match="has no some_pack/other"):
        wheels.function(wheel, "some_pack/other.py", "twice")


def test_a_wheel_is_found_by_name_and_version(wheel: Path) -> None:
    found = wheels.find("some-pack", folder=wheel.parent)
    assert found == wheel
    assert wheels.version_of(found) == "1.2"
    with pytest.raises(Absent, match=r"no wheel of some-pack 1\.3"):
        wheels.find("some-pack", "1.3", folder=wheel.parent)


# --- the record -----------------------------------------------------------------------------------


def test_the_table_is_made_from_the_record() -> None:
    assert TABLE.read_text() == table(RECORDED), "run: python tests/peers/table.py --render"


def test_the_record_covers_the_registry() -> None:
    absent = {row["name"] for row in RECORDED["absent"]}
    assert [p.name for p in PEERS if p.name not in absent] == list(ROWS)
    assert len(ROWS) >= 5


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.name)
def test_the_record_says_what_was_called(peer: Peer) -> None:
    row = ROWS[peer.name]
    assert (row["package"], row["called"], row["ours"], row["note"]) == (
        peer.package,
        peer.called,
        peer.composed,
        peer.note,
    )
    assert row["version"] == (peer.wheel or row["version"])


# What is wrong with released code, as its own source or its users say: the suite has to find it.
@pytest.mark.parametrize(
    "name, faults",
    [
        ("twinkle", {"missing detach", "no upcast"}),
        ("twinkle, chunked", {"missing detach", "mutates its inputs"}),
        ("ms-swift", {"label roll wraps"}),
        ("TRL function, early", {"no upcast", "all-masked batch fails where no N is given"}),
        ("TRL function, last", {"no upcast"}),
        ("LLaMA-Factory DFT", {"all-masked batch fails"}),
        ("LLaMA-Factory ASFT", {"micro-batch mean", "all-masked batch fails"}),
        ("axolotl EAFT", {"scaled by 3", "all-masked batch fails where no N is given"}),
    ],
)
def test_the_suite_found_what_is_known(name: str, faults: set[str]) -> None:
    assert faults <= set(ROWS[name]["diagnosis"])
    assert all(fault in deviations(ROWS[name]) for fault in faults)


@pytest.mark.parametrize("name", ["TRL trainer", "axolotl DFT", "Liger scaled cross-entropy"])
def test_the_suite_does_not_accuse_the_innocent(name: str) -> None:
    assert ROWS[name]["verdict"] == "conforms"
    assert deviations(ROWS[name]) == ""


def test_a_whole_training_step_of_trl_is_ours() -> None:
    assert RECORDED["trl_step"] < 1e-5  # float32 against float64
