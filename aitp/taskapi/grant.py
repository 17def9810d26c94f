"""Asking the authorization server for a token: OAuth2 client credentials (RFC 6749 §4.4), one request.

Whatever it answers becomes a token with its life, or an error that names the setting to look at. No message carries a
token, a secret or the server's own text. Called by `Tokens`, which sees to it that one process at a time does.
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import orjson
from requests.structures import CaseInsensitiveDict

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.policy.retry import pause_seconds
from aitp.tasks import Service
from aitp.wire import USER_AGENT, NoAnswer, Wire, whole_body

if TYPE_CHECKING:
    from aitp.settings import Settings

OAUTH = Service.OAUTH.value
DEFAULT_LIFETIME_SECONDS = 300.0  # where the server does not say (RFC 6749 §5.1: expires_in is only recommended)
LONGEST_LIFETIME_SECONDS = 86_400.0
ANSWER_BYTES = 65_536
VALUE = re.compile(r"[!-~]{1,16384}")

# RFC 6749 §5.2, RFC 8707 §2, and what Auth0 says of an audience. Anything else in `error` is the server's own text, and
# not repeated.
LOOK_AT = {
    "invalid_client": "OAUTH2_CLIENT_ID, OAUTH2_CLIENT_SECRET and OAUTH2_CLIENT_AUTH",
    "unauthorized_client": "OAUTH2_CLIENT_ID and OAUTH2_CLIENT_SECRET",
    "invalid_scope": "OAUTH2_SCOPE",
    "invalid_target": "OAUTH2_AUDIENCE",
    "access_denied": "OAUTH2_AUDIENCE, and at what the client of OAUTH2_CLIENT_ID may ask for",
}
OTHER_ERRORS = frozenset({"invalid_request", "invalid_grant", "unsupported_grant_type"})


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, and for how many seconds it lives."""

    value: str = field(repr=False)
    lifetime_seconds: float


class TokenEndpoint:
    """The authorization server as the settings name it. `fingerprint` tells tokens of other settings apart."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.token_url
        self._address_setting = "OAUTH2_TOKEN_URL" if settings.oauth2_token_url else "ORY_PROJECT_SLUG"
        self._client_id = settings.oauth2_client_id
        self._secret = settings.oauth2_client_secret
        self._in_form = settings.oauth2_client_auth == "post"
        self._asked = {"scope": settings.oauth2_scope, "audience": settings.oauth2_audience}
        self._timeout = settings.request_timeout
        self._trust = settings.trust
        self.fingerprint = settings.fingerprint(OAUTH)

    def ask(self) -> Grant:
        """A new token. Raises CredentialsRefused, CooldownRequired or ServiceFault of the service `oauth`."""
        form = self._form()
        headers = CaseInsensitiveDict(
            {
                "User-Agent": USER_AGENT,
                "Accept": "application/json",
                "Content-Type": "application/x-www-form-urlencoded",
                "Content-Length": str(len(form)),
                "Connection": "close",  # the next one is most likely another process's
            }
        )
        if not self._in_form:
            headers["Authorization"] = self._basic()
        wire = Wire(self._url, self._timeout, self._trust)
        try:
            response = wire.send("POST", self._url, headers, form)
            body = _object(whole_body(response, ANSWER_BYTES))
        except NoAnswer as failure:
            raise ServiceFault(OAUTH, f"the token endpoint {failure}: look at {self._address_setting}") from None
        finally:
            wire.close()
        if response.status_code != 200:
            raise self._refusal(response.status_code, body.get("error"), response.headers.get("Retry-After"))
        value = body.get("access_token")
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            raise ServiceFault(
                OAUTH, f"the token endpoint answered 200 without a token: look at {self._address_setting}"
            )
        return Grant(value, lifetime_of(body.get("expires_in")))

    def _form(self) -> bytes:
        """What is empty is not asked for: an empty `scope` is a scope that many a server does not know."""
        fields = {"grant_type": "client_credentials", **{name: value for name, value in self._asked.items() if value}}
        if self._in_form:
            fields |= {"client_id": self._client_id, "client_secret": self._secret.get_secret_value()}
        return urlencode(fields).encode()

    def _basic(self) -> str:
        """Each part form-urlencoded before Base64 (RFC 6749 §2.3.1): a secret may hold `:`, `+`, `%` or `/`."""
        pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret.get_secret_value())}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _refusal(self, status: int, name: object, retry_after: str | None) -> AitpError:
        said = f"the token endpoint answered {status}"
        error = name if isinstance(name, str) and (name in LOOK_AT or name in OTHER_ERRORS) else ""
        if error:
            said += f" ({error})"
        if status == 429:
            return CooldownRequired(OAUTH, said, seconds=pause_seconds(retry_after, time.time()), model=None)
        if status >= 500:
            return ServiceFault(OAUTH, said)
        if error in LOOK_AT or status in (401, 403):
            settings = LOOK_AT.get(error, LOOK_AT["invalid_client"])
            return CredentialsRefused(OAUTH, f"{said}: look at {settings}", error=error)
        also = " and OAUTH2_AUDIENCE" if error == "invalid_request" else ""
        return ServiceFault(OAUTH, f"{said}: look at {self._address_setting}{also}")


def lifetime_of(expires_in: object) -> float:
    """Seconds that a token lives by its `expires_in`: a number, or one in a string; nonsense counts as not said."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float | str):
        return DEFAULT_LIFETIME_SECONDS
    try:
        seconds = float(expires_in)
    except (ValueError, OverflowError):
        return DEFAULT_LIFETIME_SECONDS
    if not 0 < seconds < float("inf"):
        return DEFAULT_LIFETIME_SECONDS
    return min(seconds, LONGEST_LIFETIME_SECONDS)


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; empty if it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
