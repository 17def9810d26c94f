"""docs/RELIABILITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "RELIABILITY.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_it_names_exists() -> None:
    named = NAMED.findall(PAGE.read_text())

    assert len(named) > 50
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists() or not re.search(rf"^(def )?{name}\b", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert not missing


def test_every_promise_of_its_tables_has_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    promises = [row for row in rows if not row.startswith("| promise")]
    tables = [row for row in promises if row.count("|") == 3]

    assert len(tables) > 50
    assert not [row for row in tables if not NAMED.search(row)]


def test_the_files_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
