"""The ledger's SQLite file: opening it safely, the one way to write to it, and what is wrong with it. Names apsw alone.

Promises: a library or a file system on which several processes would corrupt the file is refused; writers queue
fairly (a blocking lock in front of SQLite's, whose own busy handler lets some processes starve for seconds); every
failure of SQLite arrives as LedgerError, with the transaction rolled back. Open after fork, one to a process.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import apsw

from aitp.errors import ConfigurationError, LedgerError
from aitp.ledger.clock import OFFSET, TOLERANCE_SECONDS, Clock, MachineClock, follow
from aitp.ledger.engine import DISK_RESERVE_BYTES, Database, Row, no_ledger
from aitp.ledger.locks import SlotLocks, misplaced, refuse_no_file
from aitp.ledger.schema import refuse_other, refuse_unknown, steps

# Every release from 3.7.0 up to 3.51.2 can corrupt a WAL database that several processes write and checkpoint.
OLDEST_SAFE_SQLITE = (3, 51, 3)

# POSIX locks and shared memory, on which WAL mode rests, cannot be trusted on these.
NETWORK_FILE_SYSTEMS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "davfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "fuse.grpcfuse"),
        "virtiofs",
    )
)

# Whoever writes without standing in the queue (a person's sqlite3 shell, say) is waited for this long.
BUSY_TIMEOUT_MILLISECONDS = 10_000

# 8 MB: more would keep the disk busy for longer at a time, and whoever flushes with it; of fewer, most move again.
CHECKPOINT_PAGES = 2_000

# At a time, of a log that is written anew.
REWRITE_BYTES = 1_048_576

# apsw forgets a statement after so many *executions* of others, and preparing one costs more than running it.
STATEMENTS_CACHED = 256

# What a damaged file makes SQLite raise, and apsw with its texts and numbers; what reading on in one raises: the
# machine's failures too, because a length in it may be any number; and what a row that makes no sense raises.
CORRUPTION = (
    *(apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.MismatchError),
    *(UnicodeDecodeError, OverflowError),
)
UNREADABLE = (apsw.Error, UnicodeDecodeError, OverflowError, MemoryError)
SENSELESS = (apsw.ConstraintError, apsw.MismatchError)

MOST_PROBLEMS = 20
MOST_WORDS = 200

LOG_ALONE = "it is empty, but its write-ahead log is not"
NO_TABLE = "its table ledger is lost, or is not what it was"


class SQLiteDatabase(Database):
    """One connection and the lock file beside it. `locks` are closed by whoever opened them: here, if none are given.

    When the machine's clock is set, the first transaction to find that has the ledger follow (`ledger.clock`).
    """

    def __init__(self, path: Path, clock: Clock | None = None, *, locks: SlotLocks | None = None) -> None:
        refuse_affected_sqlite(apsw.sqlite_lib_version())
        self.path = path
        self._folder = str(path.parent)
        self._clock = MachineClock() if clock is None else clock
        self._offset = math.nan  # of the ledger's clock, as far as this process knows: it differs from any
        self._now = 0.0
        self.locks = locks if locks is not None else SlotLocks(path)
        self._locks_are_ours = locks is None
        self._log_file = -1
        self._log_pages = 0
        self._log_in_doubt = False
        self.on_disk = True  # whether the last durable transaction is
        with as_ledger_error(path):
            self.connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
            # In place of SQLite's own checkpoints, which come in the middle of the queue.
            self.connection.set_wal_hook(self._count_log_pages)
            # SQLite keeps this very file for as long as any connection is open, and has no locks on it to be lost.
            # Opened before anything is written: of a failed flush, those are told who had the file open then.
            with suppress(FileNotFoundError):  # of a file that is no ledger yet, and is not written to
                self._log_file = os.open(self.connection.filename_wal, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        self.connection.close()
        if self._log_file >= 0:
            os.close(self._log_file)
            self._log_file = -1
        if self._locks_are_ours:
            self.locks.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[apsw.Connection]:
        """A write transaction, entered in turn. `durable`: it survives a power cut once it is over and `on_disk` is so.

        What was committed is settled: a flush that fails then is no failure of the transaction, which would have it
        made twice. `flush` is to be called until it succeeds.

        As with `synchronous = FULL`, but the disk is waited for when the turn has passed on: a slow one then keeps
        nobody waiting who needs no such promise, and those who do share its work. Others may see a result that is not
        on disk yet; a power cut in that moment makes it part of what was in flight, to be bought and delivered again.
        """
        connection = self.connection
        try:  # not `as_ledger_error`, which takes a tenth of the time of an empty transaction
            with self.locks.queue():
                offset = self._offset
                try:
                    # IMMEDIATE: a read that turns into a write fails at once when another process wrote in between.
                    connection.execute("BEGIN IMMEDIATE")
                    self._begin_moment()
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    self._offset = offset  # whatever was followed is not
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            if durable:
                self.on_disk = False
                with suppress(LedgerError):
                    self.flush()
            if self._log_pages >= CHECKPOINT_PAGES:
                self._checkpoint()
        except (apsw.Error, OSError) as error:
            _raise_ledger_error(self.path, error)

    def clock(self) -> float:
        return self._now if self.connection.in_transaction else self._clock()

    def _begin_moment(self) -> None:
        self._now = self._clock()
        offset = self._now - self._clock.uptime()
        # The ledger's own: set and set back, the clock is for this process as it was, and another one has followed.
        known = self.connection.execute(OFFSET).get
        if known is None or not abs(offset - known) <= TOLERANCE_SECONDS:
            self._now, known = follow(self.connection, self._clock, self._offset)
        self._offset = known

    def flush(self) -> None:
        """Have the write-ahead log on disk, up to the last commit. What left it meanwhile was on disk before.

        Raises LedgerError. A flush that failed has told so once: the kernel takes the pages that it could not write for
        clean, and the next flush that has nothing to write succeeds. So the log is in doubt from then on, for all
        processes and those that come after them, until one has written it anew and has flushed that. Commits behind
        what is lost would not do: the log is read up to the first frame that is not whole. Nor would a checkpoint,
        which takes what is in the log for safe.
        """
        with as_ledger_error(self.path):
            if self._log_in_doubt or self.locks.log_in_doubt:
                self._write_log_anew()
            else:
                try:
                    os.fdatasync(self._log_file)
                except OSError:
                    self._doubt_log()
                    raise
        self.on_disk = True

    def _write_log_anew(self) -> None:
        """Write each page of the log once more as it is, so that the kernel has it to write, and flush that.

        As it is in memory: the kernel keeps there what it could not write, as long as it has the room.
        """
        with self.locks.queue():
            # Against those who do not stand in the queue, and might begin the log anew under our hands.
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                at = 0
                while page := os.pread(self._log_file, REWRITE_BYTES, at):
                    at += os.pwrite(self._log_file, page, at)
                os.fdatasync(self._log_file)
                self.locks.log_in_doubt = self._log_in_doubt = False
            finally:
                self.connection.execute("ROLLBACK")

    def _doubt_log(self) -> None:
        self._log_in_doubt = True
        with suppress(OSError):  # a file system that takes no change any more: then this process alone remembers
            self.locks.log_in_doubt = True

    def _checkpoint(self) -> None:
        """Move the log's pages into the file: most of them beside the other writers, the rest while they wait.

        Only a log that was moved to its last page is begun anew, and with writers at work its end is never reached.
        Each pass waits for the disk to have what it moved, and leaves only what was written meanwhile: from the second
        pass on that is little, so that nobody waits for a disk that is busy with thousands of pages.
        """
        try:
            if self._log_in_doubt or self.locks.log_in_doubt:
                self.flush()
            for _ in range(2):
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            with self.locks.queue():
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.IOError:
            self._doubt_log()  # SQLite flushes it first: of a flush that fails only one is told
        except (apsw.Error, LedgerError):
            pass  # another process is at it, or the disk is full: what is in the log is safe, and moved another time
        self._log_pages = 0

    def _count_log_pages(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        with as_ledger_error(self.path):
            yield self.connection

    def forget_pages(self) -> None:
        with as_ledger_error(self.path):
            self.connection.execute("PRAGMA shrink_memory")

    def refuse_other_version(self) -> None:
        with as_ledger_error(self.path):
            found = version_in(self.connection)
        refuse_unknown(self.path, found)
        refuse_other(self.path, found)

    def free_bytes(self) -> int:
        """Bytes that this process may still write on the ledger's file system."""
        with as_ledger_error(self.path):
            status = os.statvfs(self._folder)
        return status.f_bavail * status.f_frsize

    # Who owns what: the locks of this host tell all, and nobody takes anything from a process that lives

    def obtain(self, owner: int) -> bool:
        """Whether no process holds an owner's slot. If so this one does until `let_go`."""
        return self.locks.acquire(owner, 0)

    def let_go(self, owner: int) -> None:
        self.locks.release(owner)

    def short_of_disk(self) -> bool:
        return self.free_bytes() < DISK_RESERVE_BYTES


