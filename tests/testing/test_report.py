"""The report: what counts against a subject, and how it reads."""

import pytest

from dft_theory.testing.report import (
    Finding,
    Report,
    name_of,
    no,
    not_applicable,
    ok,
    remark,
    unique,
)


def report(*findings, failure=""):
    return Report(subject="x", claim="dft", findings=findings, failure=failure)


@pytest.mark.parametrize(
    ("findings", "failure", "verdict"),
    [
        ((ok("a"), not_applicable("b"), remark("c")), "", "conforms"),
        ((ok("a"), no("b")), "", "deviates"),
        ((), "no call succeeded", "could not be checked"),
        ((no("b"),), "no call succeeded", "could not be checked"),
    ],
)
def test_only_a_no_is_a_deviation(findings, failure, verdict):
    found = report(*findings, failure=failure)
    assert found.verdict == verdict
    assert found.conforms == (verdict == "conforms")
    assert found.as_dict()["verdict"] == verdict
    assert verdict in str(found)


def test_a_finding_reads_as_one_line():
    line = str(Finding(status="NO", message="it is off", check="value", case="one token"))
    assert line.split()[:2] == ["NO", "value"]
    assert line.endswith("it is off [one token]")


def test_an_unknown_check_is_an_error():
    with pytest.raises(KeyError, match="no check named 'x'"):
        report(ok("a")).finding("x")


def test_names():
    assert name_of(test_a_finding_reads_as_one_line) == "test-a-finding-reads-as-one-line"
    assert unique(["b", "", "a", "b"]) == ("b", "a")
