"""`aitp dead`: a person decides what becomes of refused results."""

from __future__ import annotations

import json

from tests.commands.desk import Desk


def test_none_is_said_in_words_and_in_json(desk: Desk) -> None:
    assert desk.run("dead", "list").stdout == "There are no dead letters\n"
    assert desk.json("dead", "list") == []


def test_one_is_listed_with_its_reason_and_shown_with_its_result(desk: Desk) -> None:
    desk.bury("65f0a", refusal="the task API answered 400 (Embedding must be longer)")

    assert "Embedding must be longer" in desk.run("dead", "list").stdout
    shown = desk.run("dead", "show", "65f0a").stdout
    assert "[0.5]" in shown
    document = desk.json("dead", "show", "65f0a")
    assert (document["id"], document["status"], document["result"]) == ("65f0a", "succeeded", [0.5])


def test_one_that_is_not_there_is_named_on_standard_error(desk: Desk) -> None:
    shown, retried = desk.run("dead", "show", "nobody"), desk.run("dead", "retry", "nobody")

    assert (shown.returncode, retried.returncode) == (1, 1)
    assert "there is no dead letter of task nobody" in shown.stderr
    assert retried.stderr == "aitp: no dead letter of: nobody\n"


def test_retry_puts_those_that_are_there_back_into_the_outbox(desk: Desk) -> None:
    desk.bury("65f0a", "65f0b")

    run = desk.run("dead", "retry", "65f0a", "nobody", "--json")

    assert run.returncode == 1
    assert json.loads(run.stdout) == {"retried": ["65f0a"], "missing": ["nobody"]}
    assert desk.world.states() == {"65f0a": "finished", "65f0b": "dead"}


def test_one_that_is_given_twice_is_not_missing_the_second_time(desk: Desk) -> None:
    desk.bury("65f0a")

    assert desk.json("dead", "retry", "65f0a", "65f0a") == {"retried": ["65f0a"], "missing": []}


def test_all_of_them_can_be_retried(desk: Desk) -> None:
    desk.bury("65f0a", "65f0b")

    assert desk.run("dead", "retry", "--all").returncode == 0
    assert set(desk.world.states().values()) == {"finished"}
    assert desk.run("dead", "retry", "--all").stdout == "There are no dead letters\n"


def test_drop_asks_first(desk: Desk) -> None:
    desk.bury("65f0a")

    unanswered = desk.run("dead", "drop", "65f0a")

    assert (unanswered.returncode, unanswered.stdout) == (1, "")
    assert "Their results are lost" in unanswered.stderr
    assert desk.world.states() == {"65f0a": "dead"}
    assert desk.json("dead", "drop", "65f0a", "--yes") == {"dropped": ["65f0a"], "missing": []}
    assert desk.world.states() == {}


def test_ids_and_all_exclude_each_other_and_one_is_needed(desk: Desk) -> None:
    for arguments in (("retry",), ("retry", "--all", "65f0a"), ("drop", "--yes")):
        run = desk.run("dead", *arguments)
        assert run.returncode == 2
        assert "Give ids of tasks, or --all" in run.stderr


def test_nothing_that_was_sent_can_play_with_the_terminal(desk: Desk) -> None:
    nasty = "\x1b[2J\x1b]0;gone\x07‮[bold]seen[/bold] :smile:\r"
    desk.bury("65f0a\x1b[31m", refusal=nasty)

    for run in (
        desk.run("dead", "list"),
        desk.run("dead", "show", "65f0a\x1b[31m"),
        desk.run("dead", "show", "\x1b[31m"),
        desk.run("dead", "retry", "65f0a\x1b[31m"),
    ):
        assert (run.stdout + run.stderr).replace("\n", "").isprintable()


def test_where_nobody_can_be_asked_drop_says_how_to_drop_without_asking(desk: Desk) -> None:
    desk.bury("65f0a")

    run = desk.run("dead", "drop", "--all", "--json")

    assert run.returncode == 1
    assert "--yes" in json.loads(run.stdout)["error"]
    assert desk.world.states() == {"65f0a": "dead"}