# Versions


open_database = SQLiteDatabase


def migrate(path: Path) -> int:
    """Create the ledger or bring it to this release's version; return the version it had (0: it was new).

    Raises ConfigurationError if it is of a newer release or of none, damaged, no ledger, or on a network file system.
    """
    refuse_affected_sqlite(apsw.sqlite_lib_version())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    refuse_network_file_system(path.resolve().parent, Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    with as_ledger_error(path), closing(_connect_unless_damaged(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        found = version_in(connection)
        refuse_unknown(path, found)
        for step in steps(found):
            connection.execute(step)
        connection.execute("COMMIT")
        return found


@contextmanager
def reading(path: Path) -> Iterator[tuple[apsw.Connection, float]]:
    """One consistent state of the ledger, and the time."""
    with as_ledger_error(path):  # it may lie where this user may not look
        if not path.exists():
            raise no_ledger(path)
        with closing(open_read_only(path)) as connection:
            connection.execute("BEGIN")
            version = version_in(connection)
            if not version:
                raise empty_ledger(path)
            refuse_other(path, version)
            yield connection, time.time()


def version_of(path: Path) -> int | None:
    """The version of the ledger at `path`, whatever release it is of; None if there is none yet, 0 if it is empty.

    Raises LedgerError, MisplacedLedger for what never was a ledger.
    """
    with as_ledger_error(path):  # it may lie where this user may not look
        if not path.exists():
            return None
        with closing(open_read_only(path)) as connection:
            return version_in(connection)


def version_in(connection: apsw.Connection) -> int:
    """The version of the ledger in a file that need not have been looked over; 0 if there is nothing in it."""
    if is_ledger(connection):
        version = connection.execute("SELECT version FROM ledger").get
        if not isinstance(version, int):
            raise apsw.CorruptError("it has lost its version")
        return version
    if connection.execute("SELECT 1 FROM sqlite_schema").get:
        raise apsw.CorruptError(NO_TABLE)
    return 0


# Opening


def _connect(path: Path, flags: int, *, keep_log: bool = False, make: bool = False) -> apsw.Connection:
    """`keep_log`: closed as the last one it does not move the log into the file, which may be damaged.

    Raises MisplacedLedger for what never was a ledger.
    """
    refuse_no_file(path)
    if is_log_alone(path):
        raise apsw.CorruptError(LOG_ALONE)
    if make:
        # Not by SQLite, whose file would be readable by all until the first chmod.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = apsw.Connection(str(path), flags=flags, statementcachesize=STATEMENTS_CACHED)
    if keep_log:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.set_busy_timeout(BUSY_TIMEOUT_MILLISECONDS)
    # Else many a statement is planned anew for each new value that is bound to it, which costs more than running it.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    # What sorting or a temporary table needs must not fail on a full disk.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 33554432")
    if is_another_programs(connection):
        # An empty log that this look has made goes away again; what others have in theirs stays there.
        log = Path(connection.filename_wal)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(log.exists() and log.stat().st_size > 0))
        connection.close()
        raise misplaced(path, "is the database of another program: it is left as it is")
    return connection


def open_read_only(path: Path) -> apsw.Connection:
    """A connection for one read: whoever opens it closes it soon, because a reader keeps the WAL from being reset."""
    with as_ledger_error(path):
        return _connect(path, apsw.SQLITE_OPEN_READONLY)


def open_to_check(path: Path) -> apsw.Connection:
    """A connection that leaves the ledger as it is, and sees all that is wrong with it. Raises apsw.Error as it is.

    SQLite looks at no CHECK where a file was opened to be read only (sqlite3AddCheckConstraint in build.c).
    """
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE, keep_log=True)
    connection.execute("PRAGMA query_only = ON")
    return connection


def open_alone(path: Path, *, keep_log: bool = False) -> apsw.Connection:
    """A plain connection to a file that no other process knows of."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(keep_log))
    return connection


def copy_whole(path: Path, part: Path) -> None:
    """SQLite's online backup: all pages in one read transaction, which keeps no writer waiting."""
    with as_ledger_error(path), closing(open_to_check(path)) as source:
        refuse_later_header(source)  # of which a copy would know nothing
        with as_ledger_error(part), closing(open_alone(part)) as copy:
            with copy.backup("main", source, "main") as pages:
                pages.step()
            # Else it would grow a log beside it as soon as it is read.
            copy.execute("PRAGMA journal_mode = DELETE")


def _connect_unless_damaged(path: Path) -> apsw.Connection:
    try:
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE, keep_log=True, make=True)
        if problems := file_problems(connection, quick=True, most=1):
            connection.close()
            raise apsw.CorruptError(problems[0])
    except CORRUPTION as error:
        said = f"RATE_LIMIT_STORAGE_PATH={path}: the ledger is damaged ({in_words(error)})"
        advice = "`aitp ledger recover` sets it aside and saves what can be read, or put a backup in its place"
        raise ConfigurationError([f"{said}: {advice}"]) from error
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    return connection


