"""`aitp run`: supervisord in this process, with etc/supervisord.conf, and its files in RUNTIME_DIR.

What differs from a bare supervisord: programs write to our own standard output, not through a pipe that breaks with
us; our lines are logged like theirs; exit code 78 ends the service at once, however early it comes; HUP and USR1 go to
the programs; and the exit code is that of the program that ended the service.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

from supervisor import events, loggers, options, supervisord  # type: ignore[import-untyped]
from supervisor.process import Subprocess  # type: ignore[import-untyped]
from supervisor.states import SupervisorStates  # type: ignore[import-untyped]

from aitp.logs import configure, get_logger
from aitp.process.listener import exit_code_path
from aitp.process.start import own_directory, refuse_few_descriptors, refuse_long_socket_path
from aitp.process.systemd import Systemd
from aitp.settings import Settings, set_aside, surroundings, withheld
from aitp.validators import addresses, trouble_at

log = get_logger(__name__)

CONFIGURATION = Path(__file__).parents[2] / "etc" / "supervisord.conf"

RUNTIME_DIR_IN_CONFIGURATION = "%(here)s/../run"

SOCKET = "supervisor.sock"

ORPHAN_SECONDS, LOOK_AGAIN_SECONDS = 3.0, 0.1

SETTLED_SECONDS = 2.0  # whoever lived so long and is killed then did not fail to start

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

# The secrets that each program needs; of the others it learns at most that there are some.
NEEDED = {
    "aitp-master": ("OAUTH2_CLIENT_SECRET", "OPENAI_API_KEY", "OLLAMA_API_KEY"),
    "aitp-metrics": ("METRICS_TOKEN",),
}


def run_supervised(settings: Settings, configuration: Path = CONFIGURATION) -> int:
    """Run the service until it stops or ends by itself; the exit code. Raises ConfigurationError before it starts."""
    os.umask(0o077)
    configure(settings.log_level, settings.log_format)
    refuse_few_descriptors(settings)
    own_directory(settings.runtime_dir)
    refuse_long_socket_path(settings.runtime_dir)
    if _is_served(settings.runtime_dir / SOCKET):
        log.error("A service runs in this RUNTIME_DIR already", runtime_dir=str(settings.runtime_dir))
        return 1
    if _is_taken(settings.metrics_host, settings.metrics_port):
        log.error(
            "METRICS_HOST and METRICS_PORT cannot be listened on",
            reason="another process does: stop it (aitp check says which it is), or set METRICS_PORT",
            host=settings.metrics_host,
            port=settings.metrics_port,
        )
        return 1
    exit_code = exit_code_path(settings.runtime_dir)
    exit_code.unlink(missing_ok=True)
    clear_sockets(settings.runtime_dir)
    try:
        _supervise(settings, configuration)
    except SystemExit as refusal:
        log.error("supervisord could not start", exit_code=refusal.code)
        return 1
    try:
        return int(exit_code.read_text())
    except FileNotFoundError:
        return 0  # stopped from outside
    except ValueError:
        return 1  # the disk was full


def clear_sockets(runtime_dir: Path) -> None:
    """Remove what killed supervisords left: each binds to a name with its pid first, and renames it then."""
    for path in runtime_dir.glob("supervisor.sock.*"):
        pid = path.suffix.removeprefix(".")
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    """Whether a supervisord answers there. One that died has left the file, but nobody who listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fsencode(path)) == 0


def _is_taken(host: str, port: int) -> bool:
    """Whether another process listens there, and goes on to. Other trouble is the metrics process's to tell of."""
    try:
        found = addresses(host, port)
    except (OSError, ValueError):
        return False
    if trouble_at(found) != errno.EADDRINUSE:
        return False
    # The metrics process of a supervisord that was killed is told of that, and leaves.
    log.info("Waiting for METRICS_PORT, which another process has", port=port)
    give_up = time.monotonic() + ORPHAN_SECONDS
    while trouble_at(found) == errno.EADDRINUSE:
        if time.monotonic() > give_up:
            return True
        select.select([], [], [], LOOK_AGAIN_SECONDS)
    return False


def _supervise(settings: Settings, configuration: Path) -> None:
    """supervisord.main, but with our options."""
    first = True
    mood = SupervisorStates.RESTARTING
    while mood == SupervisorStates.RESTARTING:  # `supervisorctl reload`
        ours = Options(settings)
        ours.realize(["-c", str(configuration)], doc="", progname="aitp run")
        ours.first = first
        ours.test = False
        supervisord.go(ours)
        ours.close_httpservers()
        ours.close_logger()
        mood = ours.mood
        first = False


