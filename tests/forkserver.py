"""A Python that has imported aitp already, and is forked where a test starts one of its commands.

Most of what the suite cost were imports: half a second of CPU for each `python -m aitp …`. Once `install` was called,
`subprocess` asks the fork server of this process instead, for the modules of `FORKED` alone, and gets what it would
have started itself: a child of its own, with its arguments, environment, directory, files and session, and with
`__main__` run from the top. What is given up is the interpreter's own start. Whoever looks at that (memory that is not
shared, what /proc says of command line and environment) takes the fixture `own_interpreter`; what supervisord starts
is started as ever.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aitp.validators import Trust
from tests.waiting import patience

ROOT = Path(__file__).parents[1]
FORKED = frozenset({"aitp", "aitp.demo", "tests.process.toys", "tests.process.stage", "tests.snippet"})
PRELOADED = (
    "aitp.commands.check",
    "aitp.commands.cli",
    "aitp.commands.probes",
    "aitp.commands.watch",
    "aitp.demo.control",
    "aitp.demo.truth",
    "aitp.demo.world",
    "aitp.knowledge.wikidata",
    "aitp.process.master",
    "aitp.process.once",
    "aitp.process.start",
    "aitp.process.service",
    "aitp.process.supervisord",
    "aitp.providers.ollama",
    "aitp.providers.openai",
    "aitp.web.app",
    "structlog",
)
# Read at an interpreter's start: where they are others than here, one is started.
READ_AT_START = ("LANG", "LC_ALL", "LC_CTYPE")
HARMLESS = frozenset({"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"})
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_exec: type[subprocess.Popen[Any]] = subprocess.Popen


# In a process that tests


class _Server:
    """The fork server of this process, started when it is first needed."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = _exec(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def fork(self, request: Mapping[str, Any], files: list[int]) -> int:
        """The pid of a new child of this process."""
        # For the moment in which the child loses its first parent: it is to have this one, and no other.
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            return int(self._socket.recv(32))
        finally:
            _libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class _Popen(_exec):  # type: ignore[misc, valid-type]
    """Popen, forked where it can be; whoever waits for an end is as patient as the machine is busy."""

    def wait(self, timeout: float | None = None) -> int:
        return int(super().wait(timeout if timeout is None else patience(timeout)))

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        said: tuple[Any, Any] = super().communicate(input, timeout if timeout is None else patience(timeout))
        return said

    def _execute_child(self, *given: Any) -> None:
        (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, _, _, shell, *rest) = given
        p2cread, _, _, c2pwrite, _, errwrite, _, gid, gids, uid, umask, start_new_session, process_group = rest
        env = dict(os.environ) if env is None else {str(name): str(value) for name, value in env.items()}
        words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
        terminal = preexec_fn is take_terminal
        unusual = (
            executable,
            preexec_fn and not terminal,
            pass_fds,
            shell,
            gid,
            gids,
            uid,
            umask != -1,
            process_group != -1,
        )
        if _off or any(unusual) or not close_fds or not _is_forked(words, env):
            super()._execute_child(*given)
            return
        request = {
            "module": words[2],
            "arguments": words[3:],
            "environment": env,
            "directory": os.fspath(cwd) if cwd is not None else str(Path.cwd()),
            "session": bool(start_new_session),
            "terminal": terminal,
        }
        files = [own if given_ == -1 else given_ for own, given_ in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _server().fork(request, files)
        self._child_created = True
        self._close_pipe_fds(*rest[:6])


def _is_forked(words: list[str], env: Mapping[str, str]) -> bool:
    if words[:2] != [sys.executable, "-m"] or words[2] not in FORKED:
        return False
    if any(name.startswith("PYTHON") and name not in HARMLESS for name in env):
        return False
    return all(env.get(name, os.environ.get(name)) == os.environ.get(name) for name in READ_AT_START)


_servers: dict[int, _Server] = {}
_off: list[bool] = []


def _server() -> _Server:
    pid = os.getpid()
    if pid not in _servers:
        _servers[pid] = _Server()
    return _servers[pid]


def install() -> None:
    """From now on `subprocess` forks what it can."""
    subprocess.Popen = _Popen  # type: ignore[misc]


def take_terminal() -> None:
    """For `preexec_fn`, which can be nothing else if it is to be forked: standard input is the session's terminal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def switched_off() -> Iterator[None]:
    """Every process is started as anywhere else."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


# In the server


def serve(orders: socket.socket) -> None:
    """Fork until nobody is there to ask; return in a child, with its work before it."""
    while True:
        message, files, _, _ = socket.recv_fds(orders, 1 << 20, 3)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        if (between := os.fork()) == 0:
            between = os.getpid()
            if (pid := os.fork()) > 0:
                os.write(writer, str(pid).encode())
                os._exit(0)
            orders.close()
            while os.getppid() == between:
                time.sleep(0.0002)
            _become(json.loads(message), files)
            return
        os.waitpid(between, 0)  # only now the child has the parent that it is to have
        orders.send(os.read(reader, 32))
        for file in (*files, reader, writer):
            os.close(file)


def _become(request: Mapping[str, Any], files: list[int]) -> None:
    """What an interpreter is at its start."""
    if request["session"]:
        os.setsid()
    spare = [os.dup(file) for file in files]  # above 2, whatever came
    for standard, file in enumerate(spare):
        os.dup2(file, standard)
    if request["terminal"]:
        take_terminal()
    os.closerange(3, max(spare) + 1)  # all that the server had open
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115
    sys.stdout = sys.__stdout__ = _writer(1, "strict", unbuffered)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _writer(2, "backslashreplace", unbuffered)  # type: ignore[misc]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
    sys.path[0:1] = [request["directory"], *paths]
    sys.argv[:] = [request["module"], *request["arguments"]]


def _writer(file: int, errors: str, unbuffered: bool) -> io.TextIOWrapper:
    raw = io.FileIO(file, "w", closefd=False)
    buffer: Any = raw if unbuffered else io.BufferedWriter(raw)
    by_lines = file == 2 or os.isatty(file)
    return io.TextIOWrapper(buffer, "utf-8", errors, line_buffering=by_lines, write_through=unbuffered)


def main() -> None:
    """`python -m tests.forkserver SOCKET`"""
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")  # as aitp does before it has numpy loaded
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("aitp.http").tls_context(Trust())  # kept there, and always the same
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = socket.socket(fileno=int(sys.argv[1]))
    serve(orders)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        leave(end.code)
        raise
    leave(None)


def leave(code: object) -> None:
    """End as an interpreter does, but for taking apart what is given back anyway: all is the server's, and copied to be
    changed, which is 0.1 s of CPU. Returns where there is something to tell at the end."""
    if not isinstance(code, int | None):
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    main()
