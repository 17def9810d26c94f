"""Texts compared as people compare them: without case and accents, any white space like any other."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def folded(text: str) -> str:
    """`text` for comparison: "São  Paulo" and "SAO PAULO" are the same."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    # Twice, because folding may bring accents of its own: İ becomes i and a dot.
    again = "".join(c for c in unicodedata.normalize("NFKD", bare.casefold()) if not unicodedata.combining(c))
    return " ".join(again.split())


def occurs(phrase: str, text: str) -> bool:
    """Whether `phrase` stands in `text`. Nothing but accents or blanks stands nowhere."""
    return bool(wanted := folded(phrase)) and wanted in folded(text)


def first_of_each(items: Iterable[T], name: Callable[[T], str]) -> list[T]:
    """`items` without those whose name, folded, is that of an earlier one."""
    kept: dict[str, T] = {}
    for item in items:
        kept.setdefault(folded(name(item)), item)
    return list(kept.values())
