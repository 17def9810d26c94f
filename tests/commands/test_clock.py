"""Whose clock is wrong, by what servers say the time is."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from aitp.commands.clock import ahead_of, of_clocks
from aitp.commands.findings import Severity

NOON = 1_753_963_200.0


@pytest.mark.parametrize(
    ("sent_at", "received_at", "ahead"),
    [
        (NOON, NOON + 0.2, 0.0),
        (NOON - 3, NOON + 3, 0.0),  # a slow answer tells less
        (NOON + 0.9, NOON + 0.95, 0.0),  # the header leaves fractions out
        (NOON + 61, NOON + 62, 60.0),
        (NOON - 120, NOON - 119, -119.0),
    ],
)
def test_what_cannot_be_explained_by_the_call_itself_is_a_difference(
    sent_at: float, received_at: float, ahead: float
) -> None:
    assert ahead_of(formatdate(NOON, usegmt=True), sent_at, received_at) == ahead


@pytest.mark.parametrize("header", [None, "", "yesterday", "Thu, 99 Foo 2025 12:00:00 GMT"])
def test_no_date_is_no_difference(header: str | None) -> None:
    assert ahead_of(header, NOON, NOON) is None


@pytest.mark.parametrize(
    ("ahead", "severity", "words"),
    [
        ({"task API": 0.0, "OpenAI server": -29.0}, Severity.OK, "agrees with that of task API, OpenAI server"),
        ({"task API": 90.0}, Severity.WARNING, "90 s ahead of that of task API"),
        ({"task API": -4000.0, "OpenAI server": -4001.0}, Severity.WARNING, "4,001 s behind"),
        ({"task API": 90.0, "OpenAI server": 0.0}, Severity.NOTE, "of that of the task API alone"),
    ],
)
def test_if_all_servers_agree_it_is_ours(ahead: dict[str, float], severity: Severity, words: str) -> None:
    [finding] = of_clocks(ahead)

    assert finding.severity is severity
    assert words in finding.what


def test_nobody_asked_is_nothing_found() -> None:
    assert list(of_clocks({})) == []
