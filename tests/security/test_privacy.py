"""What others on the machine can learn of a secret: nothing, from no process that does not need it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from aitp.hardening import PR_SET_DUMPABLE, blot_out, keep_memory_private, prctl
from aitp.process.scoreboard import MASTER, Role
from aitp.settings import load_settings
from aitp.sources import PROVIDERS_SECRETS
from tests.end_to_end.running import Service, alive
from tests.settings.complete import COMPLETE

started_from_the_file = pytest.mark.usefixtures("own_interpreter")

SECRETS = {
    "OAUTH2_CLIENT_SECRET": "planted-client-secret-0123456789",
    "OPENAI_API_KEY": "sk-planted-provider-key-0123456789",
    "OLLAMA_API_KEY": "planted-ollama-key-0123456789",
    "WIKIDATA_TOKEN": "planted-wikidata-token-0123456789",
    "METRICS_TOKEN": "planted-metrics-token-0123456789",
}


class Contained(Service):
    """A service that finds its secrets in its environment, as in a container, and a machine that would dump cores."""

    def environment(self) -> dict[str, str]:
        return super().environment() | SECRETS

    def configure(self, **settings: object) -> None:
        super().configure(**{name: value for name, value in settings.items() if name not in SECRETS})


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Contained]:
    contained = Contained(tmp_path)
    umask = os.umask(0)  # whatever the operator's shell has
    try:
        contained.open_world(
            5,
            authorization={"client_secret": SECRETS["OAUTH2_CLIENT_SECRET"]},
            openai_api={"key": SECRETS["OPENAI_API_KEY"]},
        )
        yield contained
    finally:
        os.umask(umask)
        contained.clear()


def environment_of(pid: int) -> bytes:
    """What can be seen of a process's environment; that it is not to be seen at all is as good."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (PermissionError, ProcessLookupError, FileNotFoundError):
        return b""


def memory_of(pid: int) -> Iterator[bytes]:
    """All that a process has written, region by region (proc(5)). For root."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            if rights.startswith("rw"):
                begin, end = (int(edge, 16) for edge in place.split("-"))
                memory.seek(begin)
                yield memory.read(end - begin)


@started_from_the_file
def test_no_process_shows_a_secret_and_metrics_never_has_those_of_others(contained: Contained) -> None:
    contained.start("run")
    contained.await_states(succeeded=5)  # with what was withheld nothing is missing
    contained.wait(lambda: contained.get("/health"), what="no metrics process")
    children = {record.pid for record in contained.crew()}
    master = contained.board()[MASTER].pid
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in everyone(contained)}
    (metrics,) = (pid for pid, line in commands.items() if line.endswith(b"\0metrics\0"))
    assert children | {master, metrics} < set(commands)
    assert contained.get("/metrics") == (401, "This needs METRICS_TOKEN.\n")

    for pid, line in commands.items():
        seen = environment_of(pid)
        for name, secret in SECRETS.items():
            assert secret.encode() not in seen, f"{name} in the environment of {line!r}"
            assert secret.encode() not in line
    if os.geteuid() == 0:
        for region in memory_of(metrics):
            for name in ("OAUTH2_CLIENT_SECRET", "OPENAI_API_KEY"):
                assert SECRETS[name].encode() not in region, f"{name} in the memory of the metrics process"
    for secret in SECRETS.values():
        assert secret not in contained.log()
    contained.stop()
    ours = [contained.directory, contained.env_file, contained.log_path]
    for path in [contained.runtime_dir, contained.ledger_path.parent, *contained.directory.rglob("*")]:
        assert path in ours or path.stat().st_mode & 0o077 == 0, f"{path}: {path.stat().st_mode:o}"


def everyone(service: Service) -> list[int]:
    """Each process whose ancestor supervisord is, and supervisord."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (ValueError, OSError):
            continue
    assert service.process is not None
    family = {service.process.pid}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sorted(family)


