"""`aitp run`: supervisord in this process, with etc/supervisord.conf, and its files in RUNTIME_DIR.

What differs from a bare supervisord is written into the configuration that it reads: where its files are, that programs
write to our own standard output instead of a pipe that breaks with us, and which secrets each of them is to see.

Settings are judged in a process that is over by then: what runs for weeks has neither pydantic nor the secrets of
files in its memory.

The rest is in RPC interface factories, which are supervisor's one public way into its process. `Ends`, for a bare
supervisord too: a dead program must not leave it running on empty. One that it will not start again (it ended with an
expected exit code, or cannot be started at all), or that ends again and again, ends the whole service, and `aitp run`
with its exit code. `Service` is what `aitp run` adds. From there on there are back doors, since supervisor has no
public way for them: three of its events are subscribed to (an event listener would be one more process, for as long
as the service runs); its lines are logged like ours by a handler of its logger; HUP and USR1, which would restart
everything or nothing, go to the programs' pids; and a pipe among what it polls lets no signal wait until its sleep of a
second is over. `tests/process/test_supervisord.py` notices when a new version moves any of them.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from supervisor import events, loggers, states, supervisord  # type: ignore[import-untyped]

from aitp import sources
from aitp.extensions import foreign_settings
from aitp.hardening import blot_out, end_with
from aitp.logs import configure, get_logger
from aitp.process import start
from aitp.tasks import ExitCode

if TYPE_CHECKING:
    from aitp.settings import Settings

CONFIGURATION = Path(__file__).parents[2] / "etc" / "supervisord.conf"
SOCKET = "supervisor.sock"
ORPHAN_SECONDS, LOOK_AGAIN_SECONDS = 3.0, 0.1
# Copies of our standard output and error that programs inherit, as the shell can name them.
OUTPUT, ERRORS = 8, 9
# Above all that supervisord closes at a reload: what it reads, and the pipe that ends its sleep.
CONFIGURED, WOKEN, WAKING = 10, 11, 12
FIRST_LINE_BYTES = 65_536

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# A program that ends so often in so many seconds is given up: it fails to start. Kills now and then are no such thing.
MOST_ENDS, ENDS_SECONDS = 5, 20.0

# The secrets that each program needs; of the others it learns at most that there are some.
NEEDED: dict[str, tuple[str, ...]] = {
    "program:aitp-master": ("LEDGER_URL", "OAUTH2_CLIENT_SECRET", *sources.PROVIDERS_SECRETS),
    "program:aitp-metrics": ("LEDGER_URL", "METRICS_TOKEN"),
}
# And which programs a signal is for.
PASSED_ON = {signal.SIGHUP: ("aitp-master", "aitp-metrics"), signal.SIGUSR1: ("aitp-master",)}

LEVELS = {
    loggers.LevelsByName.CRIT: "critical",
    loggers.LevelsByName.ERRO: "error",
    loggers.LevelsByName.WARN: "warning",
    loggers.LevelsByName.INFO: "info",
}

log = get_logger(__name__)


def run_supervised(configuration: Path = CONFIGURATION) -> int:
    """Run the service until it stops or ends by itself; the exit code."""
    os.umask(0o077)
    blot_out(sources.secret_names())
    os.dup2(os.memfd_create("supervisord.conf"), CONFIGURED, inheritable=False)
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        # What settings take of memory is free when this ends, and so it does with us; Ctrl-C reaches both.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with(parent)
        return _prepare(configuration)
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        if code < 0:
            log.error("The settings could not be judged", exit_code=code)
        return max(code, ExitCode.FAILED)
    directory, level, form = json.loads(os.pread(CONFIGURED, FIRST_LINE_BYTES, 0).partition(b"\n")[0].lstrip(b"; "))
    configure(level, form)
    runtime_dir = Path(directory)
    start.tell(runtime_dir, start.Supervision(os.getpid(), "STARTING", time.time()))
    os.dup2(1, OUTPUT)
    os.dup2(2, ERRORS)
    let_stops_end_programs()
    for made, kept in zip(os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC), (WOKEN, WAKING), strict=True):
        os.dup2(made, kept, inheritable=False)
        os.close(made)
    try:
        supervisord.main(["-c", f"/proc/self/fd/{CONFIGURED}"])
    except SystemExit as refusal:
        log.error("supervisord could not start", exit_code=refusal.code)
        return ExitCode.FAILED
    finally:
        start.forget(runtime_dir, start.Supervision.FILE, sources.PUBLISHED)
    return Ends.exit_code


def _prepare(configuration: Path) -> int:
    """Judge the settings, and write the configuration that is made of them, below what else is to be known of them; the
    exit code if it cannot be run so. Raises ConfigurationError.
    """
    from aitp.settings import load_settings, prepare_environment

    prepare_environment()
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    start.refuse_few_descriptors(settings)
    start.own_directory(settings.runtime_dir)
    start.refuse_long_socket_path(settings.runtime_dir)
    if _is_served(settings.runtime_dir / SOCKET):
        log.error("A service runs in this RUNTIME_DIR already", runtime_dir=str(settings.runtime_dir))
        return ExitCode.FAILED
    if _is_taken(settings.metrics_host, settings.metrics_port):
        text = "METRICS_HOST and METRICS_PORT cannot be listened on"
        reason = "another process does: stop it (`ss -ltnp` shows which it is), or set METRICS_PORT"
        log.error(text, reason=reason, host=settings.metrics_host, port=settings.metrics_port)
        start.tell_of_failed_start(settings.runtime_dir, [f"{text}: {reason}"])
        return ExitCode.FAILED
    clear_sockets(settings.runtime_dir)
    judged = json.dumps([str(settings.runtime_dir), settings.log_level, settings.log_format])
    os.write(CONFIGURED, f"; {judged}\n{configured(configuration, settings)}".encode())
    return ExitCode.FINE


def configured(configuration: Path, settings: Settings) -> str:
    """The configuration as supervisord is to read it."""
    from aitp.settings import withheld

    text = configuration.read_text()
    for found, ours in (
        ("%(here)s/../run", _plain(settings.runtime_dir)),
        ("%(here)s", _plain(configuration.parent.absolute())),
        ("[supervisord]\n", "[supervisord]\nsilent = true\n"),
        ("minfds = 100", f"minfds = {OUTPUT}"),  # programs close what is below
        # What supervisord need not collect. It could not, if our output were a socket, as systemd's journal is.
        ("/dev/fd/1", "NONE"),
        (f"{__name__}:{Ends.__name__}", f"{__name__}:{Service.__name__}"),
    ):
        text = text.replace(found, ours)
    others = tuple(name for name, is_secret in foreign_settings().items() if is_secret)
    for section, needed in NEEDED.items():
        needed = (*needed, *others) if section == "program:aitp-master" else needed
        environment = withheld(*needed)
        if settings.env_file is not None:
            # Found in this directory, it must be found again by whoever reads it next.
            environment["AITP_ENV_FILE"] = str(settings.env_file.absolute())
        pairs = ",".join(f'{name}="{_plain(value)}"' for name, value in environment.items())
        shell = f'/bin/sh -c \'exec "$0" "$@" >&{OUTPUT} 2>&{ERRORS} {OUTPUT}>&- {ERRORS}>&-\''
        start = text.index(f"[{section}]\n")
        text = text[:start] + text[start:].replace("\ncommand = ", f"\nenvironment = {pairs}\ncommand = {shell} ", 1)
    return text


def _plain(value: object) -> str:
    """With nothing that supervisord would expand."""
    return str(value).replace("%", "%%")


def let_stops_end_programs() -> None:
    """A program is told to stop once: what comes before its first instruction must end it, not be swallowed here.

    Until it is executed the new process has supervisord's handlers, which only take note, and exec forgets that.
    """

    def begin() -> None:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS),
        after_in_child=begin,
    )


def clear_sockets(runtime_dir: Path) -> None:
    """Remove what killed supervisords left: each binds to a name with its pid first, and renames it then."""
    for path in runtime_dir.glob(f"{SOCKET}.*"):
        pid = path.suffix.removeprefix(".")
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    """Whether a supervisord answers there. One that died has left the file, but nobody who listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fsencode(path)) == 0


