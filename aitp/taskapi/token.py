"""The access token: one for all relays, in a file, fetched by one process at a time.

A token is used until 60 s before it expires, or for half its life if that is shorter. One that the task API refuses is
replaced only if it is still the current one, and at most once a minute over all processes: twenty relays that are
refused at once cause one request, and share its outcome, good or bad. Called by the client."""

from __future__ import annotations

import base64
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import orjson
from requests.structures import CaseInsensitiveDict

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.http import USER_AGENT, NoAnswer, Wire, whole_body
from aitp.policy.retry import pause_seconds
from aitp.tasks import Service

if TYPE_CHECKING:
    from aitp.settings import Settings


MARGIN_SECONDS = 60.0
# A token past its time for a refresh that failed is used for so long before the next try.
SPARE_SECONDS = 10.0
REPLACEMENT_PAUSE_SECONDS = 60.0

REFUSED_AGAIN = (
    "the task API refuses a fresh token: look at what the client of OAUTH2_CLIENT_ID may do there, at OAUTH2_SCOPE "
    "and OAUTH2_AUDIENCE, and at the API's own introspection of tokens"
)


class Tokens:
    """The token of all relays. `observe(success)` is called for each request made for one.

    A timer may fire anywhere in here: then `forget`.
    """

    def __init__(
        self, settings: Settings, observe: Callable[[bool], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._endpoint = TokenEndpoint(settings)
        self._fingerprint = self._endpoint.fingerprint
        self._file = TokenFile(settings.runtime_dir / "token")
        self._observe = observe
        self._clock = clock
        self._known: Token | None = None

    def current(self) -> str:
        """A token that should be good; fetched if there is none.

        Raises CredentialsRefused, ServiceFault or CooldownRequired of the service `oauth`.
        """
        if self._known is not None and self._usable(self._known):
            return self._known.value
        waited_since = time.monotonic()
        with self._file.lock:
            kept = self._kept()
            if kept is None or not self._usable(kept):
                kept = self._renew(kept, waited_since)
            self._known = kept
            return kept.value

    def _renew(self, kept: Token | None, waited_since: float) -> Token:
        """A fresh token; if there is none to be had, the old one for as long as it lives."""
        try:
            return self._fetch(waited_since, 0.0 if kept is None else kept.replaced_at)
        except (ServiceFault, CooldownRequired) as error:
            spare = None if kept is None else kept.spare(self._fingerprint, self._clock(), _pause_after(error))
            if spare is None:
                raise
            return spare

    def replace(self, refused: str) -> str:
        """Another token for one that the task API refused, by whichever process gets there first.

        Raises CredentialsRefused of the service `api` if a token was replaced within the last minute: it is not the
        token that is wrong then. Raises what `current` raises.
        """
        waited_since = time.monotonic()
        with self._file.lock:
            kept = self._kept()
            if kept is None or not self._usable(kept):
                kept = self._fetch(waited_since, 0.0 if kept is None else kept.replaced_at)
            elif kept.value == refused:
                now = self._clock()
                if now - kept.replaced_at < REPLACEMENT_PAUSE_SECONDS:
                    raise CredentialsRefused(Service.API.value, REFUSED_AGAIN)
                kept = self._fetch(waited_since, now)
            self._known = kept
            return kept.value

    def forget(self) -> None:
        """Let go of the lock, and look into the file again next time: a timer fired somewhere in here."""
        self._file.lock.release()
        self._known = None

    def _usable(self, token: Token) -> bool:
        return token.usable(self._fingerprint, self._clock())

    def _kept(self) -> Token | None:
        """The newest token there is: the file's, or this process's own if that could not be written there."""
        found = [token for token in (self._file.read(), self._known) if token is not None]
        return max(found, key=lambda token: token.fetched_at, default=None)

    def _fetch(self, waited_since: float, replaced_at: float) -> Token:
        """Ask for a token and put it into the file. The caller holds the lock, and has waited for it."""
        if failure := self._file.failure_since(waited_since, self._fingerprint):
            raise failure  # whoever held the lock before asked in vain a moment ago
        asked_at = self._clock()
        try:
            grant = self._endpoint.ask()
        except AitpError as error:
            self._observe(False)
            self._file.note_failure(error, self._fingerprint)
            raise
        self._observe(True)
        use_until = asked_at + grant.lifetime_seconds - min(MARGIN_SECONDS, grant.lifetime_seconds / 2)
        expires_at = asked_at + grant.lifetime_seconds
        token = Token(grant.value, use_until, expires_at, asked_at, min(replaced_at, asked_at), self._fingerprint)
        try:
            self._file.write(token)
        except OSError:
            pass  # a full disk costs each relay a token of its own, not the service
        return token


def _pause_after(error: ServiceFault | CooldownRequired) -> float:
    """Seconds until a refresh that failed so is worth another try, while the old token still lives."""
    match error:
        case CooldownRequired():
            return max(error.seconds, SPARE_SECONDS)
        case CredentialsRefused():
            return REPLACEMENT_PAUSE_SECONDS
        case _:
            return SPARE_SECONDS


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


FILE_BYTES = 65_536
FAILURES: dict[str, type[ServiceFault]] = {kind.__name__: kind for kind in (ServiceFault, CredentialsRefused)}


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. Instants are UTC seconds; `fingerprint` is of the settings that it was fetched with."""

    value: str = field(repr=False)
    use_until: float  # refreshed from then on
    expires_at: float
    fetched_at: float
    replaced_at: float  # when a refused token was last replaced by a fresh one
    fingerprint: str

    def usable(self, fingerprint: str, now: float) -> bool:
        # Fetched in the future: the clock was set back, and nobody knows how long it still lives.
        return self.fingerprint == fingerprint and self.fetched_at <= now < self.use_until

    def spare(self, fingerprint: str, now: float, seconds: float) -> Token | None:
        """This token for so much longer, if it still lives: what to use while no fresh one can be had."""
        if self.fingerprint != fingerprint or not self.fetched_at <= now < self.expires_at:
            return None
        return replace(self, use_until=min(self.expires_at, now + seconds))


class Lock:
    """`with lock:` for one process at a time. A bounded call's timer may fire anywhere in it, so that even `__exit__`
    is not sure to run: then `release`, or the next `with`, lets go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor: int | None = None

    def __enter__(self) -> None:
        self.release()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        # Known before it is locked, and below forgotten after it is unlocked: a timer in between leaves nothing locked.
        self.descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Let go, if it is held. May be called at any time."""
        if self.descriptor is not None:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            descriptor, self.descriptor = self.descriptor, None
            os.close(descriptor)


class TokenFile:
    """`path` holds the token, `<path>.lock` is locked, and keeps the last failure for those who wait meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lock = Lock(path.with_name(path.name + ".lock"))

    def read(self) -> Token | None:
        """What the file says; None if there is nothing in it that can be used."""
        try:
            # A fifo would block.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                about = os.fstat(descriptor)
                if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
                    return None  # not what we wrote: others could have written it, or have read it
                token = Token(**orjson.loads(file.read(FILE_BYTES)))
            plausible = (
                VALUE.fullmatch(token.value) is not None
                and token.use_until <= token.expires_at <= token.fetched_at + LONGEST_LIFETIME_SECONDS
                and token.replaced_at <= token.fetched_at
            )
        except (OSError, ValueError, TypeError):
            return None
        return token if plausible else None

    def write(self, token: Token) -> None:
        """Put `token` into the file, whole or not at all. Raises OSError. The caller holds the lock."""
        draft = self._path.with_name(self._path.name + ".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(asdict(token)))
        draft.rename(self._path)

    def note_failure(self, error: AitpError, fingerprint: str) -> None:
        """Tell those who wait for the lock that nothing came of it. The caller holds the lock."""
        note = {
            "at": time.monotonic(),
            "fingerprint": fingerprint,
            "kind": type(error).__name__,
            "service": getattr(error, "service", ""),
            "message": str(error),
            "seconds": getattr(error, "seconds", 0.0),
        }
        try:
            if self.lock.descriptor is not None:
                os.ftruncate(self.lock.descriptor, 0)
                os.pwrite(self.lock.descriptor, orjson.dumps(note), 0)
        except OSError:
            pass  # then each asks for itself

    def failure_since(self, moment: float, fingerprint: str) -> AitpError | None:
        """How the last request failed, if that was after `moment` (monotonic). The caller holds the lock."""
        try:
            if self.lock.descriptor is None:
                return None
            note = orjson.loads(os.pread(self.lock.descriptor, FILE_BYTES, 0))
            if not moment <= note["at"] <= time.monotonic() or note["fingerprint"] != fingerprint:
                return None
            service, message = str(note["service"]), str(note["message"])
            if note["kind"] == CooldownRequired.__name__:
                return CooldownRequired(service, message, seconds=float(note["seconds"]), model=None)
            return FAILURES[note["kind"]](service, message)
        except (OSError, ValueError, TypeError, KeyError):
            return None
