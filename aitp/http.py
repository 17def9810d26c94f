"""HTTP: one kept-alive connection to one server, no redirects, no retries, bounded bodies.

Retries are the ledger's: one more layer would multiply them. A redirect is never followed, because it would carry the
token or the key to wherever it points. Whatever goes wrong is a `NoAnswer` whose words are safe to log: the libraries'
own quote addresses, headers and bodies. Time-outs bound each read, and the clock a body; a head that trickles is the
master's to end. Used for the task API, for tokens, for providers, for Wikidata and for lists of models.
"""

from __future__ import annotations

import math
import os
import re
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from http import client
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import certifi
import orjson
import urllib3
from urllib3 import exceptions

from aitp import __version__
from aitp.sources import exported
from aitp.validators import BUNDLES, Trust

USER_AGENT = f"aitp/{__version__}"
CHUNK_BYTES = 65_536
FINISH_BYTES = 262_144
FINISH_SECONDS = 5.0
ANSWER_BYTES = 4 * 2**20
KEEPALIVE_SECONDS = 30.0  # longer than a worker waits between calls while there is work, shorter than servers hang up

BY_TLS = "could not be spoken to by TLS"
SILENT = "did not answer within REQUEST_TIMEOUT"
# Where no connection came about, the first that fits.
WORDS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.ProxyError, "could not be reached through the proxy"),
    (exceptions.SSLError, BY_TLS),
    (exceptions.NameResolutionError, "could not be found: its name does not resolve"),
    (exceptions.NewConnectionError, "could not be connected to"),
    (exceptions.TimeoutError, SILENT),
)
FAILURES = (exceptions.HTTPError, OSError, ValueError, zlib.error)
PACKED, UNKNOWN = frozenset(("gzip", "x-gzip", "deflate")), frozenset(("br", "zstd", "compress", "x-compress"))
HEAD_LINES = 400  # with those of interim answers; http.client has a bound for each line, and for headers
INTERIM = re.compile(rb"HTTP/1\.\d 1(?!0[01])\d\d\b")  # but for 100, which http.client knows, and 101
Answer = urllib3.BaseHTTPResponse


class NoAnswer(Exception):
    """A request got no answer, or not all of one. Its words continue a sentence about the server: "did not …"."""

    def within(self, bound: str) -> str:
        """Its words, where something else than REQUEST_TIMEOUT bounded the request."""
        return str(self).replace("REQUEST_TIMEOUT", bound)


class NotReached(NoAnswer):
    """No connection came about: nothing was sent."""


class TooLong(NoAnswer):
    """The answer is longer than was agreed."""


class TooSlow(NoAnswer):
    """The answer came, and its end did not within the time that was agreed."""