def _is_taken(host: str, port: int) -> bool:
    """Whether another process listens there, and goes on to. Other trouble is the metrics process's to tell of."""
    from aitp.validators import addresses, trouble_at

    try:
        found = addresses(host, port)
    except (OSError, ValueError):
        return False
    # The metrics process of a supervisord that was killed is told of that, and leaves.
    if taken := trouble_at(found) == errno.EADDRINUSE:
        log.info("Waiting for METRICS_PORT, which another process has", port=port)
    give_up = time.monotonic() + ORPHAN_SECONDS
    while taken and time.monotonic() < give_up:
        select.select([], [], [], LOOK_AGAIN_SECONDS)
        taken = trouble_at(found) == errno.EADDRINUSE
    return taken


class Ends:
    """Made by supervisord for each run: ends it when a program is gone for good. It has no methods for RPC."""

    exit_code: ClassVar[int] = ExitCode.FINE  # of the program that ended the service: the first, others only follow

    def __init__(self, supervisor: Any) -> None:
        self._supervisor = supervisor
        self._ends: dict[str, list[float]] = defaultdict(list)  # of each program, the last few: monotonic
        events.subscribe(events.ProcessStateEvent, self._ended)

    def _ended(self, event: Any) -> None:
        """A program has ended, or changed its state in another way."""
        code = self._last_code(event)
        if code is not None and self._supervisor.options.mood == states.SupervisorStates.RUNNING:
            self._supervisor.options.mood = states.SupervisorStates.SHUTDOWN
            Ends.exit_code = code

    def _last_code(self, event: Any) -> int | None:
        """The exit code that a program leaves the service with; None if it goes on, or is started again."""
        if isinstance(event, events.ProcessStateFatalEvent):
            return ExitCode.FAILED
        if not isinstance(event, events.ProcessStateExitedEvent):
            return None
        if event.expected:
            return int(event.process.exitstatus)
        now = time.monotonic()
        ends = self._ends[event.process.config.name]
        ends[:] = [*(at for at in ends if at > now - ENDS_SECONDS), now]
        return ExitCode.FAILED if len(ends) >= MOST_ENDS else None


