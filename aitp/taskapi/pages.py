"""The pending list, read as a stream: one raw document at a time, in bounded memory.

Today's task API lists *everything* that is pending, so a page may be 500 MB. A JSON parser that builds objects from a
stream costs ten times what cutting the array into its elements does, and the elements are parsed one by one
anyway, so that a malformed one costs the others nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import requests

from aitp.errors import ServiceFault
from aitp.taskapi.wire import CHUNK_BYTES
from aitp.tasks import Service

PAGE_BYTES = 2**30
DOCUMENT_BYTES = 2**20

# A string (whole if its group is a quote, else cut off by the end of the buffer), or what structures an array.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[][{},]', re.DOTALL)


class NotAnArray(ValueError):
    """What was fed is not a JSON array, or an element of it is beyond all bounds."""


class ArraySplitter:
    """Cuts a JSON array into its elements, however the bytes arrive. Elements are not checked, only told apart."""

    def __init__(self, most: int = DOCUMENT_BYTES) -> None:
        self._most = most
        self._buffer = b""
        self._depth = 0
        self._scanned = 0  # up to here the buffer is understood
        self.closed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The elements that `data` completes. Raises NotAnArray."""
        buffer = self._buffer = self._buffer + data
        start, scanned = 0, self._scanned
        for token in TOKEN.finditer(buffer, scanned):
            sign = buffer[token.start()]
            if sign == 0x22:  # "
                if not token.group(1):
                    break
            elif self.closed:
                raise NotAnArray("something follows the array")
            elif sign == 0x2C:  # ,
                if self._depth == 1:
                    yield buffer[start : token.start()].strip()
                    start = token.end()
            elif sign in b"[{":
                if self._depth == 0:
                    if sign != 0x5B or buffer[: token.start()].strip():
                        raise NotAnArray("it does not begin with [")
                    start = token.end()
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    self.closed = True
                    last = buffer[start : token.start()].strip()
                    start = token.end()
                    if last:
                        yield last
            scanned = token.end()
        # An incomplete string is looked at again from its quote, when more of it is there.
        self._buffer = buffer[start:]
        self._scanned = max(scanned - start, 0)
        if self._depth == 0 and not self.closed and self._buffer.strip():
            raise NotAnArray("it does not begin with [")
        if len(self._buffer) > self._most:
            raise NotAnArray(f"an element is longer than {self._most} bytes")


class PendingPage:
    """The answer to one poll: an iterator of raw documents. Close it when done, or its connection is not used again.

    Iterating raises ServiceFault when the answer breaks off, is no array, or is beyond all bounds; what came before is
    good.
    """

    def __init__(self, response: requests.Response, failed: Callable[[Exception], ServiceFault]) -> None:
        self._response = response
        self._failed = failed
        self._documents = self._split()

    def __iter__(self) -> Iterator[bytes]:
        return self._documents

    def _split(self) -> Iterator[bytes]:
        splitter = ArraySplitter()
        size = 0
        try:
            for part in self._response.iter_content(CHUNK_BYTES):
                size += len(part)
                if size > PAGE_BYTES:
                    raise NotAnArray(f"it is longer than {PAGE_BYTES} bytes")
                yield from splitter.feed(part)
        except NotAnArray as error:
            raise ServiceFault(Service.API.value, f"the pending list is not what was expected: {error}") from None
        except (requests.RequestException, OSError) as error:
            raise self._failed(error) from None
        if not splitter.closed:
            raise ServiceFault(Service.API.value, "the pending list broke off")

    def close(self) -> None:
        self._response.close()
