"""The files that counters and histograms live in: prometheus_client's multiprocess format, allocated, complete, sound.

A file appears under its name only when it can be read, its space is taken on the disk before anything is mapped, and
one that a crash of the machine has garbled is set aside, so that no scrape and no start-up trips over it for ever.
Used by `aitp.counting` alone. What is counted, and under which names, is decided there.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict, mmap_key

# Allocated, not sparse: a write to a page that a full disk cannot back would kill the process (SIGBUS).
_FILE_BYTES = 1 << 16
_ENTRY_BYTES = 32  # more than the format adds to a key: its length, padding, value and time


class SlotFile:
    """Sums under keys, in one file that outlives its process. For one live process, and no threads."""

    def __init__(self, path: Path, size: int = _FILE_BYTES) -> None:
        """Continue or make `path`. Raises OSError if it cannot be had, disk full included."""
        set_aside_if_damaged(path)
        _allocate(path, size)
        self._values = MmapedDict(str(path))  # type: ignore[no-untyped-call]

    def introduce(self, keys: Iterable[str]) -> None:
        """Enter those keys that are new with a 0."""
        for key in keys:
            self._values.read_value(key)  # type: ignore[no-untyped-call]

    def add(self, key: str, amount: float) -> None:
        before, _ = self._values.read_value(key)  # type: ignore[no-untyped-call]
        self._values.write_value(key, before + amount, 0.0)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._values.close()  # type: ignore[no-untyped-call]


def key_of(base: str, sample: str, labels: Iterable[str], values: Iterable[str], help: str) -> str:
    """The key under which the format keeps one sample of the metric `base`."""
    return mmap_key(base, sample, list(labels), list(values), help)


def sums(directory: Path, type: str, bases: tuple[str, ...]) -> dict[str, float]:
    """What the samples of these metrics, named by their bases, come to over all files of a type; by key."""
    starts = tuple(f"[{json.dumps(base)}," for base in bases)
    found: dict[str, float] = {}
    for path in directory.glob(f"{type}_*.db"):
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            if key.startswith(starts):
                found[key] = found.get(key, 0.0) + value
    return found


def replace_with_zeros(path: Path, keys: list[str]) -> None:
    """Put a file in place that holds a 0 for each key. A scrape beside it sees the old file or the new one."""
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    file = SlotFile(draft, size=8 + sum(len(key.encode()) + _ENTRY_BYTES for key in keys))
    file.introduce(keys)
    file.close()
    draft.replace(path)


def set_aside_if_damaged(path: Path) -> None:
    """Rename a file that a scrape could not read to `….damaged`, over an earlier one of that name."""
    if path.exists() and not _readable(path):
        path.replace(path.with_name(path.name + ".damaged"))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time prepares a directory; the lock goes with the process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _readable(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            (used,) = struct.unpack("i", file.read(4))
            if not 0 <= used <= os.fstat(file.fileno()).st_size:
                return False
        for key, *_ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            _metric, _sample, labels, _help = json.loads(key)
            labels.items()
    except (struct.error, ValueError, TypeError, AttributeError, RuntimeError):
        return False
    return True


def _allocate(path: Path, size: int) -> None:
    """Make or enlarge the file, its space taken. A new one gets its name only when a scrape can read it."""
    draft = path if path.exists() else path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        if draft != path:
            draft.unlink(missing_ok=True)  # a full disk leaves it empty, and it may be long until it is wanted again
        raise
    finally:
        os.close(descriptor)
    if draft != path:
        draft.replace(path)
