"""supervisorctl, the operator's handle, against the real supervisord of `aitp run`."""

from __future__ import annotations

import re
import stat

from aitp.process.scoreboard import State
from tests.process.house import Stage, alive
from tests.waiting import wait_until


def states(stage: Stage) -> dict[str, str]:
    """What `supervisorctl status` says of each program."""
    return dict(re.findall(r"^(\S+)\s+(\w+)", stage.control("status"), re.MULTILINE))


def test_status_names_every_program_and_its_state(stage: Stage) -> None:
    stage.run()
    stage.await_service()

    assert states(stage) == {"aitp-master": "RUNNING", "aitp-metrics": "RUNNING"}
    assert stat.S_IMODE((stage.directory / "run" / "supervisor.sock").stat().st_mode) == 0o700


def test_a_program_can_be_stopped_and_started_while_the_others_go_on(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()
    children = list(stage.pids().values())

    assert stage.control("stop", "aitp-master") == "aitp-master: stopped\n"
    assert states(stage)["aitp-master"] == "STOPPED"
    assert not any(map(alive, children))
    assert alive(stage.starts("metrics")[0])

    assert stage.control("start", "aitp-master") == "aitp-master: started\n"
    wait_until(lambda: stage.crew_is(State.IDLE))
    assert run.poll() is None
    assert (len(stage.starts("master")), len(stage.starts("metrics"))) == (2, 1)


def test_a_restart_replaces_every_process_of_the_master(stage: Stage) -> None:
    stage.run()
    stage.await_service()
    before = {*stage.starts("master"), *stage.pids().values()}

    stage.control("restart", "aitp-master")

    wait_until(lambda: len(stage.starts("master")) == 2 and stage.crew_is(State.IDLE))
    assert not any(map(alive, before))


def test_signal_hup_reloads_the_master(stage: Stage) -> None:
    stage.run()
    stage.await_service()
    stage.settings(CONCURRENCY_LIMIT=4, RELAY_PROCESSES=1)

    assert stage.control("signal", "HUP", "aitp-master") == "aitp-master: signalled\n"

    wait_until(lambda: stage.crew_is(State.IDLE))
    assert len(stage.starts("master")) == 1


def test_shutdown_ends_the_service_with_0(stage: Stage) -> None:
    run = stage.run()
    stage.await_service()

    stage.control("shutdown")

    assert run.wait(20) == 0
    assert not stage.processes()
