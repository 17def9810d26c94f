"""What commands say when they cannot do their part: to people, and to programs with --json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aitp.ledger.locks import MASTER_SLOT, SlotLocks
from aitp.ledger.stats import snapshot
from aitp.process.scoreboard import Scoreboard
from aitp.settings import PROJECT_ROOT, surroundings
from tests.commands.desk import Desk
from tests.ledger.conftest import Create

NOBODY = 65_534


@pytest.fixture
def shut(desk: Desk) -> Desk:
    """A desk whose ledger and runtime directory are another user's alone."""
    desk.run("pause")
    places = [desk.world.path.parent / "run", desk.world.path.parent]
    places[0].mkdir(mode=0o700)
    Scoreboard.create(places[0] / "scoreboard").close()
    for place in places:
        place.chmod(0o700 if os.geteuid() == 0 else 0)
        if os.geteuid() == 0:
            os.chown(place, NOBODY, NOBODY)
    return desk


def as_somebody_else(desk: Desk, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`aitp ARGUMENTS` as one who may not look there: root without its override of permissions, or simply a user."""
    without = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    return subprocess.run(
        [*without, sys.executable, "-m", "aitp", *arguments],
        env={**surroundings(), "PYTHONPATH": str(PROJECT_ROOT), "AITP_ENV_FILE": "", **desk.settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_who_may_not_look_is_not_told_that_nothing_runs(shut: Desk) -> None:
    run, document = as_somebody_else(shut, "status"), as_somebody_else(shut, "status", "--json")

    assert run.returncode == document.returncode == 1
    assert run.stdout.startswith("HIDDEN")
    assert "whether the service runs is not for this user to see" in run.stdout
    assert json.loads(document.stdout)["running"] is None


def test_who_may_not_look_is_told_so_by_check(shut: Desk) -> None:
    run = as_somebody_else(shut, "check", "--offline", "--json")

    assert run.stderr == ""
    found = {finding["code"]: finding for finding in json.loads(run.stdout)["findings"]}
    assert "may not write" in found["ledger"]["sentence"]
    assert found["service"]["severity"] == "warning"
    assert "sudo aitp check" in found["service"]["advice"]


@pytest.mark.parametrize("command", ["tasks", "limits", "pause", "ledger check", "dead list", "dead retry --all"])
def test_with_json_a_failure_is_a_document_as_well_as_a_line(desk: Desk, tmp_path: Path, command: str) -> None:
    run = desk.run(*command.split(), "--json", RATE_LIMIT_STORAGE_PATH=str(tmp_path / "none" / "ledger.db"))

    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"]) == (1, 1)
    assert document["error"].startswith("there is no ledger at ")
    assert run.stderr == f"aitp: {document['error']}\n"


def test_settings_that_cannot_be_used_are_listed_in_the_document(desk: Desk) -> None:
    run = desk.run("status", "--json", METRICS_PORT="many", CONCURRENCY_LIMIT="0")

    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"]) == (78, 78)
    assert [problem.partition("=")[0] for problem in document["problems"]] == ["CONCURRENCY_LIMIT", "METRICS_PORT"]


def test_a_misspelt_name_is_told_after_what_is_wrong(desk: Desk) -> None:
    run = desk.run("status", "--json", METRICS_PORT="many", CONCURENCY_LIMIT="3")

    misspelt = "CONCURENCY_LIMIT is not a setting and is ignored; did you mean CONCURRENCY_LIMIT?"
    document = json.loads(run.stdout)
    assert (run.returncode, len(document["problems"]), document["warnings"]) == (78, 1, [misspelt])
    assert run.stderr.splitlines()[-1] == f"aitp: {misspelt}"


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        *(("ledger recover", 78), ("ledger check", 78), ("check --offline", 78), ("once", 78), ("master", 78)),
        *(("pause", 78), ("status", 1)),  # 1: no service runs
    ],
)
def test_a_directory_in_the_ledger_s_place_is_a_wrong_setting_to_every_command(
    desk: Desk, tmp_path: Path, command: str, exit_code: int
) -> None:
    (tmp_path / "place").mkdir()
    run = desk.run(*command.split(), RATE_LIMIT_STORAGE_PATH=str(tmp_path / "place"))

    assert run.returncode == exit_code
    assert f"RATE_LIMIT_STORAGE_PATH={tmp_path}/place is no file" in run.stdout + run.stderr
    assert "recover" not in run.stdout + run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("command", ["ledger check", "ledger recover", "pause", "tasks"])
def test_nothing_is_made_where_there_is_no_ledger(desk: Desk, tmp_path: Path, command: str) -> None:
    desk.run(*command.split(), RATE_LIMIT_STORAGE_PATH=str(tmp_path / "none" / "ledger.db"))

    assert not (tmp_path / "none").exists()


def test_a_backup_that_cannot_be_written_is_not_called_the_ledger(desk: Desk) -> None:
    run = desk.run("ledger", "backup", "/proc/nowhere/backup.db")

    assert run.returncode == 1
    assert run.stderr == "aitp: the backup /proc/nowhere/backup.db cannot be written: No such file or directory\n"


def test_once_beside_a_service_changes_none_of_its_limits(create: Create) -> None:
    desk = Desk.around(create(minute=60))
    with SlotLocks(desk.world.path) as locks:
        assert locks.acquire(MASTER_SLOT, 0)

        run = desk.run("once", RATE_LIMIT_PER_MINUTE="7")

    assert run.returncode == 1
    assert "a service runs on this ledger" in run.stderr
    assert {period: use.limit for period, use in snapshot(desk.world.path).limits.items()} == {"minute": 60}
