"""The run store: records arrive whole or not at all, and damage is named."""

import errno
import json
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from dft_theory import results
from dft_theory.results import METRICS_LIMIT, RecordError, Run, RunStore, read_json, write_json


def fails_with(error: BaseException) -> Any:
    def raising(*_: object) -> None:
        raise error

    return raising


def test_a_write_replaces_the_whole_file_and_makes_folders(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    assert results.write_text(target, "a long first text\n") == target
    results.write_text(target, "β\n")
    assert target.read_bytes() == "β\n".encode()
    assert [f.name for f in target.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_earlier_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"earlier": 1})
    monkeypatch.setattr(call, fails_with(OSError(number, "full")))
    with pytest.raises(OSError, match=r"x\.json: the earlier file is intact") as caught:
        write_json(target, {"later": 2})
    assert caught.value.errno == number
    assert read_json(target) == {"earlier": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["x.json"]


def test_a_full_disk_without_an_earlier_file_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", fails_with(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="no part of it remains"):
        results.write_text(tmp_path / "new.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = results.write_text(tmp_path / "x.txt", "earlier")
    monkeypatch.setattr("os.fsync", fails_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        results.write_text(target, "later")
    assert target.read_text() == "earlier"
    assert [f.name for f in tmp_path.iterdir()] == ["x.txt"]


def test_a_write_the_system_cuts_short_leaves_the_earlier_file(tmp_path: Path) -> None:
    target = results.write_text(tmp_path / "x.txt", "earlier")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match="the earlier file is intact"):
            results.write_text(target, "x" * 2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_text() == "earlier"
    assert [f.name for f in tmp_path.iterdir()] == ["x.txt"]


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        results.write_text(tmp_path / "folder", "text")
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def test_permissions_and_links_survive_a_rewrite(tmp_path: Path) -> None:
    real = results.write_text(tmp_path / "real.txt", "1")
    real.chmod(0o640)
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    results.write_text(link, "2")
    assert link.is_symlink()
    assert real.read_text() == "2"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1.0, float("nan")]}, r"\['a'\]\[1\] = nan"),
        ([float("-inf")], r"\[0\] = -inf"),
        ({"t": {1, 2}}, r"\['t'\], a set"),
    ],
)
def test_what_json_lacks_is_refused_with_its_place(tmp_path: Path, value: Any, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": ', "", '{"a": Infinity}'])
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    path = results.write_text(tmp_path / "x.json", text)
    with pytest.raises(RecordError, match=r"x\.json is damaged"):
        read_json(path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).run("weights", "dft-s0")


def test_a_run_reads_back_what_was_written(run: Run, tmp_path: Path) -> None:
    run.start({"schema": 1, "seeds": [0]})
    assert not run.finished
    for step in range(3):
        run.log({"step": step, "loss": 0.1 * step})
    run.finish({"loss": 0.2})
    again = RunStore(tmp_path).run("weights", "dft-s0")
    assert again.finished
    assert again.manifest() == {"schema": 1, "seeds": [0]}
    assert [r["step"] for r in again.metrics()] == [0, 1, 2]
    assert again.metrics()[2]["loss"] == 0.1 * 2
    assert again.summary() == {"loss": 0.2}
    assert [r.name for r in RunStore(tmp_path).runs("weights")] == ["weights/dft-s0"]


def test_an_earlier_run_is_not_overwritten_silently(run: Run) -> None:
    run.start({"n": 1})
    run.log({"step": 0})
    with pytest.raises(RecordError, match="already holds a run"):
        run.start({"n": 2})
    assert run.manifest() == {"n": 1}
    run.finish({"done": True})
    run.start({"n": 3}, replace=True)
    assert run.manifest() == {"n": 3}
    assert run.metrics() == ()
    assert not run.finished


def test_a_manifest_that_cannot_be_written_removes_nothing(run: Run) -> None:
    run.start({"n": 1})
    run.finish({"x": 1})
    with pytest.raises(ValueError, match="nan"):
        run.start({"n": float("nan")}, replace=True)
    assert run.summary() == {"x": 1}


def test_missing_records_say_what_happened(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="never started"):
        run.manifest()
    run.start({})
    with pytest.raises(RecordError, match="did not finish"):
        run.summary()
    with pytest.raises(RecordError, match="no run of 'other'"):
        RunStore(tmp_path).runs("other")


def test_a_failed_log_line_leaves_the_lines_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.log({"step": 0})
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails_with(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="bytes before are intact"):
            run.log({"step": 1})
    assert (run.folder / "metrics.jsonl").read_text() == '{"step": 0}\n'
    run.log({"step": 2})
    assert [r["step"] for r in run.metrics()] == [0, 2]


def test_a_torn_last_line_is_dropped_and_a_damaged_one_named(run: Run) -> None:
    run.log({"step": 0})
    path = run.folder / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 1, "lo')
    assert [r["step"] for r in run.metrics()] == [0]
    run.log({"step": 2})
    assert [r["step"] for r in run.metrics()] == [0, 2]
    path.write_text('{"step": 0}\n{"step"\n{"step": 2}\n')
    with pytest.raises(RecordError, match="line 2 is damaged"):
        run.metrics()
    path.write_text("[1]\n")
    with pytest.raises(RecordError, match="line 1 is not a JSON object"):
        run.metrics()


def test_metrics_too_large_for_version_control_warn_once(run: Run) -> None:
    run.folder.mkdir(parents=True)
    line = json.dumps({"note": "x" * 97}) + "\n"
    count = METRICS_LIMIT // len(line)
    (run.folder / "metrics.jsonl").write_text(line * count)
    with pytest.warns(UserWarning, match="every k-th step"):
        run.log({"note": "y" * 200})
    run.log({"note": "z"})  # a second warning would be an error here
    assert len(run.metrics()) == count + 2


@pytest.mark.parametrize("name", ["", "..", "a/b", "/abs", ".hidden", "a b", "a\\b", "naïve"])
def test_names_are_plain_folder_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a run"):
        RunStore(tmp_path).run("weights", name)
    with pytest.raises(ValueError, match="cannot name a run"):
        RunStore(tmp_path).run(name, "x")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
