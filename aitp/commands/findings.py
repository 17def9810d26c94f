"""A finding: what was found, why it matters, what to do; how bad it is; and what exit code findings come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

EXIT_FINE, EXIT_FAULT, EXIT_CONFIGURATION = 0, 1, 78


class Severity(StrEnum):
    """From best to worst."""

    OK = "ok"  # looked at, and well
    NOTE = "note"  # well, and worth knowing
    WARNING = "warning"  # it works, but perhaps not as was meant
    FAULT = "fault"  # the service starts, and something keeps it from its work or a part of it
    ERROR = "error"  # the service would not start: exit code 78


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `why` and `do` are empty where all is well. Each is a sentence without its end."""

    severity: Severity
    subject: str
    what: str
    why: str = ""
    do: str = ""


def fine(subject: str, what: str) -> Finding:
    """Nothing is wrong with `subject`."""
    return Finding(Severity.OK, subject, what)


def of_sentence(severity: Severity, subject: str, sentence: str, why: str, do: str) -> Finding:
    """A finding from one of the settings' sentences: `what: why; what to do`. `why` and `do` stand in for what it
    does not say.
    """
    rest, _, said_do = sentence.partition("; ")
    what, _, said_why = rest.partition(": ")
    return Finding(severity, subject, what, _begun(said_why) or why, _begun(said_do) or do)


def _begun(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def exit_code(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """78 if the service would not start, 1 if something keeps it from its work (`strict`: or is a warning), else 0."""
    found = {finding.severity for finding in findings}
    if Severity.ERROR in found:
        return EXIT_CONFIGURATION
    if Severity.FAULT in found or (strict and Severity.WARNING in found):
        return EXIT_FAULT
    return EXIT_FINE


def verdict(findings: Sequence[Finding]) -> str:
    """All of them in one line: how many there are of each that is worth a look."""
    counts = []
    for severity in (Severity.ERROR, Severity.FAULT, Severity.WARNING):
        if count := sum(finding.severity is severity for finding in findings):
            counts.append(f"{count} {severity.value}{'s' if count > 1 else ''}")
    return ", ".join(counts) or "All is well"
