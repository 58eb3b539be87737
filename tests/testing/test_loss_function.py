"""Right losses of five makes conform; wrong ones are named by what is wrong with them."""

import json
import subprocess
import sys
import time

import pytest
import torch

import dft_theory as dt
from dft_theory import cli
from dft_theory.testing import REDUCTIONS, caller_shifts, check_loss_function
from dft_theory.testing.loss_function import CHECKS
from dft_theory.testing.report import name_of

NAMES = ("log-softmax", "cross-entropy", "selected-rows", "probability", "written-gradient")


def bad(report):
    return [f"{f}" for f in report.findings if f.status == "NO"]


@pytest.mark.parametrize("name", NAMES)
def test_a_right_loss_conforms_in_every_check(losses, name):
    report = check_loss_function(losses.right[name], claims_to_be=dt.dft)
    assert report.conforms, bad(report)
    assert report.verdict == "conforms"
    assert report.diagnosis == ()
    assert [f.check for f in report.findings] == [name_of(check) for check in CHECKS]


def test_all_makes_are_listed(losses):
    assert set(NAMES) == set(losses.right)


def p(lp):
    return lp.exp()


# fault of the loss, diagnosis, and the checks that must see it
FAULTS = {
    "attached": ({"weight": p}, ("missing detach",), {"gradient", "stop-gradient"}),
    "squared": (
        {"weight": lambda lp: (2 * lp).exp().detach()},
        ("weight applied twice (p^2)",),
        {"value", "gradient"},
    ),
    "unweighted": ({"weight": torch.ones_like}, ("plain SFT",), {"value", "gradient"}),
    "negative": ({"weight": lambda lp: -p(lp).detach()}, ("sign reversed",), {"gradient"}),
    "root": (
        {"weight": lambda lp: (lp / 2).exp().detach()},
        ("computes power-0.5",),
        {"value", "gradient"},
    ),
    "rolled": ({"shift": "roll"}, ("label roll wraps",), {"wrap-around"}),
    "unshifted": ({"shift": "none"}, ("labels not shifted",), {"label-shift"}),
    "shifted twice": ({"shift": "twice"}, ("labels shifted twice",), {"label-shift"}),
    "unmasked": (
        {"mask": False},
        ("trains on masked tokens", "all-masked batch fails"),
        {"ignore-index", "masked-rows", "all-masked"},
    ),
    "own count": ({"divide": "own"}, ("micro-batch mean",), {"accumulation", "global-count"}),
    "all positions": ({"divide": "positions"}, ("counts masked tokens",), {"padding"}),
    "all labels": ({"divide": "labels"}, ("counts the first label",), {"wrap-around"}),
    "sum": ({"divide": "nothing"}, ("not divided by the count",), {"global-count"}),
    "per row": ({"divide": "rows"}, ("divided by the number of sequences",), {"packing"}),
    "half": ({"divide": "twice"}, ("scaled by 0.5",), {"value", "gradient"}),
    "0 / 0": (
        {"divide": "unclamped"},
        ("all-masked batch fails where no N is given",),
        {"all-masked"},
    ),
    "bfloat16": ({"upcast": False}, ("no upcast",), {"bfloat16"}),
    "three at once": (
        {"weight": p, "divide": "own", "shift": "none"},
        ("labels not shifted", "missing detach", "micro-batch mean"),
        {"gradient", "label-shift", "accumulation"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_loss_is_caught_and_named(losses, fault):
    options, diagnosis, checks = FAULTS[fault]
    report = check_loss_function(losses.build(**options), claims_to_be=dt.dft)
    assert report.verdict == "deviates"
    assert report.diagnosis == diagnosis
    assert checks <= {f.check for f in report.deviations}, bad(report)


def test_the_missing_detach_is_invisible_in_the_value(losses):
    report = check_loss_function(losses.build(weight=p), claims_to_be=dt.dft)
    assert report.finding("value").status == "ok"
    assert report.finding("stop-gradient").diagnosis == "missing detach"
    assert "one token" in report.finding("gradient").case  # the smallest failing case


def test_one_fault_does_not_fail_the_checks_of_others(losses):
    found = check_loss_function(losses.build(shift="roll"), claims_to_be=dt.dft)
    assert [f.check for f in found.deviations] == ["wrap-around"]
    found = check_loss_function(losses.build(upcast=False), claims_to_be=dt.dft)
    assert [f.check for f in found.deviations] == ["bfloat16"]


def test_a_mean_over_kept_tokens_is_named(losses):
    claim = dt.thresholded(0.2, ">=")
    gate = lambda lp: (lp.detach() >= torch.log(torch.tensor(0.2))).to(lp.dtype)  # noqa: E731
    right = check_loss_function(losses.build(weight=gate), claims_to_be=claim)
    assert right.conforms, bad(right)
    report = check_loss_function(losses.build(weight=gate, divide="kept"), claims_to_be=claim)
    assert report.verdict == "deviates"
    assert report.diagnosis == ("weight averaged over kept tokens",)


@pytest.mark.parametrize(
    ("reduction", "divide"),
    [("token-mean", "count"), ("microbatch-token-mean", "own"), ("sum", "nothing")],
)
def test_the_reduction_is_part_of_the_claim(losses, reduction, divide):
    loss = losses.build(divide=divide)
    for name, known in REDUCTIONS.items():
        report = check_loss_function(loss, claims_to_be=dt.dft, reduction=known)
        assert report.conforms == (name == reduction), (name, bad(report))


def test_a_relation_that_the_claim_lacks_is_not_applicable(losses):
    report = check_loss_function(
        losses.build(divide="own"),
        claims_to_be=dt.dft,
        reduction=REDUCTIONS["microbatch-token-mean"],
    )
    assert report.finding("accumulation").status == "n.a."


@pytest.mark.parametrize(
    "claim",
    [o for o in dt.OBJECTIVES if not set(o.needs) - {"entropy", "log_probs"} if o.level != "group"],
    ids=lambda o: o.name,
)
def test_every_objective_of_the_package_conforms_to_itself(claim):
    needs = ("entropy", "log_probs")

    def loss(logits, labels, n=None):
        return claim.surrogate(
            dt.token_stats(logits, labels, needs=needs), reduction=dt.TokenMean(n)
        )

    report = check_loss_function(loss, claims_to_be=claim)
    assert report.conforms, bad(report)


def test_a_claim_that_needs_more_than_logits_is_refused(losses):
    claim = dt.Objective(
        name="x", title="x", weight=lambda t: t.ref_logp.exp(), needs=("ref_logp",)
    )
    with pytest.raises(ValueError, match="needs ref_logp"):
        check_loss_function(losses.build(), claims_to_be=claim)


def test_a_loss_that_wants_shifted_labels_is_adapted():
    def loss(logits, targets):
        keep = targets != -100
        z = logits if logits.dtype == torch.float64 else logits.float()
        lp = z.log_softmax(-1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return -(lp.exp().detach() * lp * keep).sum() / keep.sum().clamp_min(1)

    report = check_loss_function(
        caller_shifts(loss), claims_to_be=dt.dft, reduction=REDUCTIONS["microbatch-token-mean"]
    )
    assert report.conforms, bad(report)
    raw = check_loss_function(
        loss, claims_to_be=dt.dft, reduction=REDUCTIONS["microbatch-token-mean"]
    )
    assert raw.diagnosis == ("labels not shifted",)


def test_what_is_unlike_everything_known_is_said_to_be(losses):
    odd = losses.build(weight=lambda lp: 0.3 + lp.exp().detach().cos())
    report = check_loss_function(odd, claims_to_be=dt.dft)
    assert report.diagnosis == ("a different objective: x-ray it",)


def test_another_objective_comes_first(losses):
    mixed = losses.build(weight=lambda lp: 0.7 * p(lp).detach() + 0.3, divide="own", upcast=False)
    report = check_loss_function(mixed, claims_to_be=dt.dft)
    assert report.diagnosis[0] == "a different objective: x-ray it"
    assert {"micro-batch mean", "no upcast"} <= set(report.diagnosis)


@pytest.mark.parametrize("divide", ["count", "own"])
def test_nan_at_an_impossible_target_is_named_beside_any_form(losses, divide):
    plain = losses.build(divide=divide)

    def poisoned(logits, labels, n=None):
        lowest = logits.amin().detach()
        return plain(logits, labels, n) + (torch.nan * logits.sum() if lowest == -torch.inf else 0)

    diagnosis = check_loss_function(poisoned, claims_to_be=dt.dft).diagnosis
    assert "NaN at an impossible target" in diagnosis
    assert ("micro-batch mean" in diagnosis) == (divide == "own")


def test_the_report_is_readable_and_serialisable(losses):
    report = check_loss_function(losses.build(divide="own"), claims_to_be=dt.dft)
    text = str(report)
    assert "dft, token-mean" in text
    assert "diagnosis: micro-batch mean" in text
    found = json.loads(json.dumps(report.as_dict()))
    assert found["verdict"] == "deviates"
    assert {"check", "status", "message", "case", "diagnosis"} == set(found["findings"][0])


def test_a_check_takes_less_than_ten_seconds(losses):
    start = time.process_time()
    check_loss_function(losses.build(weight=p), claims_to_be=dt.dft)
    assert time.process_time() - start < 10


def test_importing_the_suite_needs_neither_pytest_nor_hypothesis():
    program = "import sys, dft_theory.testing; print({'pytest', 'hypothesis'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [("0.7 * p + 0.3", "a different objective, 0.7 DFT + 0.3 SFT: x-ray it"),
     ("0.3 + p.cos()", "a different objective: x-ray it")],
)  # fmt: skip
def test_the_command_says_which_where_its_x_ray_knows(
    weight, wanted, tmp_path, monkeypatch, capsys
):
    (tmp_path / "mixed.py").write_text(
        "def loss(logits, labels, n=None):\n"
        "    z, y = logits[:, :-1].log_softmax(-1), labels[:, 1:]\n"
        "    lp = z.gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1)\n"
        f"    p = lp.detach().exp()\n    w = {weight}\n"
        "    return -(w * lp * (y != -100)).sum() / (n or (y != -100).sum().clamp_min(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mixed", raising=False)
    assert cli.main(["check", "mixed:loss", "--as", "dft"]) == 1
    sys.modules.pop("mixed", None)
    assert f"diagnosis: {wanted}" in capsys.readouterr().out