class Whole(NamedTuple):
    """An answer that has come as a whole; its headers are found whatever their case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Dialled:
    """What a connection tells of itself: how often it was dialled, and whether it is there for what is sent."""

    times = 0
    is_up = False


class Wire:
    """The connection to the server that `url` names. Opened by the first request, kept until `close`.

    `timeout`: seconds for the connection, and for each read. `trust`: whose certificates count, and whether proxies and
    bundles may come from the environment (never credentials: a netrc would replace ours). `once`: what is sent must not
    be sent twice. So nothing goes over a connection that has been idle for long: it may be closed just then.
    """

    def __init__(self, url: str, timeout: float, trust: Trust, *, once: bool = False) -> None:
        self._url, self._timeout, self._trust, self._once = url, timeout, trust, once
        self._used = time.monotonic()
        self._dialled = _Dialled()

    @cached_property
    def _pool(self) -> urllib3.HTTPConnectionPool:
        pool, dialled = _pool(self._url, self._timeout, self._trust), self._dialled

        class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
            response_class = _Response

            def connect(self) -> None:  # it knows of neither wire nor pool: with them it would live on
                dialled.times, dialled.is_up = dialled.times + 1, False
                super().connect()  # with the way through a proxy, and TLS
                dialled.is_up = True

        pool.ConnectionCls = Connection
        return pool

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """One request. Of the answer, the body is still to be read: with `pieces`, `whole_body` or `finish`."""
        if self._once and time.monotonic() - self._used > KEEPALIVE_SECONDS:
            self.close()
        how = {"redirect": False, "assert_same_host": False, "preload_content": False, "decode_content": False}
        try:
            pool = self._pool
            parts, dialled = urlsplit(url), self._dialled.times
            if not (pool.proxy and parts.scheme == "http"):  # a proxy that sees it is told the whole address
                url = url[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
            try:
                answer = pool.urlopen(method, url, body, headers, **how)
            except (exceptions.ProtocolError, exceptions.ProxyError) as error:
                was_closed = isinstance(_cause(error), ConnectionError) and self._dialled.times == dialled
                if self._once or not was_closed:
                    raise
                # The server closed the connection while it was idle, and that was not yet known here. This request
                # goes over a new connection, and is not repeated again.
                answer = pool.urlopen(method, url, body, headers, **how)
        except FAILURES as error:
            raise _no_answer(error, self._dialled.is_up) from None
        if answer.status < 200:  # whatever follows must not pass for the answer to the next request
            answer.close()
            self.close()
            raise NoAnswer(f"sent an interim answer ({answer.status}) and no other one")
        self._used = time.monotonic()
        return answer

    def close(self) -> None:
        """End the connection. The next request opens another one."""
        self._dialled.is_up = False
        if pool := vars(self).pop("_pool", None):
            pool.close()


class _Response(client.HTTPResponse):
    """What http.client takes for an answer although it is none: an interim one, and a head that breaks off."""

    def begin(self) -> None:
        file: Any = self.fp
        head: Any = _Head(file)
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:  # else it is closed
                self.fp = file
        if head.last not in (b"\r\n", b"\n"):
            raise client.IncompleteRead(b"")


class _Head:
    """The lines of an answer's head: `last` is an empty one, if it is whole."""

    def __init__(self, file: Any) -> None:
        self._file, self._left, self.last = file, HEAD_LINES, b""

    def readline(self, limit: int = -1) -> bytes:
        while INTERIM.match(line := self._next(limit)):
            while self._next(limit).strip():
                pass
        return line

    def _next(self, limit: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise client.HTTPException("too many lines")
        self.last = self._file.readline(limit)
        return self.last

    def close(self) -> None:
        self._file.close()


def _pool(url: str, timeout: float, trust: Trust) -> urllib3.HTTPConnectionPool:
    """Of one connection. Opens nothing."""
    proxy = _proxy_to(url) if trust.from_environment else ""
    terms: dict[str, Any] = {"maxsize": 1, "timeout": timeout, "retries": False}
    if "https" in (urlsplit(url).scheme, urlsplit(proxy).scheme):
        terms["ssl_context"] = tls_context(trust)
    if not proxy:
        return urllib3.PoolManager(**terms).connection_from_url(url)
    parts = urlsplit(proxy)
    credentials = unquote(f"{parts.username}:{parts.password or ''}") if parts.username else None
    terms["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=credentials)
    return urllib3.ProxyManager(proxy, proxy_ssl_context=terms.get("ssl_context"), **terms).connection_from_url(url)


@cache
def tls_context(trust: Trust) -> ssl.SSLContext:
    """The roots to trust: the public ones and the system's, or those that the environment names.

    Made once, by the master's warm-up: 2 MB and 20 ms that its children share.
    """
    system = ssl.get_default_verify_paths()
    named = tuple(exported(*BUNDLES).values()) if trust.from_environment else ()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for place in named or (certifi.where(), system.openssl_cafile, system.openssl_capath):
        context.load_verify_locations(**{"cafile" if os.path.isfile(place) else "capath": place})
    if trust.certificates:  # beside those, and of a proxy too
        context.load_verify_locations(cadata=trust.certificates)
    return context


def _proxy_to(url: str) -> str:
    """The proxy to `url`, as requests takes it from the environment; empty: none."""
    # Of NO_PROXY what others understand as well: an address with a port or in brackets, and any name below another.
    parts, passed = urlsplit(url), next(iter(exported("no_proxy", "NO_PROXY").values()), "").lower().split(",")
    names = {parts.hostname, f"[{parts.hostname}]", parts.netloc.rpartition("@")[2].lower()}
    if any(
        entry in names or (entry[:2] == "*." and f"{parts.hostname}".endswith(entry[1:]))
        for entry in map(str.strip, passed)
    ):
        return ""
    import requests  # not above: three megabytes, for the few who want it

    with requests.Session() as session:
        found = session.merge_environment_settings(url, {}, None, True, None)
    proxy = requests.utils.select_proxy(url, found["proxies"]) or ""
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def pieces(answer: Answer, most: int, seconds: float = math.inf, began: float | None = None) -> Iterator[bytes]:
    """The body, unpacked, in pieces as they come. Raises NoAnswer, also above `most` bytes, after `seconds` (since
    `began`, by the monotonic clock), or if it breaks off.
    """
    named = re.findall(r"[\w-]+", answer.headers.get("Content-Encoding", "").lower())
    packings = [name for name in named if name in PACKED]
    if len(packings) > 1 or UNKNOWN.intersection(named):
        raise NoAnswer("packed its answer in a way that nobody asked for")
    give_up = (time.monotonic() if began is None else began) + seconds
    body = _within(_received(answer), most, seconds, give_up)
    try:
        yield from _within(_unpacked(body), most, seconds, give_up) if packings else body
    except FAILURES as error:
        raise _no_answer(error) from None


def _received(answer: Answer) -> Iterator[bytes]:
    # Not `read`, which would wait for a whole piece: with one byte a second, for ever. Nor unpacked by urllib3, where
    # what unpacks to nothing would never come to an end.
    while piece := answer.read1(CHUNK_BYTES, decode_content=False):
        yield piece


def _unpacked(body: Iterator[bytes]) -> Iterator[bytes]:
    """What gzip or deflate made of it: all parts of a gzip, and nothing of what follows."""
    unpacker, has_begun, is_over = zlib.decompressobj(47), False, False
    for piece in body:
        rest, has_begun = piece, True
        while rest and not is_over:
            if unpacker.eof:
                is_over = rest[:1] != b"\x1f"
                unpacker = unpacker if is_over else zlib.decompressobj(31)
            else:
                yield unpacker.decompress(rest, CHUNK_BYTES)
                rest = unpacker.unconsumed_tail or unpacker.unused_data
    if has_begun and not unpacker.eof:
        raise NoAnswer("gave no whole answer: its end is missing")


def _within(body: Iterator[bytes], most: int, seconds: float, give_up: float) -> Iterator[bytes]:
    size = 0
    for piece in body:
        size += len(piece)
        if size > most:
            raise TooLong(f"sent an answer of more than {most} bytes")
        if time.monotonic() > give_up:
            raise TooSlow(f"did not send its answer within {seconds:g} s")
        if piece:
            yield piece


def whole_body(answer: Answer, most: int, seconds: float = FINISH_SECONDS, began: float | None = None) -> bytes:
    """The whole body, unpacked, of an answer that is read no further. Raises NoAnswer, as `pieces` does."""
    try:
        return b"".join(pieces(answer, most, seconds, began))
    finally:
        answer.close()


def finish(answer: Answer) -> tuple[bytes, NoAnswer | None]:
    """Let go of an answer: its body, unpacked, as far as it comes in FINISH_SECONDS and FINISH_BYTES, and what cut it.

    None: it came whole, and its connection can be used again. Never raises: what came may say enough.
    """
    body, cut = b"", None
    try:
        for piece in pieces(answer, FINISH_BYTES, FINISH_SECONDS):
            body = body + piece if body else piece
    except NoAnswer as error:
        cut = error
    answer.close()
    return body, cut


def ask(url: str, seconds: float, trust: Trust, headers: Mapping[str, str], form: bytes | None = None) -> Whole:
    """The answer to one GET, or POST of a `form`, over a connection of its own. Raises NoAnswer; `seconds` bound each
    read, and the body.
    """
    wire = Wire(url, seconds, trust)
    try:
        sent = {"User-Agent": USER_AGENT, "Connection": "close", **headers}
        answer = wire.send("GET" if form is None else "POST", url, sent, form)
        return Whole(answer.status, answer.headers, whole_body(answer, ANSWER_BYTES, seconds))
    finally:
        wire.close()


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is, if it is one."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _no_answer(error: Exception, reached: bool = True) -> NoAnswer:
    cause = _cause(error)
    if not reached:
        said = next((words for kind, words in WORDS if isinstance(error, kind)), "could not be reached")
        if isinstance(cause, ssl.SSLCertVerificationError):
            said += f": {cause.verify_message} (is its certificate valid?)"
        elif type(error) is exceptions.NewConnectionError and isinstance(error.__cause__, OSError):
            said += f" ({error.__cause__.strerror})"  # the system's words: a refusal, or no way to there
        elif refused := re.search(r"Tunnel connection failed: (\d{3})", str(cause)):
            said += f", which answered {refused[1]}"
        return NotReached(said)
    if isinstance(cause, exceptions.TimeoutError | TimeoutError):
        return NoAnswer(SILENT)
    if isinstance(cause, zlib.error):
        return NoAnswer("sent what cannot be unpacked")
    return NoAnswer(f"gave no whole answer ({type(cause).__name__})")


def _cause(error: Exception) -> Exception:
    """What is behind an exception of urllib3's, which tells of all that a proxy has passed on as of a proxy's fault."""
    inner = error.args[-1] if error.args else None
    is_wrapper = isinstance(error, exceptions.ProtocolError | exceptions.ProxyError | exceptions.SSLError)
    return _cause(inner) if is_wrapper and isinstance(inner, Exception) else error
