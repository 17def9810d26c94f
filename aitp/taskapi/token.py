"""The access token: one for all relays, in a file, fetched by one process at a time.

OAuth2 client credentials (RFC 6749 §4.4). A token is used until 60 s before it expires, or for half its life if that is
shorter. One that the task API refuses is replaced only if it is still the current one, and at most once a minute over
all processes: twenty relays that are refused at once cause one request. No message here carries a token or a secret.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import orjson
import requests

from aitp.errors import CooldownRequired, CredentialsRefused, ServiceFault
from aitp.policy.retry_after import parse_retry_after
from aitp.taskapi.wire import open_session, read_bounded
from aitp.tasks import Service

if TYPE_CHECKING:
    from aitp.settings import Settings

OAUTH = Service.OAUTH.value
MARGIN_SECONDS = 60.0
REPLACEMENT_PAUSE_SECONDS = 60.0
DEFAULT_LIFETIME_SECONDS = 300.0  # where the server does not say (RFC 6749 §5.1: expires_in is only recommended)
LONGEST_LIFETIME_SECONDS = 86_400.0
LONGEST_PAUSE_SECONDS = 3_600.0
DEFAULT_PAUSE_SECONDS = 5.0
ANSWER_BYTES = 65_536
LONGEST_TOKEN = 16_384

# The names of RFC 6749 §5.2: anything else in `error` is the server's own text, and not repeated.
ERROR_NAMES = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)

REFUSED_AGAIN = (
    "the task API refuses a fresh token: look at what the client of OAUTH2_CLIENT_ID may do there, at OAUTH2_SCOPE, "
    "and at the API's own introspection of tokens"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. Instants are UTC seconds; `fingerprint` is of the settings that it was fetched with."""

    value: str = field(repr=False)
    use_until: float
    fetched_at: float
    replaced_at: float  # when a refused token was last replaced by a fresh one
    fingerprint: str

    def usable(self, fingerprint: str, now: float) -> bool:
        # Fetched in the future: the clock was set back, and nobody knows how long it still lives.
        return self.fingerprint == fingerprint and self.fetched_at <= now < self.use_until


