"""Slot locks between real processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aitp.ledger.locks import SlotLocks, lock_path

HOLDER = """
import signal, sys
from pathlib import Path
from aitp.ledger.locks import SlotLocks
locks = SlotLocks(Path(sys.argv[1]))
queue = sys.argv[2] == "queue"
if queue:
    with locks.queue():
        print("held", flush=True)
        sys.stdin.readline()
else:
    print("held" if locks.acquire(int(sys.argv[2])) else "refused", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another_process_holds(ledger: Path, what: str, said: str = "held") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.snippet", HOLDER, str(ledger), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"{said}\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.db"


def test_a_free_slot_is_obtained_at_once_and_its_file_is_private(ledger: Path) -> None:
    with SlotLocks(ledger) as locks:
        assert locks.acquire(101, timeout=0)
        assert locks.holder(101) is None  # none *else*
    assert stat.S_IMODE(lock_path(ledger).stat().st_mode) == 0o600


def test_a_held_slot_is_refused_and_its_holder_named_while_other_slots_are_free(ledger: Path) -> None:
    with another_process_holds(ledger, "101") as other, SlotLocks(ledger) as locks:
        assert not locks.acquire(101, timeout=0)
        assert locks.holder(101) == other.pid
        assert locks.holder(102) is None
        assert locks.acquire(102, timeout=0)


def test_a_time_out_ends_the_wait(ledger: Path) -> None:
    with another_process_holds(ledger, "0"), SlotLocks(ledger) as locks:
        started = time.monotonic()
        assert not locks.acquire(0, timeout=0.3)
        assert 0.25 < time.monotonic() - started < 5


def test_kill_9_frees_the_slot_for_one_who_waits(ledger: Path) -> None:
    with another_process_holds(ledger, "5") as other, SlotLocks(ledger) as locks:
        other.kill()
        assert locks.acquire(5, timeout=10)


def test_a_forked_child_does_not_inherit_and_its_end_takes_nothing_away(ledger: Path) -> None:
    with SlotLocks(ledger) as locks:
        assert locks.acquire(7)
        child = os.fork()
        if child == 0:
            obtained = locks.acquire(7, timeout=0)
            os._exit(1 if obtained else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with another_process_holds(ledger, "7", said="refused"):
            locks.release(7)
        with another_process_holds(ledger, "7"):
            pass


def test_the_queue_admits_one_at_a_time_and_is_left_when_an_error_passes(ledger: Path) -> None:
    def fails(locks: SlotLocks) -> None:
        with locks.queue():
            raise ValueError

    with SlotLocks(ledger) as locks:
        with pytest.raises(ValueError):
            fails(locks)
        with another_process_holds(ledger, "queue") as other:
            assert locks.holder(1 << 20) == other.pid
            assert other.stdin is not None
            other.stdin.write("\n")
            other.stdin.flush()
            with locks.queue():
                assert other.wait(10) == 0
