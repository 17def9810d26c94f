"""`aitp run` and plain supervisord, for real, with toys for programs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from aitp.process.scoreboard import State
from aitp.process.supervisord import MOST_ENDS, NEEDED, clear_sockets
from aitp.settings import withheld
from tests.end_to_end.running import see_that_programs_can_start
from tests.process.house import ROOT, Stage, alive
from tests.waiting import wait_until


def test_a_stop_leaves_no_process_and_no_socket_and_exits_0(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()
    assert stat.S_IMODE((stage.directory / "run" / "supervisor.sock").stat().st_mode) == 0o700
    processes = [*stage.processes(), run.pid]
    assert len(processes) == 6
    run.terminate()
    assert run.wait(15) == 0
    assert not any(map(alive, processes))
    assert {path.name for path in (stage.directory / "run").iterdir()} == {"scoreboard"}
    assert len(stage.events("leaves")) == 3
    lines = [json.loads(line) for line in stage.log().splitlines()]  # supervisord's too
    assert not [line for line in lines if line["level"] == "warning" and line["event"].startswith("supervisord: stop")]
    events = [line["event"] for line in lines]
    # Health and metrics answer until the master has left.
    ends = [event for event in events if event.startswith("supervisord: stopped")]
    assert [end.split()[2] for end in ends] == ["aitp-master", "aitp-metrics"]


def test_neither_a_start_nor_a_death_waits_for_supervisord_s_sleep_of_a_second(stage: Stage) -> None:
    """The shortest of a few waits: each would be a whole second at a start, and half of one or so after a death."""

    def moments(event: str) -> list[float]:
        lines = [json.loads(line) for line in stage.log().splitlines()]
        return [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines if event in line["event"]]

    stage.run()
    stage.await_service()
    (started,), (spawned,) = moments("supervisord started"), moments("spawned: 'aitp-master'")
    assert spawned - started < 0.9
    killed: list[float] = []
    for _ in range(4):
        killed.append(time.time())
        os.kill(stage.starts("master")[-1], signal.SIGKILL)
        wait_until(lambda: len(stage.starts("master")) > len(killed))
    assert min(noticed - at for noticed, at in zip(moments("exited: aitp-master"), killed, strict=True)) < 0.05


SWALLOWED = """
import os, signal
from aitp.process.supervisord import let_stops_end_programs
signal.signal(signal.SIGTERM, lambda *_: None)
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
let_stops_end_programs()
if (pid := os.fork()) == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_a_stop_that_comes_before_a_program_s_first_instruction_ends_it() -> None:
    """Else it would work on until supervisord's patience ends, and lose the calls in hand to the kill."""
    said = subprocess.run([sys.executable, "-c", SWALLOWED], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)

    assert said.stdout == "-15 set()\n"


def test_standard_output_may_be_a_socket_as_under_systemd(stage: Stage) -> None:
    """Where it is the journal's, all say how grave each of their lines is: supervisord, the master, its children."""
    ours, theirs = socket.socketpair()
    told = b""

    def master_is_ready() -> bool:
        nonlocal told
        told += ours.recv(65536)
        return b"Master ready" in told

    with ours, theirs:
        file = os.fstat(theirs.fileno())
        stage.surroundings["JOURNAL_STREAM"] = f"{file.st_dev}:{file.st_ino}"
        run = stage.play(*stage.RUN, str(stage.configuration), output=theirs)
        wait_until(master_is_ready)
        run.terminate()
        assert run.wait(15) == 0
        theirs.close()
        lines = (told + b"".join(iter(lambda: ours.recv(65536), b""))).splitlines()
    events = [json.loads(line[3:]) for line in lines]
    assert {(line[:3], event["level"]) for line, event in zip(lines, events, strict=True)} == {(b"<6>", "info")}
    assert {"aitp.process.supervisord", "aitp.process.master"} <= {event["logger"] for event in events}


def test_settings_that_are_invalid_are_refused_before_anything_starts(stage: Stage) -> None:
    stage.settings(CONCURRENCY_LIMIT="many", RELAY_PROCESSES=1)
    assert stage.run().wait(10) == 78
    assert "CONCURRENCY_LIMIT=many" in stage.log()
    assert not stage.starts("master")


def test_settings_that_are_blank_count_as_unset_for_supervisord_too(stage: Stage) -> None:
    stage.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1, LOG_LEVEL=" ", LOG_FORMAT=" ")
    stage.run()
    stage.await_service()


