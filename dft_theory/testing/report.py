"""What a conformance check found: one line each, a verdict, and a diagnosis where it is known."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

# A deviation is NO; a remark is worth knowing and does not count against the subject.
Status = Literal["ok", "NO", "n.a.", "remark"]
Verdict = Literal["conforms", "deviates", "could not be checked"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check: a sentence, with the fix where something is wrong."""

    status: Status
    message: str
    check: str = ""
    case: str = ""
    diagnosis: str = ""

    def __str__(self) -> str:
        at = f" [{self.case}]" if self.case else ""
        return f"{self.status:7s}{self.check:22s} {self.message}{at}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings about one subject. `str(report)` is what the command line prints."""

    subject: str
    claim: str
    findings: tuple[Finding, ...]
    called: str = ""
    failure: str = ""
    diagnosis: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """One NO is a deviation; without a single usable call there is nothing to judge."""
        if self.failure:
            return "could not be checked"
        return "deviates" if self.deviations else "conforms"

    @property
    def conforms(self) -> bool:
        """Whether every applicable check passed."""
        return self.verdict == "conforms"

    @property
    def deviations(self) -> tuple[Finding, ...]:
        """The findings that count against the subject."""
        return tuple(f for f in self.findings if f.status == "NO")

    def finding(self, check: str) -> Finding:
        """The finding of that check. Raises: KeyError for a check that was not run."""
        for found in self.findings:
            if found.check == check:
                return found
        raise KeyError(f"no check named {check!r} in this report")

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "subject": self.subject,
            "claim": self.claim,
            "called": self.called,
            "verdict": self.verdict,
            "diagnosis": list(self.diagnosis),
            "failure": self.failure or None,
            "findings": [
                {
                    "check": f.check,
                    "status": f.status,
                    "message": f.message,
                    "case": f.case or None,
                    "diagnosis": f.diagnosis or None,
                }
                for f in self.findings
            ],
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        lines = [f"{self.subject} as {self.claim}"]
        lines += [f"called as {self.called}"] if self.called else []
        lines += [str(f) for f in self.findings]
        lines.append(f"{self.verdict} ({self.seconds:.1f} s)")
        lines += [f"reason: {self.failure}"] if self.failure else []
        lines += [f"diagnosis: {'; '.join(self.diagnosis)}"] if self.diagnosis else []
        return "\n".join(lines)


def ok(message: str) -> Finding:
    """The check passed."""
    return Finding(status="ok", message=message)


def no(message: str, *, case: object = "", diagnosis: str = "") -> Finding:
    """A deviation, on the smallest case that shows it."""
    return Finding(status="NO", message=message, case=str(case), diagnosis=diagnosis)


def not_applicable(reason: str) -> Finding:
    """The check does not apply, and why."""
    return Finding(status="n.a.", message=reason)


def remark(message: str, *, case: object = "") -> Finding:
    """Worth knowing, and not a deviation."""
    return Finding(status="remark", message=message, case=str(case))


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """The non-empty names, each once, in order."""
    return tuple(dict.fromkeys(name for name in names if name))


def name_of(check: Callable[..., object]) -> str:
    """How a check is called in reports and test ids: its function's name with hyphens."""
    return getattr(check, "__name__", "check").strip("_").replace("_", "-")
