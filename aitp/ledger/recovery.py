"""Recovery: a damaged ledger is set aside, and what can be read of it is brought into a new one.

Nothing of the damaged ledger is changed or thrown away: it keeps its rows, and its log, under a dated name. Everything
is read from a copy. First come results, which are paid for; then completions, so that the limits hold; tombstones and
all the rest; tasks that were not run, which the task API would list again anyhow. What cannot be read is counted where
it is known to have been there, and budgets whose spending cannot be read are used up. Called by `aitp ledger recover`,
which must be alone with the ledger.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from aitp.errors import LedgerError
from aitp.ledger.backup import put_in_place
from aitp.ledger.damage import is_log_alone
from aitp.ledger.locks import MASTER_SLOT, SlotLocks
from aitp.ledger.remains import Remains, with_first_page_of
from aitp.ledger.salvage import NO_BUDGETS, Allowance, Salvage
from aitp.ledger.soundness import check
from aitp.ledger.sqlite import as_ledger_error, migrate, no_ledger, refuse_misplaced


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of a ledger. `set_aside` is where the damaged one is now; None for one that was sound and stays.

    `saved` and `lost` count rows by what they are; `lost` knows only of what left a trace. Lost "budgets" are used up.
    """

    problems: tuple[str, ...]
    set_aside: Path | None = None
    saved: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


def recover(path: Path, allowance: Allowance = NO_BUDGETS, *, clock: Callable[[], float] = time.time) -> Recovery:
    """Put a new ledger with all that can be saved in the place of a damaged one; `allowance` is for its next start.

    Raises LedgerError, with everything as it was, if a service or another command works with it, if there is no
    ledger, or if there is no room for two copies of it; ConfigurationError if it is from a newer release;
    MisplacedLedger if it never was one.
    """
    with as_ledger_error(path):
        _refuse(path)
        locks = SlotLocks(path)
    with locks:
        if not locks.acquire(MASTER_SLOT, 0) or locks.any_held_elsewhere():
            raise LedgerError(f"the ledger {path} is in use: stop the service first")
        with locks.queue():
            found = check(path)
            if found.sound:
                return Recovery(())
            with as_ledger_error(path):
                return _recover(path, allowance, found.problems, clock)


def _refuse(path: Path) -> None:
    if not path.exists() and not is_log_alone(path):
        raise no_ledger(path)  # before a folder is made, for the lock
    refuse_misplaced(path)  # before a lock file is made beside what others may need as it is


def _recover(path: Path, allowance: Allowance, problems: tuple[str, ...], clock: Callable[[], float]) -> Recovery:
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.recovery-", dir=path.parent) as name:
        fresh = Path(name) / "new"
        migrate(fresh, clock)
        salvage = Salvage(fresh, clock(), allowance)
        try:
            with _open_copy(path, Path(name) / "old", fresh) as remains:
                salvage.bring_over(remains)
            salvage.finish()
        finally:
            salvage.close()
        outcome = check(fresh)
        if not outcome.sound:
            raise LedgerError(f"what was saved of {path} does not make a ledger ({outcome.problems[0]})")
        aside = _set_aside(path, clock())
        put_in_place(fresh, path)
    return Recovery(problems, aside, salvage.saved, salvage.lost)


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _open_copy(path: Path, copy: Path, fresh: Path) -> Remains:
    """A copy that can be read, if need be with the first pages of a new ledger, which say where its tables are."""
    copy.touch(0o600)
    if path.exists():
        shutil.copyfile(path, copy)
    if _log(path).exists():
        shutil.copyfile(_log(path), _log(copy))
    # SQLite would throw the log of an empty file away.
    remains = None if is_log_alone(copy) else Remains.of(copy)
    if remains is None:
        with_first_page_of(fresh, copy)
        remains = Remains.of(copy)
    return remains or Remains(apsw.Connection(":memory:"))  # nothing can be read


def _set_aside(path: Path, now: float) -> Path:
    """Give the damaged files a second name, then take the log's first one from it: a new ledger must never meet it.

    Cut off here, the damaged ledger is still in its place, and whole under its new name.
    """
    name = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    aside, number = path.with_name(name), 1
    while aside.exists() or _log(aside).exists():
        number += 1
        aside = path.with_name(f"{name}-{number}")
    ends = [end for end in ("", "-wal", "-shm") if path.with_name(path.name + end).exists()]
    for end in ends:
        _name_too(path.with_name(path.name + end), aside.with_name(aside.name + end))
    for end in {"-wal", "-shm"} & set(ends):
        path.with_name(path.name + end).unlink()
    return aside


def _name_too(file: Path, name: Path) -> None:
    try:
        name.hardlink_to(file)
    except OSError:  # not every file system knows second names
        shutil.copy2(file, name)