class Options(options.ServerOptions):  # type: ignore[misc]
    """supervisord's options and means, as read from its configuration, changed where `aitp run` differs."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def open(self, fn: str, mode: str = "r") -> io.StringIO:
        """The configuration file, with the runtime directory of the settings in the place of its own."""
        runtime_dir = str(self._settings.runtime_dir).replace("%", "%%")
        return io.StringIO(Path(fn).read_text().replace(RUNTIME_DIR_IN_CONFIGURATION, runtime_dir))

    def processes_from_section(self, parser: Any, section: str, group_name: str, klass: Any = None) -> list[Any]:
        ours = Program if klass is options.ProcessConfig else Listener
        configs: list[Any] = super().processes_from_section(parser, section, group_name, ours)
        for config in configs:
            secrets = withheld(*NEEDED.get(config.name, ()))
            config.environment = {**(config.environment or {}), **set_aside(), **secrets}
            if self._settings.env_file is not None:
                # Found in this directory, it must be found again by whoever reads it next.
                config.environment["AITP_ENV_FILE"] = str(self._settings.env_file.absolute())
        return configs

    def make_logger(self) -> None:
        self.logger = loggers.Logger(self.loglevel, [LogLines()])
        for problem in (*self.parse_criticals, *self.parse_warnings):
            self.logger.warn(problem)

    def write_pidfile(self) -> None:
        super().write_pidfile()
        self.unlink_pidfile = True  # on a full disk it is there as well, but empty, and supervisord forgets it

    def setsignals(self) -> None:
        super().setsignals()
        signal.signal(signal.SIGUSR1, self.signal_receiver.receive)
        events.subscribe(events.SupervisorStoppingEvent, self._stopping)
        events.subscribe(events.ProcessStateFatalEvent, self._gave_up)

    def _stopping(self, event: object) -> None:
        """The programs are about to be stopped: for good, unless `supervisorctl reload` asked for it."""
        if self.mood == SupervisorStates.SHUTDOWN:
            Systemd(surroundings()).service_stops()

    def _gave_up(self, event: Any) -> None:
        """A program cannot be started. The listener ends the service then; if it is the listener, nobody else would."""
        if event.process.config.name == "aitp-listener":
            log.error("The programs of the service cannot be started")
            exit_code_path(self._settings.runtime_dir).write_text("1\n")
            self.mood = SupervisorStates.SHUTDOWN

    def fork(self) -> int:
        """A program is told to stop once: what comes before its first instruction must end it, not be swallowed here.

        Until then the new process has supervisord's handlers, which only take note, and exec forgets what they noted.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        try:
            pid: int = super().fork()
            if pid == 0:
                for number in ENDINGS:
                    signal.signal(number, signal.SIG_DFL)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def get_signal(self) -> int | None:
        """The next signal for supervisord itself. HUP would have it restart everything: the programs can reload."""
        received: int | None = super().get_signal()
        if received not in (signal.SIGHUP, signal.SIGUSR1):
            return received
        for process in self.pidhistory.values():
            if isinstance(process, ProgramProcess) and (received == signal.SIGHUP or process.is_master):
                process.signal(received)
        return None


# What supervisord need not collect. It could not, if our standard output were a socket, as systemd's journal is.
UNCOLLECTED = {"stdout_logfile": None, "stderr_logfile": None}


class Program(options.ProcessConfig):  # type: ignore[misc]
    """A program that supervisord keeps running: master and metrics."""

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params | UNCOLLECTED)

    def make_process(self, group: Any = None) -> ProgramProcess:
        process = ProgramProcess(self)
        process.group = group
        return process


class ProgramProcess(Subprocess):  # type: ignore[misc]
    """A program's process."""

    laststart: float
    exitstatus: int | None

    @property
    def is_master(self) -> bool:
        return bool(self.config.name == "aitp-master")

    def _prepare_child_fds(self) -> None:
        """In the new process: read from the pipe that supervisord made, write to where supervisord writes."""
        os.dup2(self.pipes["child_stdin"], 0)
        os.closerange(3, self.config.options.minfds)

    def finish(self, pid: int, sts: int) -> None:
        """The process has ended. supervisord counts every early end as a failed start, and starts it again."""
        exit_code, _ = options.decode_wait_status(sts)
        final = exit_code in self.config.exitcodes
        killed = exit_code == -1 and time.time() - self.laststart >= SETTLED_SECONDS
        if final or killed:
            self.laststart = min(self.laststart, time.time() - self.config.startsecs)  # it counts as started
        super().finish(pid, sts)
        if self.exitstatus is None:
            self.exitstatus = exit_code  # for the listener, if supervisord gives up


class Listener(options.EventListenerConfig):  # type: ignore[misc]
    """The event listener, whose standard output is its answer to supervisord."""

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params | UNCOLLECTED)

    def make_process(self, group: Any = None) -> ListenerProcess:
        process = ListenerProcess(self)
        process.group = group
        return process


class ListenerProcess(Subprocess):  # type: ignore[misc]
    """The listener's process."""

    def _prepare_child_fds(self) -> None:
        """In the new process: complain where supervisord complains."""
        os.dup2(self.pipes["child_stdin"], 0)
        os.dup2(self.pipes["child_stdout"], 1)
        os.closerange(3, self.config.options.minfds)


class LogLines(loggers.Handler):  # type: ignore[misc]
    """supervisord's own lines, in our log."""

    def emit(self, record: Any) -> None:
        text = record.asdict()["message"].rstrip()
        if "without any HTTP authentication" in text:
            return  # its socket is a file that only its owner can open
        getattr(log, LEVELS.get(record.level, "debug"))(f"supervisord: {text}")

    def close(self) -> None:
        """There is no stream to close."""


LEVELS = {
    loggers.LevelsByName.CRIT: "critical",
    loggers.LevelsByName.ERRO: "error",
    loggers.LevelsByName.WARN: "warning",
    loggers.LevelsByName.INFO: "info",
}
