"""The checker finds each kind of broken promise in a forged record, and nothing in one where all were kept."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from tests.chaos.checker import CHECKS, violations
from tests.chaos.record import Buy, Fate, Patch, Record, Sent

WORKER, RELAY = 201, 101


def line(at: float, step: str, pid: int = WORKER, **facts: Any) -> dict[str, Any]:
    return {"at": at, "began": at - 0.01, "pid": pid, "step": step, **facts}


def claim(at: float, *ids: str, probe: bool = False) -> dict[str, Any]:
    return line(at, "claim", slot=101, provider="openai", probe=probe, ids=list(ids))


def counted(at: float, used: int, *ids: str) -> dict[str, Any]:
    """A claim that has found so many counted in all."""
    return {**claim(at, *ids), "used": used}


def finish(at: float, task_id: str, ending: str = "succeeded") -> dict[str, Any]:
    return line(at, "finish", slot=101, outcomes=[[task_id, ending, ""]])


def take(at: float, *ids: str) -> dict[str, Any]:
    return line(at, "take", RELAY, slot=1, ids=list(ids))


def settle(at: float, task_id: str) -> dict[str, Any]:
    return line(at, "settle", RELAY, slot=1, id=task_id, verdict="delivered")


def buy(at: float, text: str = "text a", *, clean: bool = True) -> Buy:
    return Buy(text, int(at * 10), paid=True, clean=clean, at=at, ended=at + 0.1)


def sent(*moments: float, **changes: Any) -> list[Buy]:
    """Different texts of nobody's tasks, sent then."""
    return [dataclasses.replace(buy(at, f"text {at}"), **changes) for at in moments]


def patch(at: float, task_id: str = "a", state: str = "succeeded", *, status: int = 200, whole: bool = True) -> Patch:
    return Patch(task_id, state, status, whole, at, at + 0.1)


def moved(at: float, state: str, by: str, slot: int | None = None) -> dict[str, Any]:
    return line(at, "breaker", service="openai", state=state, by=by, slot=slot)


def wall(zone: str, begins: str) -> dict[str, Any]:
    """Calendar windows in a zone whose clocks show this at the beginning of the record."""
    return {
        "strategy": "fixed",
        "zone": zone,
        "wall_minus_monotonic": datetime.fromisoformat(begins).timestamp(),
    }


KEPT = Record(
    documents=[Sent("a", "text a"), Sent("b", "bad text", Fate.FAILS)],
    buys=[buy(1.0)],
    patches=[patch(3.0), patch(3.5, "b", "failed")],
    states={"a": "succeeded", "b": "failed"},
    journal=[
        claim(0.9, "a"),
        finish(1.2, "a"),
        take(2.9, "a", "b"),
        settle(3.2, "a"),
        settle(3.7, "b"),
    ],
    deaths=[],
    workers=2,
    most_calls_at_once=2,
    gauges={"aitp_dead_letters": 0.0},
    truth={"aitp_dead_letters": 0.0},
)


def forged(**changes: Any) -> Record:
    return dataclasses.replace(KEPT, **changes)


def test_a_run_in_which_all_was_kept_is_found_so() -> None:
    assert violations(KEPT) == []


def tried(*moments: float, text: str = "bad text", ids: tuple[str, ...] = ("b",), share: float = 0.9) -> Record:
    """A text that was sent then, by claims of these tasks, and failed each time; where so many other calls went well.

    The others are made while it is tried, `share` of them well.
    """
    buys, journal = [], []
    for at in moments:
        buys.append(dataclasses.replace(buy(at, text), paid=False, clean=False, call=int(at * 1000)))
        report = line(at + 0.15, "finish", slot=101, outcomes=[[each, "retry", "500"] for each in ids])
        journal += [claim(at - 0.05, *ids), report]
    others = [
        dataclasses.replace(buy(moments[0] + number / 100, f"other {number}"), clean=number < share * 20, call=number)
        for number in range(1, 20)
    ]
    known = [Sent(f"other {number}", f"other {number}") for number in range(1, 20)]
    known += [Sent(each, text) for each in ids if each != "b"]
    return forged(
        documents=[*KEPT.documents, *known],
        states={**KEPT.states, **{each.id: "succeeded" for each in known}},
        patches=[*KEPT.patches, *(patch(90.0, each.id) for each in known)],
        buys=[*KEPT.buys, *buys, *others],
        journal=[*KEPT.journal, *journal],
    )


