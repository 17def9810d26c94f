"""The pending list, read as a stream: one raw document at a time, in bounded memory.

Today's task API lists *everything* that is pending, so a page may be 500 MB. A JSON parser that builds objects from a
stream costs several times what cutting the array into its elements does, and the elements are parsed one by one
anyway, so that a malformed one costs the others nothing. `TaskApi.pending` makes the page, the relay reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Self

import requests

from aitp.errors import ServiceFault
from aitp.http import NoAnswer, pieces
from aitp.tasks import Service

PAGE_BYTES = 2**30
DOCUMENT_BYTES = 2**20
KEPT_OF_OVERSIZED = 4096

# What tells nothing about where an element ends: whole strings and other signs; within an element, commas as well.
# (Possessive: a repetition that could be taken back would cost memory each time.)
STRING = rb'"(?:[^"\\]++|\\.)*+'
DULL = re.compile(rb'(?:[^"\[\]{},]++|%b")*+' % STRING, re.DOTALL)
DULL_WITHIN = re.compile(rb'(?:[^"\[\]{}]++|%b")*+' % STRING, re.DOTALL)
OPEN_STRING = re.compile(STRING, re.DOTALL)


class NotAnArray(ValueError):
    """What came is not a JSON array, or not all of one."""


def elements(pieces: Iterable[bytes], most: int = DOCUMENT_BYTES) -> Iterator[bytes]:
    """The elements of a JSON array, however its bytes arrive. They are not checked, only told apart. Raises NotAnArray.

    Of an element of more than `most` bytes only the beginning is given, in which its id may be.
    """
    buffer = b""  # what may be part of an element that is not complete
    at = 0  # up to here it is understood
    depth, closed = 0, False
    oversized: bytes | None = None  # the beginning of an element that is being skipped
    for piece in pieces:
        buffer, start = buffer + piece, 0
        if depth == 0:
            buffer = buffer.lstrip()
            if buffer and (closed or not buffer.startswith(b"[")):
                raise NotAnArray("something follows its end" if closed else "it does not begin with [")
            depth = start = at = len(buffer[:1])
        while depth:
            dull = (DULL if depth == 1 else DULL_WITHIN).match(buffer, at)
            at = dull.end() if dull else at
            sign = buffer[at : at + 1]
            if sign in (b"", b'"'):
                break  # the rest, of a string as well, is still to come
            at += 1
            depth += {b"[": 1, b"{": 1, b",": 0}.get(sign, -1)
            if depth == 0 and sign == b"}":
                raise NotAnArray("it does not end with ]")
            if depth == 0 or sign == b",":
                element = _bounded(buffer[start : at - 1], most) if oversized is None else oversized
                closed, oversized, start = depth == 0, None, at
                if element or not closed:
                    yield element
        buffer, at = buffer[start:], at - start
        if len(buffer) > most and oversized is None:
            oversized = _bounded(buffer, most)
        if oversized is not None:
            # Of a string that goes on its beginning will do, and a backslash that stands at its end.
            buffer, at = OPEN_STRING.sub(b'"', buffer[at:], count=1), 0
        if closed and buffer.strip():
            raise NotAnArray("something follows its end")
    if not closed:
        raise NotAnArray("it ends too soon")


def _bounded(element: bytes, most: int) -> bytes:
    return element.strip() if len(element) <= most else element[:most].strip()[:KEPT_OF_OVERSIZED]


class PendingPage:
    """The answer to one poll: an iterator of raw documents. Close it when done, or its connection is not used again.

    Iterating raises ServiceFault when the answer breaks off, is no array, or is beyond all bounds; what came before is
    good.
    """

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._documents = elements(pieces(response, PAGE_BYTES))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._documents)
        except NotAnArray as error:
            said = f"the pending list is no JSON array ({error}): look at API_BASE_URL"
            raise ServiceFault(Service.API.value, said) from None
        except NoAnswer as error:
            raise ServiceFault(Service.API.value, f"the task API {error}, within the pending list") from None

    def close(self) -> None:
        """Let go of the rest of it."""
        self._response.close()
