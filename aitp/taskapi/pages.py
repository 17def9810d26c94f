"""The pending list, read as a stream: one raw document at a time, in bounded memory.

Today's task API lists *everything* that is pending, so a page may be 500 MB. A JSON parser that builds objects from a
stream costs several times what cutting the array into its elements does, and the elements are parsed one by one
anyway, so that a malformed one costs the others nothing. `TaskApi.pending` gives them, the relay reads.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from aitp.errors import ServiceFault
from aitp.http import Answer, NoAnswer, pieces
from aitp.tasks import Service

API = Service.API.value
PAGE_BYTES = 2**30
DOCUMENT_BYTES = 2**20
KEPT_OF_OVERSIZED = 4096

QUOTE, COMMA, BACKSLASH = b'",\\'
# What tells nothing about where an element ends: between elements, and within one, where commas don't either. Long
# strings and those with escapes are left to `bytes.find`. (Bounded, as each repetition costs the engine memory.)
BETWEEN = re.compile(rb'(?:[^"\[\]{},]+|"[^"\\]{0,100}"){0,200}')
WITHIN = re.compile(rb'(?:[^"\[\]{}]+|"[^"\\]{0,100}"){0,200}')


class NotAnArray(ServiceFault):
    """What was fed is not a JSON array."""

    def __init__(self, reason: str) -> None:
        super().__init__(API, f"the pending list is no JSON array ({reason}): look at API_BASE_URL")


class ArraySplitter:
    """Cuts a JSON array into its elements, however the bytes arrive. Elements are not checked, only told apart.

    Of an element of more than `most` bytes only the beginning is given, in which its id may be.
    """

    def __init__(self, most: int = DOCUMENT_BYTES) -> None:
        self.closed = False  # the array ended
        self._most = most
        self._buffer = b""  # what may be part of an element that is not complete
        self._understood = 0  # up to here the buffer was scanned
        self._depth = 0
        self._in_string = False
        self._oversized: bytes | None = None  # the beginning of an element that is being skipped

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The elements that `data` completes. Raises NotAnArray."""
        buffer = self._buffer = self._buffer + data
        start, end = 0, self._understood
        if self._in_string:
            end = self._leave_string(end)
        while end < len(buffer) and not self._in_string:
            dull = (WITHIN if self._depth > 1 else BETWEEN).match(buffer, end)
            at = end if dull is None else dull.end()
            end = min(at + 1, len(buffer))
            sign = buffer[at] if at < end else 0
            if self._depth == 0:
                self._open(sign, buffer[start:at])
                start = end
            elif sign == QUOTE:
                end = self._leave_string(end)
            elif sign == COMMA and self._depth == 1:
                yield self._element(buffer[start:at])
                start = end
            elif sign in b"[{":
                self._depth += 1
            elif sign in b"]}" and self._depth > 1:
                self._depth -= 1
            elif sign in b"]}":
                if last := self._close(sign, buffer[start:at]):
                    yield last
                start = end
        self._forget(start, end)

    def _open(self, sign: int, before: bytes) -> None:
        """At the first sign of anything but white space, or at the end of the buffer (sign 0)."""
        if self.closed and (sign or before.strip()):
            raise NotAnArray("something follows its end")
        if sign not in b"[\0" or before.strip():
            raise NotAnArray("it does not begin with [")
        self._depth = 1 if sign else 0

    def _close(self, sign: int, before: bytes) -> bytes:
        if sign not in b"]":
            raise NotAnArray("it does not end with ]")
        self._depth = 0
        self.closed = True
        return self._element(before)

    def _leave_string(self, at: int) -> int:
        """From `at`, inside a string, to behind its end; or to the end of the buffer, if the string goes on there."""
        buffer = self._buffer
        self._in_string = False
        while (quote := buffer.find(b'"', at)) >= 0:
            if not _escaped(buffer, quote, at):
                return quote + 1
            at = quote + 1
        self._in_string = True
        return len(buffer) - _escaped(buffer, len(buffer), at)

    def _element(self, raw: bytes) -> bytes:
        beginning, self._oversized = self._oversized, None
        if beginning is None and len(raw) > self._most:
            beginning = self._beginning(raw)
        return raw.strip() if beginning is None else beginning

    def _beginning(self, raw: bytes) -> bytes:
        return raw[: self._most].strip()[:KEPT_OF_OVERSIZED]

    def _forget(self, start: int, understood: int) -> None:
        """Keep what is needed from `start` on; of an element beyond all bounds only what is not understood yet."""
        if len(self._buffer) - start > self._most or self._oversized is not None:
            if self._oversized is None:
                self._oversized = self._beginning(self._buffer[start:])
            start = understood
        self._buffer = self._buffer[start:]
        self._understood = understood - start


def _escaped(buffer: bytes, position: int, start: int) -> bool:
    """Whether a backslash (not one that is escaped itself), `start` at the earliest, escapes what is at `position`."""
    before = position - 1
    while before >= start and buffer[before] == BACKSLASH:
        before -= 1
    return (position - before) % 2 == 0


def documents_of(answer: Answer) -> Generator[bytes, None, None]:
    """The raw documents of the answer to one poll. Close it when done, or its connection is not used again.

    Raises ServiceFault when the answer breaks off, is no array, or is beyond all bounds; what came before is good.
    """
    splitter = ArraySplitter()
    try:
        for piece in pieces(answer, PAGE_BYTES):
            yield from splitter.feed(piece)
    except NoAnswer as error:
        raise ServiceFault(API, f"the task API {error}, within the pending list") from None
    finally:
        answer.close()
    if not splitter.closed:
        raise ServiceFault(API, "the pending list ended too soon")