# The integrity check: what is wrong with the file, in words that may be printed


def files_of(path: Path) -> tuple[Path, Path, Path]:
    """A ledger's file, its log, and what SQLite makes anew where it is missing."""
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def is_log_alone(path: Path) -> bool:
    """Whether only the log of a ledger is left. To be asked before SQLite is: it would delete the log."""
    _, log, _ = files_of(path)
    # SQLite takes a file of one byte for an empty one (unixFileSize in os_unix.c).
    return log.exists() and log.stat().st_size > 0 and (not path.exists() or path.stat().st_size <= 1)


def file_problems(connection: apsw.Connection, *, quick: bool, most: int = MOST_PROBLEMS) -> list[str]:
    """What is wrong with a file that was opened to be written, as a ledger. A new, empty one is sound."""
    try:
        found = _file_faults(connection, quick=quick, most=most)
        if not found:
            refuse_later_header(connection)
            version_in(connection)  # whoever comes to need it would find nothing to go by
        return found
    except CORRUPTION as error:
        return [in_words(error)]


def _file_faults(connection: apsw.Connection, *, quick: bool, most: int) -> list[str]:
    """What SQLite's own check finds, whoever made the file. Raises CORRUPTION where not even that can be asked."""
    check = f"PRAGMA {'quick' if quick else 'integrity'}_check({most})"
    rows: list[Row] = connection.execute(check).fetchall()
    return [readable(str(said)) for (said,) in rows if said != "ok"]


