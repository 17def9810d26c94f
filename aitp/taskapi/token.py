"""The access token: one for all relays, in a file, asked for by one process at a time.

A token is used until 60 s before it expires, or for half its life if that is shorter. One that the task API refuses is
replaced only if it is still the current one, and at most once a minute over all processes: twenty relays that are
refused at once cause one request, and share what comes of it.

The file is readable by its owner alone, appears whole or not at all, and may be deleted or damaged at any time: what
cannot be read counts as no token, and nothing in it is trusted beyond what a token can be. It is replaced under a lock
that ends with the process. The request is OAuth2 client credentials (RFC 6749 §4.4); no message carries a token, a
secret or the server's own text. Called by the client and by `aitp check`.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote_plus, urlencode

import orjson
import urllib3

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.hardening import replace_file
from aitp.http import NoAnswer, Whole, ask, json_object
from aitp.policy.retry import pause_seconds
from aitp.settings import Settings
from aitp.tasks import Service

MARGIN_SECONDS = 60.0
REPLACEMENT_PAUSE_SECONDS = 60.0
# Who waited so long for the lock waited for a request of another process.
REQUEST_SECONDS = 0.1
FILE_BYTES = 65_536

REFUSED_AGAIN = (
    "the task API refuses a fresh token: look at what the client of OAUTH2_CLIENT_ID may do there, at OAUTH2_SCOPE "
    "and OAUTH2_AUDIENCE, and at the API's own introspection of tokens"
)

OAUTH = Service.OAUTH.value
DEFAULT_LIFETIME_SECONDS = 300.0  # where the server does not say (RFC 6749 §5.1: expires_in is only recommended)
LONGEST_LIFETIME_SECONDS = 86_400.0
VALUE = re.compile(r"[!-~]{1,16384}")

# RFC 6749 §5.2, RFC 8707 §2, and what Auth0 and Entra say of an audience. Anything else in `error` is the server's own
# text, and not repeated.
LOOK_AT = {
    "invalid_client": "OAUTH2_CLIENT_ID, OAUTH2_CLIENT_SECRET and OAUTH2_CLIENT_AUTH",
    "unauthorized_client": "OAUTH2_CLIENT_ID and OAUTH2_CLIENT_SECRET",
    "invalid_scope": "OAUTH2_SCOPE",
    "invalid_target": "OAUTH2_AUDIENCE",
    "invalid_resource": "OAUTH2_AUDIENCE and OAUTH2_SCOPE",
    "access_denied": "OAUTH2_AUDIENCE, and at what the client of OAUTH2_CLIENT_ID may ask for",
}
KNOWN_ERRORS = frozenset({*LOOK_AT, "invalid_request", "invalid_grant", "unsupported_grant_type"})


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. Instants are UTC seconds; `fingerprint` is of the settings that it was fetched with."""

    value: str = field(repr=False)
    use_until: float  # a fresh one is asked for from then on
    fetched_at: float
    replaced_at: float  # when a refused token was last replaced by a fresh one
    fingerprint: str

    @property
    def is_plausible(self) -> bool:
        """Whether it can be one of ours at all, whatever the file says."""
        return (
            VALUE.fullmatch(self.value) is not None
            and self.use_until <= self.fetched_at + LONGEST_LIFETIME_SECONDS
            and self.replaced_at <= self.fetched_at
        )


