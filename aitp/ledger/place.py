"""What is in the ledger's place and was never a ledger: a directory, a device, the database of another program.

That is a wrong setting and no damage: whoever comes upon it says so and leaves it alone, recovery first of all.
"""

from __future__ import annotations

import stat
from pathlib import Path

from aitp.errors import MisplacedLedger

NO_FILES = (
    (stat.S_ISDIR, "is a directory, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
    (stat.S_ISFIFO, "is a pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
)


def refuse_no_file(path: Path) -> None:
    """Raise MisplacedLedger for what is there and is no file, OSError where this user may not look.

    To be asked before anything is opened: a pipe would keep its reader waiting for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    for is_one, what in NO_FILES:
        if is_one(mode):
            raise misplaced(path, what, "the ledger cannot be there")


def another_programs(path: Path) -> MisplacedLedger:
    """What is said where the database of another program is."""
    return misplaced(path, "is the database of another program", "it is left as it is")


def misplaced(path: Path, what: str, why: str) -> MisplacedLedger:
    return MisplacedLedger([f"RATE_LIMIT_STORAGE_PATH={path} {what}: {why}; correct the setting"])
