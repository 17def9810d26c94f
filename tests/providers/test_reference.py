"""The page on providers' failures says what the code does."""

from __future__ import annotations

from pathlib import Path

from aitp.errors import AitpError
from aitp.providers.failures import PARAMETERS, ROWS
from tests.providers.reference import EFFECTS, page

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "PROVIDERS.md"


def test_the_page_is_that_of_the_tables() -> None:
    assert DOCUMENT.read_text() == page(), "run: python -m tests.providers.reference > docs/PROVIDERS.md"


def test_each_row_of_the_tables_is_on_the_page() -> None:
    text = DOCUMENT.read_text()

    assert not [row.name for row in ROWS if f"| {row.name} |" not in text]


def test_each_parameter_that_can_be_left_out_is_on_the_page() -> None:
    text = DOCUMENT.read_text()

    assert not [name for name in PARAMETERS if f"| `{name}` |" not in text]


def test_a_kind_of_error_comes_before_those_it_is_one_of() -> None:
    kinds: list[type[AitpError]] = [kind for kind, *_ in EFFECTS]

    assert not [
        (one.__name__, other.__name__)
        for place, one in enumerate(kinds)
        for other in kinds[place + 1 :]
        if one is not other and issubclass(other, one)
    ]
