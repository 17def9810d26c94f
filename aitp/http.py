"""HTTP for relays and look-ups: one kept-alive connection to one server, no redirects, no retries, bounded bodies.

Retries are the ledger's: one more layer would multiply them. A redirect is never followed, because it would carry the
token to wherever it points. Whatever goes wrong is a `NoAnswer` whose words are safe to log: the libraries' own quote
addresses, headers and bodies. Time-outs bound each read, and the clock a body; a head that trickles is the master's to
end. Used for the task API, for tokens, for Wikidata and for lists of models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import exceptions as urllib3

from aitp import __version__
from aitp.validators import Trust

USER_AGENT = f"aitp/{__version__}"
CHUNK_BYTES = 65_536
FINISH_BYTES = 262_144
FINISH_SECONDS = 5.0
ANSWER_BYTES = 4 * 2**20

BY_TLS = "could not be spoken to by TLS"
# The first that fits.
WORDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((requests.exceptions.ProxyError, urllib3.ProxyError), "could not be reached through the proxy"),
    ((requests.exceptions.SSLError, urllib3.SSLError), f"{BY_TLS} (is its certificate valid?)"),
    ((urllib3.NameResolutionError,), "could not be found: its name does not resolve"),
    ((urllib3.NewConnectionError,), "could not be connected to"),
    ((requests.Timeout, urllib3.TimeoutError), "did not answer within REQUEST_TIMEOUT"),
)
FAILURES = (requests.RequestException, urllib3.HTTPError, OSError, ValueError)


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
        self._adapter = _Adapter(trust)
        with requests.Session() as session:
            session.trust_env = trust.from_environment
            around = session.merge_environment_settings(url, {}, True, None, None)
        self._terms: dict[str, Any] = {**around, "timeout": timeout}

    def send(
        self, method: str, url: str, headers: CaseInsensitiveDict[str], body: bytes | None = None
    ) -> requests.Response:
        """One request. Of the answer, the body is still to be read: with `pieces`, `whole_body` or `finish`."""
        # Prepared by hand and sent by the adapter, see there. The session would also read a redirect's body whole.
        request = requests.PreparedRequest()
        request.method, request.url, request.headers, request.body = method, url, headers, body
        connections = self._adapter.connections
        try:
            try:
                return self._adapter.send(request, **self._terms)
            except requests.ConnectionError as error:
                if not _hung_up(error) or self._adapter.connections != connections:
                    raise
            # The server closed the connection while it was idle, and that was not yet known here. All our requests
            # may be repeated; this one goes over a new connection, and is not repeated again.
            return self._adapter.send(request, **self._terms)
        except FAILURES as error:
            raise _no_answer(error) from None

    def close(self) -> None:
        """End the connection. Another request would open a new one."""
        self._adapter.close()


def pieces(response: requests.Response, most: int, seconds: float = math.inf) -> Iterator[bytes]:
    """The body, unpacked, in pieces as they come. Raises NoAnswer, also above `most` bytes, after `seconds`, or if it
    breaks off.
    """
    size, give_up = 0, time.monotonic() + seconds
    while True:
        try:
            # Not `read`, which would wait for a whole piece: with one byte a second, for ever.
            piece: bytes = response.raw.read1(CHUNK_BYTES, decode_content=True)
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


def whole_body(response: requests.Response, most: int, seconds: float = FINISH_SECONDS) -> bytes:
    """The whole body, unpacked, of an answer that is read no further. Raises NoAnswer, as `pieces` does."""
    try:
        return b"".join(pieces(response, most, seconds))
    finally:
        response.close()


def finish(response: requests.Response) -> tuple[bytes, NoAnswer | None]:
    """Let go of an answer: its body, unpacked, as far as it comes in FINISH_SECONDS and FINISH_BYTES, and what cut it.

    None: it came whole, and its connection can be used again. Never raises: what came may say enough.
    """
    body, cut = b"", None
    try:
        for piece in pieces(response, FINISH_BYTES, FINISH_SECONDS):
            body = body + piece if body else piece
    except NoAnswer as error:
        cut = error
    response.close()
    return body, cut


def ask(
    url: str, seconds: float, trust: Trust, headers: Mapping[str, str], form: bytes | None = None
) -> tuple[requests.Response, bytes]:
    """One GET, or POST of a `form`, over a connection of its own: the answer, and its whole body. Raises NoAnswer;
    `seconds` bound each read, and the body.
    """
    wire = Wire(url, seconds, trust)
    try:
        sent = {"User-Agent": USER_AGENT, "Connection": "close", **headers}
        answer = wire.send("GET" if form is None else "POST", url, CaseInsensitiveDict(sent), form)
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


class _Adapter(HTTPAdapter):
    """For one server: its pool is looked up once, and no response is dressed up with cookies and the like.

    A way past requests' session, because it was measured: a PATCH costs 0.88 ms of CPU like this, 1.86 ms through the
    session. It stands on HTTPAdapter's hooks (`send`, `build_response`, `get_connection_with_tls_context`,
    `init_poolmanager`, `proxy_manager_for`), a PreparedRequest of four attributes, and the pool's `num_connections`;
    `tests/taskapi/test_connection.py` notices when a new version moves one of them.
    """

    def __init__(self, trust: Trust) -> None:
        # Beside the bundle that requests names, and for its proxies too. urllib3 takes "" for a certificate.
        self._own_authorities = {"ca_cert_data": trust.certificates} if trust.certificates else {}
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._pool: Any = None

    def close(self) -> None:
        # requests only forgets its pools; whoever has one, as we do, keeps its connection open.
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        super().close()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._own_authorities)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, **proxy_kwargs, **self._own_authorities)

    @property
    def connections(self) -> int:
        """How many were made so far: if a request adds none, it went over one that was there."""
        return 0 if self._pool is None else int(self._pool.num_connections)

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str | None,
        proxies: Mapping[str, str] | None = None,
        cert: Any = None,
    ) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return self._pool

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = resp.status
        response.headers = resp.headers
        response.raw = resp
        return response


def _hung_up(error: requests.ConnectionError) -> bool:
    """Whether the connection ended before an answer began."""
    reason = error.args[0] if error.args else None
    return isinstance(reason, urllib3.ProtocolError) and isinstance(reason.args[-1], ConnectionError)


def _no_answer(error: Exception) -> NoAnswer:
    cause = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)  # what urllib3 gave up for
    for kinds, words in WORDS:
        if isinstance(error, kinds) or isinstance(cause, kinds):
            return NoAnswer(words)
    return NoAnswer(f"gave no whole answer ({type(error).__name__})")
