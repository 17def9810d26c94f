"""What there is to know of this machine without a request to anyone: files, disk, port, descriptors, the service.

Looks, and leaves everything as it was: no directory is made, no lock is taken. Whatever cannot be looked at is a fact
as well. `verdicts` judges.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aitp.errors import AitpError, ConfigurationError, MisplacedLedger
from aitp.ledger.sqlite import refuse_network_file_system, version_of
from aitp.process.scoreboard import living_master
from aitp.process.start import most_descriptors
from aitp.validators import addresses, trouble_at
from aitp.web.health import Facts, Problem, problems, read_facts

if TYPE_CHECKING:
    from aitp.settings import Settings

LISTENING = "0A"  # of /proc/net/tcp
METRICS_COMMAND = "aitp metrics"  # how the command line of the metrics process ends


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on our port. `parent`: who started it. All of it is empty if we may not see it."""

    pid: int = 0
    parent: int = 0
    command: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """Whether METRICS_HOST and METRICS_PORT could be listened on: errno of the try (0: yes), and who does so."""

    error: int = 0
    holder: Holder | None = None
    name_unknown: bool = False
    unresolved: str = ""  # why nobody could be asked for the name's address


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that was seen. Sizes are bytes; `descriptors` is the hard limit of the master, or of a new one."""

    ledger_folder_problem: str
    ledger_file_system_problem: str
    ledger_place_problem: str
    ledger_version: int | None
    ledger_problem: str
    disk_free: int
    disk_size: int
    runtime_dir_problem: str
    port: Port
    descriptors: int
    master_pid: int
    supervisor_pid: int
    facts: Facts
    problems: tuple[Problem, ...]


def look_around(settings: Settings) -> Machine:
    """Look now."""
    facts = read_facts(settings)
    living = living_master([facts.master]) if facts.master else None
    master = living.pid if living else 0
    disk = shutil.disk_usage(_existing(settings.ledger_path.parent))
    version, misplaced, problem = _ledger(settings)
    parent = _parent(master) if master else _supervisor(settings.runtime_dir)
    return Machine(
        ledger_folder_problem=_unwritable(settings.ledger_path.parent, settings.ledger_path),
        ledger_file_system_problem=_network(settings.ledger_path.parent),
        ledger_place_problem=misplaced,
        ledger_version=version,
        ledger_problem=problem,
        disk_free=disk.free,
        disk_size=disk.total,
        runtime_dir_problem=_unwritable(settings.runtime_dir),
        port=try_port(settings.metrics_host, settings.metrics_port, parent),
        descriptors=_descriptors(master),
        master_pid=master,
        supervisor_pid=parent,
        facts=facts,
        problems=tuple(problems(facts, settings)),
    )


def _ledger(settings: Settings) -> tuple[int | None, str, str]:
    """Its version; None if there is none yet, or why there can be none in this place, or why it cannot be read."""
    try:
        return version_of(settings.ledger_path), "", ""
    except MisplacedLedger as error:
        return None, str(error), ""
    except AitpError as error:
        return None, "", str(error)


def _network(folder: Path) -> str:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        refuse_network_file_system(folder, mounts)
    except ConfigurationError as error:
        return error.problems[0]
    except OSError:
        return ""
    return ""


def _existing(path: Path) -> Path:
    """`path`, or the nearest above it that is there."""
    while not _exists(path) and path != path.parent:
        path = path.parent
    return path


def _exists(path: Path) -> bool:
    """Whether it is there, as far as this user may look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _unwritable(folder: Path, *files: Path) -> str:
    """Why this user could not make or change files in `folder`, which may have to be made; empty if nothing would."""
    there = _existing(folder)
    if not there.is_dir():
        return f"{there} is not a directory"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{_user()} may not write in {there}"
    for file in files:
        if _exists(file) and not os.access(file, os.R_OK | os.W_OK):
            return f"{_user()} may not write to {file}"
    return ""


def _user() -> str:
    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user {os.geteuid()}"


def try_port(host: str, port: int, parent: int) -> Port:
    """Bind, as the metrics process does, without ever listening; then let go. `parent`: the running master's, or 0."""
    try:
        found = addresses(host, port)
    except ValueError:
        return Port(name_unknown=True)
    except socket.gaierror as error:
        return Port(unresolved=error.strerror or str(error))
    trouble = trouble_at(found)
    return Port(trouble, _holder(port, parent) if trouble == errno.EADDRINUSE else None)


def _holder(port: int, parent: int) -> Holder:
    """Who listens on `port`, as far as we may see (proc(5): net/tcp, and the descriptors of processes of ours)."""
    users = dict(_listening(port))
    likely = Holder()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
            origin, user = _origin(process)
        except OSError:
            continue
        holder = Holder(int(process.name), origin, command)
        try:
            if any(os.readlink(descriptor) in users for descriptor in (process / "fd").iterdir()):
                return holder
        except OSError:
            # Processes of aitp keep their descriptors to themselves, from their own user as well: of the one beside the
            # running master it is known what it listens on.
            if origin == parent and command.endswith(METRICS_COMMAND) and user in users.values():
                likely = holder
    return likely


def _listening(port: int) -> Iterator[tuple[str, int]]:
    """Sockets that listen on `port`, each with its user's number."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]", int(fields[7])


def _supervisor(runtime_dir: Path) -> int:
    """The supervisord of this RUNTIME_DIR, while its master is being started again; 0 if none is known."""
    try:
        return int((runtime_dir / "supervisord.pid").read_text())
    except (OSError, ValueError):
        return 0


def _parent(pid: int) -> int:
    """The parent of `pid`; 0 if that is gone."""
    try:
        return _origin(Path(f"/proc/{pid}"))[0]
    except OSError:
        return 0


def _origin(process: Path) -> tuple[int, int]:
    """The parent and the user of a process in /proc. Raises OSError if it is gone."""
    status = (process / "status").read_text()
    found = re.search(r"^PPid:\s*(\d+)\n(?:.*\n)*?Uid:\s*(\d+)", status, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _descriptors(master: int) -> int:
    """The hard limit on open files of the running master, or of a process started from here."""
    try:
        return most_descriptors(master)
    except OSError:
        return most_descriptors()