def refuse_later_header(connection: apsw.Connection) -> None:
    """Raise CorruptError for a file that, opened to be written, says that only a later SQLite may do so.

    To this one it is in order. See "File format version numbers" in sqlite.org/fileformat.html.
    """
    if connection.readonly("main") and os.access(connection.filename, os.W_OK):
        raise apsw.CorruptError("its header says that only a later SQLite may write it")


def in_words(error: BaseException) -> str:
    """What one of CORRUPTION means."""
    return "a text in it is no UTF-8" if isinstance(error, UnicodeDecodeError) else readable(str(error))


def readable(words: str) -> str:
    """SQLite quotes what it found, which may be anything."""
    return "".join(character if character.isprintable() else "?" for character in words)[:MOST_WORDS]


def is_ledger(connection: apsw.Connection) -> bool:
    """Whether it is a ledger of ours, of any version: it says which."""
    columns = "SELECT COUNT(*) FROM pragma_table_info('ledger') WHERE name IN ('version', 'sequence')"
    return bool(connection.execute(columns).get == 2)


def is_another_programs(connection: apsw.Connection) -> bool:
    """Whether it is for sure the database of another program: in order, and with nothing that a ledger ever had.

    A ledger whose list of tables is damaged may look like one. What is in doubt is damage: of that, nothing gets lost.
    """
    try:
        if is_ledger(connection) or not (theirs := definitions(connection)):
            return False
        with ours() as ledger:
            shared = theirs.items() & definitions(ledger).items()
        return not shared and not _file_faults(connection, quick=True, most=1)
    except CORRUPTION:
        return False


