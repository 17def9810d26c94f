"""The file that holds the token of all relays, and the lock under which it is replaced.

The file is readable by its owner alone, appears whole or not at all, and may be deleted or damaged at any time: what
cannot be read counts as no token. Nothing in it is trusted beyond what a token can be. A process that dies lets go of
the lock, and so does one whose timer fired in the middle: see `Lock`.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

import orjson

from aitp.errors import AitpError, CooldownRequired, CredentialsRefused, ServiceFault
from aitp.taskapi.grant import LONGEST_LIFETIME_SECONDS, VALUE

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
