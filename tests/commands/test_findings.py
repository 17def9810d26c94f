"""How bad findings are, taken together."""

from __future__ import annotations

import pytest

from aitp.commands.findings import Finding, Severity, exit_code, of_sentence, verdict


def findings(*severities: Severity) -> list[Finding]:
    return [Finding(severity, "thing", "is so") for severity in severities]


@pytest.mark.parametrize(
    ("severities", "strict", "code"),
    [
        ((), False, 0),
        ((Severity.OK, Severity.NOTE), True, 0),
        ((Severity.WARNING,), False, 0),
        ((Severity.WARNING,), True, 1),
        ((Severity.OK, Severity.FAULT, Severity.WARNING), False, 1),
        ((Severity.FAULT, Severity.ERROR), False, 78),
        ((Severity.ERROR,), True, 78),
    ],
)
def test_the_worst_finding_decides_the_exit_code(severities: tuple[Severity, ...], strict: bool, code: int) -> None:
    assert exit_code(findings(*severities), strict=strict) == code


def test_the_verdict_counts_what_is_worth_a_look() -> None:
    assert verdict(findings(Severity.OK, Severity.NOTE)) == "All is well"
    several = findings(Severity.WARNING, Severity.FAULT, Severity.WARNING, Severity.ERROR)
    assert verdict(several) == "1 error, 1 fault, 2 warnings"


@pytest.mark.parametrize(
    ("sentence", "what", "why", "do"),
    [
        (
            "A=1 is below B=2: B can never be reached; raise one",
            "A=1 is below B=2",
            "B can never be reached",
            "Raise one",
        ),
        ("X is no setting; did you mean Y?", "X is no setting", "because", "Did you mean Y?"),
        ("Z has the example's value", "Z has the example's value", "because", "do it"),
    ],
)
def test_a_sentence_of_the_settings_is_taken_apart(sentence: str, what: str, why: str, do: str) -> None:
    found = of_sentence(Severity.WARNING, "settings", sentence, "because", "do it")

    assert (found.what, found.why, found.do) == (what, why, do)
