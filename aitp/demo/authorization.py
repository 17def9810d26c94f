"""The authorization server: Ory Hydra's token endpoint for client credentials, and what its introspection would say.

Id and secret come by HTTP Basic, each form-urlencoded first (RFC 6749 §2.3.1); the plain form is refused as soon as
it differs. A client made for `client_auth="post"` sends them in the form, and in no other way. Tokens live
`lifetime_seconds`, announced as `expires_in` (the same, unless a test wants a server whose promises are longer than
its memory). The task API asks `active`.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote_plus

from aitp.demo.faults import Fault
from aitp.demo.http import HttpServer
from aitp.demo.wire import Request, Response, json_response

TOKEN_PATH = "/oauth2/token"
DEMO_CLIENT_ID = "aitp-demo"
DEMO_CLIENT_SECRET = "demo:+secret/100%?&=ü"  # whoever skips a step of the encoding is refused
NO_STORE = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))
DESCRIPTIONS = {
    "invalid_client": "Client authentication failed (e.g., unknown client, no client authentication included, or "
    "unsupported authentication method).",
    "invalid_request": "The request is missing a required parameter, includes an invalid parameter value, includes a "
    "parameter more than once, or is otherwise malformed.",
    "invalid_scope": "The requested scope is invalid, unknown, or malformed.",
    "unsupported_grant_type": "The authorization grant type is not supported by the authorization server.",
}


@dataclass(frozen=True, slots=True)
class Issue:
    """One token handed out, without the token."""

    scope: str
    audience: str
    issued_wall: float
    issued_monotonic: float
    expires_monotonic: float


class AuthorizationServer(HttpServer):
    """POST /oauth2/token. `lifetime_seconds`, `expires_in`, `client_secret` and `client_auth` may be changed any time.

    `scopes` and `audiences` are what the client may ask for.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        client_id: str = DEMO_CLIENT_ID,
        client_secret: str = DEMO_CLIENT_SECRET,
        client_auth: Literal["basic", "post"] = "basic",
        scopes: str = "read write",
        audiences: str = "",
        lifetime_seconds: float = 3600.0,
        expires_in: int | None = None,
        latency_seconds: float = 0.0,
        fault_seed: int = 0,
    ) -> None:
        super().__init__(port, latency_seconds=latency_seconds, fault_seed=fault_seed)
        self.client_id = client_id
        self.client_secret = client_secret
        self.client_auth = client_auth
        self.lifetime_seconds = lifetime_seconds
        self.expires_in = expires_in
        self.issues: list[Issue] = []
        self.refusals: list[str] = []
        self._scopes = frozenset(scopes.split())
        self._audiences = frozenset(audiences.split())
        self._tokens: dict[str, float] = {}

    @property
    def token_url(self) -> str:
        """What OAUTH2_TOKEN_URL is to be."""
        return self.url + TOKEN_PATH

    @property
    def issued(self) -> int:
        """How many tokens were handed out."""
        return len(self.issues)

    def active(self, token: str) -> bool:
        """What introspection says of a token."""
        return self._tokens.get(token, 0.0) > time.monotonic()

    def issue(self, scope: str = "read write", audience: str = "") -> str:
        """A new token, as if a client had asked for it."""
        token = "ory_at_" + secrets.token_urlsafe(32)
        now = time.monotonic()
        self._tokens[token] = now + self.lifetime_seconds
        self.issues.append(Issue(scope, audience, time.time(), now, now + self.lifetime_seconds))
        return token

    def revoke_all(self) -> None:
        """From now on no token handed out so far is active."""
        self._tokens = {}

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """RFC 6749 §4.4 as Hydra does it."""
        if request.path != TOKEN_PATH:
            return Response(404, b"404 page not found\n", content_type="text/plain; charset=utf-8")
        if request.method != "POST":
            return self._refuse(405, "invalid_request", f"HTTP method is '{request.method}', expected 'POST'.")
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self._refuse(400, "invalid_request", "The POST body must be application/x-www-form-urlencoded.")
        fields = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        form = {name: values[0] for name, values in fields.items()}
        if not form.get("grant_type"):
            return self._refuse(400, "invalid_request", "Request parameter 'grant_type' is missing.")
        if form["grant_type"] != "client_credentials":
            return self._refuse(400, "unsupported_grant_type")
        if not self._known_client(request.headers.get("authorization", ""), form):
            return self._refuse(401, "invalid_client")
        scope = form.get("scope", "")
        for name in scope.split():
            if name not in self._scopes:
                return self._refuse(
                    400, "invalid_scope", f"The OAuth 2.0 Client is not allowed to request scope '{name}'."
                )
        for name in form.get("audience", "").split():
            if name not in self._audiences:
                return self._refuse(
                    400, "invalid_request", f"Requested audience '{name}' has not been whitelisted by the client."
                )
        token = self.issue(scope, form.get("audience", ""))
        expires_in = int(self.lifetime_seconds) if self.expires_in is None else self.expires_in
        answer = {"access_token": token, "expires_in": expires_in, "scope": scope, "token_type": "bearer"}
        return json_response(200, answer, NO_STORE)

    def error(self, status: int, request: Request) -> Response:
        """Hydra's body for a fault."""
        name = {401: "invalid_client", 429: "too_many_requests", 503: "temporarily_unavailable"}
        return self._error(status, name.get(status, "server_error" if status >= 500 else "invalid_request"))

    def _known_client(self, authorization: str, form: dict[str, str]) -> bool:
        if self.client_auth == "post" or "client_secret" in form:
            sent = (form.get("client_id"), form.get("client_secret"))
            return self.client_auth == "post" and not authorization and sent == (self.client_id, self.client_secret)
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return False
        client_id, _, secret = decoded.partition(":")
        return unquote_plus(client_id) == self.client_id and unquote_plus(secret) == self.client_secret

    def _refuse(self, status: int, name: str, detail: str = "") -> Response:
        self.refusals.append(name)
        return self._error(status, name, detail)

    @staticmethod
    def _error(status: int, name: str, detail: str = "") -> Response:
        description = " ".join(
            filter(None, (DESCRIPTIONS.get(name, "The server met an unexpected condition."), detail))
        )
        return json_response(status, {"error": name, "error_description": description}, NO_STORE)
