"""`aitp demo` as a command: whom it calls with a real key, and what is left of it, however it is told to end."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from rich.progress import Progress, TaskID

from aitp.demo.command import Demo, Plan
from aitp.demo.openai_api import OpenAIApi
from aitp.demo.sentences import text_of
from aitp.demo.show import show
from aitp.demo.vectors import encoded_vector
from aitp.demo.verdict import Verdict
from aitp.settings import PROJECT_ROOT, surroundings
from tests.demo.talking import basic, session
from tests.end_to_end.running import see_that_programs_can_start
from tests.packaging.test_command import aitp
from tests.waiting import wait_until


@contextmanager
def started(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """`aitp demo`, which makes its directory in `folder`."""
    see_that_programs_can_start()
    process = subprocess.Popen(
        [sys.executable, "-m", "aitp", "demo", *arguments],
        env={**surroundings(), "AITP_VENV": sys.prefix, "TMPDIR": str(folder), **environ},
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def place() -> Iterator[Path]:
    """Not below tmp_path, whose length would leave no room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="aitp-test-") as directory:
        yield Path(directory)


def children(pid: int) -> set[int]:
    """Process ids; none once the parent has ended."""
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return set()


def members(sessions: set[int]) -> list[str]:
    """What runs in these sessions."""
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (process / "stat").read_text().rpartition(") ")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                running.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return running


def folders(folder: Path) -> list[Path]:
    return list(folder.glob("aitp-demo-*"))


# That a key is read from either is tested with the settings; a file's name is relative to where the demo was started.
@pytest.mark.parametrize("named", [pytest.param("OPENAI_API_KEY", marks=pytest.mark.slow), "OPENAI_API_KEY_FILE"])
def test_a_real_key_goes_to_the_server_that_is_set_beside_it(
    named: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "key").write_text("sk-of-theirs\n")
    # Their model is not the demo's own.
    monkeypatch.setattr(
        "aitp.demo.openai_api.encoded_vector", lambda text, *order: encoded_vector(f"{text} otherwise", *order)
    )
    with OpenAIApi(key="sk-of-theirs") as theirs:
        key = "sk-of-theirs" if named == "OPENAI_API_KEY" else os.path.relpath(place / "key")
        with started(place, "--tasks", "5", OPENAI_BASE_URL=theirs.base_url, **{named: key}) as demo:
            out, err = demo.communicate(timeout=90)

    assert theirs.times_bought().total() == 5, out
    assert (demo.returncode, err) == (0, ""), out
    assert not folders(place)
    assert "the server of OPENAI_BASE_URL, with your key: these calls are paid for" in out


def await_master(pid: int) -> set[int]:
    """The sessions that this demo has begun, once its service has a master."""
    wait_until(lambda: any("aitp master" in line for line in members(children(pid))), timeout=30, every=0.2)
    return children(pid)


def test_a_signal_that_ends_commands_stops_the_service_as_well(place: Path) -> None:
    with started(place) as demo:
        begun = await_master(demo.pid)
        demo.send_signal(signal.SIGQUIT)
        told = demo.communicate(timeout=60)

    assert demo.returncode == 130, told
    assert told[1] == ""
    assert not members(begun)
    assert not folders(place)


def test_a_terminal_that_is_closed_takes_the_service_with_it(place: Path) -> None:
    ours, theirs = pty.openpty()
    # The terminal becomes the one that controls the demo's session, as a shell's would.
    script = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    demo = subprocess.Popen(
        [sys.executable, "-c", script, sys.executable, "-m", "aitp", "demo"],
        env={**surroundings(), "AITP_VENV": sys.prefix, "TMPDIR": str(place)},
        cwd=PROJECT_ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        begun = await_master(demo.pid)
    finally:
        os.close(ours)  # all in the terminal's session are sent HUP
        demo.wait(60)

    assert not members(begun)
    assert not folders(place)


def test_a_port_that_is_taken_is_refused_before_anything_starts(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started(place, "--port", port) as demo:
            told = demo.communicate(timeout=60)

    assert demo.returncode == 2
    assert told[0] == ""
    assert f"Invalid value for --port: {port}: Address already in use" in told[1]
    assert not folders(place)


def test_a_demo_that_is_killed_takes_the_service_with_it(place: Path) -> None:
    with started(place) as demo:
        begun = await_master(demo.pid)
        demo.kill()

    wait_until(lambda: not members(begun), timeout=30, every=0.1)


def answers_signals(pid: int) -> bool:
    """Whether HUP is caught, which Python does not do of itself."""
    caught = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught[0].split()[1], 16) & 1 << signal.SIGHUP - 1)


EARLY: dict[str, Callable[[int], bool]] = {
    "it loads its modules": answers_signals,
    "its servers start": lambda pid: len(children(pid)) == 1,
    "its service starts": lambda pid: len(children(pid)) == 2,
}


