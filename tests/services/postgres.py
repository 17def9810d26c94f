"""A PostgreSQL server of our own: Debian's programs, on a socket in memory, as an ordinary user, for one test run."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psycopg
import pytest

from aitp.demo.fleet import programs
from aitp.ledger.engine import Fleet
from aitp.ledger.schema import VERSION
from tests.waiting import wait_until

PATIENCE_SECONDS = 60.0
MADE_ONCE = "POSTGRESQL_OF_THIS_TEST_RUN"  # names the folder of the first, for all processes that test
# Nothing here is to survive a power cut, unless a test says so.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "150",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "5s",
    "logging_collector": "off",
    "log_min_messages": "fatal",
}


class PostgreSQL:
    """A cluster and its server. `host`: also listen on this address."""

    def __init__(self, folder: Path, settings: Mapping[str, str], host: str = "", port: int = 5432) -> None:
        where = programs()
        assert where is not None
        self._bin = where
        self.folder = folder
        self.port = port
        self.host = host
        # Its signal if this process is killed: an interrupted run leaves nothing behind.
        self._as_user: Sequence[str] = ("setpriv", "--pdeathsig=INT")
        if os.geteuid() == 0:  # initdb and postgres refuse to run as root
            self._as_user = (*self._as_user, "--reuid=nobody", "--regid=nogroup", "--clear-groups")
            shutil.chown(folder, "nobody")
        self._make()
        with (folder / "data/postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in {**SETTINGS, **settings}.items())
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    @property
    def url(self) -> str:
        """For whoever is on this machine."""
        return f"postgresql://aitp@/postgres?host={self.folder}&port={self.port}"

    @property
    def pid(self) -> int:
        return int((self.folder / "data/postmaster.pid").read_text().split()[0])

    def _make(self) -> None:
        """What initdb makes; or a copy of what it made for this test run, for a tenth of the CPU."""
        if (made := os.environ.get(MADE_ONCE)) is None:
            self._initdb(self.data)
            return
        with (Path(made) / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (whole := Path(made) / "whole").exists():
                if os.geteuid() == 0:
                    shutil.chown(made, "nobody")
                self._initdb(f"{made}/data")
                whole.touch()
        self._run("/bin/cp", "-a", f"{made}/data", self.data)

    def _initdb(self, data: str) -> None:
        self._run("initdb", "-N", "-A", "trust", "-U", "aitp", "-E", "UTF8", "--locale=C", "-D", data)

    def start(self) -> None:
        where = ["-k", str(self.folder), "-p", str(self.port), "-c", f"listen_addresses={self.host}"]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._as_user, str(self._bin / "postgres"), "-D", self.data, *where],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, PATIENCE_SECONDS)

    def stop(self, mode: str = "immediate") -> None:
        _lines.pop(self.url, None)
        self._run("pg_ctl", "stop", "-w", "-s", "-D", self.data, "-m", mode)
        self._server.wait()

    def restart(self) -> None:
        """As after a crash: nobody is let finish."""
        self.stop()
        self.start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """All of its processes stand still meanwhile."""
        children = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True, check=False).stdout
        everyone = [self.pid, *map(int, children.split())]
        try:
            for pid in everyone:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in everyone:
                os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        assert self._server.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, str(self._bin / program), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


# All rows of a ledger but those that it is made with, which are made anew; and each number begins at 1 again.
_CLEAR = """
CREATE OR REPLACE FUNCTION clear() RETURNS void LANGUAGE plpgsql AS $$
DECLARE each RECORD; BEGIN
    FOR each IN SELECT tablename AS name FROM pg_tables WHERE schemaname = current_schema() LOOP
        IF each.name NOT IN ('ledger', 'hosts') THEN EXECUTE format('DELETE FROM %%I', each.name); END IF;
    END LOOP;
    FOR each IN SELECT sequencename AS name FROM pg_sequences
        WHERE schemaname = current_schema() AND last_value > 0 LOOP
        PERFORM setval(format('%%I', each.name)::regclass, 1, false);
    END LOOP;
    UPDATE ledger SET version = %d, sequence = 0, strategy = 'rolling', timezone = 'UTC', paused = 0, reuse_scope = '',
        reuse_after = 0, worlds_version = worlds_version + 1, boot = '', clock_offset = NULL;
    INSERT INTO polls (one) VALUES (1);
    INSERT INTO breakers (service) VALUES ('api'), ('oauth'), ('openai'), ('ollama'), ('wikidata');
END $$
"""
_lines: dict[str, psycopg.Connection[tuple[object, ...]]] = {}


def clear(place: Fleet) -> None:
    """Every table of a ledger as it was when it was made."""
    url = place.url.get_secret_value()
    if url not in _lines or _lines[url].closed:
        _lines[url] = psycopg.connect(url, autocommit=True)
        _lines[url].execute(f'SET search_path = "{place.schema}"'.encode())
        _lines[url].execute((_CLEAR % VERSION).encode())
    _lines[url].execute(b"SELECT clear()")


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgreSQL]:
    """One for whoever asks. Skips the test, with a line that says so, where Debian's package is not installed."""
    if programs() is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt install postgresql)")
    with _folder() as folder, PostgreSQL(folder, settings) as server:
        yield server


@contextmanager
def made_once() -> Iterator[None]:
    """All servers that this process and those that it starts ask for meanwhile are copies of one."""
    with _folder() as folder:
        os.environ[MADE_ONCE] = str(folder)
        try:
            yield
        finally:
            del os.environ[MADE_ONCE]


@contextmanager
def _folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="aitp-pg-", dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
