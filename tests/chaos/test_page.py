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
    _, _, rest = PAGE.read_text().partition("\n## The promises\n")
    tables, _, _ = rest.partition("\n## ")
    promises = [
        row for row in tables.splitlines() if row.startswith("| ") and not row.startswith(("| ---", "| promise"))
    ]

    assert len(promises) > 50
    assert not [row for row in promises if not NAMED.search(row)]


def test_the_files_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