@pytest.mark.usefixtures("own_interpreter")
def test_ctrl_c_before_a_command_has_begun_is_quiet_as_well(place: Path) -> None:
    with started(place) as demo:
        wait_until(lambda: "pydantic_core" in Path(f"/proc/{demo.pid}/maps").read_text(), timeout=30, every=0.001)
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=60)

    assert demo.returncode in (-signal.SIGINT, 130)
    assert (out, err) == ("", "")


@pytest.mark.usefixtures("own_interpreter")
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("it loads its modules", signal.SIGTERM),
        ("its servers start", signal.SIGINT),
        ("its service starts", signal.SIGINT),
        ("its service starts", signal.SIGTERM),
    ],
)
def test_a_signal_while_it_starts_ends_it_quietly(moment: str, number: signal.Signals, place: Path) -> None:
    with started(place) as demo:
        wait_until(lambda: EARLY[moment](demo.pid), timeout=30, every=0.001)
        demo.send_signal(number)
        begun: set[int] = set()
        while demo.poll() is None:
            begun |= children(demo.pid)
            time.sleep(0.005)
        told = demo.communicate()

    assert (demo.returncode, told[1]) == (130, "")
    assert not members(begun)
    assert not folders(place)


def pending(settings: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """What the task API of these settings lists."""
    headers = basic(str(settings["OAUTH2_CLIENT_ID"]), str(settings["OAUTH2_CLIENT_SECRET"]))
    form = {"grant_type": "client_credentials", "scope": "read write"}
    token = session().post(str(settings["OAUTH2_TOKEN_URL"]), data=form, headers=headers).json()["access_token"]
    return list(session(token).get(f"{settings['API_BASE_URL']}/api/ai-tasks/pending").json())


@pytest.mark.parametrize("kind", [(), ("--mode", "hybrid", "--types", "defining_topics,defining_severity")])
def test_tasks_ordered_as_the_servers_say_are_new_and_of_the_same_kind(kind: Sequence[str], place: Path) -> None:
    with started(place, "--servers", str(place), "--tasks", "10", *kind) as demo:
        assert demo.stdout is not None
        [order] = [line for _, line in zip(range(11), demo.stdout, strict=False) if line.startswith("More tasks:")]
        settings = dotenv_values(place / "aitp.env")
        first = pending(settings)
        for _ in range(2):
            [*_, body, url] = shlex.split(order)
            session().post(url, data=body).raise_for_status()
        listed = pending(settings)

    assert listed[:10] == first
    assert len(listed) == 210
    assert len({task["_id"] for task in listed}) == len({text_of(task) for task in listed}) == 210
    assert {task["type"] for task in listed} == {task["type"] for task in first}


def test_what_keeps_all_tasks_waiting_is_told_once_beside_the_figures(place: Path) -> None:
    with OpenAIApi(key="sk-of-theirs") as theirs:
        environ = {"OPENAI_API_KEY": "sk-of-nobody", "OPENAI_BASE_URL": theirs.base_url}
        with started(place, "--tasks", "3", **environ) as demo:
            assert demo.stderr is not None
            told = demo.stderr.readline()
            demo.send_signal(signal.SIGINT)
            out, rest = demo.communicate(timeout=60)

    assert told.startswith("Nothing moves. The service's log says: ")
    assert "openai answered 401" in told
    assert "look at OPENAI_API_KEY" in told
    assert "Nothing moves" not in out + rest


def test_a_place_for_settings_that_is_no_directory_is_called_so() -> None:
    run = aitp("demo", "--servers", os.devnull)

    assert run.returncode == 2
    assert "/dev/null is no directory" in run.stderr


def verdict_of(bought_again: int) -> Verdict:
    return Verdict(
        tasks=2, succeeded=2, failed=0, seconds=1.0, calls=3, texts_bought=2 + bought_again, bought_again=bought_again,
        bought_after_record=0, delivered_again=0, tokens=9, put_back=0, deliveries_retried=0, faults_struck=1,
        most_calls_at_once=1,
    )  # fmt: skip


class Played(Demo):
    """One that was: its service has gone, and its tasks came when it had been looked at twice."""

    came_up, running = True, False

    def start(self) -> None:
        self.folder = Path(tempfile.gettempdir())

    def close(self, *, keep_log: bool) -> None:
        assert not keep_log

    def progress(self) -> Iterator[int]:
        yield from (0, 0, 2)

    def verdict(self) -> Verdict:
        return verdict_of(1)

    def stop(self) -> int:
        return 0


def test_it_is_starting_until_the_first_result_and_says_what_bought_again_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    described: list[str] = []
    update = Progress.update

    def noted(progress: Progress, bar: TaskID, **told: Any) -> None:
        described.append(told.get("description", ""))
        update(progress, bar, **told)

    monkeypatch.setattr("aitp.demo.show.Demo", Played)
    monkeypatch.setattr(Progress, "update", noted)

    assert show(Plan(tasks=2)) == 0

    assert described[:3] == ["starting", "starting", "tasks"]
    out = " ".join(capsys.readouterr().out.split())
    assert "Bought again: a text whose answer was lost" in out
    assert "Log: " not in out.partition("Bought again")[2]