class Service(Ends):
    """What else `aitp run` does in supervisord's process."""

    def __init__(self, supervisor: Any) -> None:
        super().__init__(supervisor)
        supervisor.options.logger.handlers = [LogLines()]
        self._told = start.Supervision(os.getpid(), "STARTING", time.time())
        events.subscribe(events.ProcessStateEvent, self._tell)
        events.subscribe(events.SupervisorRunningEvent, self._running)
        events.subscribe(events.SupervisorStoppingEvent, self._stopping)

    def _tell(self, event: Any) -> None:
        """What becomes of the master, for whoever looks while it cannot say so itself."""
        process = event.process
        if process.config.name == "aitp-master":
            died = isinstance(event, events.ProcessStateExitedEvent) and not event.expected
            code = process.exitstatus if died else self._told.exit_code
            state = events.getEventNameByType(type(event)).removeprefix("PROCESS_STATE_")
            ends = isinstance(event, events.ProcessStateExitedEvent | events.ProcessStateFatalEvent)
            if self._supervisor.options.mood == states.SupervisorStates.SHUTDOWN and not ends:
                state = "STOPPING"  # with all others
            self._told = start.Supervision(os.getpid(), state, time.time(), code)
            runtime_dir = Path(self._supervisor.options.serverurl.removeprefix("unix://")).parent
            start.tell(runtime_dir, self._told)

    def _running(self, event: object) -> None:
        """supervisord has installed its handlers: ours come after them."""
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        self._supervisor.options.get_socket_map()[WOKEN] = WakeUp()
        signal.set_wakeup_fd(WAKING, warn_on_full_buffer=False)
        os.write(WAKING, b"\0")  # it would sleep before it looks for the first time what is to be started

    def _pass_on(self, number: int, frame: object) -> None:
        for group in self._supervisor.process_groups.values():
            for name, process in group.processes.items():
                if process.pid and name in PASSED_ON[signal.Signals(number)]:
                    os.kill(process.pid, number)

    def _stopping(self, event: object) -> None:
        """The programs are about to be stopped: for good, unless `supervisorctl reload` asked for it."""
        if self._supervisor.options.mood == states.SupervisorStates.SHUTDOWN:
            start.Systemd().service_stops()


class WakeUp:
    """Ends supervisord's sleep at each signal: a stop, a program's end. By itself it sleeps on, for up to a second, as
    Python resumes what a signal interrupts (PEP 475). One of the dispatchers that it polls."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        os.read(WOKEN, 512)

    def handle_error(self) -> None:
        """supervisord calls it for what was raised: what cannot be read is read at the next signal."""


class LogLines(loggers.Handler):  # type: ignore[misc]
    """supervisord's own lines, in our log."""

    def emit(self, record: Any) -> None:
        text = record.asdict()["message"].rstrip()
        if "without any HTTP authentication" not in text:  # its socket is a file that only its owner can open
            # That it is told to stop is its warning, at each stop, and no reason for anybody to look.
            level = "info" if text.startswith("received SIG") else LEVELS.get(record.level, "debug")
            getattr(log, level)(f"supervisord: {text}")

    def close(self) -> None:
        """There is no stream to close."""
