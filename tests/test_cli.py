"""The command line: what it prints, what it writes, and its exit statuses."""

import json
from pathlib import Path

import pytest

from dft_theory import cli, ledger
from dft_theory.claims import CLAIMS, Claim, Mutant, Scope
from dft_theory.objectives import OBJECTIVES


def test_list_json_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [o["name"] for o in found["objectives"]] == [o.name for o in OBJECTIVES]
    assert {"name", "title", "cite", "level", "needs"} <= set(found["objectives"][0])
    assert [c["name"] for c in found["claims"]] == [c.name for c in CLAIMS]
    assert {f["name"] for f in found["figures"]} >= {"real_model_tokens", "real_model_sequences"}
    assert found["recipes"] == []


def test_verify_writes_verdicts_and_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "verdicts.json"
    assert cli.main(["verify", "sft-logit-gradient", "--json", str(target)]) == 0
    assert "1 of 1 claims hold" in capsys.readouterr().out
    found = json.loads(target.read_text())
    (row,) = found["claims"]
    assert row["name"] == "sft-logit-gradient"
    assert row["holds"] is True
    assert row["cases"] > 0
    assert 0 <= row["worst"] <= 1
    assert row["mutants"] == {"declared": 3, "rejected": 3, "equivalent": 0}
    assert "torch" in found["environment"]["packages"]


def test_verify_filters_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "dft-loss-*", "--kind", "inequality"]) == 0
    out = capsys.readouterr().out
    assert "dft-loss-value-is-bounded" in out
    assert "dft-loss-value-misleads" not in out


def test_unknown_claim_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "sft-is-policy-gradeint"]) == 2
    assert "Did you mean sft-is-policy-gradient" in capsys.readouterr().err


def test_unknown_figure_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["figures", "real_model_token"]) == 2
    assert "Did you mean real_model_tokens" in capsys.readouterr().err


def test_a_false_claim_fails_with_its_smallest_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    true = next(c for c in CLAIMS if c.name == "sft-logit-gradient")
    false = Claim(
        name=true.name, title="false", kind="identity", statement="0 = 1", note="", cites=(),
        cases=true.cases, lhs=true.lhs, rhs=lambda c: c.onehot - c.probs,
        mutants=(Mutant("the truth", true.rhs),),
    )  # fmt: skip
    monkeypatch.setattr(ledger, "select", lambda *_: (false,))
    monkeypatch.setattr(ledger, "scope", lambda **_: Scope.standard())
    assert cli.main(["verify", true.name]) == 1
    captured = capsys.readouterr()
    assert "0 of 1 claims hold" in captured.out
    assert "V=2 scale 0, p = 0.5" in captured.err
