"""Who may see what over HTTP. Pure; asked by `aitp.web.app` for each request.

Without METRICS_TOKEN everyone may see everything: nothing here is secret, and nothing can be changed. With it, /metrics
and the page are for those who prove that they know it, as a bearer token (RFC 6750 §2.1: Prometheus' `authorization`)
or as the password of HTTP Basic with any user name (RFC 7617: what a browser asks for). /health and /ready still tell
everyone their status code, because container engines and load balancers have no token to send; but not the reasons.
"""

from __future__ import annotations

import base64
import binascii
import hmac

from pydantic import SecretStr

# A header line each: of several in one line Chromium sees the first only, and would never ask for a password.
CHALLENGES = ('Bearer realm="aitp"', 'Basic realm="aitp", charset="UTF-8"')


def may_see_all(authorization: str, token: SecretStr | None) -> bool:
    """Whether a request with this Authorization header ("" if it has none) may see all there is."""
    if token is None:
        return True
    scheme, _, credentials = authorization.partition(" ")
    proof = {"bearer": _as_it_is, "basic": _password}.get(scheme.lower(), _nothing)(credentials.strip())
    # In the same time whatever is wrong with it, or it could be guessed byte by byte.
    return hmac.compare_digest(proof, token.get_secret_value().encode())


def _as_it_is(credentials: str) -> bytes:
    return credentials.encode("latin-1", "replace")  # as WSGI decoded it (PEP 3333)


def _password(credentials: str) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


def _nothing(credentials: str) -> bytes:
    return b""
