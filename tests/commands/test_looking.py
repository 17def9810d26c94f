"""`aitp tasks` and `aitp limits`, and what steers: `pause`, `resume`, `poll`."""

from __future__ import annotations

import re

from aitp.ledger.stats import snapshot
from aitp.tasks import Ending
from tests.commands.desk import Desk
from tests.commands.terminal import Terminal
from tests.ledger.conftest import Create
from tests.ledger.world import TOPICS, set_budgets


def test_tasks_are_listed_oldest_first_with_how_many_there_are(desk: Desk) -> None:
    desk.world.admit(*(f"65f00000000000000000{number:04}" for number in range(12)))

    run = desk.run("tasks", "--limit", "10")

    lines = run.stdout.splitlines()
    assert (run.returncode, len(lines)) == (0, 12)
    assert lines[1].startswith("65f000000000000000000000  ready")
    assert lines[-1] == "10 of 12: --limit shows more, --json is for programs"


def test_a_dead_letter_has_the_try_that_it_came_of(desk: Desk) -> None:
    desk.bury("one")

    [_, row, *_] = desk.run("tasks").stdout.splitlines()

    assert row.split()[:3] == ["one", "dead", "1"]


def test_tasks_are_filtered_by_state_and_type(desk: Desk) -> None:
    desk.world.admit("one")
    desk.world.run(Ending.RETRY)
    desk.world.admit("two", queue=TOPICS)

    waiting, topics = desk.json("tasks", "--state", "waiting"), desk.json("tasks", "--type", "defining_topics")

    assert [(task["id"], task["attempts"]) for task in waiting["tasks"]] == [("one", 1)]
    assert [task["id"] for task in topics["tasks"]] == ["two"]
    assert desk.run("tasks", "--state", "claimed").stdout == "No such task is held\n"
    assert desk.run("tasks", "--state", "lost").returncode == 2


def test_at_80_columns_no_line_is_folded(desk: Desk) -> None:
    desk.world.admit("65f000000000000000000000", queue=TOPICS)

    with Terminal("tasks", **{**desk.settings, "COLUMNS": ""}) as terminal:
        assert terminal.wait() == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown).splitlines()

    assert [line.split() for line in lines] == [
        ["TASK", "STATE", "TRIES", "AGE", "DUE", "TYPE"],
        ["65f000000000000000000000", "ready", "0", lines[1].split()[3], "s", "now", "defining_topics"],
        ["1", "in", "all"],
    ]
    assert all(len(line) <= 80 for line in lines)


def test_no_tasks_and_no_limits_are_said_in_words(desk: Desk) -> None:
    assert desk.run("tasks").stdout == "No tasks are held\n"
    assert desk.run("limits").stdout == "No limits are in force\n"


def test_without_a_ledger_each_says_so_and_makes_none(desk: Desk) -> None:
    for command in ("tasks", "limits", "pause", "resume"):
        run = desk.run(command, RATE_LIMIT_STORAGE_PATH=str(desk.world.path.parent / "none.db"))
        assert (run.returncode, run.stdout) == (1, "")
        assert run.stderr.startswith("aitp: there is no ledger at ")
    assert not (desk.world.path.parent / "none.db").exists()


def test_limits_say_what_is_used_and_what_is_left(create: Create) -> None:
    desk = Desk.around(create(hour=6, day=1000))
    desk.world.admit(*map(str, range(5)))
    desk.world.run()

    plain = desk.json("limits")

    hour = plain["limits"]["hour"]
    assert (hour["current"], hour["limit"], hour["remaining"], hour["frees_at"]) == (5, 6, 1, None)


def test_limits_say_what_was_spent_and_what_is_left_of_the_budgets(desk: Desk) -> None:
    set_budgets(desk.world.ledger, "EUR", {"month": 20 * 10**9})
    day = desk.world.clock.now // 86_400 * 86_400
    desk.world.change("INSERT INTO spending VALUES ('EUR', ?, ?, ?)", int(day), int(day) + 86_400, 12_345_678_900)

    shown, plain = desk.run("limits").stdout, desk.json("limits")

    assert shown.startswith("No limits are in force\n")
    assert ["day", "12.35", "0.00"] in [line.split() for line in shown.splitlines()]
    assert ["month", "12.35", "0.00", "20.00", "7.65"] in [line.split()[:5] for line in shown.splitlines()]
    assert plain["budgets"]["month"]["remaining_nano"] == 20 * 10**9 - 12_345_678_900
    assert "SPENDING (EUR)" in desk.run("status").stdout


def test_pause_lasts_until_resume(desk: Desk) -> None:
    assert desk.json("pause") == {"paused": True}
    assert snapshot(desk.world.path).paused
    assert desk.run("resume").stdout == "Resumed\n"
    assert not snapshot(desk.world.path).paused


def test_nobody_can_be_asked_to_poll_where_nothing_runs(desk: Desk) -> None:
    run = desk.run("poll")

    assert run.returncode == 1
    assert "not running" in run.stderr
