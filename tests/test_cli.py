"""The command line: what it prints, what it writes, and its exit statuses."""

import json
import sys
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
    assert "smoke" in {r["name"] for r in found["recipes"]}


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


LOSSES = """
import torch.nn.functional as F

def loss(logits, labels, n=None, detach=True):
    keep = labels[:, 1:] != -100
    z = logits.double()[:, :-1].log_softmax(-1)
    lp = z.gather(-1, labels[:, 1:].clamp_min(0).unsqueeze(-1)).squeeze(-1)
    p = lp.exp().detach() if detach else lp.exp()
    return -(p * lp * keep).sum() / (keep.sum().clamp_min(1) if n is None else n)

def attached(logits, labels, n=None):
    return loss(logits, labels, n, detach=False)

def unreduced(logits, labels, n=None):
    return logits.sum(-1)

not_a_loss = 3
"""


@pytest.fixture
def their_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of somebody else's in the current directory."""
    (tmp_path / "their_losses.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "their_losses", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["their_losses:loss", "--as", "dft"], 0, "conforms"),
        (["their_losses:attached", "--as", "dft"], 1, "diagnosis: missing detach"),
        (["their_losses:loss", "--as", "dft", "--reduction", "sum"], 1, "deviates"),
        (["their_losses:unreduced", "--as", "dft"], 2, "reduce the per-token terms"),
        (["dft-sequence"], 0, "conforms"),
    ],
)
def test_check_says_what_a_loss_computes(their_losses, capsys, arguments, status, text) -> None:
    assert cli.main(["check", *arguments, "--json", "found.json"]) == status
    assert text in capsys.readouterr().out
    found = json.loads((their_losses / "found.json").read_text())
    assert found["verdict"] == ("conforms", "deviates", "could not be checked")[status]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["no_such_module:loss", "--as", "dft"], "no module 'no_such_module'"),
        (["their_losses:lose", "--as", "dft"], "has no 'lose'"),
        (["their_losses:not_a_loss", "--as", "dft"], "of type int, no objective and no loss"),
        (["their_losses:loss"], "--as dft"),
        (["their_losses:loss", "--as", "dtf"], "Did you mean dft"),
        (["dtf"], "Did you mean dft"),
        (["dft", "--as", "sft"], "leave out --as"),
        (["their_losses"], "A loss is named module:function"),
        (["their_losses.py:loss", "--as", "dft"], "name its module, as in their_losses:loss"),
    ],
)
def test_check_says_what_it_cannot_check(their_losses, capsys, arguments, text) -> None:
    assert cli.main(["check", *arguments]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(("agrees", "status"), [(True, 0), (False, 1)])
def test_experiments_are_run_on_other_seeds_and_fail_together(monkeypatch, capsys, agrees, status):
    def run(scripts, tier, jobs):
        assert [s.name for s in scripts] == ["bandit_orbits.py", "compute_boundary.py"]
        assert (tier, jobs) == ("quick", 2)
        yield scripts[1], 1.0, "a question", True
        yield scripts[0], 2.0, "another", agrees

    monkeypatch.setattr(cli.experiment, "run", run)
    assert cli.main(["experiments", "bandit-orbits", "compute-boundary"]) == status
    said = capsys.readouterr()
    assert "compute-boundary, 1 s\na question" in said.out
    assert f"{2 if agrees else 1} of 2 experiments agree" in said.out
    assert ("FAILED bandit-orbits" in said.err) is not agrees


def test_an_unknown_experiment_is_refused_with_the_nearest(capsys):
    assert cli.main(["experiments", "bandit-orbit"]) == 2
    assert "Did you mean bandit-orbits" in capsys.readouterr().err


def test_without_the_extras_the_install_line_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(cli, "list_", lambda options: __import__("transformers"))
    assert cli.main(["list"]) == 2
    assert "pip install 'dft-theory[llm,train,evaluate]'" in capsys.readouterr().err


def test_recipes_are_of_the_repository(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_recipes", lambda file=None: {})
    assert cli.main(["train", "smoke", "--dry-run"]) == 2
    assert "run this from a checkout" in capsys.readouterr().err
