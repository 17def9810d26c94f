"""Wikidata down, slow, busy or talking nonsense: late, never wrong, never empty by accident; and polite all along."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from aitp.demo.faults import Fault, FaultKind
from aitp.demo.http import HttpServer
from aitp.demo.wikidata_api import WikidataApi
from aitp.demo.wikidata_things import OWN
from aitp.errors import CooldownRequired, CredentialsRefused, ServiceFault
from aitp.knowledge import wikidata
from aitp.knowledge.wikidata import Wikidata
from tests.knowledge.desk import Desk, settings_for
from tests.process.forks import in_child
from tests.waiting import wait_until

IDS = [f"Q{OWN + 1_000 + number}" for number in range(60)]

LOOK_UPS: dict[str, Callable[[Wikidata], object]] = {
    "find": lambda asked: asked.find("Brasil", "pt"),
    "entities": lambda asked: asked.entities(["Q937"], "pt"),
    "standing": lambda asked: asked.standing(["Q937"]),
}
NONSENSE = (
    *(
        "",
        "[]",
        "null",
        "{}",
        '"search"',
        "{",
        "<html>",
        '{"search": {}}',
        '{"search": [{}]}',
        '{"search": [{"id": 7}]}',
    ),
    *('{"entities": {}}', '{"entities": []}', '{"entities": {"Q937": {}}}', '{"entities": {"Q42": {"id": "Q42"}}}'),
    '{"entities": {"Q937": {"id": "Q937", "claims": {"P31": [{"mainsnak": {}}]}}}}',
    '{"search": [{"id": 5}], "entities": {"Q937": {"id": "Q937", "claims": {}, "labels": {"pt": "x"}}}}',
    '{"query": {"pages": {}}, "items": {}}',
    '{"query": {"pages": []}, "items": {}}',
)


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=502),
        Fault(status=404),
        Fault(status=302, headers={"Location": "https://example.org/"}),
        Fault(kind=FaultKind.DROP),
        Fault(kind=FaultKind.RESET),
        Fault(kind=FaultKind.CUT),
        Fault(kind=FaultKind.GARBAGE),
    ],
    ids=lambda fault: f"{fault.kind.value} {fault.status}",
)
def test_a_wikidata_that_is_down_makes_look_ups_fail_and_then_succeed(
    desk: Desk, fault: Fault, look_up: Callable[[Wikidata], object]
) -> None:
    desk.server.faults.add(fault)
    with pytest.raises(ServiceFault) as raised:
        look_up(desk.wikidata)
    assert raised.value.service == "wikidata"
    assert desk.seen().breakers["wikidata"].failures == 1
    desk.server.faults.clear()
    late = look_up(desk.wikidata)
    assert late
    assert late == look_up(Desk(desk.server, desk.path).wikidata)


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_a_fault_and_not_an_empty_answer(
    desk: Desk, nonsense: str, look_up: Callable[[Wikidata], object]
) -> None:
    desk.server.nonsense = nonsense or " "
    with pytest.raises(ServiceFault):
        look_up(desk.wikidata)
    desk.server.nonsense = ""
    assert look_up(desk.wikidata)


def test_a_wikidata_that_refuses_connections_opens_the_breaker_which_then_saves_the_calls(desk: Desk) -> None:
    desk.server.stop()
    for _ in range(3):
        with pytest.raises(ServiceFault, match="WIKIDATA_BASE_URL"):
            desk.wikidata.find("Brasil", "pt")
    assert [change.state for change in desk.changes] == ["open"]
    desk.server.start()
    with pytest.raises(ServiceFault, match="breaker is open"):
        desk.wikidata.find("Brasil", "pt")
    assert not desk.server.exchanges
    desk.clock.go(61)
    assert desk.wikidata.find("Brasil", "pt")
    assert desk.breaker == "closed"


def test_an_outage_half_way_keeps_what_was_learnt(desk: Desk) -> None:
    desk.server.faults.add(Fault(skip=1, times=1))
    with pytest.raises(ServiceFault):
        desk.wikidata.entities(IDS, "pt")
    assert all(desk.wikidata.entities(IDS, "pt").values())
    assert [len(call.names) for call in desk.server.calls] == [50, 10]


def test_pageviews_that_are_down_delay_and_are_not_taken_for_none(desk: Desk) -> None:
    fault = desk.server.faults.add(Fault(path="/api/rest_v1", status=503))
    with pytest.raises(ServiceFault):
        desk.wikidata.standing(["Q937"])
    desk.server.faults.remove(fault)
    assert desk.wikidata.standing(["Q937"])["Q937"].pageviews == desk.server.things["Q937"].views


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_is_asked_for_is_kept_by_everyone(desk: Desk, status: int) -> None:
    desk.server.faults.add(Fault(status=status, headers={"Retry-After": "90"}, times=1))
    with pytest.raises(CooldownRequired) as paused:
        desk.wikidata.find("Brasil", "pt")
    assert (paused.value.service, paused.value.seconds) == ("wikidata", 90)
    with pytest.raises(CooldownRequired):
        desk.opened(102).entities(["Q937"], "pt")
    wait_until(lambda: desk.server.exchanges)
    assert len(desk.server.exchanges) == 1
    assert [cooldown.provider for cooldown in desk.seen().cooldowns] == ["wikidata"]
    desk.clock.go(91)
    assert desk.wikidata.find("Brasil", "pt")
    assert desk.breaker == "closed"


def test_a_lagging_database_is_given_the_time_it_asks_for(desk: Desk) -> None:
    desk.server.lag_seconds = 7
    with pytest.raises(CooldownRequired, match="maxlag") as paused:
        desk.wikidata.find("Brasil", "pt")
    assert paused.value.seconds == 5
    desk.server.lag_seconds = 3
    desk.clock.go(6)
    assert desk.wikidata.find("Brasil", "pt")
    assert {call.maxlag for call in desk.server.calls} == {"5"}


@pytest.mark.parametrize(
    "links",
    [
        '{"query": {"pages": []}}',
        '{"query": {"pages": [{"title": "Q42"}]}}',
        '{"query": {"pages": [{"title": "Q937"}]}, "continue": {"lhcontinue": "1|2"}}',
        '{"query": {"pages": [{"title": "Q937", "linkshere": 7}]}}',
    ],
)
def test_links_that_were_not_counted_are_not_zero(desk: Desk, links: str) -> None:
    desk.wikidata.entities(["Q937"], "pt")
    desk.server.nonsense = links
    with pytest.raises(ServiceFault, match="something else"):
        desk.wikidata.standing(["Q937"])
    desk.server.nonsense = ""
    assert desk.wikidata.standing(["Q937"])["Q937"].inbound_links == 500


def test_other_errors_of_the_api_are_faults_that_say_which(desk: Desk) -> None:
    desk.server.nonsense = '{"error": {"code": "internal_api_error_DBQueryError", "info": "secret"}}'
    with pytest.raises(ServiceFault, match="internal_api_error_DBQueryError") as fault:
        desk.wikidata.find("Brasil", "pt")
    assert "secret" not in str(fault.value)


def test_a_ban_stops_all_calls_at_once_and_says_what_to_do(desk: Desk) -> None:
    desk.server.faults.add(Fault(status=403))
    with pytest.raises(CredentialsRefused, match="WIKIDATA_CONTACT"):
        desk.wikidata.find("Brasil", "pt")
    assert desk.breaker == "open"


def test_calls_say_who_makes_them(desk: Desk) -> None:
    desk.wikidata.standing(["Q937"])
    (agent,) = {call.agent for call in desk.server.calls}
    assert agent.startswith("aitp/")
    assert agent.endswith("(https://example.org/aitp; aitp@example.org)")


def test_calls_take_turns(server: WikidataApi, tmp_path: Path) -> None:
    desk = Desk(server, tmp_path / "ledger.db")
    started = time.monotonic()
    for number in range(8):
        desk.wikidata.find(f"name {number}", "pt")
    took = time.monotonic() - started
    desk.close()
    times = [call.received_monotonic for call in server.calls]
    assert 0.8 < took < 5
    assert all(later - earlier > 0.8 for earlier, later in zip(times, times[5:], strict=False))


def test_no_more_than_three_requests_are_underway_over_all_processes(desk: Desk) -> None:
    desk.server.latency_seconds = 0.3

    def child(number: int) -> int:
        if pid := os.fork():
            return pid
        code = 1
        try:
            Desk(desk.server, desk.path).wikidata.find(f"name {number}", "pt")
            code = 0
        finally:
            os._exit(code)

    pids = [child(number) for number in range(8)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert len(desk.server.calls) == 8
    assert max(call.at_once for call in desk.server.exchanges) <= 3


def test_services_with_ledgers_of_their_own_share_the_three_turns(server: WikidataApi, tmp_path: Path) -> None:
    server.latency_seconds = 0.3
    pids = []
    for number in range(6):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                Desk(server, tmp_path / f"{number}.db").wikidata.find(f"name {number}", "pt")
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)

    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 6
    assert max(call.at_once for call in server.exchanges) == 3


@pytest.mark.parametrize(("token", "seconds"), [(None, 0.5), ("a-token", 0.1)])
def test_wikimedia_s_own_servers_are_asked_at_a_pace(
    server: WikidataApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, seconds: float
) -> None:
    monkeypatch.setattr(wikidata, "VIEW_HOSTS", {server.url: server.url})
    monkeypatch.setattr(wikidata, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(wikidata, "CALLS", 10_000)
    desk = Desk(server, tmp_path / "ledger.db", more={} if token is None else {"WIKIDATA_TOKEN": token})
    began = time.monotonic()
    for number in range(3):
        desk.wikidata.find(f"name {number}", "pt")
    took = time.monotonic() - began
    desk.close()

    assert took >= 3 * seconds
    assert {exchange.authorized for exchange in server.exchanges} == {token is not None}


def test_who_waits_for_a_turn_in_vain_is_told_and_nothing_is_taken_for_an_outage(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wikidata, "LONGEST_WAIT_SECONDS", 0.2)
    with ExitStack() as others:
        for name in wikidata.TURNS:
            others.enter_context(socket.socket(socket.AF_UNIX)).bind(name)
        with pytest.raises(CooldownRequired, match="other processes of this host"):
            desk.wikidata.find("Brasil", "pt")

    desk.clock.go(10)
    assert desk.breaker == "closed"
    assert desk.wikidata.find("Brasil", "pt")


def test_each_request_is_bounded_by_itself(desk: Desk) -> None:
    desk.wikidata.entities(IDS, "pt")
    assert len(desk.bounds) == 2
    assert all(seconds > 2 for seconds in desk.bounds)


def test_an_answer_that_comes_byte_by_byte_ends_with_its_time_out(server: WikidataApi, tmp_path: Path) -> None:
    server.faults.add(Fault(kind=FaultKind.TRICKLE, seconds=0.05, times=1))

    def look() -> list[object]:
        desk = Desk(server, tmp_path / "ledger.db")
        settings = settings_for(server.url).model_copy(update={"request_timeout": 0.5})
        asking = Wikidata(settings, desk.ledger, 101, lambda seconds: nullcontext(), desk.changes.append)
        try:
            asking.entities(["Q937"], "pt")
        except ServiceFault as error:
            late = "within 0.5 s" in str(error)
            failures = desk.seen().breakers["wikidata"].failures
            again = asking.entities(["Q937"], "pt")["Q937"]
            return [late, failures, again is not None]
        return []

    assert in_child(look) == [True, 1, True]


def test_of_many_processes_exactly_one_makes_the_probe(desk: Desk) -> None:
    desk.server.faults.add(Fault(times=3))
    for _ in range(3):
        with pytest.raises(ServiceFault):
            desk.wikidata.find("Brasil", "pt")
    wait_until(lambda: len(desk.server.exchanges) == 3)
    desk.server.faults.add(Fault(kind=FaultKind.STALL, seconds=1.0, times=1))
    go, going = os.pipe()
    pids = []
    for slot in range(110, 118):
        pid = os.fork()
        if pid == 0:
            os._exit(_ready_after_an_hour(desk, slot, go))
        pids.append(pid)
    os.write(going, b"." * 8)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0] + [3] * 7
    wait_until(lambda: len(desk.server.exchanges) > 3)
    assert len(desk.server.exchanges) == 4
    assert desk.server.kinds()[-1] == "query"
    assert desk.breaker == "closed"


def _ready_after_an_hour(desk: Desk, slot: int, go: int) -> int:
    mine = Desk(desk.server, desk.path)
    mine.clock.go(3_600)
    select.select([go], [], [], 10)
    try:
        mine.opened(slot).ready()
    except ServiceFault:
        return 3
    return 0


def test_readiness_costs_nothing_while_all_is_well(desk: Desk) -> None:
    desk.wikidata.ready()
    assert not desk.server.calls
    desk.server.faults.add(Fault(status=429, headers={"Retry-After": "9"}, times=1))
    with pytest.raises(CooldownRequired):
        desk.wikidata.find("Brasil", "pt")
    with pytest.raises(CooldownRequired):
        desk.wikidata.ready()


def test_redirects_are_not_followed(desk: Desk) -> None:
    with HttpServer() as other:
        desk.server.faults.add(Fault(status=301, headers={"Location": other.url}))
        with pytest.raises(ServiceFault):
            desk.wikidata.find("Brasil", "pt")
        assert not other.exchanges
