"""`aitp check`: what the checks have found, in words and as an exit code."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aitp.commands.check import Report, check
from aitp.commands.findings import Finding, Severity, exit_code, verdict
from aitp.commands.printing import print_json, show, visible

STYLES = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "bold yellow",
    Severity.FAULT: "bold red",
    Severity.ERROR: "bold red",
}

CLEARED = "\r\x1b[K"  # the line, for what comes next


def show_findings(*, offline: bool, strict: bool, as_json: bool) -> int:
    """Check everything, and print what was found; the exit code."""
    with _waiting() as told:
        report = check(offline=offline, told=told)
    code = exit_code(report.findings, strict=strict)
    if as_json:
        print_json(_document(report, code))
        return code
    summary = verdict(report.findings)
    said = f"\n{summary}{'' if code == 0 else f' (exit code {code})'}"
    show(_table(report.findings), Text(said, style="bold"))
    return code


def _table(findings: tuple[Finding, ...]) -> Table:
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for finding, following in zip_longest(findings, findings[1:]):
        # What several in a row have in common is said once, below the last of them.
        said_below = following is not None and (finding.why, finding.do) == (following.why, following.do)
        severity = Text(finding.severity.value, style=STYLES[finding.severity])
        made.add_row(severity, Text(finding.subject), _text(finding, whole=not said_below))
    return made


def _text(finding: Finding, *, whole: bool) -> Text:
    text = Text(visible(finding.what))
    if not whole:
        return text
    if finding.why:
        text.append("\nWhy: ", style="bold").append(visible(finding.why))
    if finding.do:
        text.append("\nDo:  ", style="bold").append(visible(finding.do))
    return text


def _document(report: Report, code: int) -> dict[str, Any]:
    settings, found = report.settings, report.registered
    env_file = settings.env_file if settings is not None else None
    return {
        "ok": code == 0,
        "exit_code": code,
        "mock": settings is not None and settings.mock,
        "env_file": None if env_file is None else str(env_file),
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "task_types": [] if found is None else [dataclasses.asdict(entry) for entry in found.task_types],
        "providers": {} if found is None else found.providers,
    }


@contextmanager
def _waiting() -> Iterator[Callable[[str], None]]:
    """Says on a terminal who is being waited for, and takes it back in the end."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda server: None
        return

    def told(server: str) -> None:
        sys.stderr.write(f"{CLEARED}asking {server} …\r" if server else CLEARED)
        sys.stderr.flush()

    try:
        yield told
    finally:
        told("")