class Tokens:
    """The token of all relays. `observe(success)` is called for each request made for one."""

    def __init__(
        self, settings: Settings, observe: Callable[[bool], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._fingerprint = settings.fingerprint(OAUTH)
        self._path = settings.runtime_dir / "token"
        self._observe = observe
        self._clock = clock
        self._known: Token | None = None

    def current(self) -> str:
        """A token that should be good; fetched if there is none.

        Raises CredentialsRefused, ServiceFault or CooldownRequired of the service `oauth`.
        """
        if self._known is not None and self._is_usable(self._known):
            return self._known.value
        return self.replace("")

    def replace(self, refused: str) -> str:
        """Another token for one that the task API `refused`, by whichever process gets there first.

        Raises CredentialsRefused of the service `api` if a token was replaced within the last minute: it is not the
        token that is wrong then. Raises what `current` raises.
        """
        with locked(self._path) as waited_seconds:
            kept, now = self._kept(), self._clock()
            if kept is None or not self._is_usable(kept):
                kept = self._fetch(waited_seconds, 0.0 if kept is None else kept.replaced_at)
            elif kept.value == refused:
                if now - kept.replaced_at < REPLACEMENT_PAUSE_SECONDS:
                    raise CredentialsRefused(Service.API.value, REFUSED_AGAIN)
                kept = self._fetch(waited_seconds, now)
            self._known = kept
            return kept.value

    def _is_usable(self, token: Token) -> bool:
        # Fetched in the future: the clock was set back, and nobody knows how long it still lives.
        return token.fingerprint == self._fingerprint and token.fetched_at <= self._clock() < token.use_until

    def _kept(self) -> Token | None:
        """The newest token there is: the file's, or this process's own if that could not be written there."""
        found = [token for token in (read_token(self._path), self._known) if token is not None]
        return max(found, key=lambda token: token.fetched_at, default=None)

    def _fetch(self, waited_seconds: float, replaced_at: float) -> Token:
        """Ask for a token and put it into the file. The caller holds the lock, and has waited so long for it."""
        if waited_seconds > REQUEST_SECONDS:
            raise ServiceFault(OAUTH, "another relay has just asked for a token, in vain: its log says why")
        asked_at = self._clock()
        try:
            grant = ask_for_token(self._settings)
        except AitpError:
            self._observe(False)
            raise
        self._observe(True)
        use_until = asked_at + grant.lifetime_seconds - min(MARGIN_SECONDS, grant.lifetime_seconds / 2)
        token = Token(grant.value, use_until, asked_at, min(replaced_at, asked_at), self._fingerprint)
        try:
            replace_file(self._path, orjson.dumps(asdict(token)))
        except OSError:
            pass  # a full disk costs each relay a token of its own, not the service
        return token


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def locked(path: Path) -> Iterator[float]:
    """`<path>.lock`, for one process at a time; gives the seconds that it was waited for."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path.with_name(path.name + ".lock"), flags, 0o600), "rb") as lock:
        asked = time.monotonic()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield time.monotonic() - asked


def read_token(path: Path) -> Token | None:
    """What the file says; None if there is nothing in it that can be used."""
    try:
        # A fifo would block.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
                return None  # not what we wrote: others could have written it, or have read it
            token = Token(**orjson.loads(file.read(FILE_BYTES)))
        return token if token.is_plausible else None
    except (OSError, ValueError, TypeError):
        return None


# ── the request ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Grant:
    """A token, and for how many seconds it lives."""

    value: str = field(repr=False)
    lifetime_seconds: float


def ask_for_token(settings: Settings) -> Grant:
    """A new token. Raises CredentialsRefused, CooldownRequired or ServiceFault of the service `oauth`."""
    url = settings.token_url
    look = f"look at {'OAUTH2_TOKEN_URL' if settings.oauth2_token_url else 'ORY_PROJECT_SLUG'}"
    client = {
        "client_id": settings.oauth2_client_id,
        "client_secret": settings.oauth2_client_secret.get_secret_value(),
    }
    # What is empty is not asked for: an empty `scope` is a scope that many a server does not know.
    asked = {"scope": settings.oauth2_scope, "audience": settings.oauth2_audience}
    fields = {"grant_type": "client_credentials", **{name: value for name, value in asked.items() if value}}
    by_post = settings.oauth2_client_auth == "post"
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if by_post:
        fields |= client
    else:
        # Each part form-urlencoded before Base64 (RFC 6749 §2.3.1): a secret may hold `:`, `+`, `%` or `/`.
        headers |= urllib3.make_headers(basic_auth=":".join(map(quote_plus, client.values())))
    try:
        # Over a connection of its own: the next request is most likely another process's.
        answer = ask(url, settings.request_timeout, settings.trust, headers, urlencode(fields).encode())
    except NoAnswer as failure:
        raise ServiceFault(OAUTH, f"the token endpoint {failure}: {look}") from None
    body = json_object(answer.body) or {}
    value = body.get("access_token")
    # Some create a token with 201, some refuse one with 200.
    if not 200 <= answer.status < 300 or (not value and body.get("error")):
        raise _refusal(answer, body.get("error"), look)
    if not isinstance(value, str) or not VALUE.fullmatch(value):
        raise ServiceFault(OAUTH, f"the token endpoint answered {answer.status} without a token: {look}")
    return Grant(value, lifetime_of(body.get("expires_in")))


def _refusal(answer: Whole, name: object, look: str) -> AitpError:
    status, error = answer.status, name if isinstance(name, str) and name in KNOWN_ERRORS else ""
    said = f"the token endpoint answered {status}{error and f' ({error})'}"
    if status == 429:
        seconds = pause_seconds(answer.headers.get("Retry-After"), time.time())
        return CooldownRequired(OAUTH, said, seconds=seconds, model=None)
    if status >= 500:
        return ServiceFault(OAUTH, said)
    # Keycloak says 403 of a request without TLS, Auth0 of one without an audience; and 401 access_denied of a secret.
    if error in LOOK_AT or (status in (401, 403) and error != "invalid_request"):
        known = error if error in LOOK_AT and (status, error) != (401, "access_denied") else "invalid_client"
        return CredentialsRefused(OAUTH, f"{said}: look at {LOOK_AT[known]}", error=error)
    return ServiceFault(OAUTH, f"{said}: {look}{' and OAUTH2_AUDIENCE' if error == 'invalid_request' else ''}")


def lifetime_of(expires_in: object) -> float:
    """Seconds that a token lives by its `expires_in`: a number, or one in a string; nonsense counts as not said."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float | str):
        return DEFAULT_LIFETIME_SECONDS
    try:
        seconds = float(expires_in)
    except (ValueError, OverflowError):
        return DEFAULT_LIFETIME_SECONDS
    return min(seconds, LONGEST_LIFETIME_SECONDS) if 0 < seconds < math.inf else DEFAULT_LIFETIME_SECONDS
