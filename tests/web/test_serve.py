"""The metrics process as it runs: a real process on a real port."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.waiting import wait_until
from tests.web.world import World, environment_in

PROGRAM = "import sys; from aitp.settings import load_settings; from aitp.web.app import run_metrics; " + (
    "sys.exit(run_metrics(load_settings()))"
)
# A machine whose resolver does not answer.
NO_RESOLVER = """
import socket
def fails(host, port, *arguments, **options):
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
socket.getaddrinfo = fails
"""
# A parent that starts the metrics process, tells its pid, and waits to be killed.
PARENT = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True); input()"


def environment(world: World, port: int) -> dict[str, str]:
    folder = world.settings.runtime_dir.parent
    (folder / "settings.env").touch()
    ours = environment_in(folder) | {"METRICS_PORT": str(port), "AITP_ENV_FILE": str(folder / "settings.env")}
    del ours["OPENAI_API_KEY"]
    (folder / "settings.env").write_text("OPENAI_API_KEY=a-real-key\n")
    return dict(os.environ) | ours | {"LOG_FORMAT": "json"}


class Running:
    """One metrics process and what it logs."""

    def __init__(self, world: World) -> None:
        self.port = free_port()
        self.log_path = world.settings.runtime_dir / "log"
        with self.log_path.open("wb") as log:
            command = [sys.executable, "-m", "aitp", "metrics"]
            self.process = subprocess.Popen(command, env=environment(world, self.port), stdout=log, stderr=log)
        wait_until(self.has_said("Metrics server started"), timeout=30)

    def has_said(self, event: str) -> Any:
        return lambda: any(line["event"] == event for line in self.log())

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def get(self, path: str) -> tuple[int, bytes]:
        return request(self.port, path)


def request(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    running = Running(world)
    yield running
    running.process.kill()
    running.process.wait(10)


def test_it_serves_until_term_and_exits_0(running: Running) -> None:
    assert running.get("/ready")[0] == 200
    assert b"ai_tasks_in_flight" in running.get("/metrics")[1]

    running.process.terminate()

    assert running.process.wait(10) == 0
    assert [line["event"] for line in running.log()] == ["Metrics server started", "Metrics server stopped"]


def test_interrupt_ends_it_with_0_too(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)

    assert running.process.wait(10) == 0


def test_a_client_that_sends_half_a_request_keeps_nobody_waiting(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost:")

        assert running.get("/health")[0] == 200

        running.process.terminate()
        assert running.process.wait(10) == 0


def test_many_requests_at_once_are_all_answered_and_nothing_to_log(running: Running) -> None:
    clients = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(30)]
    for client in clients:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    answers = [client.makefile("rb").read() for client in clients]
    for client in clients:
        client.close()

    assert all(answer.startswith(b"HTTP/1.0 200 OK") for answer in answers)
    assert len(running.log()) == 1


def test_signals_reach_the_main_thread_only(running: Running) -> None:
    """One that interrupts another thread would be answered only when the next request comes."""
    main, *others = sorted(Path(f"/proc/{running.process.pid}/task").iterdir())

    wait_until(lambda: blocked(main) == set())  # it answers a moment before it hears
    assert [blocked(thread) for thread in others] == [{signal.SIGTERM, signal.SIGINT, signal.SIGHUP}]


def test_between_requests_nothing_runs(running: Running) -> None:
    """One thread beside the main one, and no wake-up in a second and a half."""
    running.get("/health")
    tasks = Path(f"/proc/{running.process.pid}/task")

    def wakeups() -> list[str]:
        switches = (line for task in sorted(tasks.iterdir()) for line in (task / "status").read_text().splitlines())
        return [line for line in switches if line.startswith("voluntary_ctxt_switches")]

    def asleep_all_along() -> bool:
        before = wakeups()
        select.select([], [], [], 1.5)
        return wakeups() == before

    assert len(wakeups()) == 2
    wait_until(asleep_all_along, timeout=6)  # the first time it may still be closing the connection


def test_a_taken_port_is_one_clear_line_and_exit_1(running: Running, world: World) -> None:
    second = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(world, running.port), capture_output=True, timeout=30
    )

    assert second.returncode == 1
    (line,) = [json.loads(line) for line in second.stdout.splitlines()]
    assert line["level"] == "error"
    assert line["port"] == running.port
    assert line["reason"].startswith("Address already in use")
    assert second.stderr == b""


def test_a_host_that_is_none_is_bad_configuration(world: World) -> None:
    wrong = environment(world, free_port()) | {"METRICS_HOST": "no.such.host.invalid"}

    ended = subprocess.run([sys.executable, "-c", PROGRAM], env=wrong, capture_output=True, timeout=60)

    assert ended.returncode == 78
    assert b"METRICS_HOST" in ended.stdout


def test_a_name_that_nobody_can_look_up_just_now_is_exit_1_and_tried_again(world: World) -> None:
    environ = environment(world, free_port()) | {"METRICS_HOST": "metrics.example"}

    ended = subprocess.run([sys.executable, "-c", NO_RESOLVER + PROGRAM], env=environ, capture_output=True, timeout=60)

    assert ended.returncode == 1
    (line,) = [json.loads(line) for line in ended.stdout.splitlines()]
    assert line["event"] == "METRICS_HOST and METRICS_PORT cannot be listened on"
    assert line["reason"] == "Temporary failure in name resolution"


def test_it_goes_when_its_parent_is_killed(world: World) -> None:
    port = free_port()
    command = [sys.executable, "-c", PARENT, PROGRAM]
    with subprocess.Popen(
        command, env=environment(world, port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: accepts(port), timeout=30)

        parent.kill()

        wait_until(lambda: not accepts(port))
        wait_until(lambda: gone(child))


def test_hangup_reads_the_settings_again_and_keeps_the_old_ones_if_the_new_are_wrong(
    running: Running, world: World
) -> None:
    def mock() -> bool:
        return "mock" in json.loads(running.get("/health")[1])

    env_file = world.settings.runtime_dir.parent / "settings.env"
    assert not mock()

    env_file.write_text("OPENAI_API_KEY=your_openai_api_key_here\n")
    running.process.send_signal(signal.SIGHUP)
    wait_until(running.has_said("Settings loaded again"))
    assert mock()

    env_file.write_text("METRICS_PORT_=1\nMAX_RETRIES=many\nOPENAI_API_KEY=a-real-key\n")
    running.process.send_signal(signal.SIGHUP)
    wait_until(running.has_said("New settings are not valid, the running ones stay"))
    assert mock()


@contextmanager
def connected(port: int) -> Iterator[bool]:
    with socket.socket() as client:
        client.settimeout(5)
        yield client.connect_ex(("127.0.0.1", port)) == 0


def accepts(port: int) -> bool:
    with connected(port) as success:
        return success


def blocked(thread: Path) -> set[int]:
    """The signals that a thread (its directory in /proc) does not take: bit n-1 stands for signal n."""
    status = dict(line.split(":\t") for line in (thread / "status").read_text().splitlines())
    mask = int(status["SigBlk"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def gone(pid: int) -> bool:
    """Whether no such process is alive; one that nobody has reaped yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
