"""How the commands print: JSON for programs, tables for people, on any terminal or none.

Ids, reasons and names come from elsewhere. Whatever is in them, it is shown and never obeyed: control characters are
escaped, markup is text. On a terminal tables keep to its width; in a pipe or file no cell is ever cut.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import IO, Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDE = 1_000  # columns, where there is no terminal to tell
MINUTE, HOUR, DAY = 60, 3_600, 86_400


def visible(text: str) -> str:
    """`text` with everything unprintable escaped, so that it can neither move a cursor nor turn a line around."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def screen(file: IO[str] | None = None) -> Console:
    """Where people read."""
    console = Console(file=file, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, emoji=False, markup=False, width=WIDE)
    return console


def show(*parts: RenderableType) -> None:
    """One below the other. In a pipe or file no line ends in the spaces that fill a table's last column."""
    console = screen()
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    for line in captured.get().splitlines():
        print(line.rstrip())


def print_json(document: object) -> None:
    """For programs."""
    print(json.dumps(document, indent=2))


def table(
    head: Sequence[str], rows: Sequence[Sequence[RenderableType]], *, right: Sequence[str] = (), cut: Sequence[str] = ()
) -> Table:
    """A table without lines. Columns named in `right` hold numbers, never folded; those in `cut` lose their ends if
    there is no room, all others keep their words whole.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        justify: Literal["left", "right"] = "right" if name in right else "left"
        made.add_column(
            name, justify=justify, no_wrap=name in (*cut, *right), overflow="ellipsis" if name in cut else "fold"
        )
    for row in rows:
        made.add_row(*(Text(visible(cell)) if isinstance(cell, str) else cell for cell in row))
    return made


def facts(pairs: Mapping[str, str]) -> Table:
    """Names and values, one pair a line."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        made.add_row(Text(name), Text(visible(value)))
    return made


def moment(instant: float | None) -> str:
    """A point in time, in this machine's time zone."""
    return "" if instant is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(instant))


def duration(seconds: float) -> str:
    """About how long: 12 s, 3 min, 2 h, 5 d."""
    if seconds < 2 * MINUTE:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.0f} h"
    return f"{seconds / DAY:.0f} d"


def size(count: int) -> str:
    """Bytes, for people."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{amount:.1f} {unit}"
