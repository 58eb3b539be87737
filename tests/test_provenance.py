"""The manifest: enough to trace a number, nothing about whose machine it was."""

import functools
import getpass
import hashlib
import inspect
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path

import pytest

from dft_theory import provenance
from dft_theory.objectives import dft, sft
from dft_theory.provenance import manifest, source_hash


def test_the_manifest_says_what_ran_where_and_when() -> None:
    started = time.perf_counter()
    record = manifest(
        "dft-theory verify", seeds=(3, 4), extra={"objective": "dft"}, started=started
    )
    assert record["schema"] == 1
    assert record["command"] == "dft-theory verify"
    assert record["python"] == platform.python_version()
    for package in ("torch", "numpy", "scipy", "matplotlib"):
        assert record["packages"][package] == metadata.version(package)
    assert record["packages"]["dft-theory"]
    assert record["platform"]["os"] == platform.system()
    assert record["platform"]["architecture"] == platform.machine()
    assert record["seeds"] == [3, 4]
    assert record["objective"] == "dft"
    assert 0 <= record["wall_seconds"] < 60
    when = datetime.fromisoformat(record["utc"])
    assert when.utcoffset() == timedelta(0)
    assert json.loads(json.dumps(record)) == record
    assert manifest("x")["wall_seconds"] is None


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("python /home/ada/work/run.py --out=/tmp/ada/x.json", "python run.py --out=x.json"),
        (["/home/ada/bin/dft-theory", "verify", "a b"], "dft-theory verify 'a b'"),
        (["x", "/home/ada lovelace/notes.txt"], "x notes.txt"),
        (["x", "--out=/home/ada lovelace/a.txt"], "x --out=a.txt"),
        (r"x C:\Users\ada\a.txt", "x a.txt"),
        ("x file:///home/ada/a.txt", "x a.txt"),
        (
            "x https://arxiv.org/abs/2508.05629 1/2 a/b",
            "x https://arxiv.org/abs/2508.05629 1/2 a/b",
        ),
        ("PYTHONPATH=/home/ada/a:/home/ada/b x", "PYTHONPATH=a:b x"),
    ],
)
def test_commands_keep_no_absolute_path(command: str | list[str], kept: str) -> None:
    assert manifest(command)["command"] == kept


def test_paths_inside_the_project_become_relative() -> None:
    inside = Path(provenance.__file__)
    assert manifest(["python", str(inside)])["command"] == "python dft_theory/provenance.py"


def test_nothing_of_the_machine_or_its_owner_is_recorded(tmp_path: Path) -> None:
    extra = {"file": str(tmp_path / "x"), "deep": [{"folder": tmp_path}], "text": f"see {tmp_path}"}
    text = json.dumps(manifest([str(tmp_path / "run.py")], extra=extra))
    for secret in (str(tmp_path), str(Path.home()), str(Path.cwd()), platform.node()):
        assert not re.search(rf"(?<![\w.-]){re.escape(secret)}(?![\w.-])", text), secret
    assert getpass.getuser() not in re.findall(r"[\w.-]+", text)


def test_a_start_from_another_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="perf_counter"):
        manifest("x", started=time.time())
    with pytest.raises(ValueError, match="perf_counter"):
        manifest("x", started=-1.0)


def test_extra_cannot_overwrite_the_record() -> None:
    with pytest.raises(ValueError, match="'git'"):
        manifest("x", extra={"git": "clean"})


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_commit_and_dirty_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert manifest("x")["git"] is None
    git(tmp_path, "init", "-q")
    assert manifest("x")["git"] is None  # no commit yet
    code = tmp_path / "a.py"
    code.write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert manifest("x")["git"] == {"commit": head, "dirty": False}
    (tmp_path / "record.json").write_text("{}")  # what a run writes is not a change of code
    assert manifest("x")["git"] == {"commit": head, "dirty": False}
    code.write_text("2\n")
    assert manifest("x")["git"] == {"commit": head, "dirty": True}
    code.write_text("1\n")
    (tmp_path / "new.py").write_text("3\n")
    assert manifest("x")["git"] == {"commit": head, "dirty": True}


def test_another_projects_checkout_around_the_package_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "site-packages"
    inner.mkdir()
    (inner / "a.py").write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    monkeypatch.setattr(provenance, "_ROOT", inner)
    assert manifest("x")["git"] is None


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert manifest("x")["git"] is None


def scaled(factor: float) -> Callable[[float], float]:
    return lambda x: factor * x


@dataclass(frozen=True)
class Rule:
    name: str
    weight: Callable[[float], float]


def test_a_functions_hash_is_the_sha256_of_its_source() -> None:
    text = inspect.getsource(scaled)
    assert source_hash(scaled) == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_follows_source_and_captured_values() -> None:
    assert source_hash(scaled(2.0)) == source_hash(scaled(2.0))
    assert source_hash(scaled(2.0)) != source_hash(scaled(3.0))
    one, two = functools.partial(scaled, 1.0), functools.partial(scaled, 2.0)
    assert source_hash(one) != source_hash(two)


def test_an_instance_is_hashed_with_its_fields() -> None:
    rule = Rule("a", scaled(2.0))
    assert source_hash(rule) == source_hash(Rule("a", scaled(2.0)))
    assert source_hash(rule) != source_hash(replace(rule, name="b"))
    assert source_hash(rule) != source_hash(replace(rule, weight=scaled(3.0)))


def test_objectives_have_distinct_hashes() -> None:
    assert source_hash(sft) != source_hash(dft)
    assert source_hash(dft) == source_hash(replace(dft))


def test_what_has_no_source_is_refused() -> None:
    with pytest.raises(TypeError, match="no source"):
        source_hash(object())
