"""HTTP as all calls of a relay use it: one session a process, no redirects, no retries, bodies bounded.

Retries are the ledger's: one more layer of them would multiply. A redirect is never followed, because it would carry
the token to wherever it points.
"""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter

from aitp import __version__

USER_AGENT = f"aitp/{__version__}"
CHUNK_BYTES = 65_536


class BodyTooLarge(ValueError):
    """An answer's body is longer than anything that is expected there."""


def open_session(trust_env: bool) -> requests.Session:
    """A session with one kept-alive connection a host. `trust_env`: proxies and netrc from the environment."""
    session = requests.Session()
    session.trust_env = trust_env
    session.max_redirects = 0
    session.headers["User-Agent"] = USER_AGENT
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=1, max_retries=0))
    return session


def read_bounded(response: requests.Response, most: int) -> bytes:
    """The whole body, unpacked. Raises BodyTooLarge above `most` bytes, and what requests raises."""
    parts = []
    size = 0
    for part in response.iter_content(CHUNK_BYTES):
        size += len(part)
        if size > most:
            raise BodyTooLarge(f"more than {most} bytes")
        parts.append(part)
    return b"".join(parts)
