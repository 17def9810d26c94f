"""The HTTP client under the OpenAI client: one call at a time, and no more of a body than was agreed.

Nothing from the process's environment unless asked for, no redirects (the key would follow them to another host),
one connection kept alive. Built after fork, by the provider. httpx2 is what the OpenAI client itself is made of.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from functools import cache

import httpx2
from openai import DefaultHttpxClient

from aitp.errors import ServiceFault
from aitp.tls import Trust

KEEPALIVE_SECONDS = 30.0  # longer than a worker waits between calls while there is work, shorter than servers hang up
NO_OTHERS = Trust()  # than the public authorities
LIMITS = httpx2.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_SECONDS)


class BodyBound:
    """A response hook that refuses bodies of more than `limit_bytes` (set before each call), errors' bodies too."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.limit_bytes = 65_536

    def __call__(self, response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # A bound on compressed bytes bounds nothing: 4 MB may unpack to 4 GB.
            raise ServiceFault(self.service, f"{self.service} sent a compressed answer although asked for a plain one")
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _BoundedStream(response.stream, self)

    def refusal(self) -> ServiceFault:
        return ServiceFault(self.service, f"{self.service} sent more than the {self.limit_bytes} bytes allowed")


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, bound: BodyBound) -> None:
        self._stream = stream
        self._bound = bound

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for chunk in self._stream:
            received += len(chunk)
            if received > self._bound.limit_bytes:
                raise self._bound.refusal()
            yield chunk

    def close(self) -> None:
        self._stream.close()


@cache
def tls_context(trust: Trust) -> ssl.SSLContext:
    """The roots to trust. Made once, by the master's warm-up: 2 MB and 20 ms that its children share.

    A context may be inherited; connections and sessions may not, and there are none yet.
    """
    context = httpx2.create_ssl_context(trust_env=trust.from_environment)
    if trust.certificates:
        context.load_verify_locations(cadata=trust.certificates)
    return context


def http_client(bound: BodyBound, timeout_seconds: float, trust: Trust) -> httpx2.Client:
    """`timeout_seconds` bounds connecting, each read and each write; a timer around the call bounds the whole."""
    return DefaultHttpxClient(
        timeout=timeout_seconds,
        limits=LIMITS,
        verify=tls_context(trust),
        trust_env=trust.from_environment,
        follow_redirects=False,
        event_hooks={"response": [bound]},
    )