FORGERIES: dict[str, tuple[str, Record]] = {
    "a task that nobody delivered": ("every_task_is_delivered", forged(patches=KEPT.patches[1:])),
    "a task that is still in the ledger": ("every_task_is_delivered", forged(held={"a": "claimed"})),
    "a good task that was failed": (
        "every_task_is_delivered",
        forged(patches=[patch(3.0, "a", "failed"), KEPT.patches[1]]),
    ),
    "a bad task that succeeded": ("every_task_is_delivered", forged(patches=[KEPT.patches[0], patch(3.5, "b")])),
    "a delivery that was refused": (
        "every_task_is_delivered",
        forged(patches=[patch(3.0, status=500), KEPT.patches[1]]),
    ),
    "a dead letter without a reason": ("every_task_is_delivered", forged(dead={"a": ""})),
    "a dead letter that the task API itself has never refused": (
        "every_task_is_delivered",
        forged(patches=[patch(3.0, status=502), KEPT.patches[1]], dead={"a": "404, a page"}),
    ),
    "a task that was failed without a reason": (
        "no_task_is_failed_without",
        forged(journal=[*KEPT.journal, finish(2.0, "b", "failed")]),
    ),
    "a bad text that is tried on and on, although it is improbable that it is not to blame": (
        "no_text_is_sent_more_often",
        tried(*(10.0 + number for number in range(14))),
    ),
    "a bad text that is tried on and on, while less than a day is made to pass": (
        "no_text_is_sent_more_often",
        dataclasses.replace(
            tried(*(10.0 + number for number in range(30))), clock=[(0.0, 0.0), (20.0, 86_000.0), (21.0, 0.0)]
        ),
    ),
    "a good text that fails together with others again and again": (
        "no_text_is_sent_more_often",
        tried(*(1.3 + number / 4 for number in range(6)), text="text c", ids=("c", "b")),
    ),
    "a document that was neither read nor set aside": (
        "every_task_is_delivered",
        forged(documents=[*KEPT.documents, Sent("c", "", Fate.STAYS)], states={**KEPT.states, "c": "pending"}),
    ),
    "a document without a usable id that was not set aside": (
        "every_task_is_delivered",
        forged(documents=[*KEPT.documents, Sent("..", "", Fate.NAMELESS)], states={**KEPT.states, "..": "pending"}),
    ),
    "another task's result": ("no_result_is_another_tasks", forged(wrong_results=["a"])),
    "a delivery after the acknowledgement was on record": (
        "nothing_is_delivered_twice",
        forged(patches=[*KEPT.patches, patch(4.0)]),
    ),
    "a second delivery though the first was acknowledged": (
        "nothing_is_delivered_twice",
        forged(patches=[*KEPT.patches, patch(3.11)]),
    ),
    "a second delivery that a relay put off without need": (
        "nothing_is_delivered_twice",
        forged(
            patches=[patch(2.95), *KEPT.patches],
            journal=[*KEPT.journal, line(3.0, "settle", RELAY, slot=1, id="a", verdict="later")],
        ),
    ),
    "a second delivery by a relay though only the one before it had died": (
        "nothing_is_delivered_twice",
        forged(
            patches=[patch(2.95), *KEPT.patches],
            deaths=[(RELAY + 1, 1.5)],
            journal=[{**take(1.4, "a"), "pid": RELAY + 1}, take(2.8, "a"), *KEPT.journal],
        ),
    ),
    "a second delivery by a relay that died before it took the task": (
        "nothing_is_delivered_twice",
        forged(patches=[patch(2.95), *KEPT.patches], deaths=[(RELAY, 2.5)]),
    ),
    "a purchase after the answer was on record": (
        "nothing_is_bought_again_once",
        forged(buys=[buy(1.0), buy(2.0)]),
    ),
    "a twin that was bought though the answer for its text was on record": (
        "nothing_is_bought_again_once",
        forged(
            documents=[*KEPT.documents, Sent("twin", "text a")],
            patches=[*KEPT.patches, patch(5.0, "twin")],
            states={**KEPT.states, "twin": "succeeded"},
            buys=[buy(1.0), buy(4.0)],
            journal=[*KEPT.journal, claim(3.9, "twin"), finish(4.2, "twin")],
        ),
    ),
    "a second purchase though nobody died": (
        "nothing_is_bought_again_without",
        forged(buys=[buy(1.0), buy(1.15)]),
    ),
    "more in a rolling minute than is allowed": (
        "no_window_is_exceeded",
        forged(limits={"minute": 2}, buys=[buy(1.0), buy(20.0, "x"), buy(60.9, "y")]),
    ),
    "more in a calendar minute than is allowed": (
        "no_window_is_exceeded",
        forged(limits={"minute": 2}, strategy="fixed", buys=[buy(1.0), buy(20.0, "x"), buy(59.9, "y")]),
    ),
    "room that a step back must not make": (
        "no_window_is_exceeded",
        forged(
            limits={"minute": 2}, clock=[(0.0, 0.0), (10.0, -3600.0)], buys=[buy(1.0), buy(9.0, "x"), buy(11.0, "y")]
        ),
    ),
    "more in a rolling hour than is allowed": (
        "no_window_is_exceeded",
        forged(limits={"minute": 9, "hour": 2}, buys=[buy(1.0), *sent(100.0, 3_600.9)]),
    ),
    "more on a day of 25 hours than is allowed": (
        "no_window_is_exceeded",
        forged(
            **wall("Europe/Lisbon", "2025-10-26T00:00:00+01:00"),
            limits={"day": 2},
            buys=[buy(1.0), *sent(3_600.0, 24.5 * 3_600)],
        ),
    ),
    "more in a month than is allowed": (
        "no_window_is_exceeded",
        forged(
            **wall("America/Sao_Paulo", "2024-02-01T00:00:00-03:00"),
            limits={"month": 2},
            buys=[buy(1.0), *sent(3_600.0, 28.9 * 86_400)],
        ),
    ),
    "room in a calendar hour that a step back must not make": (
        "no_window_is_exceeded",
        forged(
            **wall("Europe/Lisbon", "2025-10-26T01:30:00+00:00"),
            limits={"hour": 2},
            clock=[(0.0, 0.0), (10.0, -3_600.0)],
            buys=[buy(1.0), *sent(9.0, 11.0)],
        ),
    ),
    "a question to a chat model in a claim of its own, beyond the limit": (
        "no_window_is_exceeded",
        forged(
            limits={"minute": 1},
            buys=[buy(1.0), *sent(1.3, chat=True)],
            documents=[*KEPT.documents, Sent("c", "text 1.3")],
            patches=[*KEPT.patches, patch(7.0, "c")],
            states={**KEPT.states, "c": "succeeded"},
            journal=[*KEPT.journal, claim(1.25, "c")],
        ),
    ),
    "a claim that does not count one that was over before it began": (
        "each_claim_counts_all",
        forged(journal=[*KEPT.journal, counted(7.0, 10, "x", "y"), counted(8.0, 11, "z")]),
    ),
    "a claim that counts less than what came back": (
        "each_claim_counts_all",
        forged(
            journal=[
                *KEPT.journal,
                counted(7.0, 10, "x", "y"),
                finish(7.5, "y", "unsent"),
                counted(8.0, 10, "z"),
            ]
        ),
    ),
    "a good task that was failed though no model declined it": (
        "every_task_is_delivered",
        forged(patches=[patch(3.0, "a", "failed"), KEPT.patches[1]], declined=frozenset({"text b"})),
    ),
    "a call past Ollama's open breaker": (
        "an_open_breaker",
        forged(
            buys=[buy(1.0), *sent(5.5, provider="ollama")],
            documents=[*KEPT.documents, Sent("c", "text 5.5")],
            patches=[*KEPT.patches, patch(7.0, "c")],
            states={**KEPT.states, "c": "succeeded"},
            journal=[
                *KEPT.journal,
                {**moved(5.0, "open", "tell"), "service": "ollama"},
                {**claim(5.4, "c"), "provider": "ollama"},
            ],
        ),
    ),
    "more calls than workers": ("never_more_calls", forged(most_calls_at_once=3)),
    "two probes at a time": (
        "an_open_breaker",
        forged(
            journal=[
                *KEPT.journal,
                moved(5.0, "open", "tell"),
                moved(6.0, "half-open", "begin_probe", 101),
                moved(6.1, "half-open", "begin_probe", 102),
            ]
        ),
    ),
    "a call through an open breaker that is no probe": (
        "an_open_breaker",
        forged(
            buys=[buy(1.0), buy(5.5, "text c")],
            documents=[*KEPT.documents, Sent("c", "text c")],
            patches=[*KEPT.patches, patch(7.0, "c")],
            states={**KEPT.states, "c": "succeeded"},
            journal=[*KEPT.journal, moved(5.0, "open", "tell"), claim(5.4, "c")],
        ),
    ),
    "a token that went elsewhere": ("no_credentials_went_elsewhere", forged(redirected=1)),
    "a process that was left": ("nothing_is_left_behind", forged(leftovers=["process 7 is left"])),
    "a stop that failed": ("nothing_is_left_behind", forged(exit_code=1)),
    "a gauge that lies": ("gauges_are_true", forged(gauges={"aitp_dead_letters": 1.0})),
    "a gauge that is missing": ("gauges_are_true", forged(gauges={})),
    "an error that nobody foresaw": ("no_error_was_unexpected", forged(uncaught=["KeyError"])),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_it_finds(name: str) -> None:
    promise, record = FORGERIES[name]

    found = violations(record)

    assert found
    assert all(violation.startswith(promise) for violation in found), found


def test_every_check_is_shown_a_forgery() -> None:
    shown = {promise for promise, _ in FORGERIES.values()}
    assert all(any(check.__name__.startswith(promise) for promise in shown) for check in CHECKS)


EXCUSES: dict[str, Record] = {
    "a delivery whose acknowledgement was lost on the wire": forged(
        patches=[patch(2.95, whole=False), *KEPT.patches],
    ),
    "claims side by side, one that brings back what it has not sent, and one that died before it could say so": forged(
        journal=[
            *KEPT.journal,
            {**counted(7.0, 10, "x", "y"), "began": 6.5},
            {**counted(6.9, 12, "z"), "began": 6.6},
            finish(7.5, "y", "unsent"),
            counted(8.0, 15, "v"),
            counted(9.0, 16, "w"),
        ]
    ),
    "a delivery whose relay died before the acknowledgement was on record": forged(
        patches=[patch(2.95), *KEPT.patches], deaths=[(RELAY, 3.0)], journal=[take(2.9, "a"), *KEPT.journal]
    ),
    "a delivery that was read only after its relay had died": forged(
        patches=[patch(2.85), *KEPT.patches],
        deaths=[(RELAY + 1, 1.5)],
        journal=[{**take(1.4, "a"), "pid": RELAY + 1}, *KEPT.journal],
    ),
    "a delivery that was read only after another relay had taken the task": forged(
        patches=[patch(2.95), *KEPT.patches],
        deaths=[(RELAY + 1, 2.5)],
        journal=[{**take(2.4, "a"), "pid": RELAY + 1}, *KEPT.journal],
    ),
    "a delivery whose acknowledgement the disk had no room for": forged(
        patches=[patch(2.95), *KEPT.patches], journal=[*KEPT.journal, line(3.0, "settle failed", RELAY, id="a")]
    ),
    "a delivery whose relay had no memory for the acknowledgement": forged(
        patches=[patch(2.95), *KEPT.patches],
        troubles=[(2.99, 2.99)],
        journal=[*KEPT.journal, line(3.0, "settle", RELAY, slot=1, id="a", verdict="later")],
    ),
    "an acknowledgement that a power cut took away": forged(
        patches=[*KEPT.patches, patch(4.0)], power_cuts=[3.9], journal=[*KEPT.journal, settle(4.2, "a")]
    ),
    "an acknowledgement that a server forgot when it died": forged(
        patches=[*KEPT.patches, patch(4.0)], server_deaths=[(3.5, 3.8)], journal=[*KEPT.journal, settle(4.2, "a")]
    ),
    "a purchase whose answer was lost on the wire": forged(buys=[buy(0.95, clean=False), buy(1.15)]),
    "a purchase whose worker died before it was on record": forged(buys=[buy(0.95), buy(1.15)], deaths=[(WORKER, 1.1)]),
    "a purchase that came to nothing, as its report says": forged(
        buys=[buy(0.95), buy(1.15)],
        journal=[claim(0.9, "a"), finish(1.1, "a", "retry"), *KEPT.journal],
    ),
    "room that a step forward makes": forged(
        limits={"minute": 1},
        clock=[(0.0, 0.0), (10.0, 61.0)],
        documents=[*KEPT.documents, Sent("x", "text x")],
        buys=[buy(1.0), buy(11.0, "text x")],
        patches=[*KEPT.patches, patch(12.0, "x")],
        states={**KEPT.states, "x": "succeeded"},
    ),
    "as much in each of two calendar hours of the same name": forged(
        **wall("Europe/Lisbon", "2025-10-26T01:30:00+01:00"),
        limits={"hour": 2},
        buys=[buy(1.0), *sent(900.0, 3_000.0, 4_000.0)],
    ),
    "as much before midnight as after": forged(
        **wall("Asia/Kathmandu", "2025-12-31T23:59:00+05:45"),
        limits={"day": 2, "month": 2},
        buys=[buy(1.0), *sent(9.0, 61.0, 70.0)],
    ),
    "room that was being claimed when the clock was set back": forged(
        **wall("Europe/Lisbon", "2025-10-25T12:59:55+01:00"),
        limits={"hour": 1},
        clock=[(0.0, 0.0), (8.0, -3_600.0)],
        buys=[buy(1.0), *sent(8.01)],
        documents=[*KEPT.documents, Sent("c", "text 8.01")],
        patches=[*KEPT.patches, patch(9.0, "c")],
        states={**KEPT.states, "c": "succeeded"},
        journal=[*KEPT.journal, claim(8.005, "c")],
    ),
    "what follows in a conversation": forged(
        limits={"minute": 1},
        buys=[dataclasses.replace(buy(at), chat=True, clean=clean) for at, clean in ((1.0, False), (1.15, True))],
    ),
    "a path that the server does not know, and another one": forged(
        limits={"minute": 1},
        buys=[dataclasses.replace(buy(1.0), paid=False, clean=False, not_found=True), buy(1.15)],
    ),
    "a task that its model declined": forged(
        patches=[patch(3.0, "a", "failed"), KEPT.patches[1]], declined=frozenset({"text a"})
    ),
    "a call to OpenAI while Ollama's breaker is open": forged(
        buys=[buy(1.0), buy(5.5, "text c")],
        documents=[*KEPT.documents, Sent("c", "text c")],
        patches=[*KEPT.patches, patch(7.0, "c")],
        states={**KEPT.states, "c": "succeeded"},
        journal=[*KEPT.journal, {**moved(5.0, "open", "tell"), "service": "ollama"}, claim(5.4, "c")],
    ),
    "the probe of an open breaker": forged(
        documents=[*KEPT.documents, Sent("c", "text c")],
        buys=[buy(1.0), buy(6.5, "text c")],
        patches=[*KEPT.patches, patch(7.0, "c")],
        states={**KEPT.states, "c": "succeeded"},
        journal=[
            *KEPT.journal,
            moved(5.0, "open", "tell"),
            moved(6.0, "half-open", "begin_probe", 101),
            claim(6.01, "c", probe=True),
            moved(6.7, "closed", "tell"),
        ],
    ),
    "a probe whose beginning was lost with the power": forged(
        power_cuts=[6.05],
        journal=[
            *KEPT.journal,
            moved(5.0, "open", "tell"),
            moved(6.0, "half-open", "begin_probe", 101),
            moved(7.0, "half-open", "begin_probe", 102),
        ],
    ),
    "a twin that is delivered without a call": forged(
        documents=[*KEPT.documents, Sent("twin", "text a")],
        patches=[*KEPT.patches, patch(5.0, "twin")],
        states={**KEPT.states, "twin": "succeeded"},
    ),
    "a task that somebody else took away": forged(
        documents=[*KEPT.documents, Sent("gone", "text of one that is gone")],
    ),
    "a dead letter with its reason": forged(
        patches=[patch(3.0, status=400), KEPT.patches[1]], dead={"a": "the task API answered 400"}
    ),
    "a bad text that is tried a few times alone": tried(*(10.0 + number for number in range(12))),
    "a bad text that is tried often where many others fail as well": tried(
        *(10.0 + number for number in range(18)), share=0.5
    ),
    "a bad text that is tried on and on while nobody is served": tried(
        *(10.0 + number for number in range(30)), share=0.0
    ),
    "a bad text that is tried anew when a day has passed": dataclasses.replace(
        tried(*(10.0 + number for number in range(30))), clock=[(0.0, 0.0), (20.0, 86_400.0)]
    ),
}


@pytest.mark.parametrize("name", EXCUSES)
def test_it_lets_pass(name: str) -> None:
    assert violations(EXCUSES[name]) == []