def definitions(connection: apsw.Connection) -> dict[str, str]:
    """How its tables and indexes are defined, by name."""
    rows: list[Row] = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
    ).fetchall()
    return {readable(name): " ".join(sql.split()) for name, sql in rows}


def tables(connection: apsw.Connection) -> dict[str, list[str]]:
    """The columns of each of its tables, in the order that they were made in."""
    named: list[Row] = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
    ).fetchall()
    return {
        table: [str(column) for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        for (table,) in named
    }


@contextmanager
def ours() -> Iterator[apsw.Connection]:
    """An empty ledger of this release, in memory."""
    with closing(apsw.Connection(":memory:")) as connection:
        for step in steps(0):
            connection.execute(step)
        yield connection


# Failures


@contextmanager
def as_ledger_error(path: Path) -> Iterator[None]:
    """SQLite's and the file system's failures become LedgerError: the machine's fault, never a task's.

    A violated constraint is neither's fault: it passes, as the bug that it is.
    """
    try:
        yield
    except (apsw.Error, OSError) as error:
        _raise_ledger_error(path, error)


def _raise_ledger_error(path: Path, error: Exception) -> NoReturn:
    match error:
        case apsw.ConstraintError():
            raise error
        case apsw.CorruptError() | apsw.NotADBError():
            said = f"is damaged ({in_words(error)}): see `aitp ledger check`"
        case PermissionError() | apsw.ReadOnlyError():
            said = "cannot be used: its folder and files must be writable for this user"
            said += f" ({in_words(error)}); is it the service's?"
        case apsw.FullError():
            raise LedgerError(f"the disk that holds the ledger {path} is full") from error
        case _:
            said = f"cannot be used: {in_words(error)}"
    raise LedgerError(f"the ledger {path} {said}") from error


def empty_ledger(path: Path) -> LedgerError:
    """What is said where there is a file with nothing in it."""
    return LedgerError(f"the ledger {path} is empty: no service has used it yet, or something has emptied it")


# What must not be used


def refuse_affected_sqlite(version: str) -> None:
    """Raise ConfigurationError for a SQLite library whose WAL mode several processes can corrupt."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SAFE_SQLITE:
        needed = ".".join(map(str, OLDEST_SAFE_SQLITE))
        raise ConfigurationError(
            [f"SQLite {version} can corrupt a database that several processes write: install apsw {needed} or newer"]
        )


def refuse_network_file_system(folder: Path, mountinfo: str) -> None:
    """Raise ConfigurationError if `folder` is on a network file system, by its `mountinfo` (see proc(5))."""
    point, kind = file_system_of(folder, mountinfo)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            [
                f"RATE_LIMIT_STORAGE_PATH is on {point}, a network file system ({kind}), where locks cannot be trusted;"
                " put the ledger on a local disk"
            ]
        )


def file_system_of(folder: Path, mountinfo: str) -> tuple[Path, str]:
    """Where the file system that `folder` is on is mounted, and its kind."""
    real = folder.resolve()
    best, kind = Path("/"), ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4]))
        if real.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, rest.split(" ")[0]
    return best, kind