def test_a_runtime_directory_too_deep_for_a_socket_is_refused(stage: Stage) -> None:
    stage.settings(CONCURRENCY_LIMIT=1, RELAY_PROCESSES=1, RUNTIME_DIR=stage.directory / ("x" * 80))
    assert stage.run().wait(10) == 78
    assert "at most" in stage.log()


def test_a_port_that_another_process_listens_on_is_refused_before_anything_starts(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", stage.port)):
        assert stage.run().wait(15) == 1
    assert f'"port":{stage.port}' in stage.log()
    assert "set METRICS_PORT" in stage.log()
    assert not stage.starts("master")


def test_a_port_that_is_let_go_of_in_time_is_waited_for(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", stage.port)):
        run = stage.run()
        wait_until(lambda: "Waiting for METRICS_PORT" in stage.log())
    stage.await_service()
    assert run.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nobody_who_judges_settings_outlives_a_start_that_is_stopped(stage: Stage, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", stage.port)):
        run = stage.run()
        wait_until(lambda: "Waiting for METRICS_PORT" in stage.log())
        (judge,) = map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
        run.send_signal(number)
        run.wait(10)
        wait_until(lambda: not alive(judge))
    assert not (stage.directory / "run" / "failed-start.json").exists()


def test_exit_78_of_a_program_ends_the_service_with_78_and_without_a_second_start(stage: Stage) -> None:
    stage.order("master exits", "78")
    run = stage.run()
    assert run.wait(20) == 78
    assert len(stage.starts("master")) == 1
    assert not stage.processes()


def test_a_program_that_cannot_start_is_given_up_and_ends_the_service_with_1(stage: Stage) -> None:
    stage.order("master exits", "1")
    run = stage.run()
    assert run.wait(40) == 1
    assert len(stage.starts("master")) == MOST_ENDS
    assert not stage.processes()


def test_programs_that_cannot_be_started_at_all_end_the_service_with_1(stage: Stage) -> None:
    configuration = stage.configuration.read_text()
    metrics = f"command = {sys.executable} -m tests.process.stage {stage.directory} metrics"
    assert metrics in configuration
    text = configuration.replace(metrics, "command = false\nstartretries = 1").replace("startsecs = 0", "startsecs = 1")
    stage.configuration.write_text(text)
    assert stage.run().wait(30) == 1
    assert "gave up: aitp-metrics" in stage.log()
    assert not stage.processes()


def test_a_program_that_leaves_by_itself_ends_the_service_with_0(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()
    os.kill(stage.starts("master")[0], signal.SIGTERM)
    assert run.wait(20) == 0
    assert not stage.processes()


def test_a_killed_master_is_started_again_however_often(stage: Stage) -> None:
    run = stage.run()
    for kills in range(4):
        await_master(stage, kills + 1)
        os.kill(stage.starts("master")[-1], signal.SIGKILL)
    await_master(stage, 5)
    assert run.poll() is None


def await_master(stage: Stage, number: int) -> None:
    wait_until(lambda: len(stage.starts("master")) == number, timeout=20)
    pid = stage.starts("master")[-1]
    stage.await_service()
    wait_until(lambda: stage.board()[0].pid == pid)
    wait_until(lambda: stage.board()[0].since - stage.board()[0].started > 2.0)


def test_hup_reloads_the_programs_and_restarts_nothing(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()
    stage.settings(CONCURRENCY_LIMIT=3, RELAY_PROCESSES=1)
    (stage.directory / "starts of metrics").rename(stage.directory / "before")  # a toy without a handler dies of HUP
    run.send_signal(signal.SIGHUP)
    wait_until(lambda: stage.crew_is(State.IDLE))
    assert len(stage.starts("master")) == 1


def test_usr1_makes_relays_poll(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()
    run.send_signal(signal.SIGUSR1)
    stage.await_events("polls")


def test_kill_9_of_supervisord_makes_everyone_leave(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()
    processes = stage.processes()
    assert len(processes) == 5
    run.kill()
    wait_until(lambda: not any(map(alive, processes)), timeout=15)
    assert len(stage.events("leaves")) == 3


def test_after_kill_9_of_supervisord_it_starts_again(stage: Stage) -> None:
    first = stage.run()
    stage.await_service()
    first.kill()
    first.wait()
    second = stage.run()
    wait_until(lambda: len(stage.starts("master")) == 2 and stage.crew_is(State.IDLE), timeout=20)
    second.terminate()
    assert second.wait(15) == 0
    assert not stage.processes()


def test_a_second_run_in_the_same_directory_is_refused_and_harms_nothing(stage: Stage) -> None:
    first = stage.run()
    stage.await_service()
    assert stage.run().wait(20) == 1
    assert stage.crew_is(State.IDLE)
    first.terminate()
    assert first.wait(15) == 0


def test_plain_supervisord_works_with_the_same_file(stage: Stage) -> None:
    (stage.directory / "run").mkdir()
    supervisord = stage.play(sys.executable, "-m", "supervisor.supervisord", "-c", str(stage.configuration))
    stage.await_service()
    assert "Master ready" in stage.log()
    supervisord.terminate()
    assert supervisord.wait(15) == 0
    assert not stage.processes()
    assert {path.name for path in (stage.directory / "run").iterdir()} == {"scoreboard"}


def test_the_project_brings_its_supervisord_which_names_its_user(stage: Stage) -> None:
    see_that_programs_can_start()
    (stage.directory / "run").mkdir()
    stage.surroundings["AITP_VENV"] = sys.prefix
    supervisord = stage.play(str(ROOT / "bin/supervisord"), "-c", str(stage.configuration))
    stage.await_service()
    supervisord.terminate()
    assert supervisord.wait(15) == 0
    assert "running as root" not in stage.log()


STOPPED_EARLY = """
import os, runpy, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == ("supervisor" if sys.argv[-1] == "run" else "aitp.settings"):
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Stop())
runpy.run_module("aitp", run_name="__main__")
"""


@pytest.mark.parametrize("command", ["run", "master", "metrics"])
def test_a_stop_while_it_is_being_loaded_is_one_in_order(command: str, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", STOPPED_EARLY, command], env=environ, cwd=tmp_path, timeout=30)
    assert done.returncode == 0


def test_plain_supervisord_does_not_try_bad_settings_again(stage: Stage) -> None:
    (stage.directory / "run").mkdir()
    stage.settings(CONCURRENCY_LIMIT="many", RELAY_PROCESSES=1)
    stage.order("master exits", "78")
    supervisord = stage.play(sys.executable, "-m", "supervisor.supervisord", "-c", str(stage.configuration))

    assert supervisord.wait(30) == 0
    assert "gave up" not in stage.log()  # that comes after startretries
    assert "exited: aitp-master (exit status 78; expected)" in stage.log()
    assert not stage.processes()


def test_whoever_opens_the_ledger_is_given_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", "postgresql://aitp:secret@db/aitp")

    assert not [program for program, needed in NEEDED.items() if "LEDGER_URL" in withheld(*needed)]


def test_the_configuration_keeps_its_promises() -> None:
    text = (ROOT / "etc" / "supervisord.conf").read_text()
    assert re.findall(r"^stopwaitsecs = (\d+)", text, re.M)[0] == "40"
    assert re.findall(r"^exitcodes = (.*)", text, re.M) == ["0,78", "0,78"]
    assert "stopasgroup =" not in text
    assert "killasgroup =" not in text


def test_sockets_of_supervisords_that_were_killed_as_they_began_are_cleared_away(tmp_path: Path) -> None:
    for pid in ("4194999", str(os.getpid())):  # nobody's (above the kernel's most), and a living process's
        (tmp_path / f"supervisor.sock.{pid}").touch()
    (tmp_path / "supervisor.sock").touch()

    clear_sockets(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"supervisor.sock", f"supervisor.sock.{os.getpid()}"}


def limited(stage: Stage, files: int) -> tuple[str, ...]:
    """`run` where no process may have more files open."""
    return ("/bin/sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *stage.RUN, str(stage.configuration))


def test_a_hard_limit_of_few_open_files_is_enough_for_few_children(stage: Stage) -> None:
    run = stage.play(*limited(stage, 256))
    stage.await_service()
    run.terminate()
    assert run.wait(15) == 0


def test_where_even_those_may_not_be_open_the_service_says_so_once_and_does_not_start(stage: Stage) -> None:
    run = stage.play(*limited(stage, 80))
    assert run.wait(15) == 78
    [line] = stage.log().splitlines()
    assert "CONCURRENCY_LIMIT=2: a process may have 80 files open here, and the master needs about 103" in line
    assert stage.starts("master") == []
