"""The access token: one for all relays, in a file, fetched by one process at a time.

A token is used until 60 s before it expires, or for half its life if that is shorter. One that the task API refuses is
replaced only if it is still the current one, and at most once a minute over all processes: twenty relays that are
refused at once cause one request, and share its outcome, good or bad. Called by the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.taskapi.grant import TokenEndpoint
from aitp.taskapi.tokenfile import Token, TokenFile
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
