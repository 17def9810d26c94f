"""The pending list, read as a stream: one raw document at a time, in bounded memory.

Today's task API lists *everything* that is pending, so a page may be 500 MB. A JSON parser that builds objects from a
stream costs several times what cutting the array into its elements does, and the elements are parsed one by one
anyway, so that a malformed one costs the others nothing. `TaskApi.pending` makes the page, the relay reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import requests

from aitp.errors import ServiceFault
from aitp.taskapi.wire import NoAnswer, pieces
from aitp.tasks import Service

PAGE_BYTES = 2**30
DOCUMENT_BYTES = 2**20
KEPT_OF_OVERSIZED = 4096

# A string (whole if its group is a quote, else cut off by the end of what is there), or what structures an array.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[][{},]', re.DOTALL)
REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+("?)', re.DOTALL)


class NotAnArray(ValueError):
    """What was fed is not a JSON array."""


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
        self._buffer += data
        if self._in_string and not self._leave_string():
            self._forget(0)
            return
        buffer, start, end = self._buffer, 0, self._understood
        for token in TOKEN.finditer(buffer, end):
            at, end = token.span()
            sign = buffer[at]
            if self._depth == 0:
                self._open(sign, buffer[start:at])
                start = end
            elif sign == 0x22:  # "
                if not token.group(1):
                    self._in_string = True
                    break
            elif sign == 0x2C:  # ,
                if self._depth == 1:
                    yield self._element(buffer[start:at])
                    start = end
            elif sign in b"[{":
                self._depth += 1
            elif self._depth > 1:
                self._depth -= 1
            else:
                if last := self._close(sign, buffer[start:at]):
                    yield last
                start = end
        if self._depth == 0:
            if buffer[start:].strip():
                raise NotAnArray("something follows its end" if self.closed else "it does not begin with [")
            start = end = len(buffer)
        self._understood = end
        self._forget(start)

    def _open(self, sign: int, before: bytes) -> None:
        if self.closed:
            raise NotAnArray("something follows its end")
        if sign != 0x5B or before.strip():
            raise NotAnArray("it does not begin with [")
        self._depth = 1

    def _close(self, sign: int, before: bytes) -> bytes:
        if sign != 0x5D:
            raise NotAnArray("it does not end with ]")
        self._depth = 0
        self.closed = True
        return self._element(before)

    def _leave_string(self) -> bool:
        """Go on within a string that was cut off; False if it is not over yet."""
        rest = REST_OF_STRING.match(self._buffer, self._understood)
        assert rest is not None  # it matches nothing as well
        self._understood = rest.end()
        self._in_string = not rest.group(1)
        return not self._in_string

    def _element(self, raw: bytes) -> bytes:
        beginning, self._oversized = self._oversized, None
        if beginning is None and len(raw) > self._most:
            beginning = self._beginning(raw)
        return raw.strip() if beginning is None else beginning

    def _beginning(self, raw: bytes) -> bytes:
        return raw[: self._most].strip()[:KEPT_OF_OVERSIZED]

    def _forget(self, start: int) -> None:
        """Keep what is needed from `start` on; of an element beyond all bounds only what is not understood yet."""
        if len(self._buffer) - start > self._most or self._oversized is not None:
            if self._oversized is None:
                self._oversized = self._beginning(self._buffer[start:])
            start = self._understood
        self._buffer = self._buffer[start:]
        self._understood -= start


class PendingPage:
    """The answer to one poll: an iterator of raw documents. Close it when done, or its connection is not used again.

    Iterating raises ServiceFault when the answer breaks off, is no array, or is beyond all bounds; what came before is
    good.
    """

    def __init__(self, response: requests.Response) -> None:
        self._response = response
        self._documents = self._split()

    def __iter__(self) -> Iterator[bytes]:
        return self._documents

    def _split(self) -> Iterator[bytes]:
        splitter = ArraySplitter()
        try:
            for piece in pieces(self._response, PAGE_BYTES):
                yield from splitter.feed(piece)
        except NotAnArray as error:
            raise ServiceFault(
                Service.API.value, f"the pending list is no JSON array ({error}): look at API_BASE_URL"
            ) from None
        except NoAnswer as error:
            raise ServiceFault(Service.API.value, f"the task API {error}, within the pending list") from None
        if not splitter.closed:
            raise ServiceFault(Service.API.value, "the pending list ended too soon")

    def close(self) -> None:
        self._response.close()