class Tokens:
    """The token of all relays. `observe(success)` is called for each request made for one."""

    def __init__(
        self,
        settings: Settings,
        observe: Callable[[bool], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = settings.token_url
        self._address_setting = "OAUTH2_TOKEN_URL" if settings.oauth2_token_url else "ORY_PROJECT_SLUG"
        self._client_id = settings.oauth2_client_id
        self._secret = settings.oauth2_client_secret
        self._scope = settings.oauth2_scope
        self._timeout = settings.request_timeout
        self._trust_env = settings.http_trust_env
        self._path = settings.runtime_dir / "token"
        self._observe = observe
        self._clock = clock
        parts = "\n".join((self._url, self._client_id, self._scope, self._secret.get_secret_value()))
        self._fingerprint = hashlib.sha256(parts.encode()).hexdigest()[:32]
        self._known: Token | None = None

    def current(self) -> str:
        """A token that should be good; fetched if there is none.

        Raises CredentialsRefused, ServiceFault or CooldownRequired of the service `oauth`.
        """
        now = self._clock()
        if self._known is not None and self._known.usable(self._fingerprint, now):
            return self._known.value
        with self._alone():
            kept = self._read()
            if kept is None or not kept.usable(self._fingerprint, self._clock()):
                kept = self._fetch(0.0 if kept is None else kept.replaced_at)
            self._known = kept
            return kept.value

    def replace(self, refused: str) -> str:
        """Another token for one that the task API refused, by whichever process gets there first.

        Raises CredentialsRefused of the service `api` if a token was replaced within the last minute: it is not the
        token that is wrong then. Raises what `current` raises.
        """
        with self._alone():
            kept = self._read()
            now = self._clock()
            if kept is None or not kept.usable(self._fingerprint, now):
                kept = self._fetch(0.0 if kept is None else kept.replaced_at)
            elif kept.value == refused:
                if 0 <= now - kept.replaced_at < REPLACEMENT_PAUSE_SECONDS:
                    raise CredentialsRefused(Service.API.value, REFUSED_AGAIN)
                kept = self._fetch(now)
            self._known = kept
            return kept.value

    def forget(self) -> None:
        """Look into the file again next time: a timer fired somewhere in here."""
        self._known = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(
            self._path.with_name("token.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> Token | None:
        """What the file says; None if there is nothing in it that can be used."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                kept = Token(**orjson.loads(file.read(ANSWER_BYTES)))
        except (OSError, ValueError, TypeError):
            return None
        numbers = (kept.use_until, kept.fetched_at, kept.replaced_at)
        return kept if isinstance(kept.value, str) and all(isinstance(n, int | float) for n in numbers) else None

    def _write(self, token: Token) -> None:
        draft = self._path.with_name("token.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(asdict(token)))
        draft.rename(self._path)

    def _fetch(self, replaced_at: float) -> Token:
        """Ask for a token and put it into the file. The caller holds the lock."""
        asked_at = self._clock()
        try:
            answer = self._request()
            value, lifetime = self._understand(answer)
        except (ServiceFault, CooldownRequired):
            self._observe(False)
            raise
        self._observe(True)
        use_until = asked_at + lifetime - min(MARGIN_SECONDS, lifetime / 2)
        token = Token(value, use_until, asked_at, replaced_at, self._fingerprint)
        self._write(token)
        return token

    def _request(self) -> Answer:
        with open_session(self._trust_env) as session:
            try:
                with session.post(
                    self._url,
                    data={"grant_type": "client_credentials", "scope": self._scope},
                    headers={"Authorization": self._basic(), "Accept": "application/json"},
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    body = read_bounded(response, ANSWER_BYTES)
                    return Answer(response.status_code, body, response.headers.get("Retry-After"))
            except (requests.RequestException, OSError, ValueError) as error:
                # Only the kind of failure: the library's own words quote addresses and headers.
                said = f"the token endpoint gave no answer ({type(error).__name__})"
                raise ServiceFault(OAUTH, f"{said}: look at {self._address_setting}") from None

    def _basic(self) -> str:
        """Each part form-urlencoded before Base64 (RFC 6749 §2.3.1): a secret may hold `:`, `+`, `%` or `/`."""
        pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret.get_secret_value())}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _understand(self, answer: Answer) -> tuple[str, float]:
        """The token and its life in seconds, or the error that says which setting to look at."""
        if answer.status == 200:
            body = answer.json()
            value = body.get("access_token")
            if not (
                isinstance(value, str) and 0 < len(value) <= LONGEST_TOKEN and value.isascii() and value.isprintable()
            ):
                raise ServiceFault(
                    OAUTH, f"the token endpoint answered 200 without a token: look at {self._address_setting}"
                )
            return value, lifetime_of(body.get("expires_in"))
        if answer.status == 429:
            wanted = parse_retry_after(answer.retry_after, self._clock())
            seconds = min(DEFAULT_PAUSE_SECONDS if wanted is None else wanted, LONGEST_PAUSE_SECONDS)
            raise CooldownRequired(OAUTH, "the token endpoint answered 429", seconds=seconds, model=None)
        name = answer.json().get("error")
        said = f"the token endpoint answered {answer.status}" + (f" ({name})" if name in ERROR_NAMES else "")
        if name in ("invalid_client", "unauthorized_client") or answer.status in (401, 403):
            raise CredentialsRefused(OAUTH, f"{said}: look at OAUTH2_CLIENT_ID and OAUTH2_CLIENT_SECRET")
        if name == "invalid_scope":
            raise CredentialsRefused(OAUTH, f"{said}: look at OAUTH2_SCOPE")
        if answer.status < 500:
            raise ServiceFault(OAUTH, f"{said}: look at {self._address_setting}")
        raise ServiceFault(OAUTH, said)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the token endpoint said."""

    status: int
    body: bytes = field(repr=False)
    retry_after: str | None

    def json(self) -> dict[str, Any]:
        """The body's object; empty if it is none."""
        try:
            body = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return body if isinstance(body, dict) else {}


def lifetime_of(expires_in: object) -> float:
    """Seconds that a token lives by its `expires_in`: a number, or one in a string; nonsense counts as not said."""
    try:
        seconds = float(expires_in)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_LIFETIME_SECONDS
    if not 0 < seconds < float("inf"):
        return DEFAULT_LIFETIME_SECONDS
    return min(seconds, LONGEST_LIFETIME_SECONDS)
