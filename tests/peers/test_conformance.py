"""What the installed packages compute now, against the record; skipped where they are absent."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from adapters import PEERS, Peer, llama_factory, trl_step
from table import RECORD, examine
from wheels import Absent

from dft_theory import results
from dft_theory.testing.calls import recognised
from dft_theory.testing.cases import nothing_to_learn

if find_spec("trl") is None:
    pytest.skip("the packages to check are not installed: `make peers`", allow_module_level=True)

ROWS = {row["name"]: row for row in results.read_json(RECORD)["peers"]}
# Other people's code may warn as it likes.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_one_training_step_of_trl() -> None:
    try:
        distance = trl_step()
    except Absent as reason:
        pytest.skip(str(reason))
    assert distance < 1e-5  # float32 against float64


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.name)
def test_the_record_is_what_comes_out(peer: Peer) -> None:
    row = ROWS[peer.name]
    try:
        version = peer.version()
        if version.split("+")[0] != row["version"].split("+")[0]:
            pytest.skip(f"the record is of {peer.package} {row['version']}, here is {version}")
        fn = peer.load()
    except Absent as reason:
        pytest.skip(str(reason))
    report = examine(peer, fn)
    assert report.verdict == row["verdict"], str(report)
    assert [f.check for f in report.deviations] == [
        f["check"] for f in row["findings"] if f["status"] == "NO"
    ]


@pytest.mark.parametrize("name", ["dft", "eaft"])
def test_llama_factory_has_no_graph_for_a_masked_batch_even_with_n(name: str) -> None:
    try:
        fn = llama_factory(f"{name}_loss_func", f"_{name}_cross_entropy")
    except Absent as reason:
        pytest.skip(str(reason))
    logits = torch.zeros(1, 3, 30, requires_grad=True)
    loss = fn({"logits": logits}, torch.full((1, 3), -100), 40)
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()


def test_llama_factory_eaft_refuses_a_small_vocabulary() -> None:
    try:
        fn = llama_factory("eaft_loss_func", "_eaft_cross_entropy")
    except Absent as reason:
        pytest.skip(str(reason))
    with pytest.raises(RuntimeError, match="out of range"):
        fn({"logits": torch.zeros(1, 3, 19)}, torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize("name", ["ms-swift", "transformers, SFT", "axolotl EAFT"])
def test_a_masked_batch_is_zero_where_n_is_given(name: str) -> None:
    (peer,) = (p for p in PEERS if p.name == name)
    try:
        fn = peer.load()
    except Absent as reason:
        pytest.skip(str(reason))
    case = replace(nothing_to_learn(), count=40)
    assert float(recognised(fn)(case).value) == 0
