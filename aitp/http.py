"""HTTP for relays and look-ups: one kept-alive connection to one server, no redirects, no retries, bounded bodies.

Retries are the ledger's: one more layer would multiply them. A redirect is never followed, because it would carry the
token to wherever it points. Whatever goes wrong is a `NoAnswer` whose words are safe to log: the libraries' own quote
addresses, headers and bodies. Time-outs bound each read, and the clock a body; a head that trickles is the master's to
end. Used for the task API, for tokens, for Wikidata and for lists of models.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi
import orjson
import urllib3
from urllib3 import exceptions

from aitp import __version__
from aitp.validators import Trust

USER_AGENT = f"aitp/{__version__}"
CHUNK_BYTES = 65_536
FINISH_BYTES = 262_144
FINISH_SECONDS = 5.0
ANSWER_BYTES = 4 * 2**20

BY_TLS = "could not be spoken to by TLS"
# The first that fits.
WORDS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.ProxyError, "could not be reached through the proxy"),
    (exceptions.SSLError, f"{BY_TLS} (is its certificate valid?)"),
    (exceptions.NameResolutionError, "could not be found: its name does not resolve"),
    (exceptions.NewConnectionError, "could not be connected to"),
    (exceptions.TimeoutError, "did not answer within REQUEST_TIMEOUT"),
)
FAILURES = (exceptions.HTTPError, OSError, ValueError)
Answer = urllib3.BaseHTTPResponse


class NoAnswer(Exception):
    """A request got no answer, or not all of one. Its words continue a sentence about the server: "did not …"."""


class TooLong(NoAnswer):
    """The answer is longer than was agreed."""


class Wire:
    """The connection to the server that `url` names. Opened by the first request, kept until `close`.

    `timeout`: seconds for the connection, and for each read. `trust`: whose certificates count, and whether proxies and
    bundles may come from the environment (never credentials: a netrc would replace ours).
    """

    def __init__(self, url: str, timeout: float, trust: Trust) -> None:
        self._url, self._timeout, self._trust = url, timeout, trust

    @cached_property
    def _pool(self) -> urllib3.HTTPConnectionPool:
        return _pool(self._url, self._timeout, self._trust)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """One request. Of the answer, the body is still to be read: with `pieces`, `whole_body` or `finish`."""
        try:
            connections = self._pool.num_connections
            try:
                return self._send(method, url, headers, body)
            except exceptions.ProtocolError as error:
                if not isinstance(error.args[-1], ConnectionError) or self._pool.num_connections != connections:
                    raise
            # The server closed the connection while it was idle, and that was not yet known here. All our requests
            # may be repeated; this one goes over a new connection, and is not repeated again.
            return self._send(method, url, headers, body)
        except FAILURES as error:
            raise _no_answer(error) from None

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        parts = urlsplit(url)
        if not (self._pool.proxy and parts.scheme == "http"):  # a proxy that sees it is told the whole address
            url = url[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
        how = {"redirect": False, "assert_same_host": False, "preload_content": False, "decode_content": False}
        return self._pool.urlopen(method, url, body, headers, **how)

    def close(self) -> None:
        """End the connection, for good."""
        if "_pool" in vars(self):
            self._pool.close()


def _pool(url: str, timeout: float, trust: Trust) -> urllib3.HTTPConnectionPool:
    """Of one connection. Opens nothing."""
    proxy, bundle = _surroundings(url) if trust.from_environment else ("", certifi.where())
    terms: dict[str, Any] = {"maxsize": 1, "timeout": timeout, "retries": False, "cert_reqs": "CERT_REQUIRED"}
    terms["ca_cert_dir" if os.path.isdir(bundle) else "ca_certs"] = bundle
    if trust.certificates:  # beside the bundle, and of a proxy too
        terms["ca_cert_data"] = trust.certificates
    if not proxy:
        return urllib3.PoolManager(**terms).connection_from_url(url)
    parts = urlsplit(proxy)
    credentials = unquote(f"{parts.username}:{parts.password or ''}") if parts.username else None
    terms["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=credentials)
    return urllib3.ProxyManager(proxy, **terms).connection_from_url(url)


def _surroundings(url: str) -> tuple[str, str]:
    """The proxy to `url` (empty: none) and the authorities' bundle, as requests takes them from the environment."""
    import requests  # not above: three megabytes, for the few who want it

    with requests.Session() as session:
        found = session.merge_environment_settings(url, {}, None, True, None)
    proxy = requests.utils.select_proxy(url, found["proxies"]) or ""
    bundle = found["verify"] if isinstance(found["verify"], str) else certifi.where()
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy, bundle


def pieces(answer: Answer, most: int, seconds: float = math.inf) -> Iterator[bytes]:
    """The body, unpacked, in pieces as they come. Raises NoAnswer, also above `most` bytes, after `seconds`, or if it
    breaks off.
    """
    size, give_up = 0, time.monotonic() + seconds
    while True:
        try:
            # Not `read`, which would wait for a whole piece: with one byte a second, for ever.
            piece = answer.read1(CHUNK_BYTES, decode_content=True)
        except FAILURES as error:
            raise _no_answer(error) from None
        if not piece:
            return
        size += len(piece)
        if size > most:
            raise TooLong(f"sent an answer of more than {most} bytes")
        if time.monotonic() > give_up:
            raise NoAnswer(f"did not send its answer within {seconds:g} s")
        yield piece


def whole_body(answer: Answer, most: int, seconds: float = FINISH_SECONDS) -> bytes:
    """The whole body, unpacked, of an answer that is read no further. Raises NoAnswer, as `pieces` does."""
    try:
        return b"".join(pieces(answer, most, seconds))
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


def ask(
    url: str, seconds: float, trust: Trust, headers: Mapping[str, str], form: bytes | None = None
) -> tuple[Answer, bytes]:
    """One GET, or POST of a `form`, over a connection of its own: the answer, and its whole body. Raises NoAnswer;
    `seconds` bound each read, and the body.
    """
    wire = Wire(url, seconds, trust)
    try:
        sent = {"User-Agent": USER_AGENT, "Connection": "close", **headers}
        answer = wire.send("GET" if form is None else "POST", url, sent, form)
        return answer, whole_body(answer, ANSWER_BYTES, seconds)
    finally:
        wire.close()


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is, if it is one."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _no_answer(error: Exception) -> NoAnswer:
    said = f"gave no whole answer ({type(error).__name__})"
    return NoAnswer(next((words for kind, words in WORDS if isinstance(error, kind)), said))