def would_dump(directory: Path) -> bool:
    """Whether this machine writes a core file where a process without our precautions dies."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=directory)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    for file in directory.glob("core*"):
        file.unlink()
    return os.WCOREDUMP(status)


@started_from_the_file
def test_no_process_leaves_a_core_dump(contained: Contained) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
        if not would_dump(contained.directory):
            pytest.skip("this machine writes no core dumps")
        contained.start("master")
        contained.start_metrics()
        worker, relay = (contained.crew(role)[0].pid for role in (Role.WORKER, Role.RELAY))
        metrics = contained._others[0].pid
        for pid in (worker, relay, metrics, contained.board()[MASTER].pid):
            os.kill(pid, signal.SIGSEGV)
            contained.wait(partial(lambda victim: not alive(victim), pid), what="it lives")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert not list(contained.directory.glob("core*"))


NOBODY = 65534


def forked(work: Callable[[], object]) -> int:
    """The exit code of `work` done by an unprivileged user in a process of its own: 0, or 1 if it was not permitted."""
    if (pid := os.fork()) == 0:
        code = 2
        try:
            os.setuid(NOBODY)
            work()
            code = 0
        except PermissionError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("precaution", "code"), [(lambda: None, 0), (keep_memory_private, 1)])
def test_another_process_of_the_same_user_cannot_look_into_one(precaution: Callable[[], object], code: int) -> None:
    def be_looked_at() -> None:
        prctl(PR_SET_DUMPABLE, 1)  # as after an exec: setuid alone would have closed it
        precaution()
        place = Path(f"/proc/{os.getpid()}/environ")
        assert forked(place.read_bytes) == code

    assert forked(be_looked_at) == 0


def test_blotting_out_leaves_the_settings_what_they_need(tmp_path: Path) -> None:
    program = (
        "from aitp.settings import load_settings, prepare_environment; prepare_environment()\n"
        "from pathlib import Path; seen = Path('/proc/self/environ').read_bytes()\n"
        "assert b'planted' not in seen and b'OPENAI_API_KEY=' in seen, seen\n"
        "print(load_settings().openai_api_key.get_secret_value())"
    )
    root = str(Path(__file__).parents[2])
    environ = {**COMPLETE, **SECRETS, "PYTHONPATH": root, "AITP_ENV_FILE": ""}
    run = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)

    assert run.stdout == f"{SECRETS['OPENAI_API_KEY']}\n", run.stderr


def test_blotting_out_what_is_not_there_is_nothing() -> None:
    blot_out(["NO_SUCH_VARIABLE", ""])


def test_each_process_keeps_the_secrets_that_it_needs_and_no_other() -> None:
    settings = load_settings({**COMPLETE, **SECRETS})

    def kept(of: object) -> set[str]:
        held = {name: getattr(of, name.lower()) for name in SECRETS}
        return {name for name, value in held.items() if value and value.get_secret_value() == SECRETS[name]}

    assert kept(settings.keeping("OAUTH2_CLIENT_SECRET")) == {"OAUTH2_CLIENT_SECRET"}
    assert kept(settings.keeping(*PROVIDERS_SECRETS)) == {"OPENAI_API_KEY", "OLLAMA_API_KEY", "WIKIDATA_TOKEN"}
    assert kept(settings.keeping("METRICS_TOKEN")) == {"METRICS_TOKEN"}
    assert settings.keeping().openai_api_key is not None  # /ready must know that OpenAI can stand in
    assert settings.keeping().metrics_token is not None


def test_no_secret_shows_in_what_settings_print_as() -> None:
    settings = load_settings({**COMPLETE, **SECRETS})

    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.trust)):
        assert "planted" not in text


@pytest.mark.parametrize("command", ["once", "status", "pause", "check"])
def test_what_a_command_makes_is_its_owners_alone(contained: Contained, command: str) -> None:
    contained.run("once")
    contained.run(command)

    made = [contained.runtime_dir, contained.ledger_path.parent]
    for path in [*made, *(file for folder in made for file in folder.rglob("*"))]:
        assert path.stat().st_mode & 0o077 == 0, f"{path}: {path.stat().st_mode:o}"
