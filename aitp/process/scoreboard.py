"""The scoreboard: what each process is doing, and by when its present step must be over; and how they wake each other.

A *slot* is a place with a number, not a process: 0 is the master, 1 to 99 are relays, 101 to 1100 are workers. A
successor inherits it, and with it a lock, a line on the scoreboard and a metrics file.

One small file in the runtime directory, one record of fixed size a slot, mapped into the master and its children. Each
record has one writer at a time: its child, or the master while there is none. A record is numbered at both ends, so
a reader sees when it came in the middle of a write. The master makes a new file at each start, so that a former
master's orphans write to the old one. Everyone else (health, status, the page) reads with `glance`: plain reads, never
an exception, whatever the file holds.

The notifier is one eventfd a slot, made by the master before it forks, so that everyone can notify everyone. A
notification that finds its child just turning busy must not be lost on it while another one sleeps. Both sides look
twice: who notifies, does so first and then looks whether that child is still idle; who turns busy, says so first and
then looks whether it was notified, and passes that on. One of them always notices.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Self

from aitp.hardening import PR_SET_NAME, is_alive, prctl

MASTER = 0
LAST_SLOT = 1100
MAGIC = b"aitpsb01"
# number, pid, state, started, since, deadline, tasks done, length of the task id, task id, number again
RECORD = struct.Struct("=IiB7xdddQB64s3xI")
RECORD_BYTES = 128
NUMBER = struct.Struct("=I")
TRIES = 10  # of a reader that comes into the middle of a write, which takes less than a microsecond
_STATE_AT = 8
SIZE = RECORD_BYTES * (LAST_SLOT + 2)  # the header takes a record's place
SLACK_SECONDS = 5.0  # between a deadline and its being overrun


class Role(StrEnum):
    """What a child does."""

    RELAY = "relay"
    WORKER = "worker"


SLOTS = {Role.RELAY: range(1, 100), Role.WORKER: range(101, LAST_SLOT + 1)}


def slots_of(role: Role, count: int) -> range:
    """The slots of the first `count` children of a role: of as many as settings allow."""
    return SLOTS[role][:count]


def name_process(name: str) -> None:
    """What ps and top call this process (15 bytes; Linux). Nothing depends on it."""
    # Not by /proc/self/comm: it is root's, see `aitp.hardening`.
    prctl(PR_SET_NAME, name.encode())


def role_of(slot: int) -> Role:
    """The role that a slot is for. Raises ValueError for the master's and for numbers outside."""
    for role, slots in SLOTS.items():
        if slot in slots:
            return role
    raise ValueError(f"slot {slot} belongs to no role")


class State(IntEnum):
    """What a slot's process is doing. RUNNING and DRAINING are the master's, the rest are its children's."""

    GONE = 0
    STARTING = 1
    WAITING = 2  # for the slot's former process to be gone
    IDLE = 3
    BUSY = 4
    LEAVING = 5
    RUNNING = 6
    DRAINING = 7
    RECORDING = 8  # what a call brought


# A child in one of these has taken its slot over: whatever its predecessor left behind is settled.
TAKEN_OVER = frozenset({State.IDLE, State.BUSY, State.RECORDING, State.LEAVING})


@dataclass(frozen=True, slots=True)
class Record:
    """One slot's line. `started` and `since` (of this state) are wall clock; `deadline` is monotonic, 0 for none."""

    slot: int
    pid: int = 0
    state: State = State.GONE
    started: float = 0.0
    since: float = 0.0
    deadline: float = 0.0
    done: int = 0
    task_id: str = ""

    def overdue(self, monotonic: float) -> bool:
        """Whether the present step should have been over some time ago: for health; the master has its own slack."""
        return self.state is not State.GONE and 0 < self.deadline < monotonic - SLACK_SECONDS


class Scoreboard:
    """The mapped file, for those who write on it."""

    def __init__(self, path: Path) -> None:
        """Map an existing scoreboard. Raises OSError or ValueError (too short)."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Put an empty scoreboard (mode 0600) in the place of what was there. Raises OSError, disk full included."""
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Allocated now: a full disk behind a mapped page would kill the process that writes there (SIGBUS).
            os.posix_fallocate(descriptor, 0, SIZE)
            os.pwrite(descriptor, MAGIC, 0)
        finally:
            os.close(descriptor)
        draft.rename(path)
        return cls(path)

    def write(self, record: Record) -> None:
        """Replace a slot's record. Only for the one who owns it now."""
        at = _offset(record.slot)
        number = (NUMBER.unpack_from(self._map, at)[0] + 1) & 0xFFFFFFFF
        name = record.task_id.encode("ascii", "replace")[:64]
        times = (record.started, record.since, record.deadline)
        raw = RECORD.pack(number, record.pid, record.state, *times, record.done, len(name), name, number)
        # Not by pack_into, which clears the record first. Front number, content, back number, in this order.
        body, end = at + NUMBER.size, at + RECORD.size
        self._map[at:body] = raw[: NUMBER.size]
        self._map[body : end - NUMBER.size] = raw[NUMBER.size : -NUMBER.size]
        self._map[end - NUMBER.size : end] = raw[-NUMBER.size :]

    def read(self, slot: int) -> Record:
        """A slot's record; one that stays half written (its writer died or was stopped there) is read as it is."""
        at = _offset(slot)
        for _ in range(TRIES):
            raw = self._map[at : at + RECORD.size]
            if _whole(raw):
                break
        return _decode(slot, raw)

    def state(self, slot: int) -> int:
        """A slot's state alone: what a waker needs of many slots."""
        return self._map[_offset(slot) + _STATE_AT]

    def close(self) -> None:
        self._map.close()


