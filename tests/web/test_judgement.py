"""What is said of the service: the one list of problems as the page tells it, one moment in, level and sentence out."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aitp.ledger.limits import LimitUse
from aitp.ledger.stats import Bar, BreakerView, CooldownView, Snapshot
from aitp.process.scoreboard import Record, State
from aitp.providers.inventory import Inventory, ModelState, Stage
from aitp.settings import Settings
from aitp.web.health import Facts, Problem, problems, read_facts
from aitp.web.page import Level, judge
from tests.web.world import WORKER, World

FALLBACK = {"PROCESSING_MODE": "hybrid", "CONCURRENCY_LIMIT": "1", "RELAY_PROCESSES": "1"}
NOW = time.time()


class Verdict(NamedTuple):
    level: Level
    sentence: str
    points: list[Problem]


OPEN = BreakerView("open", 5, NOW, NOW + 60, "503")


@pytest.fixture(scope="module")
def moment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, Settings]:
    """A service in hybrid mode that is well."""
    world = World.create(tmp_path_factory.mktemp("well"), **FALLBACK)
    facts = read_facts(world.settings)
    inventory = Inventory({"nomic-embed-text": ModelState(Stage.PRESENT)})
    return replace(facts, inventory=inventory, now=NOW), world.settings


def verdict(moment: tuple[Facts, Settings], *, minutes: tuple[Bar, ...] = (), **changes: Any) -> Verdict:
    """What is said of the moment, if these facts or facts of its ledger were different."""
    facts, settings = moment
    assert facts.ledger is not None
    of_ledger = {field.name for field in dataclasses.fields(Snapshot)} & changes.keys()
    ledger = replace(facts.ledger, taken_at=NOW, **{name: changes.pop(name) for name in of_ledger})
    facts = replace(facts, **{"ledger": ledger, **changes})
    found = problems(facts, settings, minutes)
    return Verdict(*judge(found, settings), found)


def test_a_service_that_is_well_has_nothing_more_to_say(moment: tuple[Facts, Settings]) -> None:
    assert verdict(moment) == Verdict(Level.WELL, "All is well.", [])


def used_up(seconds: float | None) -> dict[str, LimitUse]:
    return {"hour": LimitUse(100, 100, 0, None if seconds is None else NOW + seconds)}


REMARKS: dict[str, tuple[dict[str, Any], Level, str]] = {
    "limit, for a moment": ({"limits": used_up(30)}, Level.WELL, "(100 of 100): there is room again in 30 s"),
    "limit, until a call ends": ({"limits": used_up(None)}, Level.WELL, "there is room again when a call ends"),
    "limit, for long": ({"limits": used_up(1500)}, Level.LOOK, "there is room again in 25 min"),
    "limit with room": ({"limits": {"hour": LimitUse(99, 100, 1, None)}}, Level.WELL, ""),
    "dead letters": ({"dead": 2}, Level.LOOK, "2 results refused by the task API"),
    "outbox, young": ({"finished": 9, "oldest_finished_age": 299.0}, Level.WELL, ""),
    "outbox, old": ({"finished": 9, "oldest_finished_age": 301.0}, Level.LOOK, "waiting for its delivery for 5 min"),
    "unreadable": ({"unreadable": 1}, Level.LOOK, "1 document of the task API cannot be read"),
    "breaker of one provider of two": ({"breakers": {"ollama": OPEN}}, Level.LOOK, "breaker is open for ollama: 503"),
    "pause, short": (
        {"cooldowns": (CooldownView("openai", "o3", NOW + 20, "429"),)},
        Level.WELL,
        "calls to o3 of openai pause: 429",
    ),
    "pause, long": (
        {"cooldowns": (CooldownView("openai", "", NOW + 900, "quota"),)},
        Level.LOOK,
        "calls to openai pause: quota",
    ),
    "a model that cannot be had": (
        {"inventory": Inventory({"nomic-embed-text": ModelState(Stage.FAILED, reason="no such model", failures=1)})},
        Level.LOOK,
        "nomic-embed-text could not be pulled: no such model",
    ),
    "Ollama is away": (
        {"inventory": Inventory({}, problem="refused")},
        Level.LOOK,
        "Ollama cannot be asked for its models: refused",
    ),
    "some odd failures": ({"minutes": (Bar(NOW, 9, succeeded=96, failed=4),)}, Level.WELL, ""),
    "many failures": ({"minutes": (Bar(NOW, 9, succeeded=9, failed=6),)}, Level.LOOK, "6 of 15 tasks failed"),
    "few of very many fail": ({"minutes": (Bar(NOW, 9, succeeded=940, failed=60),)}, Level.WELL, ""),
}


@pytest.mark.parametrize("name", REMARKS)
def test_what_works_may_still_be_worth_a_look(moment: tuple[Facts, Settings], name: str) -> None:
    changes, level, point = REMARKS[name]

    said = verdict(moment, **changes)

    assert (said.level, bool(said.points)) == (level, bool(point))
    assert point in "".join(problem.sentence for problem in said.points)
    assert all(problem.advice for problem in said.points)


def test_children_that_are_missing_are_said_so(moment: tuple[Facts, Settings]) -> None:
    facts, settings = moment
    more = settings.model_copy(update={"concurrency_limit": 3})

    said = verdict((facts, more))

    assert (said.level, [problem.sentence for problem in said.points]) == (Level.LOOK, ["1 of 3 workers are there"])


def test_what_is_wrong_comes_before_what_is_odd_and_is_told_once(moment: tuple[Facts, Settings]) -> None:
    said = verdict(moment, dead=1, breakers={"api": OPEN, "ollama": OPEN, "openai": OPEN})

    assert said.level is Level.BAD
    assert [problem.sentence.split(":")[0] for problem in said.points] == [
        "Circuit breaker is open for api",
        "Circuit breaker is open for ollama",
        "Circuit breaker is open for openai",
        "1 result refused by the task API",
    ]


@pytest.mark.parametrize(
    ("changes", "level", "sentence"),
    [
        ({"paused": True}, Level.LOOK, "Paused: nothing new is taken."),
        ({"last_poll_at": None}, Level.LOOK, "Starting."),
        ({"paused": True, "has_token": False}, Level.BAD, "Running, but it cannot do its work."),
        ({"master": Record(0, 1, State.DRAINING)}, Level.LOOK, "Stopping."),
        ({"master": None, "master_ticks": False}, Level.BAD, "The service is not running."),
        ({"master_ticks": False}, Level.BAD, "Not well."),
        ({"overrun": (Record(WORKER, 1, State.BUSY),)}, Level.BAD, "Not well."),
        ({"ledger": None, "ledger_problem": "it is gone"}, Level.BAD, "Running, but it cannot do its work."),
    ],
)
def test_one_sentence_for_each_state(
    moment: tuple[Facts, Settings], changes: dict[str, Any], level: Level, sentence: str
) -> None:
    said = verdict(moment, **changes)

    assert (said.level, said.sentence) == (level, sentence)
    assert all(problem.advice for problem in said.points)


def test_in_mock_mode_nothing_is_simply_well(tmp_path: Path) -> None:
    world = World.create(
        tmp_path, OPENAI_API_KEY="your_openai_api_key_here", CONCURRENCY_LIMIT="1", RELAY_PROCESSES="1"
    )

    said = verdict((read_facts(world.settings), world.settings))

    assert (said.level, said.sentence) == (Level.LOOK, "It works, but every result is invented.")
