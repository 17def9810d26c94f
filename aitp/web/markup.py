"""The few pieces of HTML that the page is made of. What is not `Html` is escaped, whoever wrote it, and cut if long."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aitp.logs import masked

LONGEST_TEXT = 300


class Html(str):
    """Markup that is safe as it is. Only functions of this package make it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title. `short`: what stands there is to stay on one line; `wide`: left out on a phone."""

    title: str
    number: bool = False
    short: bool = False
    wide: bool = False

    @property
    def attributes(self) -> str:
        classes = [name for name, wanted in (("n", self.number), ("s", self.short), ("wide", self.wide)) if wanted]
        return f' class="{" ".join(classes)}"' if classes else ""


def text(value: str) -> Html:
    """Escaped, without registered secrets, without characters that no reader can see, and of a bounded length."""
    value = masked(value)
    if len(value) > LONGEST_TEXT:
        value = value[: LONGEST_TEXT - 1] + "…"
    return Html(
        html.escape(
            "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)
        )
    )


def with_code(sentence: str) -> Html:
    """Escaped, with what stands between backquotes as code."""
    return Html(re.sub(r"`([^`]+)`", r"<code>\1</code>", text(sentence)))


def cell(value: str | int) -> Html:
    """The content of a cell: numbers with separators, markup as it is, text escaped."""
    if isinstance(value, int):
        return Html(f"{value:,}")
    return value if isinstance(value, Html) else text(value)


def element(name: str, content: str | int, classes: str = "") -> Html:
    """`<name class="classes">content</name>`."""
    attributes = f' class="{classes}"' if classes else ""
    return Html(f"<{name}{attributes}>{cell(content)}</{name}>")


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[str | int]]) -> Html:
    """A table whose first column names its rows."""
    head = "".join(f'<th scope="col"{column.attributes}>{text(column.title)}</th>' for column in columns)
    body = "".join(f"<tr>{_cells(columns, row)}</tr>" for row in rows)
    return Html(
        f'<table><caption class="hidden">{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(columns: Sequence[Column], row: Sequence[str | int]) -> str:
    first, *others = row
    cells = (f"<td{column.attributes}>{cell(value)}</td>" for column, value in zip(columns[1:], others, strict=True))
    return f'<th scope="row"{columns[0].attributes}>{cell(first)}</th>' + "".join(cells)


def badge(word: str, level: str) -> Html:
    """A word with a mark before it; `level` (well, look, bad or quiet) gives form and colour, the word says it too."""
    return Html(f'<span class="badge {level}">{text(word)}</span>')


def bar(share: float, level: str) -> Html:
    """How full something is, 0 to 1. For the eye alone: the figures stand beside it."""
    width = 100 * min(1.0, max(0.0, share))
    return Html(
        f'<svg class="bar {level}" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="whole" width="100" height="8"/><rect class="part" width="{width:.1f}" height="8"/></svg>'
    )


def section(name: str, title: str, *content: str, classes: str = "") -> Html:
    """A part of the page under its own heading, replaced by itself when the page is looked at again."""
    attributes = f' class="{classes}"' if classes else ""
    return Html(
        f'<section id="{name}" aria-labelledby="{name}-title" data-live{attributes}>'
        f'<h2 id="{name}-title">{text(title)}</h2>{"".join(map(cell, content))}</section>'
    )
