"""Says at the end how many cases were tried, by file, over all of pytest's processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.fuzz.cases import LONG, tried
from tests.ledger.conftest import folder, template

__all__ = ["folder", "template"]

_elsewhere: Counter[str] = Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tried"] = dict(tried)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _elsewhere.update(getattr(node, "workeroutput", {}).get("tried", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    both = tried + _elsewhere
    if both:
        by_file = ", ".join(f"{name} {count:,}" for name, count in sorted(both.items()))
        terminalreporter.write_line(f"fuzz: {both.total():,} cases{' (short form)' * (not LONG)}: {by_file}")
