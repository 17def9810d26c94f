"""`aitp status`: one look, and the live view on a real terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.bar import Bar
from rich.console import Console

from aitp.commands.console import usage_bar
from aitp.commands.watch import Pace
from aitp.errors import printable
from aitp.process.scoreboard import Record, Scoreboard, State
from aitp.providers import routing_of
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT, load_settings, publish, surroundings
from aitp.sources import published
from aitp.web.health import duration
from tests.commands.desk import LOADED, Desk
from tests.commands.terminal import INTO_THE_ALTERNATE_SCREEN, OUT_OF_IT, Terminal
from tests.ledger.conftest import Create


@pytest.fixture
def board(desk: Desk) -> Iterator[Scoreboard]:
    """A master (this process) that does its rounds, and a crew."""
    board = crew_of(desk)
    yield board
    board.close()


def crew_of(desk: Desk) -> Scoreboard:
    runtime_dir = desk.world.path.parent / "run"
    runtime_dir.mkdir(mode=0o700)
    board = Scoreboard.create(runtime_dir / "scoreboard")
    now = time.time()
    board.write(Record(0, os.getpid(), State.RUNNING, now - 300, now, time.monotonic() + 300))
    board.write(Record(1, 1, State.IDLE, now, now))
    for slot in range(101, 141):
        board.write(Record(slot, 1, State.BUSY if slot < 111 else State.IDLE, now, now, 0.0, 3, f"task-{slot}"))
    return board


def test_a_service_that_does_not_run_exits_1_and_the_ledger_is_shown_all_the_same(desk: Desk) -> None:
    desk.world.admit("one", "two")

    run = desk.run("status")

    assert run.returncode == 1
    assert run.stdout.startswith("NOT RUNNING")
    assert [line.split() for line in run.stdout.splitlines() if line.strip().startswith("2 ")] == [list("200000")]


def put_in_force(desk: Desk, **settings: str) -> None:
    """As the master does, at its start and at each reload; this process is the service."""
    taken_over = load_settings({**desk.settings, **settings})
    publish(taken_over, routing_of(taken_over), os.getpid())


@pytest.mark.usefixtures("board")
def test_what_is_told_is_in_force_whatever_the_settings_of_whoever_looks_are(desk: Desk) -> None:
    put_in_force(desk, PROCESSING_MODE="hybrid", OPENAI_API_KEY=PLACEHOLDER_KEY, CONCURRENCY_LIMIT="60")

    run, document = desk.run("status", CONCURRENCY_LIMIT="many"), desk.json("status", PROCESSING_MODE="openai")

    assert (run.returncode, run.stderr) == (0, "")
    assert "MOCK MODE" in run.stdout
    assert (document["mode"], document["mock"]) == ("hybrid", True)
    assert "40 of 60 workers are there" in [problem["sentence"] for problem in document["problems"]]


@pytest.mark.usefixtures("board")
def test_what_nobody_alive_has_published_is_not_in_force(desk: Desk) -> None:
    put_in_force(desk, PROCESSING_MODE="ollama")
    file = Path(desk.settings["RUNTIME_DIR"]) / "settings.json"
    told = json.loads(file.read_text())
    others: tuple[object, ...] = ([], {**told, "pid": 2**22 + 1}, {"pid": told["pid"]}, {**told, "judged": {"mode": 1}})
    for other in others:
        file.write_text(json.dumps(other))

        assert published(file.parent) is None
    assert desk.run("status", CONCURRENCY_LIMIT="many").returncode == 78


def test_a_look_loads_what_it_shows_and_none_of_the_service(desk: Desk, board: Scoreboard) -> None:
    """What `aitp status` costs is what it imports: a count is the same on every machine, seconds are not."""
    desk.world.admit("one")
    put_in_force(desk)
    look = [sys.executable, "-c", LOADED, "status"]
    surrounded = {**surroundings(), **desk.settings, "PYTHONPATH": str(PROJECT_ROOT)}

    run = subprocess.run(look, env=surrounded, cwd="/", capture_output=True, text=True, timeout=60, check=True)

    loaded = set(run.stderr.split())
    assert run.stdout.startswith("RUNNING")
    assert "kept" in loaded
    heavy = {"structlog", "requests", "openai", "numpy", "jinja2", "prometheus_client", "waitress", "supervisor"}
    assert not loaded & {"pydantic", "dotenv", "importlib.metadata", "aitp.settings"}
    assert not loaded & {*heavy, "pybreaker", "pygments", "rich.live", "asyncio", "socket", "hashlib", "psycopg"}
    assert not [name for name in loaded if name.startswith(("aitp.taskapi", "aitp.knowledge", "aitp.processors"))]
    assert not loaded & {f"aitp.ledger.{part}" for part in ("ledger", "claims", "inbox", "outbox", "maintenance")}
    assert not loaded & {"aitp.process.master", "aitp.http"}
    assert len([name for name in loaded if name.startswith("aitp")]) <= 45


def test_a_ledger_that_is_not_there_is_said_in_words(desk: Desk) -> None:
    run = desk.run("status", RATE_LIMIT_STORAGE_PATH="/nowhere/ledger.db")

    assert (run.returncode, run.stderr) == (1, "")
    assert "there is no ledger at /nowhere/ledger.db" in run.stdout


def test_a_running_one_says_what_keeps_it_from_its_work(desk: Desk, board: Scoreboard) -> None:
    desk.run("pause")

    run, document = desk.run("status"), desk.json("status")

    assert run.returncode == 0
    assert run.stdout.startswith("RUNNING for 5 min, PAUSED")
    assert "! paused by an operator" in run.stdout
    assert document["running"] is True
    assert "paused by an operator" in [problem["sentence"] for problem in document["problems"]]
    assert document["processes"][2]["state"] == "busy"


def test_a_limit_without_room_is_said_while_tasks_wait_for_it(create: Create) -> None:
    desk = Desk.around(create(hour=2))
    board = crew_of(desk)
    desk.world.admit("one", "two")
    desk.world.run()
    assert "used up" not in desk.run("status").stdout

    desk.world.admit("three")
    said = [line for line in desk.run("status").stdout.splitlines() if line.startswith("!")]
    board.close()

    assert any("the limit per hour is used up (2 of 2): there is room again in" in line for line in said)


def test_many_children_are_summed_up_with_those_at_work_first(desk: Desk, board: Scoreboard) -> None:
    lines = desk.run("status").stdout.splitlines()

    assert sum("task-" in line for line in lines) == 28  # and the relay
    assert any("task-110" in line for line in lines)
    assert "and 12 idle" in lines


def test_limits_are_shown_with_what_is_used(create: Create) -> None:
    desk = Desk.around(create(minute=4))
    desk.world.admit("one", "two")
    desk.world.run()

    [line] = [line for line in desk.run("status").stdout.splitlines() if line.startswith("minute")]

    assert line.split()[1:4] == ["2", "4", "2"]
    assert line.count("█") == 10


def test_the_live_view_gives_the_terminal_back_at_ctrl_c(desk: Desk) -> None:
    with Terminal("status", "--watch", "--interval", "0.1", **desk.settings) as terminal:
        first = terminal.await_text("NOT RUNNING")
        desk.world.admit("one")
        terminal.await_text("oldest task")
        terminal.press(b"\x03")

        assert terminal.wait() == 0
        assert INTO_THE_ALTERNATE_SCREEN in first
        assert OUT_OF_IT in terminal.shown
        assert "Traceback" not in terminal.shown


def test_the_live_view_is_drawn_anew_at_once_when_its_size_changes(desk: Desk) -> None:
    with Terminal("status", "--watch", "--interval", "3600", **{**desk.settings, "COLUMNS": ""}) as terminal:
        terminal.await_text("Ctrl-C ends this")
        terminal.resize(60, 12)
        terminal.await_text("NOT RUNNING")
        terminal.press(b"\x03")
        assert terminal.wait() == 0


def test_ctrl_z_gives_the_screen_back_until_it_goes_on(desk: Desk) -> None:
    with Terminal("status", "--watch", "--interval", "3600", **desk.settings) as terminal:
        terminal.await_text("Ctrl-C ends this")
        terminal.press(b"\x1a")
        terminal.await_text(OUT_OF_IT)
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.await_text(INTO_THE_ALTERNATE_SCREEN)
        terminal.press(b"\x03")
        assert terminal.wait() == 0


def test_no_color_is_heeded(desk: Desk) -> None:
    with Terminal("status", **desk.settings, NO_COLOR="1") as terminal:
        assert terminal.wait() == 1
        assert "\x1b[31m" not in terminal.shown
        assert "\x1b[1;31m" not in terminal.shown


def test_in_a_pipe_there_is_one_plain_snapshot_after_the_other_until_nobody_reads_on(desk: Desk) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "aitp", "status", "--watch", "--interval", "0.1"],
        env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT), **desk.settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    snapshots = 0
    while snapshots < 2:
        line = watching.stdout.readline()
        assert "\x1b" not in line
        snapshots += line.startswith("NOT RUNNING")
    watching.stdout.close()

    assert watching.wait(10) == 0
    assert watching.stderr is not None
    assert watching.stderr.read() == ""
    watching.stderr.close()


def test_programs_get_one_document_a_line(desk: Desk) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "aitp", "status", "--watch", "--json", "--interval", "0.1"],
        env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT), **desk.settings},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    documents = [json.loads(watching.stdout.readline()) for _ in range(2)]
    watching.terminate()

    assert watching.wait(10) == 0
    watching.stdout.close()
    assert documents[0]["at"] < documents[1]["at"]
    assert documents[0]["running"] is False


def test_the_pace_is_measured_between_looks_and_begins_anew_with_the_service() -> None:
    pace = Pace()

    assert pace.after(0.0, {101: 10, 102: 10}) is None
    assert pace.after(2.0, {101: 12, 102: 12}) == 2.0
    assert pace.after(4.0, {101: 12, 102: 12}) == 1.0
    assert pace.after(6.0, {101: 0, 102: 0}) is None
    assert pace.after(7.0, {101: 0, 102: 5}) == 5.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (200_000, "2 d"),
        (9e300, "9e+300 s"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("current", "limit", "full"), [(0, 10, 0), (5, 10, 10), (10, 10, 20), (99, 10, 20)])
def test_bars(current: int, limit: int, full: int) -> None:
    assert drawn(usage_bar(current, limit), columns=80) == "█" * full


def test_a_bar_is_shorter_where_there_is_no_room_for_it_and_never_folded() -> None:
    assert drawn(usage_bar(5, 10), columns=8) == "████"


def drawn(bar: Bar, columns: int) -> str:
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(bar)
    return captured.get().rstrip()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("São Paulo", "São Paulo"), ("a\x1b[2J", "a\\x1b[2J"), ("\u202eabc", "\\u202eabc"), ("a\nb\tc", "a\\nb\\tc")],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
