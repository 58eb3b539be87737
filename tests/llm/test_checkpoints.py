"""Which checkpoints are trusted, and which are kept."""

import pytest

from dft_theory.llm.checkpoints import COMPLETE, newest, prune, seal
from dft_theory.results import RecordError


def written(root, step, *, sealed="this run"):
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "optimizer.pt").write_bytes(b"moments" * 200)
    if sealed:
        seal(folder, sealed)
    return folder


def test_the_newest_complete_one_is_taken_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        written(tmp_path, step)
    written(tmp_path, 200, sealed="")
    assert newest(tmp_path, "this run").name == "checkpoint-100"
    assert newest(tmp_path / "none", "this run") is None


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "optimizer.pt").write_bytes(b"moments"), "optimizer.pt is 7 bytes"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is gone"),
    ],
)
def test_a_damaged_one_is_refused_by_name(tmp_path, damage, named):
    written(tmp_path, 10)
    damage(written(tmp_path, 20))
    with pytest.raises(RecordError, match=f"checkpoint-20 is damaged: {named}"):
        newest(tmp_path, "this run")


def test_one_of_another_run_is_refused_by_name(tmp_path):
    written(tmp_path, 10)
    written(tmp_path, 20, sealed="another run")
    with pytest.raises(RecordError, match="checkpoint-20 belongs to another run"):
        newest(tmp_path, "this run")


def test_two_are_kept_and_the_model_of_named_steps(tmp_path):
    for step in (10, 20, 30, 40):
        written(tmp_path, step)
    half = written(tmp_path, 50, sealed="")
    prune(tmp_path, keep=(10,))
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    whole = [
        f"checkpoint-{s}/{f}"
        for s in (30, 40)
        for f in (COMPLETE, "model.safetensors", "optimizer.pt")
    ]
    assert left == [
        "checkpoint-10/model.safetensors",
        *whole,
        *(f"checkpoint-50/{p.name}" for p in sorted(half.iterdir())),
    ]
    prune(tmp_path, keep=(10, 40), newest=0)
    sealed = list(tmp_path.glob(f"*/{COMPLETE}"))
    assert not sealed
    assert (tmp_path / "checkpoint-40" / "model.safetensors").exists()
    assert not (tmp_path / "checkpoint-30").exists()