def glance(path: Path) -> list[Record]:
    """The slots in use, the master's first, as the file says now; nothing if there is no readable scoreboard."""
    found: list[bytes] = []
    for _ in range(TRIES):
        try:
            content = path.read_bytes()
        except OSError:
            return []
        if not content.startswith(MAGIC):
            return []
        slots = range(min(LAST_SLOT + 1, len(content) // RECORD_BYTES - 1))
        found = [content[_offset(slot) : _offset(slot) + RECORD.size] for slot in slots]
        if all(map(_whole, found)):
            break
    records = (_decode(slot, raw) for slot, raw in enumerate(found) if raw[_STATE_AT] != State.GONE)
    return [record for record in records if record.state is not State.GONE]


def is_hidden(path: Path) -> bool:
    """Whether this user may not look at it, or not even see whether it is there."""
    try:
        with path.open("rb"):
            return False
    except PermissionError:
        return True
    except OSError:
        return False


def _offset(slot: int) -> int:
    return RECORD_BYTES * (slot + 1)


def _whole(raw: bytes) -> bool:
    return len(raw) == RECORD.size and raw[: NUMBER.size] == raw[-NUMBER.size :]


def _decode(slot: int, raw: bytes) -> Record:
    _, pid, state, started, since, deadline, done, length, name, _ = RECORD.unpack(raw)
    try:
        known = State(state)
    except ValueError:
        return Record(slot)
    task_id = name[: min(length, 64)].decode("ascii", "replace")
    return Record(
        slot,
        pid,
        known,
        started=_finite(started),
        since=_finite(since),
        deadline=_finite(deadline),
        done=done,
        # Whatever was in the file, it cannot forge a line of a log or of a terminal.
        task_id="".join(letter if letter.isprintable() else "?" for letter in task_id),
    )


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


class Notifier:
    """One eventfd a slot. Grows in the master; children know those that were there when they were forked."""

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}

    def install(self, slot: int) -> None:
        """Make the descriptor of `slot`, unless it is there."""
        if slot not in self._descriptors:
            self._descriptors[slot] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def descriptor(self, slot: int) -> int:
        """The descriptor that becomes readable when `slot` is notified."""
        return self._descriptors[slot]

    def notify(self, slot: int) -> None:
        """Wake `slot` from its present sleep, or keep it from its next."""
        os.eventfd_write(self._descriptors[slot], 1)

    def drain(self, slot: int) -> int:
        """How often `slot` was notified since the last time."""
        try:
            return os.eventfd_read(self._descriptors[slot])
        except BlockingIOError:
            return 0

    def notify_idle(self, role: Role, count: int, board: Scoreboard, but: int) -> None:
        """Notify up to `count` idle children of a role, `but` excepted, not counting who turned busy meanwhile."""
        for slot in self._descriptors:
            if count <= 0:
                break
            if slot != but and slot in SLOTS[role] and board.state(slot) == State.IDLE:
                self.notify(slot)
                count -= board.state(slot) == State.IDLE


def living_master(records: Iterable[Record], monotonic: float | None = None) -> Record | None:
    """The master's record, if it is alive and does its rounds, whomever it belongs to."""
    now = time.monotonic() if monotonic is None else monotonic
    master = next((record for record in records if record.slot == MASTER), None)
    # Its deadline is when it will have ticked again. One far ahead was written before the machine restarted, and its
    # clock with it.
    if master is None or master.overdue(now) or master.deadline >= now + 600:
        return None
    return master if is_alive(master.pid) else None


def signal_master(scoreboard: Path, number: int) -> bool:
    """Signal the running master; False if there is none that we may signal."""
    master = living_master(glance(scoreboard))
    if master is None:
        return False
    try:
        os.kill(master.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def scoreboard_path(runtime_dir: Path) -> Path:
    """Where health, status and the page find the scoreboard."""
    return runtime_dir / "scoreboard"
